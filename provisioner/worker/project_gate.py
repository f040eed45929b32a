"""Spend no creates on projects in which the machine identity may not create.

The first refusal is enough: the project's requests wait from then on, and the list of the identity's projects tells
which others are outside. `core.project_health` decides; this module asks, waits and remembers.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

import structlog

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.model import Claim, ErrorCode, Observation, Proof, Result, Retry
from provisioner.core.ports import Clock, JoinedProjects, Permits, ProjectHealth
from provisioner.core.project_health import (
    FRESH,
    QUARANTINE_RECHECK,
    Cause,
    QuarantinedProject,
    due_probes,
    listed,
    quarantine_of,
    refused,
)
from provisioner.worker.key_gate import Postponed

log = structlog.stdlib.get_logger()

_CAUSES: Final = {Result.NOT_IN_PROJECT: Cause.NOT_IN_PROJECT, Result.FORBIDDEN: Cause.NO_PERMISSION}
# What Infisical says only after it has found the identity to be allowed to create in the project.
PASSED: Final = frozenset({Result.CREATED, Result.NAME_TAKEN, Result.KEY_REFUSED})
OUTSIDE: Final = (
    "the machine identity is not in project {}, or there is no such project: add it there, with a role that may create"
    " app connections"
)
# Seconds that creates wait at most for a list that is being read.
PATIENCE: Final = 5.0
# Seconds between two looks at what others found out, while nothing is quarantined; else each round looks.
CALM: Final = 5.0
# Seconds that a read by another worker takes to be told.
SOON: Final = 0.3
# Seconds between two rounds of forgetting projects for which nothing waits any more.
FORGETTING: Final = 60.0
MOST_ACCEPTED: Final = 10_000  # projects that one worker remembers to have created in
MOST_PROBES: Final = 64  # that go out together, once those before have passed


class ProjectGate:
    """Lets the requests of one target pass whose projects let the identity create.

    `eager`: at the start everything that is quarantined is looked at again, whatever the time.
    """

    def __init__(
        self,
        target: str,
        *,
        health: ProjectHealth,
        joined: JoinedProjects,
        reads: Permits,
        clock: Clock,
        eager: bool = False,
    ) -> None:
        self.refreshed = asyncio.Event()  # what the workers before us left is known, and looked at if we are eager
        self._target = target
        self._health = health
        self._source = joined
        self._reads = reads
        self._clock = clock
        self._eager = eager
        self._quarantined: Mapping[str, QuarantinedProject] = {}
        self._accepted: set[str] = set()
        self._joined: frozenset[str] | None = None  # None: not known, or not to be relied upon
        self._joined_at = float("-inf")
        self._open = asyncio.Event()
        self._open.set()
        self._reading = asyncio.Lock()
        self._look_at = self._forget_at = float("-inf")
        self._width = 1

    @property
    def is_wary(self) -> bool:
        """Whether creates have to ask: nearly never."""
        return bool(self._quarantined) or not self._open.is_set()

    def note(self, observation: Observation) -> None:
        """A create has ended: if it was refused for its project, none leaves until it is known which are like it."""
        if observation.result in _CAUSES and observation.proof is not Proof.NONE:
            self._open.clear()

    async def admit(self, claim: Claim) -> None:
        """Let a request be created, or raise `Postponed`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._open.wait()
        project = claim.request.project_id.lower()
        try:
            await self._check(project)
        except DatabaseUnavailable as error:
            message = "whether the machine identity is in the project is not known just now"
            raise Postponed(Retry(delay=1.0, message=message)) from error

    async def _check(self, project: str) -> None:
        one = self._quarantined.get(project)
        if one is None:
            if not self._quarantined or self._joined is None or project in self._accepted or project in self._joined:
                return
            # The list that showed others to be outside lacks this one too; it may have been joined since.
            if self._clock.monotonic() - self._joined_at > FRESH.total_seconds():
                await self._read(refused=True)
            else:
                await self._keep({project: self._outside(project)})
            if (one := self._quarantined.get(project)) is None:
                return
        if one.may_try(self._clock.now()) or (one.probing and await self._health.take_probe(project)):
            return
        raise Postponed(_waits(project, one))

    async def judge(self, claim: Claim, observation: Observation) -> Retry | None:
        """What a create's end says about its project: how the request goes on if that is to blame."""
        project, cause = claim.request.project_id.lower(), _CAUSES.get(observation.result)
        if observation.result in PASSED:
            if len(self._accepted) >= MOST_ACCEPTED:
                self._accepted.clear()
            self._accepted.add(project)
            if project in self._quarantined:
                await self._pass(project)
        if cause is None or observation.proof is Proof.NONE:
            return None
        one = refused(self._quarantined.get(project), cause, observation.message, self._clock.now())
        try:
            if project in self._accepted:
                self._accepted.discard(project)
            self._width = 1
            await self._keep({project: one})
            if cause is Cause.NOT_IN_PROJECT:
                await self._read(refused=True)
        except DatabaseUnavailable:
            return Retry(delay=1.0, message=observation.message, code=ErrorCode.PERMISSION_DENIED)
        finally:
            self._open.set()
        return _waits(project, one)

    async def refresh(self, *, troubled: bool = True) -> None:
        """Hear what the other workers found out, and whether the identity has joined or may create now.

        Nobody is asked where no project is quarantined (`troubled`), and none was here.
        """
        now = self._clock.monotonic()
        if not self._quarantined and self.refreshed.is_set() and (not troubled or now < self._look_at):
            return
        self._look_at = now + CALM
        await self._look()
        eager, self._eager = self._eager, False
        if any(one.cause is Cause.NOT_IN_PROJECT for one in self._quarantined.values()):
            await self._read(refused=eager)
        if any(one.cause is Cause.NO_PERMISSION for one in self._quarantined.values()):
            await self._probe(all_of_them=eager)
        if self._quarantined and now >= self._forget_at:
            self._forget_at = now + FORGETTING
            await self._health.forget()
        self.refreshed.set()

    async def _look(self) -> None:
        self._quarantined = await self._health.quarantined()

    async def _keep(self, projects: Mapping[str, QuarantinedProject]) -> None:
        """Quarantine projects, or keep them so, and take their requests out of the line."""
        new = [project for project in projects if project not in self._quarantined]
        requests = await self._health.keep(projects)
        self._quarantined = {**self._quarantined, **projects}
        telling = requests or any(one.confirmed for one in projects.values())  # what was claimed meanwhile says no more
        for project in new[:1] if telling else ():
            log.warning(
                "project_quarantined",
                target=self._target,
                project=project,
                project_name=await self._health.called(project),
                projects=len(new),
                requests=requests,
                reason=projects[project].reason,
            )

    async def _free(self, projects: Collection[str], reason: str) -> None:
        requests = await self._health.release(projects)
        self._quarantined = {id_: one for id_, one in self._quarantined.items() if id_ not in set(projects)}
        log.info("projects_released", target=self._target, projects=len(projects), requests=requests, reason=reason)

    async def _pass(self, project: str) -> None:
        self._width = min(2 * self._width, MOST_PROBES)
        with suppress(DatabaseUnavailable):
            await self._free([project], "a create was allowed there")

    async def _read(self, *, refused: bool) -> None:
        """Read the list of the identity's projects, unless somebody has just done so."""
        async with self._reading:
            if not await self._health.may_read(refused=refused):
                if refused:
                    await asyncio.sleep(SOON)
                await self._look()
                return
            granted = await self._reads.acquire(1)
            if not granted.permits:
                return
            seen, projects = await self._source.projects()
            self._reads.learn(seen.rate, metered=seen.metered, throttled_for=seen.retry_after, elapsed=seen.elapsed)
            if seen.result is not Result.FOUND:
                return
            await self._conclude(frozenset(project.id for project in projects))

    async def _conclude(self, joined: frozenset[str]) -> None:
        await self._look()
        complete = self._accepted <= joined
        self._joined, self._joined_at = (joined if complete else None), self._clock.monotonic()
        wanted = await self._health.wanted()
        found = listed(self._quarantined, joined=joined, wanted=wanted, accepted=self._accepted)
        if found.release:
            await self._free(found.release, "the machine identity is in the project")
        if found.quarantine:
            await self._keep({project: self._outside(project) for project in found.quarantine})

    async def _probe(self, *, all_of_them: bool) -> None:
        """Let single requests try whether the identity may create by now."""
        passed = all_of_them or self._width > 1
        if not await self._health.may_probe(passed=passed):
            return
        if all_of_them:
            due = [id_ for id_, one in self._quarantined.items() if one.cause is Cause.NO_PERMISSION]
        else:
            due = due_probes(self._quarantined, self._clock.now(), most=self._width)
        for project in due:
            await self._health.probe(project)
        if due:
            await self._look()

    def _outside(self, project: str) -> QuarantinedProject:
        return QuarantinedProject(
            cause=Cause.NOT_IN_PROJECT,
            reason=OUTSIDE.format(project),
            since=self._clock.now(),
            confirmed=False,
        )


def _waits(project: str, one: QuarantinedProject) -> Retry:
    return Retry(
        delay=QUARANTINE_RECHECK.total_seconds(),
        message=one.reason,
        code=ErrorCode.PERMISSION_DENIED,
        quarantine=quarantine_of(project),
    )
