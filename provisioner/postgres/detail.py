"""Everything about one request: what it is, where it stands, what was tried."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from provisioner.core.requests import Attempt, Detail
from provisioner.postgres.browse import whole
from provisioner.postgres.own import own_statements, readable, sees_all
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "detail"


async def read_detail(database: Database, request: int) -> Detail | None:
    """One request, None if there is none of that id. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    everything = await sees_all(database)
    row = await database.fetchrow((statements if everything else own_statements)(_SQL)["request"], request)
    if row is None:
        return None
    detail = Detail(**whole(row))
    # Who does not see the line is told where in it a request stands by its live state.
    place = None if everything else await database.fetchrow(statements(_SQL)["place"], request)
    return replace(detail, place=place["place"]) if place else detail


async def read_attempts(database: Database, request: int, *, limit: int | None = None) -> tuple[Sequence[Attempt], int]:
    """The latest calls that were made for a request, the oldest of them first, and how many more are remembered."""
    rows = [dict(row) for row in await database.fetch((await readable(database, _SQL))["attempts"], request, limit)]
    found = rows[0]["found"] if rows else 0
    attempts = [Attempt(**{name: value for name, value in row.items() if name != "found"}) for row in rows]
    return attempts, found - len(attempts)
