"""Everything about one request: its columns, where it is, and what was tried."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from provisioner.core.model import ErrorCode
from provisioner.core.requests import Attempt, Detail
from provisioner.postgres.access import sees_all
from provisioner.postgres.browse import listed
from provisioner.postgres.filters import Filter, parts
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "detail"


async def read_detail(database: Database, request: int) -> Detail | None:
    """Return one request; None if the id is unknown. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    everything = await sees_all(database)
    sql = statements(_SQL, own=not everything)
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        for kind, wanted in parts(Filter(ids=[request])):
            its_sql = kind.sql("browse", own=not everything)
            if row := await connection.fetchrow(its_sql["requests"], *wanted.arguments(), None, None, 1, False):
                its = listed(row)
                standing = await connection.fetchrow(sql["standing"], request)
                waits = its.waits_for is not None or its.error_code == ErrorCode.CONNECTION_FAILED
                awaited = await connection.fetchrow(sql["awaited"], request) if waits else None
                # A role that cannot read the line gets the position with the live state.
                place = None if everything else await connection.fetchrow(sql["place"], request)
                return Detail(
                    **{each.name: getattr(its, each.name) for each in fields(its)},
                    **(dict(standing or {}) | dict(place or {})),
                    **dict(awaited or {}),
                )
    return None


async def read_attempts(database: Database, request: int, *, limit: int | None = None) -> tuple[Sequence[Attempt], int]:
    """Return the latest calls for a request, oldest first, and how many earlier ones are stored."""
    sql = statements(_SQL, own=not await sees_all(database))
    rows = [dict(row) for row in await database.fetch(sql["attempts"], request, limit)]
    found = rows[0]["found"] if rows else 0
    attempts = [Attempt(**{name: value for name, value in row.items() if name != "found"}) for row in rows]
    return attempts, found - len(attempts)
