"""Spend no creates on projects in which the machine identity may not create.

The first refusal is enough: from then on the project's requests wait, and the list of the identity's projects shows
which other projects are outside. `core.project_health` decides; this module asks, waits and remembers.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from provisioner.core.endings import database_silent
from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.model import Claim, ErrorCode, Observation, Proof, Result, Retry
from provisioner.core.ports import Clock, JoinedProjects, Permits, ProjectHealth
from provisioner.core.project_health import (
    FRESH,
    Cause,
    QuarantinedProject,
    due_probes,
    listed,
    refused,
    waiting_for_permission,
)
from provisioner.worker.key_gate import Postponed
from provisioner.worker.project_trials import ProjectTrials
from provisioner.worker.reads import learn_from

log = structlog.stdlib.get_logger()

_CAUSES: Final = {Result.NOT_IN_PROJECT: Cause.NOT_IN_PROJECT, Result.FORBIDDEN: Cause.NO_PERMISSION}
# Results that Infisical only returns after it has found that the identity may create in the project.
PASSED: Final = frozenset({Result.CREATED, Result.NAME_TAKEN, Result.KEY_REFUSED})
OUTSIDE: Final = (
    "the machine identity is not in project {}, or there is no such project: add it there, with a role that may create"
    " app connections"
)
# Seconds that creates wait at most for a list that is being read.
PATIENCE: Final = 5.0
# Seconds between two reads of other workers' findings while nothing is quarantined; otherwise every round reads them.
IDLE_INTERVAL: Final = 5.0
# Seconds until another worker's read of the list has been stored, and how often to wait for it.
LIST_WAIT: Final = 0.3
OFTEN: Final = 4
# Seconds until a claim that was told to wait has certainly been put back.
RELEASE_GRACE: Final = 15.0
# Seconds between two rounds of forgetting projects for which nothing waits.
FORGET_INTERVAL: Final = 60.0
MOST_ACCEPTED: Final = 10_000  # projects with accepted creates that one worker remembers
MOST_PROBES: Final = 64  # probes that are sent together once the previous ones passed


class ProjectGate:
    """Lets the requests of one target pass if the identity may create in their project.

    `eager`: at the start, everything that is quarantined is checked again at once.
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
        self.refreshed = asyncio.Event()  # what earlier workers stored is known, and checked again if we are eager
        self._target = target
        self._health = health
        self._source = joined
        self._reads = reads
        self._clock = clock
        self._eager = eager
        self._quarantined: Mapping[str, QuarantinedProject] = {}
        self._accepted: set[str] = set()
        self._joined: frozenset[str] | None = None  # None: unknown, or not reliable
        self._joined_at = self._told_at = float("-inf")
        self._open = asyncio.Event()
        self._open.set()
        self._reading = asyncio.Lock()
        self._look_at = self._forget_at = float("-inf")
        self._width = 1
        self._trials = ProjectTrials(clock)
        # When projects were released: requests claimed before may be put back to wait for them after that.
        self._released: dict[str, float] = {}

    def is_wary(self, claim: Claim) -> bool:
        """Whether a create has to ask first; rarely true once a project is known."""
        return bool(self._quarantined) or not self._open.is_set() or claim.request.project_id not in self._accepted

    def note(self, observation: Observation) -> None:
        """Note a create's result: after a refusal for its project, creates wait until similar projects are known."""
        if observation.result in _CAUSES and observation.proof is not Proof.NONE:
            self._open.clear()

    async def admit(self, claim: Claim) -> None:
        """Return if a request may be created, or raise `Postponed`."""
        project = claim.request.project_id.lower()
        await self._trials.enter(project, claim.request.id, is_known=lambda: self._is_known(project))
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._open.wait()
        try:
            await self._check(project)
        except DatabaseUnavailable as error:
            message = "it is not known yet whether the machine identity is in the project"
            raise Postponed(database_silent(message)) from error

    def _is_known(self, project: str) -> bool:
        """Whether a create there would teach nothing: it is known to pass, or to be refused."""
        if project in self._accepted or project in self._quarantined:
            return True
        return self._joined is not None and (project in self._joined or (bool(self._quarantined) and self._is_fresh()))

    def _is_fresh(self) -> bool:
        """Whether the list was read here just now."""
        return self._clock.monotonic() - self._joined_at <= FRESH.total_seconds()

    def leave(self, claim: Claim) -> None:
        """Note that a claim has ended, whatever its outcome."""
        self._trials.leave(claim.request.project_id.lower(), claim.request.id)

    async def _check(self, project: str) -> None:
        one = self._quarantined.get(project)
        if one is None:
            if not self._quarantined or self._joined is None or project in self._accepted or project in self._joined:
                return
            # The list that showed others to be outside lacks this project too, but it may have been joined since.
            if self._is_fresh():
                await self._keep({project: self._outside(project)})
            elif self._clock.monotonic() - self._told_at > FRESH.total_seconds():
                await self._read(refused=True)
            if (one := self._quarantined.get(project)) is None:
                return
        if one.may_try(self._clock.now()) or (one.probing and await self._health.take_probe(project)):
            return
        raise Postponed(waiting_for_permission(project, one))

    async def judge(self, claim: Claim, observation: Observation) -> Retry | None:
        """Learn from a create's result about its project; returns a retry if the project is to blame."""
        project, cause = claim.request.project_id.lower(), _CAUSES.get(observation.result)
        if observation.result in PASSED:
            if len(self._accepted) >= MOST_ACCEPTED:
                self._accepted.clear()
            self._accepted.add(project)
            self._trials.leave(project, claim.request.id, passed=True)
            if project in self._quarantined:
                await self._pass(project)
        if cause is None or observation.proof is Proof.NONE:
            return None
        one = refused(self._quarantined.get(project), cause, observation.message, self._clock.now())
        try:
            self._accepted.discard(project)
            self._width = 1
            await self._keep({project: one})
            if cause is Cause.NOT_IN_PROJECT:
                await self._read(refused=True)
        except DatabaseUnavailable:
            return replace(database_silent(observation.message), code=ErrorCode.PERMISSION_DENIED)
        finally:
            self._trials.leave(project, claim.request.id, passed=False)
            self._open.set()
        return waiting_for_permission(project, one)

    async def refresh(self, *, troubled: bool = True) -> None:
        """Read what the other workers found out, and whether the identity has joined or may create now.

        Does nothing if no project is quarantined (`troubled`) and none was here.
        """
        now = self._clock.monotonic()
        quiet = not self._quarantined and not self._released and self.refreshed.is_set()
        if quiet and (not troubled or now < self._look_at):
            return
        self._look_at = now + IDLE_INTERVAL
        await self._look()
        if self._released or not self.refreshed.is_set():
            await self._health.release_stragglers(self._released if self.refreshed.is_set() else None)
            self._released = {id_: until for id_, until in self._released.items() if until > now}
        eager, self._eager = self._eager, False
        if any(one.cause is Cause.NOT_IN_PROJECT for one in self._quarantined.values()):
            await self._read(refused=eager)
        if any(one.cause is Cause.NO_PERMISSION for one in self._quarantined.values()):
            await self._probe(all_of_them=eager)
        if self._quarantined and now >= self._forget_at:
            self._forget_at = now + FORGET_INTERVAL
            await self._health.forget()
        self.refreshed.set()

    async def _look(self) -> None:
        before, self._quarantined = self._quarantined, await self._health.quarantined()
        self._note_released(before.keys() - self._quarantined.keys())

    def _note_released(self, projects: Collection[str]) -> None:
        """Remember released projects: a claim that was told to wait may be put back after the release."""
        until = self._clock.monotonic() + RELEASE_GRACE
        self._released.update(dict.fromkeys(projects, until))

    async def _keep(self, projects: Mapping[str, QuarantinedProject]) -> None:
        """Quarantine projects, or keep them quarantined, and take their requests out of the line."""
        new = [project for project in projects if project not in self._quarantined]
        requests = await self._health.keep(projects)
        self._quarantined = {**self._quarantined, **projects}
        telling = requests or any(one.confirmed for one in projects.values())  # requests claimed meanwhile add nothing
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
        self._note_released(projects)
        log.info("projects_released", target=self._target, projects=len(projects), requests=requests, reason=reason)

    async def _pass(self, project: str) -> None:
        self._width = min(2 * self._width, MOST_PROBES)
        with suppress(DatabaseUnavailable):
            await self._free([project], "a create was allowed there")

    async def _read(self, *, refused: bool) -> None:
        """Read the list of the identity's projects, unless another worker has just done so."""
        async with self._reading:
            if not await self._health.may_read(refused=refused):
                await (self._hear() if refused else self._look())
                return
            granted = await self._reads.acquire(1)
            if not granted.permits:
                return
            seen, projects = await self._source.projects()
            learn_from(self._reads, seen)
            if seen.result is not Result.FOUND:
                return
            await self._conclude(frozenset(project.id for project in projects))

    async def _hear(self) -> None:
        """Wait briefly until the worker that reads the list has stored its contents."""
        known = len(self._quarantined)
        for _ in range(OFTEN):
            await asyncio.sleep(LIST_WAIT)
            await self._look()
            if len(self._quarantined) > known:
                break
        self._told_at = self._clock.monotonic()

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
        """Let single requests test whether the identity may create by now."""
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
