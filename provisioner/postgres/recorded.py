"""What was recorded, by project, for comparison with Infisical."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from provisioner.core.comparison import AnyRecorded
from provisioner.core.model import Connection, Request
from provisioner.postgres.filters import Filter
from provisioner.postgres.kinds import CONNECTIONS, Kind
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "recorded"
PAGE: Final = 5_000  # requests compared at a time

Place = tuple[str, str]
"""A target and a project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingRequest:
    """An existing request: its status, and the connection that it made."""

    status: str
    connection_id: str | None


async def recorded_by_project(
    database: Database, wanted: Filter, kind: Kind = CONNECTIONS
) -> AsyncIterator[Mapping[Place, Sequence[AnyRecorded]]]:
    """Yield the succeeded requests of a kind that the filter matches, a page of projects at a time.

    The filter's states and errors are ignored. A project is on one page, unless it does not fit. Raises
    `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    its = wanted.of(kind)
    if its is None:
        return
    ids, _, batches, projects, _, targets = its.arguments()
    last: tuple[str | None, str | None, str | None] = (None, None, None)
    more = True
    while more:
        rows = await database.fetch(kind.sql(_SQL)["succeeded"], ids, batches, projects, targets, *last, PAGE)
        page = [kind.recorded(row) for row in rows]
        places = {place: tuple(each) for place, each in groupby(page, key=lambda one: (one.target, one.project_id))}
        more = len(page) == PAGE
        if more and len(places) > 1:
            places.popitem()  # it may continue after this page; the next page has all of it
        if places:
            end = next(reversed(places.values()))[-1]
            last = (end.target, end.project_id, end.place)
            yield places


async def asked_for(
    database: Database, target: str, wanted: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], ExistingRequest]:
    """Return which of these connections, each a project and a name, have a request at the target already."""
    rows = await database.fetch(
        statements(_SQL)["asked_for"], target, [project for project, _ in wanted], [name for _, name in wanted]
    )
    return {
        (row["project_id"], row["name"]): ExistingRequest(status=row["status"], connection_id=row["connection_id"])
        for row in rows
    }


async def recorded_elsewhere(database: Database, request: Request, connection: Connection) -> str:
    """Describe the request of another target that has recorded this connection; empty if there is none.

    Raises `DatabaseUnavailable`.
    """
    row = await database.fetchrow(
        statements(_SQL)["elsewhere"], request.target, request.project_id, request.name, connection.id
    )
    return f"request {row['id']} of target {row['target']}" if row else ""


async def installation(database: Database) -> str:
    """Return the id of this database, which markers in descriptions contain. Raises `DatabaseUnavailable`."""
    row = await database.fetchrow(statements(_SQL)["installation"])
    return str(row["id"]) if row else ""
