"""The progress and findings of standing verification."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final

from provisioner.core.comparison import AnyRecorded
from provisioner.core.verifying import RECHECK_AFTER, Round, Verdict
from provisioner.postgres.kinds import CONNECTIONS, Kind
from provisioner.postgres.pool import Database

if TYPE_CHECKING:
    import asyncpg

LEASE: Final = timedelta(seconds=120)  # longer than one read of a project may take
PAGE: Final = 500  # requests compared at a time


class DriftLedger:
    """`core.ports.DriftLedger` on its tables, for one kind of request.

    `every` is the time from the beginning of one round to that of the next.
    """

    def __init__(self, database: Database, *, holder: str, every: timedelta, kind: Kind = CONNECTIONS) -> None:
        self._database = database
        self._holder = holder
        self._every = every
        self._kind = kind
        self._sql = {**kind.sql("verifying"), **kind.sql("recorded")}

    async def take(self, target: str) -> Round | None:
        """Take the turn at a target, if it is this worker's."""
        row = await self._database.fetchrow(self._sql["take"], target, self._holder, LEASE, self._every)
        return Round(**dict(row)) if row else None

    async def page(self, turn: Round) -> Mapping[str, Sequence[AnyRecorded]]:
        """Return the next recorded requests, by project; empty at the end of the round."""
        target = turn.target.removesuffix(self._kind.words.line)
        last = (target, turn.project_id, turn.name) if turn.project_id else (None, None, None)
        rows = await self._database.fetch(self._sql["succeeded"], None, None, None, [target], *last, PAGE)
        projects = self._by_project(rows)
        if len(rows) == PAGE and len(projects) > 1:
            projects.popitem()  # it may continue after this page; the next page has all of it
        return projects

    async def missed(self, target: str) -> Mapping[str, Sequence[AnyRecorded]]:
        """Return what was missed long enough ago to be checked again, by project."""
        return self._by_project(await self._database.fetch(self._sql["missed"], target, RECHECK_AFTER, PAGE))

    async def next_missed(self, target: str) -> datetime | None:
        """Return when something that was missed may be checked again; None if nothing is missed."""
        row = await self._database.fetchrow(self._sql["next_missed"], target, RECHECK_AFTER)
        return row["at"] if row else None

    async def since(self, recorded: Sequence[AnyRecorded]) -> Mapping[int, datetime]:
        """Return since when each of these has been missed."""
        rows = await self._database.fetch(self._sql["since"], [each.id for each in recorded])
        return {row["id"]: row["missed_at"] for row in rows}

    async def save(self, turn: Round, verdicts: Sequence[Verdict], *, behind: AnyRecorded | None) -> bool:
        """Store findings and progress; whether the turn is still ours."""
        place = (behind.project_id, behind.place) if behind else (None, None)
        async with self._database.acquire() as connection, connection.transaction(isolation="read_committed"):
            await self._database.set_up(connection)
            if await connection.fetchrow(self._sql["advance"], turn.target, self._holder, LEASE, *place) is None:
                return False
            if fine := [each.id for each in verdicts if each.is_fine]:
                await connection.execute(self._sql["clear"], fine)
            if other := [each for each in verdicts if not each.is_fine]:
                await connection.execute(
                    self._sql["note"],
                    [each.id for each in other],
                    turn.target,
                    [each.drift for each in other],
                    [each.missed_at for each in other],
                    [each.unread for each in other],
                )
        return True

    async def finish(self, turn: Round) -> None:
        """Finish the round."""
        await self._database.execute(self._sql["finish"], turn.target, self._holder)

    async def leave(self, turn: Round) -> None:
        """Let another worker continue the round."""
        await self._database.execute(self._sql["leave"], turn.target, self._holder)

    def _by_project(self, rows: "Sequence[asyncpg.Record]") -> dict[str, Sequence[AnyRecorded]]:
        recorded = [self._kind.recorded(row) for row in rows]
        return {project: tuple(each) for project, each in groupby(recorded, key=lambda one: one.project_id)}
