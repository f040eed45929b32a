"""Find requests for people, quickly in a table of any size, and return the history of one."""

import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from provisioner.core.requests import UNFINISHED, Found, Listed, Query, RequestHistory, State
from provisioner.postgres.access import sees_all
from provisioner.postgres.browse import listed
from provisioner.postgres.candidates import TOP, Range, called, matching
from provisioner.postgres.detail import read_attempts, read_detail
from provisioner.postgres.filters import Filter, parts
from provisioner.postgres.kinds import KINDS, Kind
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

    from provisioner.postgres.candidates import Connection

PAGE: Final = 50
TIME: Final = 5_000  # milliseconds for one statement; the asker has given up by then
SOON: Final = 0.35  # seconds; the search continues only if somebody asks for more
CALLS: Final = 100  # calls of one request that fit on a page
COUNTED: Final = 10_000  # requests beyond a page that are counted
LARGEST_ID: Final = TOP
_PENDING: Final = "pending"
# The name of one of our keys at OpenRouter ends with its rotation's id; see `core/rotations.py`.
_KEY: Final = re.compile(r"#([0-9]{13,18})\.[0-9]{1,9}-[0-9a-f]{6}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Requests, and how many more match as far as they were counted; `is_all` says whether all were counted."""

    requests: Sequence[Listed]
    more: int = 0
    is_all: bool = True


async def page(
    database: Database,
    wanted: Filter,
    *,
    limit: int,
    before: int | None = None,
    after: int | None = None,
    oldest_first: bool = False,
    kinds: Sequence[Kind] = KINDS,
) -> Page:
    """Return the newest (or oldest) `limit` matches between two ids, and how many more there are.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    if not await sees_all(database):
        within = _range(before, after, oldest_first=oldest_first)
        return await _own_page(database, parts(wanted, kinds), within, limit=limit)
    within = _range(before, after, oldest_first=oldest_first)
    async with _looking(database) as connection:
        rows = (await matching(connection, wanted, within, limit=limit + 1, kinds=kinds)).rows
        requests = [listed(row) for row in rows[:limit]]
        if len(rows) <= limit:
            return Page(requests=requests)
        behind, until = within.behind(requests[-1].id), time.monotonic() + SOON / 2
        rest = await matching(connection, wanted, behind, limit=COUNTED + 1, until=until, kinds=kinds)
    return Page(requests=requests, more=len(rest.rows), is_all=rest.edge is None and len(rest.rows) <= COUNTED)


async def _own_page(database: Database, meant: Sequence[tuple[Kind, Filter]], within: Range, *, limit: int) -> Page:
    """Return a page for a role that only sees its own requests: these are few, so all of them are read."""
    rows: list[asyncpg.Record] = []
    most = limit + COUNTED + 1
    for kind, its in meant if within.oldest_first else reversed(meant):
        arguments = (*its.arguments(), within.low, within.high, most - len(rows), not within.oldest_first)
        rows += await database.fetch(kind.sql("browse", own=True)["requests"], *arguments)
    more = max(0, len(rows) - limit)
    return Page(requests=[listed(row) for row in rows[:limit]], more=more, is_all=more <= COUNTED)


async def find(database: Database, query: Query) -> Found:
    """Return a page of search results. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    states = UNFINISHED if query.state == _PENDING else tuple(state for state in State if state == query.state)
    if query.state and not states:
        return Found(requests=())
    ids, projects, text = _meant(query.text)
    wanted = Filter(
        ids=ids,
        states=states,
        batches=[query.batch] if query.batch else (),
        projects=projects,
        errors=[query.error] if query.error else (),
        targets=[query.target] if query.target else (),
    )
    oldest_first = query.after is not None
    within = _range(query.before, query.after, oldest_first=oldest_first)
    until = time.monotonic() + SOON
    async with _looking(database) as connection:
        found = await matching(connection, wanted, within, limit=PAGE + 1, text=text, until=until)
        rows = list(found.rows)
        if text and found.edge is not None:
            rows += await called(connection, wanted, text, within.behind(found.edge), limit=PAGE)
    more = found.edge is None and len(rows) > PAGE
    requests = [listed(row) for row in rows[:PAGE]]
    if oldest_first:
        return Found(requests=tuple(reversed(requests)), newer=more, older=True, searched_to=found.edge)
    return Found(requests=tuple(requests), newer=query.before is not None, older=more, searched_to=found.edge)


@asynccontextmanager
async def _looking(database: Database) -> AsyncIterator["Connection"]:
    """Provide a connection at one snapshot that plans each statement for its arguments."""
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        await connection.execute(statements("candidates")["prepare"], str(TIME))
        yield connection


def _range(before: int | None, after: int | None, *, oldest_first: bool) -> Range:
    everything = Range(oldest_first=oldest_first)
    return Range(
        low=everything.low if after is None else after,
        high=everything.high if before is None else before,
        oldest_first=oldest_first,
    )


async def read_request(database: Database, request: int) -> RequestHistory | None:
    """Return the history of one request; None if the id is unknown. Raises as `find` does."""
    detail = await read_detail(database, request)
    if detail is None:
        return None
    attempts, earlier = await read_attempts(database, request, limit=CALLS)
    row = await database.fetchrow(statements("detail")["drift"], request)
    compared = dict(row) if row else {}
    return RequestHistory(detail=detail, attempts=tuple(attempts), earlier=earlier, **compared)


def _meant(text: str) -> tuple[list[int], list[str], str]:
    """Interpret a search text: an id, the name of a key, a project, or a part of a name."""
    if key := _KEY.search(text):
        return [int(key[1])], [], ""
    if re.fullmatch(r"[0-9]{1,19}", text) and 1 <= int(text) <= LARGEST_ID:
        return [int(text)], [], ""
    try:
        return [], [str(UUID(text))], ""
    except ValueError:
        return [], [], text
