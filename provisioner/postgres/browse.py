"""List, count and export the requests that a filter matches, quickly in a table of any size."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from provisioner.core.requests import Listed, State
from provisioner.postgres.access import sees_all
from provisioner.postgres.candidates import Range, is_narrow, lots
from provisioner.postgres.filters import Filter, parts
from provisioner.postgres.kinds import KINDS, Kind
from provisioner.postgres.moments import EARLIEST
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

_SQL: Final = "browse"
PAGE: Final = 2_000  # rows per fetch from the server's cursor
EXPORT_TIME: Final = 600_000  # milliseconds that one statement of an export may take


_LISTED: Final = tuple(field.name for field in fields(Listed))
# The columns of an export of connections, of rotations, and of a report of both.
COLUMNS: Final = _LISTED[: _LISTED.index("kind")]
ROTATION_COLUMNS: Final = (
    *("id", "target", "project_id", "name", "connection", "environment", "secret_path", "secret_name", "interval_days"),
    *("rotate_at", "key_name", "spend_limit", "limit_reset", "include_byok", "description", "on_conflict", "priority"),
    *("batch", "project_name", "not_before", "requested_by", "created_at", "state", "attempts", "rotation_id"),
    *("connection_id", "key_issued", "left_behind", "adopted", "error_code", "error_message", "next_attempt_at"),
    "finished_at",
)
REPORT_COLUMNS: Final = _LISTED
_ELSE: Final = {field.name: field.default for field in fields(Listed) if field.default is not MISSING}


# A row that was written with triggers off may lack what every row has; that must not break a listing.
_LACKING: Final[Mapping[str, object]] = {
    **dict.fromkeys(("target", "project_id", "name", "credential", "on_conflict", "state"), ""),
    "priority": 0,
    "attempts": 0,
    "adopted": False,
    "created_at": EARLIEST,
}


def whole(row: "asyncpg.Record") -> dict[str, Any]:
    """Return a row's values by name, with substitutes for missing ones."""
    return {name: _LACKING.get(name) if value is None else value for name, value in row.items()}


def listed(row: "asyncpg.Record") -> Listed:
    """Return a request for a list."""
    values = whole(row)
    return Listed(**{name: values[name] for name in _LISTED if name in values})


async def count(database: Database, wanted: Filter, *, kinds: Sequence[Kind] = KINDS) -> Mapping[State, int]:
    """Count the requests of these kinds that the filter matches, by state.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as all functions here do.
    """
    found: Counter[State] = Counter()
    own = not await sees_all(database)
    for kind, its in parts(wanted, kinds):
        for row in await database.fetch(kind.sql(_SQL, own=own)["counts"], *its.arguments()):
            found[State(row["state"])] += row["requests"]
    return {state: found[state] for state in State if state in found}


async def ids_after(database: Database, kind: Kind, its: Filter, last: int, *, limit: int) -> Sequence[int]:
    """Return the ids of the oldest `limit` requests of a kind above the id `last` that its filter matches, in order."""
    sql = kind.sql(_SQL, own=not await sees_all(database))
    rows = await database.fetch(sql["ids"], *its.arguments(), last, limit)
    return [row["id"] for row in rows]


async def unknown_ids(database: Database, ids: Collection[int]) -> Sequence[int]:
    """Return the ids that no request has."""
    if not ids:
        return []
    sql = statements(_SQL, own=not await sees_all(database))
    return [row["id"] for row in await database.fetch(sql["unknown"], list(ids))]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The requests that a filter matches at one moment, oldest first, with the requested columns."""

    at: datetime
    rows: AsyncIterator[Sequence[object]]
    _fetch: Callable[[str], Awaitable[Sequence["asyncpg.Record"]]]

    async def states(self) -> Mapping[str, int]:
        """Count the requests by state; call this before reading the rows."""
        found = await self._summed("counts", "state")
        return {state.value: found[state] for state in State if state in found}

    async def causes(self) -> Mapping[str, int]:
        """Count the failures by error code, most frequent first; call this before reading the rows."""
        return dict((await self._summed("causes", "error_code")).most_common())

    async def _summed(self, name: str, by: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for row in await self._fetch(name):
            found[row[by]] += row["requests"]
        return found


async def unknown_batches(database: Database, batches: Collection[str]) -> Sequence[str]:
    """Return the batches that contain no request."""
    if not batches:
        return []
    sql = statements(_SQL, own=not await sees_all(database))
    return [row["batch"] for row in await database.fetch(sql["unknown_batches"], list(batches))]


@asynccontextmanager
async def exporting(
    database: Database, wanted: Filter, *, columns: Sequence[str] = COLUMNS, kinds: Sequence[Kind] = KINDS
) -> AsyncIterator[Snapshot]:
    """Export the requests of these kinds that the filter matches, with these columns.

    All rows are of one moment. They come in small lots from a cursor of the server, so memory does not grow with their
    number.
    """
    meant = parts(wanted, kinds)
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        everything = await sees_all(connection)

        async def rows() -> AsyncIterator[Sequence[object]]:
            if everything and is_narrow(wanted):
                await connection.execute(statements("candidates")["prepare"], str(EXPORT_TIME))
                async for lot, _ in lots(connection, wanted, Range(oldest_first=True), kinds=kinds):
                    if lot:
                        pick = _picking(columns, list(lot[0].keys()))
                        for row in lot:
                            yield pick(row)
                return
            for kind, its in meant:
                # Unnamed: behind a pooler a named statement would outlive us in a session that others use next.
                statement = await connection.prepare(kind.sql(_SQL, own=not everything)["requests"], name="")
                pick = _picking(columns, [each.name for each in statement.get_attributes()])
                async for row in statement.cursor(*its.arguments(), None, None, None, False, prefetch=PAGE):
                    yield pick(row)

        async def fetch(name: str) -> Sequence["asyncpg.Record"]:
            found: list[asyncpg.Record] = []
            for kind, its in meant:
                found += await connection.fetch(kind.sql(_SQL, own=not everything)[name], *its.arguments())
            return found

        yield Snapshot(await connection.fetchval(statements("reports")["now"]), rows(), fetch)


def _picking(columns: Sequence[str], known: Sequence[str]) -> Callable[["asyncpg.Record"], Sequence[object]]:
    """Return a function that picks columns from a row; columns that its kind lacks get their default."""
    lacking = [name for name in columns if name not in known]
    rest = [_ELSE.get(name) for name in lacking]
    pick = itemgetter(*((*known, *lacking).index(name) for name in columns))
    return lambda row: pick((*row, *rest))


async def requested_targets(database: Database) -> Sequence[str]:
    """Return every target that a request of any kind names."""
    found = [row["target"] for kind in KINDS for row in await database.fetch(kind.sql(_SQL)["targets"])]
    return list(dict.fromkeys(found))
