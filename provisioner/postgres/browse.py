"""Look at many requests: list, count and export those that a filter matches, quick whatever the table's size."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import MISSING, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from provisioner.core.requests import Listed
from provisioner.postgres.kinds import KINDS, Kind, sql_of
from provisioner.postgres.moments import EARLIEST
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

_SQL: Final = "browse"
PAGE: Final = 2_000  # rows that the server hands over at a time
COUNTED: Final = 10_000  # requests beyond a page that are counted: some 20 ms, while a million takes seconds


class State(StrEnum):
    """Where a request is in its life."""

    WAITING = "waiting"
    READY = "ready"
    IN_FLIGHT = "in_flight"
    UPDATING = "updating"
    REMOVING = "removing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REMOVED = "removed"


UNFINISHED: Final = (State.WAITING, State.READY, State.IN_FLIGHT, State.UPDATING, State.REMOVING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which requests are meant: those that have one of the values of each kind; a kind without values means any."""

    ids: Collection[int] = ()
    states: Collection[State] = ()
    batches: Collection[str] = ()
    projects: Collection[str] = ()
    errors: Collection[str] = ()
    targets: Collection[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it matches everything."""
        return not any(self._kinds())

    def arguments(self) -> tuple[list[object] | None, ...]:
        """The arguments of the statements, in their order."""
        return tuple(list(kind) or None for kind in self._kinds())

    def of(self, kind: Kind | None) -> "Filter | None":
        """The same for one kind of request, whose line a target may be named with; None if none of it can match."""
        line = "" if kind is None else kind.line
        places = [target.partition("/") for target in self.targets]
        targets = tuple(target for target, _, of in places if of in {"", line})
        return replace(self, targets=targets) if targets or not places else None

    def _kinds(self) -> tuple[Collection[object], ...]:
        return (self.ids, self.states, self.batches, self.projects, self.errors, self.targets)


_LISTED: Final = tuple(field.name for field in fields(Listed))
# What an export of connections has, an export of rotations, and a report of both.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many requests are in one state; `retrying` of them were tried before and will be again."""

    requests: int = 0
    retrying: int = 0


async def count(database: Database, wanted: Filter, *, kinds: Sequence[Kind | None] = KINDS) -> Mapping[State, Count]:
    """Count what the filter matches, of these kinds, by state.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as all of these do.
    """
    found: dict[State, Count] = {}
    for kind, its in parts(wanted, kinds):
        for row in await database.fetch(sql_of(kind, _SQL)["counts"], *its.arguments()):
            before = found.get(state := State(row["state"]), Count())
            found[state] = Count(requests=before.requests + row["requests"], retrying=before.retrying + row["retrying"])
    return {state: found[state] for state in State if state in found}


async def page(
    database: Database,
    wanted: Filter,
    *,
    limit: int,
    before: int | None = None,
    after: int | None = None,
    oldest_first: bool = False,
    kinds: Sequence[Kind | None] = KINDS,
) -> tuple[Sequence[Listed], int]:
    """The newest (or oldest) `limit` requests that the filter matches, of those between two ids; and how many more.

    More than `COUNTED` are not counted: then the number is one greater.
    """
    meant = parts(wanted, kinds)
    found = await first(database, meant, limit=limit + 1, before=before, after=after, oldest_first=oldest_first)
    listed = found[:limit]
    if len(found) <= limit:
        return listed, 0
    last, more = listed[-1].id, 0
    low, high = (last, before) if oldest_first else (after, last)
    for kind, its in meant:
        if more <= COUNTED:
            row = await database.fetchrow(
                sql_of(kind, _SQL)["further"], *its.arguments(), low, high, COUNTED + 1 - more
            )
            more += row["requests"] if row else 0
    return listed, more


def parts(wanted: Filter, kinds: Sequence[Kind | None] = KINDS) -> Sequence[tuple[Kind | None, Filter]]:
    """The filter for each of these kinds that can match it, in the order of their ids."""
    return [(kind, its) for kind in kinds if (its := wanted.of(kind)) is not None]


async def first(
    database: Database,
    wanted: Sequence[tuple[Kind | None, Filter]],
    *,
    limit: int,
    before: int | None,
    after: int | None,
    oldest_first: bool,
) -> list[Listed]:
    """The first requests of what each kind's filter matches. Every id of a kind is above all of the kind before."""
    found: list[Listed] = []
    for kind, its in wanted if oldest_first else reversed(wanted):
        if len(found) < limit:
            arguments = (*its.arguments(), after, before, limit - len(found), not oldest_first)
            rows = await database.fetch(sql_of(kind, _SQL)["requests"], *arguments)
            found += [listed(row) for row in rows]
    return found


def listed(row: "asyncpg.Record") -> Listed:
    """A request as it is listed."""
    values = whole(row)
    return Listed(**{name: values[name] for name in _LISTED if name in values})


async def ids_after(database: Database, kind: Kind | None, its: Filter, last: int, *, limit: int) -> Sequence[int]:
    """The ids of the oldest `limit` requests of a kind above the id `last` that its filter matches, in order."""
    rows = await database.fetch(sql_of(kind, _SQL)["ids"], *its.arguments(), last, limit)
    return [row["id"] for row in rows]


async def unknown_ids(database: Database, ids: Collection[int]) -> Sequence[int]:
    """Those of the ids that no request has."""
    rows = await database.fetch(statements(_SQL)["unknown"], list(ids)) if ids else []
    return [row["id"] for row in rows]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a filter matches at one moment: every request, oldest first, its values in the order that was asked for."""

    at: datetime
    rows: AsyncIterator[Sequence[object]]
    _fetch: Callable[[str], Awaitable[Sequence["asyncpg.Record"]]]

    async def states(self) -> Mapping[str, int]:
        """How many are in each state; to be asked before the rows."""
        found = await self._summed("counts", "state")
        return {state.value: found[state] for state in State if state in found}

    async def causes(self) -> Mapping[str, int]:
        """How many failed for each reason, the most frequent first; to be asked before the rows."""
        return dict((await self._summed("causes", "error_code")).most_common())

    async def _summed(self, name: str, by: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for row in await self._fetch(name):
            found[row[by]] += row["requests"]
        return found


async def unknown_batches(database: Database, batches: Collection[str]) -> Sequence[str]:
    """Those of the batches that no request is in."""
    rows = await database.fetch(statements(_SQL)["unknown_batches"], list(batches)) if batches else []
    return [row["batch"] for row in rows]


@asynccontextmanager
async def exporting(
    database: Database, wanted: Filter, *, columns: Sequence[str] = COLUMNS, kinds: Sequence[Kind | None] = KINDS
) -> AsyncIterator[Snapshot]:
    """Give every request of some kinds that the filter matches: these of its values.

    All are of one moment. They come in small lots from a cursor of the server, so memory does not grow with their
    number.
    """
    meant = parts(wanted, kinds)
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)

        async def rows() -> AsyncIterator[Sequence[object]]:
            for kind, its in meant:
                # Without a name: through a pooler it would outlive us in a session that is somebody else's next.
                statement = await connection.prepare(sql_of(kind, _SQL)["requests"], name="")
                known = [each.name for each in statement.get_attributes()]
                lacking = [name for name in columns if name not in known]
                rest = [_ELSE.get(name) for name in lacking]
                pick = itemgetter(*((*known, *lacking).index(name) for name in columns))
                async for row in statement.cursor(*its.arguments(), None, None, None, False, prefetch=PAGE):
                    yield pick((*row, *rest))

        async def fetch(name: str) -> Sequence["asyncpg.Record"]:
            found: list[asyncpg.Record] = []
            for kind, its in meant:
                found += await connection.fetch(sql_of(kind, _SQL)[name], *its.arguments())
            return found

        yield Snapshot(await connection.fetchval(statements("reports")["now"]), rows(), fetch)


async def requested_targets(database: Database) -> Sequence[str]:
    """Every target that a request of any kind names."""
    found = [row["target"] for kind in KINDS for row in await database.fetch(sql_of(kind, _SQL)["targets"])]
    return list(dict.fromkeys(found))
