"""The outbox of notices, and the record of what was sent."""

import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from provisioner.core.alerts import find_alerts
from provisioner.core.notices import Delivery, Event, Finished, KnownAlert, Notice, Outcome, decide
from provisioner.core.reports import Status
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

TURN: Final = timedelta(seconds=9)  # slightly less than the time between checks, or every other one would be in vain
LEASE: Final = timedelta(seconds=60)  # several times as long as a delivery may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """How many notices could not be delivered yet, since when, and why."""

    notices: int
    since: datetime | None
    error: str | None


class NoticeBoard:
    """`core.background_ports.Outbox` on the tables of notices; `read_status` returns the present status."""

    def __init__(
        self, database: Database, *, events: Collection[str], read_status: Callable[[], Awaitable[Status]]
    ) -> None:
        self._database = database
        self._events = events
        self._read_status = read_status
        self._sql = statements("notices")

    async def collect(self, *, last: bool = False) -> bool:
        """Put new notices into the outbox if it is this worker's turn; whether it is."""
        taken_at = await self._database.fetchrow(self._sql["turn"], timedelta(0) if last else TURN)
        if taken_at is None:
            return False
        status = await self._read_status()
        async with self._database.acquire() as connection, connection.transaction(isolation="read_committed"):
            await self._database.set_up(connection)
            # If this worker was frozen after taking the turn, its status is outdated by now.
            if await connection.fetchrow(self._sql["hold"], taken_at["checked_at"]) is None:
                return False
            await self._notice(connection, status, last=last)
        return True

    async def _notice(self, connection: "PoolConnectionProxy[asyncpg.Record]", status: Status, *, last: bool) -> None:
        known = [KnownAlert(**dict(row)) for row in await connection.fetch(self._sql["known"])]
        finished = [Finished(**dict(row)) for row in await connection.fetch(self._sql["finished"])]
        found = decide(known, find_alerts(status), finished, events=self._events, now=status.now, last=last)
        if set(found.known) != set(known):
            await connection.execute(self._sql["forget"])
            await connection.execute(self._sql["remember"], *_columns(found))
        if found.batches:
            batches = [each.batch for each in found.batches], [each.ended_at for each in found.batches]
            await connection.execute(self._sql["told"], *batches)
            await connection.execute(self._sql["tidy"])
        if found.notices:
            await self._enqueue(connection, found.notices)

    async def _enqueue(self, connection: "PoolConnectionProxy[asyncpg.Record]", notices: Sequence[Notice]) -> None:
        contents = [json.dumps(asdict(notice)) for notice in notices]
        await connection.execute(self._sql["enqueue"], [notice.event.value for notice in notices], contents)

    async def take(self) -> Delivery | None:
        """Return the notice that has been due longest; it is reserved for this worker for a minute."""
        row = await self._database.fetchrow(self._sql["take"], LEASE)
        if row is None:
            return None
        content = json.loads(row["content"])
        notice = Notice(**{**content, "event": Event(row["event"])})
        return Delivery(
            id=str(row["id"]), notice=notice, noticed_at=row["noticed_at"], tries=row["tries"], age=row["age"]
        )

    async def sent(self, delivery: Delivery) -> None:
        """Note that a notice was delivered."""
        await self._database.execute(self._sql["sent"], delivery.id)

    async def failed(self, delivery: Delivery, *, reason: str, pause: float | None) -> None:
        """Note a failed delivery; it is due again after `pause` seconds, or never if that is None."""
        if pause is None:
            await self._database.execute(self._sql["drop"], delivery.id)
        else:
            again = timedelta(seconds=pause)
            await self._database.execute(self._sql["failed"], delivery.id, delivery.tries, reason, again)


async def read_undelivered(database: Database) -> Undelivered:
    """Return what could not be delivered. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    row = await database.fetchrow(statements("notices")["waiting"])
    if row is None:  # an aggregate without GROUP BY has exactly one row
        raise AssertionError
    return Undelivered(**dict(row))


def _columns(found: Outcome) -> tuple[list[object], ...]:
    """Return what to remember, as columns."""
    known = found.known
    return (
        [each.kind for each in known],
        [each.subject for each in known],
        [each.since for each in known],
        [each.told for each in known],
        [each.gone_at for each in known],
    )
