"""Look at many requests: list, count and export those that a filter matches, quick whatever the table's size."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from provisioner.core.requests import Listed
from provisioner.postgres.candidates import Range, is_narrow, lots
from provisioner.postgres.filters import Filter, State
from provisioner.postgres.moments import EARLIEST
from provisioner.postgres.own import own_statements, readable, sees_all
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

_SQL: Final = "browse"
PAGE: Final = 2_000  # rows that the server hands over at a time
EXPORT_TIME: Final = 600_000  # milliseconds that one of its statements may take


COLUMNS: Final = tuple(field.name for field in fields(Listed))


# A row that was written past the triggers may lack what every row has: that must not end anybody's listing.
_LACKING: Final[Mapping[str, object]] = {
    **dict.fromkeys(("target", "project_id", "name", "credential", "on_conflict", "state"), ""),
    "priority": 0,
    "attempts": 0,
    "adopted": False,
    "created_at": EARLIEST,
}


def whole(row: "asyncpg.Record") -> dict[str, Any]:
    """A row's values by their names, with something in the place of what should be there and is not."""
    return {name: _LACKING.get(name) if value is None else value for name, value in row.items()}


async def count(database: Database, wanted: Filter) -> Mapping[State, int]:
    """Count what the filter matches, by state.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as all of these do.
    """
    rows = await database.fetch((await readable(database, _SQL))["counts"], *wanted.arguments())
    found = {row["state"]: row["requests"] for row in rows}
    return {state: found[state] for state in State if state in found}


async def ids_after(database: Database, wanted: Filter, last: int, *, limit: int) -> Sequence[int]:
    """The ids of the oldest `limit` requests above the id `last` that the filter matches, in order."""
    rows = await database.fetch(
        (await readable(database, _SQL))["requests"], *wanted.arguments(), last, None, limit, False
    )
    return [row["id"] for row in rows]


async def unknown_ids(database: Database, ids: Collection[int]) -> Sequence[int]:
    """Those of the ids that no request has."""
    rows = await database.fetch(statements(_SQL)["unknown"], list(ids)) if ids else []
    return [row["id"] for row in rows]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a filter matches at one moment: every request, oldest first, its values in the order of `COLUMNS`."""

    at: datetime
    rows: AsyncIterator[Sequence[object]]
    _fetch: Callable[[str], Awaitable[Sequence["asyncpg.Record"]]]

    async def states(self) -> Mapping[str, int]:
        """How many are in each state; to be asked before the rows."""
        found = {row["state"]: row["requests"] for row in await self._fetch("counts")}
        return {state.value: found[state] for state in State if state in found}

    async def causes(self) -> Mapping[str, int]:
        """How many failed for each reason, the most frequent first; to be asked before the rows."""
        return {row["error_code"]: row["requests"] for row in await self._fetch("causes")}


async def unknown_batches(database: Database, batches: Collection[str]) -> Sequence[str]:
    """Those of the batches that no request is in."""
    rows = await database.fetch(statements(_SQL)["unknown_batches"], list(batches)) if batches else []
    return [row["batch"] for row in rows]


@asynccontextmanager
async def exporting(database: Database, wanted: Filter) -> AsyncIterator[Snapshot]:
    """Give every request that the filter matches.

    All are of one moment. They come in small lots from a cursor of the server, so memory does not grow with their
    number.
    """
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        everything = await sees_all(connection)
        sql = (statements if everything else own_statements)(_SQL)

        async def rows() -> AsyncIterator[Sequence[object]]:
            if everything and is_narrow(wanted):
                await connection.execute(statements("candidates")["prepare"], str(EXPORT_TIME))
                async for lot, _ in lots(connection, wanted, Range(oldest_first=True)):
                    for row in lot:
                        yield tuple(row)
                return
            # Without a name: through a pooler it would outlive us in a session that is somebody else's next.
            statement = await connection.prepare(sql["requests"], name="")
            async for row in statement.cursor(*wanted.arguments(), None, None, None, False, prefetch=PAGE):
                yield tuple(row)

        async def fetch(name: str) -> Sequence["asyncpg.Record"]:
            found: Sequence[asyncpg.Record] = await connection.fetch(sql[name], *wanted.arguments())
            return found

        yield Snapshot(await connection.fetchval(statements("reports")["now"]), rows(), fetch)


async def requested_targets(database: Database) -> Sequence[str]:
    """Every target that a request names."""
    return [row["target"] for row in await database.fetch(statements(_SQL)["targets"])]
