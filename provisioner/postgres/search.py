"""Find requests as people look for them, and tell the story of one; nothing is counted, so it is quick."""

import re
from typing import Final
from uuid import UUID

from provisioner.core.requests import Found, Query, Story
from provisioner.postgres.browse import UNFINISHED, Filter, State, requested_targets, window
from provisioner.postgres.detail import read_attempts, read_detail
from provisioner.postgres.pool import Database

PAGE: Final = 50
CALLS: Final = 100  # of one request that a page has room for
LARGEST_ID: Final = 2**63 - 1
_PENDING: Final = "pending"


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
    listed, newer, older = await window(database, wanted, limit=PAGE, text=text, before=query.before, after=query.after)
    return Found(requests=tuple(listed), newer=newer, older=older)


async def tell(database: Database, request: int) -> Story | None:
    """The story of one request; None if there is none of that id. Raises as `find` does."""
    detail = await read_detail(database, request)
    if detail is None:
        return None
    attempts, earlier = await read_attempts(database, request, limit=CALLS)
    return Story(detail=detail, attempts=tuple(attempts), earlier=earlier)


def _meant(text: str) -> tuple[list[int], list[str], str]:
    """What somebody means by a text: an id, a project, or a part of a name."""
    if re.fullmatch(r"[0-9]{1,19}", text) and 1 <= int(text) <= LARGEST_ID:
        return [int(text)], [], ""
    try:
        return [], [str(UUID(text))], ""
    except ValueError:
        return [], [], text
