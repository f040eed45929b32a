"""What all workers of one target know about the projects in which the machine identity may not create."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple
from datetime import datetime, timedelta
from typing import Final

from provisioner.core.project_health import (
    QUARANTINE_RECHECK,
    Cause,
    Checks,
    QuarantinedProject,
    probe_now,
    probed,
    read_now,
)
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

LOT: Final = 5000  # requests taken out of the line per statement
MOST: Final = 20_000  # projects compared with a list at once
FORGET_AFTER: Final = timedelta(hours=1)
_COLUMNS: Final = ("reason", "since", "confirmed", "probing", "probe_at", "probe_pause")


class SharedProjectHealth:
    """`core.ports.ProjectHealth` on the tables `project_health` and `project_checks`."""

    def __init__(self, database: Database, *, target: str) -> None:
        self._database = database
        self._target = target
        self._sql = statements("project_health")

    async def quarantined(self) -> Mapping[str, QuarantinedProject]:
        """Return the projects whose requests wait."""
        rows = await self._database.fetch(self._sql["quarantined"], self._target)
        return {
            row["project_id"]: QuarantinedProject(cause=Cause(row["cause"]), **{name: row[name] for name in _COLUMNS})
            for row in rows
        }

    async def keep(self, projects: Mapping[str, QuarantinedProject]) -> int:
        """Quarantine projects, or keep them quarantined; returns how many requests that took out of the line."""
        ids, states = list(projects), list(projects.values())
        columns = [[getattr(state, name) for state in states] for name in ("cause", *_COLUMNS)]
        await self._database.execute(self._sql["keep"], self._target, ids, *columns)
        taken = 0
        while True:
            rows = await self._database.fetch(self._sql["hold_back"], self._target, ids, QUARANTINE_RECHECK, LOT)
            taken += len(rows)
            if len(rows) < LOT:
                return taken

    async def release(self, projects: Collection[str]) -> int:
        """Release the requests of these projects; returns how many waited."""
        row = await self._database.fetchrow(self._sql["release"], self._target, list(projects))
        return int(row["released"]) if row else 0

    async def release_stragglers(self, projects: Collection[str] | None) -> None:
        """Release requests that wait for one of these projects, or any (None), although it is not quarantined."""
        await self._database.execute(
            self._sql["release_stragglers"], self._target, None if projects is None else list(projects)
        )

    async def wanted(self) -> Sequence[str]:
        """Return the projects for which requests are in flight or in line."""
        rows = await self._database.fetch(self._sql["wanted"], self._target, MOST)
        return [row["project_id"] for row in rows]

    async def called(self, project: str) -> str | None:
        """Return the project's name, if a request has it."""
        row = await self._database.fetchrow(self._sql["called"], self._target, project)
        return None if row is None else row["project_name"]

    async def may_read(self, *, refused: bool) -> bool:
        """Take the turn to read the list of the identity's projects, if a read is due."""
        return await self._check(lambda checks, now: read_now(checks, now, refused=refused))

    async def may_probe(self, *, passed: bool) -> bool:
        """Take the turn to probe projects, if probes are due."""
        return await self._check(lambda checks, now: probe_now(checks, now, passed=passed))

    async def probe(self, project: str) -> None:
        """Let one request create in a project for which the permission was missing."""
        _, now = await self._checks()
        if (one := (await self.quarantined()).get(project)) is not None:
            after = probed(one, now)
            await self._database.execute(
                self._sql["probe"], self._target, project, after.probe_at, after.probe_pause, one.probe_at
            )

    async def take_probe(self, project: str) -> bool:
        """Take the one create that may be sent to this project now, unless another worker has."""
        return await self._database.fetchrow(self._sql["take_probe"], self._target, project) is not None

    async def forget(self) -> None:
        """Forget projects for which nothing waits."""
        await self._database.execute(self._sql["forget"], self._target, FORGET_AFTER)

    async def _checks(self) -> tuple[Checks, datetime]:
        row = await self._database.fetchrow(self._sql["checks"], self._target)
        if row is None:  # it returns exactly one row
            raise AssertionError("checks")
        if row["read_pause"] is None:
            return Checks(), row["now"]
        return Checks(read_at=row["read_at"], read_pause=row["read_pause"], probed_at=row["probed_at"]), row["now"]

    async def _check(self, decide: Callable[[Checks, datetime], Checks | None]) -> bool:
        before, now = await self._checks()
        if (after := decide(before, now)) is None:
            return False
        written = await self._database.fetchrow(
            self._sql["check"], self._target, before.read_at, before.probed_at, *astuple(after)
        )
        return written is not None
