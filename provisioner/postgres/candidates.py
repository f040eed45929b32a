"""Choose which ids to check for a filter, in order and in lots: from the smallest table that has all matches.

The statement that shows a request decides whether it matches. This module only says where to look, so that nobody reads
ten million rows to find fifty. A search may have a deadline: then it says how far it has come.
"""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from provisioner.core.requests import ENDED, SET_APART, UNFINISHED, State
from provisioner.postgres.filters import Filter, parts
from provisioner.postgres.kinds import CONNECTIONS, KINDS, Kind
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

_SQL: Final = "candidates"
FIRST: Final = 500  # ids in the first lot; each further one is four times as large
LARGEST: Final = 8_000
FIRST_SPAN: Final = 10_000  # the first span of ids whose rows are all read; it grows in the same way
LARGEST_SPAN: Final = 160_000  # a sixth of a second
TOP: Final = 2**63 - 1
LAST: Final = "\U0010ffff"  # sorts after every text that begins with what precedes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The ids between two others, exclusive, in ascending or descending order."""

    low: int = -1
    high: int = TOP
    oldest_first: bool = False

    def behind(self, edge: int) -> "Range":
        """Return the range that is left after everything up to an id was checked."""
        return replace(self, low=edge) if self.oldest_first else replace(self, high=edge)

    def of(self, kind: Kind) -> "Range":
        """Return the part with the ids of a kind; each kind's ids are above those of the previous kind."""
        following = next((each.first for each in KINDS if each.first > kind.first), TOP)
        return replace(self, low=max(self.low, kind.first - 1), high=min(self.high, following))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A statement of `candidates.sql` that yields ids in order, with its arguments; `walk` reads the whole table."""

    name: str
    arguments: tuple[object, ...] = ()
    top: int = TOP  # no newer request matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """Matching rows in order; `edge` is the id up to which was searched when time ran out, else None."""

    rows: Sequence["asyncpg.Record"]
    edge: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """How many requests have each value that a filter names; `matching` have all of them."""

    matching: int
    newest: int | None
    of_kind: int
    of_batch: int
    pending: int


async def choose(
    connection: "Connection", wanted: Filter, text: str = "", *, kind: Kind = CONNECTIONS
) -> Source | None:
    """Return where to look for a filter's matches of a kind; None if there are none."""
    if wanted.ids:
        return Source(name="given", arguments=(list(wanted.ids),))
    if wanted.projects:
        return Source(name="of_projects", arguments=(list(wanted.projects), list(wanted.targets) or None))
    counted = await _count(connection, wanted, kind)
    states = frozenset(wanted.states)
    if counted.newest is None or (_are_counted(states) and not counted.matching):
        return None
    source, size = _of_states(wanted, states, counted)
    if wanted.batches and counted.of_batch <= size:
        source = Source(name="in_batches", arguments=(list(wanted.batches),))
    elif wanted.errors and not states:
        source = Source(name="tried", arguments=(list(wanted.errors),))
    if source is not None:
        return source
    own = [str(state) for state in states] if states and states <= ENDED else None
    like = f"%{escaped(text)}%" if text else None
    return Source(name="walk", arguments=(own, list(wanted.targets) or None, like), top=counted.newest + 1)


async def matching(
    connection: "Connection",
    wanted: Filter,
    within: Range,
    *,
    limit: int,
    text: str = "",
    until: float = float("inf"),
    kinds: Sequence[Kind] = KINDS,
) -> Matches:
    """Return at most `limit` matches, among the requests that can be checked by the monotonic time `until`."""
    rows: list[asyncpg.Record] = []
    async for lot, edge in lots(connection, wanted, within, limit=limit, text=text, kinds=kinds):
        rows += lot
        if len(rows) >= limit:
            break
        if edge is not None and time.monotonic() > until:
            return Matches(rows=rows, edge=edge)
    return Matches(rows=rows[:limit])


async def lots(
    connection: "Connection",
    wanted: Filter,
    within: Range,
    *,
    limit: int | None = None,
    text: str = "",
    kinds: Sequence[Kind] = KINDS,
) -> AsyncIterator[tuple[Sequence["asyncpg.Record"], int | None]]:
    """Yield a filter's matches in lots of at most `limit`, each with the id up to which it is complete."""
    meant = parts(wanted, kinds)
    for kind, its in meant if within.oldest_first else reversed(meant):
        async for lot in _lots_of(kind, connection, its, within.of(kind), limit=limit, text=text):
            yield lot


async def _lots_of(
    kind: Kind, connection: "Connection", wanted: Filter, within: Range, *, limit: int | None, text: str
) -> AsyncIterator[tuple[Sequence["asyncpg.Record"], int | None]]:
    source = await choose(connection, wanted, text, kind=kind)
    if source is None:
        return
    within, step = replace(within, high=min(within.high, source.top)), 0
    edge: int | None = 0
    while edge is not None:
        ids, edge = await _lot(kind, connection, source, within, step)
        if ids and text and source.name != "walk":
            found = await connection.fetch(kind.sql(_SQL)["named_so"], ids, f"%{escaped(text)}%")
            ids = [row["id"] for row in found]
        rows: Sequence[asyncpg.Record] = ()
        if ids:
            asked = replace(wanted, ids=ids).arguments()
            rows = await connection.fetch(
                kind.sql("browse")["requests"], *asked, within.low, within.high, limit, not within.oldest_first
            )
        yield rows, edge
        if edge is not None:
            within, step = within.behind(edge), step + 1


async def called(
    connection: "Connection", wanted: Filter, text: str, within: Range, *, limit: int
) -> Sequence["asyncpg.Record"]:
    """Return the filter's matches with this name, or a name that begins with it, using an index."""
    text, within = text.lower(), within.of(CONNECTIONS)
    asked = (within.low, within.high, FIRST, not within.oldest_first, text, text + LAST)
    ids = [row["id"] for row in await connection.fetch(statements(_SQL)["called"], *asked)]
    if not ids:
        return ()
    filtered = replace(wanted, ids=ids).arguments()
    shown: Sequence[asyncpg.Record] = await connection.fetch(
        statements("browse")["requests"], *filtered, within.low, within.high, limit, not within.oldest_first
    )
    return shown


def is_narrow(wanted: Filter) -> bool:
    """Whether there is a better way to all matches of a filter than to read the whole table."""
    states = frozenset(wanted.states)
    few = bool(states) and (states <= SET_APART or states <= frozenset(UNFINISHED))
    return bool(few or wanted.ids or wanted.projects or wanted.batches or (wanted.errors and not states))


def escaped(text: str) -> str:
    """Escape a text for LIKE."""
    return text.translate(_LITERAL)


_LITERAL: Final = str.maketrans({sign: f"\\{sign}" for sign in "\\%_"})


def _are_counted(states: frozenset[State]) -> bool:
    """Whether the counts cover these states: they do not say where pending requests are."""
    return bool(states) and states <= ENDED | {State.UPDATING, State.REMOVING}


def _of_states(wanted: Filter, states: frozenset[State], counted: _Counted) -> tuple[Source | None, float]:
    """Return the source that has all requests in these states, and how many it has."""
    if states and states <= SET_APART:
        arguments = ([str(state) for state in states], list(wanted.errors) or None)
        return Source(name="apart", arguments=arguments), counted.of_kind
    if states and states <= frozenset(UNFINISHED):
        elsewhere = bool(states & {State.UPDATING, State.REMOVING})
        waits = states & {State.WAITING, State.RETRYING, State.QUARANTINED}
        places = (elsewhere or State.READY in states, elsewhere or bool(waits), elsewhere or State.IN_FLIGHT in states)
        return Source(name="in_line", arguments=places), counted.pending if places[0] else 0
    return None, float("inf")


async def _count(connection: "Connection", wanted: Filter, kind: Kind) -> _Counted:
    _, _, batches, _, errors, targets = wanted.arguments()
    states = frozenset(wanted.states)
    kinds = [str(state) for state in states] if _are_counted(states) else None
    row = await connection.fetchrow(
        statements(_SQL)["counted"],
        kinds,
        batches,
        errors if states and states <= ENDED else None,
        targets,
        kind.words.line.removeprefix("/"),
    )
    if row is None:  # an aggregate without GROUP BY has exactly one row
        raise AssertionError
    return _Counted(**dict(row))


async def _lot(
    kind: Kind, connection: "Connection", source: Source, within: Range, step: int
) -> tuple[list[int], int | None]:
    """Return the next ids, and the id up to which they are complete; None at the end."""
    sql, most = kind.sql(_SQL), min(FIRST * 4**step, LARGEST)
    low, high, edge = within.low, within.high, None
    if source.name == "walk":
        ends = await connection.fetchrow(sql["ends"], low, high)
        if ends is None or ends["newest"] is None:
            return [], None
        span = min(FIRST_SPAN * 4**step, LARGEST_SPAN)
        if within.oldest_first and ends["oldest"] + span <= ends["newest"]:
            edge, high = ends["oldest"] + span - 1, ends["oldest"] + span
        elif not within.oldest_first and ends["newest"] - span >= ends["oldest"]:
            edge, low = ends["newest"] - span + 1, ends["newest"] - span
    found = await connection.fetch(sql[source.name], low, high, most, not within.oldest_first, *source.arguments)
    ids = [row["id"] for row in found]
    return ids, ids[-1] if len(ids) == most else edge
