"""Find requests as people look for them, and tell the story of one; nothing is counted, so it is quick."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from provisioner.core.requests import Found, Query, Story
from provisioner.postgres.browse import UNFINISHED, Filter, State, first, parts, requested_targets
from provisioner.postgres.detail import read_attempts, read_detail
from provisioner.postgres.kinds import Kind, sql_of
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

PAGE: Final = 50
TIME: Final = 5_000  # milliseconds; who asks has given up by then
CALLS: Final = 100  # of one request that a page has room for
LOOKED_AT: Final = 1_000  # requests with such a name whose state or last error is looked at
MOVING: Final = 10_000  # requests that wait or are in flight: so many are looked at one by one
LARGEST_ID: Final = 2**63 - 1
ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.REMOVED})
_SQL: Final = "search"
_PENDING: Final = "pending"
# A key of ours at OpenRouter: its name ends with the rotation that it was made for, see `core/rotations.py`.
_KEY: Final = re.compile(r"#([0-9]{13,18})\.[0-9]{1,9}-[0-9a-f]{6}$")
_LITERAL: Final = str.maketrans({sign: f"\\{sign}" for sign in "\\%_"})  # what LIKE has a meaning for


async def find(database: Database, query: Query) -> Found:
    """A page of the requests that are looked for. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    states = UNFINISHED if query.state == _PENDING else tuple(state for state in State if state == query.state)
    if query.state and not states:
        return Found(requests=())
    ids, projects, text = _meant(query.text)
    targets = [query.target] if query.target else []
    if projects and not targets:
        targets = list(await requested_targets(database))  # so that the index by target and project is of use
    wanted = Filter(
        ids=ids,
        states=states,
        batches=[query.batch] if query.batch else (),
        projects=projects,
        errors=[query.error] if query.error else (),
        targets=targets,
    )
    narrowed = [
        (kind, found)
        for kind, its in parts(wanted)
        if (found := await _narrowed(database, kind, its, query, text)) is not None
    ]
    return await _page(database, narrowed, query)


async def _page(database: Database, wanted: Sequence[tuple[Kind | None, Filter]], query: Query) -> Found:
    """The page; how many there are in all is not counted."""
    oldest_first = query.after is not None
    found = await first(
        database, wanted, limit=PAGE + 1, before=query.before, after=query.after, oldest_first=oldest_first
    )
    more = len(found) > PAGE
    listed = found[:PAGE]
    if oldest_first:
        return Found(requests=tuple(reversed(listed)), newer=more, older=True)
    return Found(requests=tuple(listed), newer=query.before is not None, older=more)


async def _narrowed(database: Database, kind: Kind | None, wanted: Filter, query: Query, text: str) -> Filter | None:
    """The filter with the ids of those that match, where that is quicker to find out first; None if none does."""
    states = frozenset(wanted.states)
    if wanted.ids:
        return wanted
    if states and states <= {State.WAITING, State.IN_FLIGHT} and not text:
        return await _moving(database, wanted, query)
    if not (text or (states and states <= ENDED)):
        return wanted
    limit, before = PAGE + 1, query.before
    _, _, batches, projects, errors, targets = wanted.arguments()
    if states and states <= ENDED and not (text or projects):
        # As many as there are need be found, and none of them is newer than the newest.
        line = "" if kind is None else kind.line
        kinds = await database.fetchrow(statements(_SQL)["kinds"], list(states), batches, errors, targets, line)
        if not kinds or not kinds["requests"] or kinds["newest"] is None:
            return None
        limit = min(limit, kinds["requests"])
        before = min(before or LARGEST_ID, kinds["newest"] + 1)
    ended = list(states) if states and states <= ENDED else None
    like = f"%{text.translate(_LITERAL)}%" if text else None
    own = errors if ended else None  # what is pending has its last error elsewhere
    most = LOOKED_AT if ended is None and (states or errors) else limit
    arguments = (ended, batches, projects, own, targets, query.after, before, like, most, query.after is None)
    async with database.acquire() as connection, connection.transaction(readonly=True):
        await database.set_up(connection)
        await connection.execute(statements(_SQL)["walk"], str(TIME), "on" if like else "off")
        rows = await connection.fetch(sql_of(kind, _SQL)["candidates"], *arguments)
    return replace(wanted, ids=[row["id"] for row in rows]) if rows else None


async def _moving(database: Database, wanted: Filter, query: Query) -> Filter | None:
    rows = await database.fetch(statements(_SQL)["moving"], query.after, query.before, MOVING + 1)
    if len(rows) > MOVING:
        return wanted
    return replace(wanted, ids=[row["id"] for row in rows]) if rows else None


async def tell(database: Database, request: int) -> Story | None:
    """The story of one request; None if there is none of that id. Raises as `find` does."""
    detail = await read_detail(database, request)
    if detail is None:
        return None
    attempts, earlier = await read_attempts(database, request, limit=CALLS)
    row = await database.fetchrow(statements(_SQL)["drift"], request)
    compared = dict(row) if row else {}
    return Story(detail=detail, attempts=tuple(attempts), earlier=earlier, **compared)


def _meant(text: str) -> tuple[list[int], list[str], str]:
    """What somebody means by a text: an id, the name of a key, a project, or a part of a name."""
    if key := _KEY.search(text):
        return [int(key[1])], [], ""
    if re.fullmatch(r"[0-9]{1,19}", text) and 1 <= int(text) <= LARGEST_ID:
        return [int(text)], [], ""
    try:
        return [], [str(UUID(text))], ""
    except ValueError:
        return [], [], text
