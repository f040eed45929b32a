"""New projects get their request by themselves: the list of the identity's projects is read now and then."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from provisioner.core.errors import DatabaseUnavailable, ProvisionerError, StatementRefused
from provisioner.core.model import Result
from provisioner.core.ports import JoinedProjects, Permits
from provisioner.core.projects import ProjectFilter, SeenProject, chosen
from provisioner.worker.database_retry import jittered

log = structlog.stdlib.get_logger()

POLL: Final = 30.0  # seconds between two questions whether a round is to begin, at most
LEAST: Final = 0.5  # seconds between two questions for a permit


class DiscoveredRequests(Protocol):
    """Requests for projects that were discovered. Every method raises `DatabaseUnavailable`."""

    async def take(self, target: str) -> bool:
        """Take the turn at a target, if it is time for a round and nobody else has it."""

    async def ask(self, target: str, projects: Sequence[SeenProject]) -> int:
        """Ask for a connection in each project, unless somebody has; returns how many are new."""


class Discoverer:
    """Asks for a connection in every project of a target that is meant and new; one of all workers in each round."""

    def __init__(
        self,
        target: str,
        *,
        joined: JoinedProjects,
        reads: Permits,
        requests: DiscoveredRequests,
        wanted: ProjectFilter,
        every: float,
    ) -> None:
        self._target = target
        self._joined = joined
        self._reads = reads
        self._requests = requests
        self._wanted = wanted
        self._poll = min(POLL, every)

    async def run(self) -> None:
        """Discover until cancelled."""
        while True:
            try:
                if await self._requests.take(self._target):
                    await self._round()
            except ProvisionerError as error:
                if not isinstance(error, DatabaseUnavailable) or isinstance(error, StatementRefused):
                    log.warning("upkeep_failed", duty="discover", error=str(error), again_in=self._poll)
            await asyncio.sleep(jittered(self._poll))

    async def _round(self) -> None:
        permits = 0
        while not permits:
            granted = await self._reads.acquire(1, spare=True)
            permits = granted.permits
            await asyncio.sleep(0.0 if permits else max(granted.wait, LEAST))
        seen, projects = await self._joined.projects()
        self._reads.learn(seen.rate, metered=seen.metered, throttled_for=seen.retry_after, elapsed=seen.elapsed)
        if seen.result is not Result.FOUND:
            log.warning("discovery_failed", target=self._target, reason=seen.message)
            return
        if requests := await self._requests.ask(self._target, chosen(projects, self._wanted)):
            log.info("projects_discovered", target=self._target, requests=requests, projects=len(projects))
