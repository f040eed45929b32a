"""Request connections for new projects automatically, by reading the identity's list of projects regularly.

If the settings say so, the requests of projects that were deleted from Infisical are marked for removal.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import structlog

from provisioner.core.errors import ProvisionerError
from provisioner.core.gone import MISSING_FOR, Absence, is_gone, is_there, to_ask, too_many
from provisioner.core.model import Result
from provisioner.core.ports import Clock, JoinedProjects, Permits
from provisioner.core.projects import ProjectFilter, SeenProject, chosen
from provisioner.worker.database_retry import jittered, log_failure
from provisioner.worker.reads import learn_from, take_permit

log = structlog.stdlib.get_logger()

POLL: Final = 30.0  # seconds between two checks whether a round is due, at most
LEAST: Final = 0.5  # seconds between two attempts to get a permit


class DiscoveredRequests(Protocol):
    """The requests for discovered projects. Every method raises `DatabaseUnavailable`."""

    async def take(self, target: str) -> bool:
        """Take the turn at a target if a round is due and no other worker has it."""

    async def ask(self, target: str, projects: Sequence[SeenProject]) -> int:
        """Request a connection in each project that has no request; returns how many are new."""

    async def miss(self, target: str, address: str, projects: Sequence[SeenProject]) -> tuple[Sequence[Absence], int]:
        """Note which projects a list from this address contains; returns those it lacks, and how many are known."""

    async def spare(self, target: str, project_id: str) -> None:
        """Note that a project still exists although the list lacks it."""

    async def remove_gone(self, target: str, project_id: str) -> int:
        """Mark the requests of a deleted project for removal; returns how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removing:
    """Settings for removing the requests of deleted projects; `address` is the target's, on the database's `clock`.

    A project must have been missing for `lasting`.
    """

    address: str
    clock: Clock
    lasting: timedelta = MISSING_FOR


class Discoverer:
    """Requests a connection in every selected new project of a target; one worker does each round."""

    def __init__(
        self,
        target: str,
        *,
        joined: JoinedProjects,
        reads: Permits,
        requests: DiscoveredRequests,
        wanted: ProjectFilter,
        every: float,
        removing: Removing | None = None,
    ) -> None:
        self._target = target
        self._joined = joined
        self._reads = reads
        self._requests = requests
        self._wanted = wanted
        self._poll = min(POLL, every)
        self._removing = removing
        self._doubted = False

    async def run(self) -> None:
        """Discover projects until cancelled."""
        while True:
            try:
                if await self._requests.take(self._target):
                    await self._round()
            except ProvisionerError as error:
                log_failure("discover", error, self._poll)
            await asyncio.sleep(jittered(self._poll))

    async def _round(self) -> None:
        await take_permit(self._reads, spare=True, breath=LEAST)
        seen, projects = await self._joined.projects()
        learn_from(self._reads, seen)
        if seen.result is not Result.FOUND:
            log.warning("discovery_failed", target=self._target, reason=seen.message)
            return
        if requests := await self._requests.ask(self._target, chosen(projects, self._wanted)):
            log.info("projects_discovered", target=self._target, requests=requests, projects=len(projects))
        if self._removing is not None and projects:  # an empty list says more about the identity than about projects
            await self._remove_gone(self._removing, projects)

    async def _remove_gone(self, removing: Removing, listed: Sequence[SeenProject]) -> None:
        missing, known = await self._requests.miss(self._target, removing.address, listed)
        doubted, self._doubted = self._doubted, too_many(len(missing), known)
        if self._doubted and not doubted:
            log.warning("missing_projects_doubted", target=self._target, missing=len(missing), known=known)
        for each in to_ask(missing, known, removing.clock.now(), lasting=removing.lasting):
            await take_permit(self._reads, spare=True, breath=LEAST)
            seen = await self._joined.project(each.project_id)
            learn_from(self._reads, seen)
            if is_there(seen):
                await self._requests.spare(self._target, each.project_id)
            if not is_gone(seen):
                continue
            requests = await self._requests.remove_gone(self._target, each.project_id)
            log.warning(
                "project_gone",
                target=self._target,
                project=each.project_id,
                project_name=each.project_name or None,
                requests=requests,
            )
