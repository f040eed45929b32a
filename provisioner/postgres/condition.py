"""The database's condition, for `doctor`: what the server is, what our role may, what holds up the clean-up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "condition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server and our session on it.

    `pooled`: something between us and the server shares its sessions. `keeps_statements`: a prepared statement is
    still there in the next transaction. `sees_all`: our role sees what others' sessions do.
    """

    version: str
    major: int
    standby: bool
    read_only: bool
    role: str
    now: datetime
    sees_all: bool
    pooled: bool
    keeps_statements: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Something that holds up the clean-up: since how many seconds, if that can be seen, and the SQL that ends it."""

    what: str
    role: str
    application: str
    seconds: float | None
    remedy: str


async def read_server(database: Database) -> Server:
    """Look at the server. Raises `DatabaseUnavailable` and `DatabaseUnusable`, as all of these do."""
    async with database.acquire() as connection:
        row = await connection.fetchrow(statements(_SQL)["server"])
        if row is None:  # it has no FROM
            raise AssertionError
        values = dict(row)
        # A pooler makes up the process id that it tells its clients.
        pooled = values.pop("pid") != connection.get_server_pid()
        try:
            prepared = await connection.prepare(statements(_SQL)["server"])
            for _ in range(3):
                await prepared.fetchrow()
        except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
            keeps = False
        else:
            keeps = True
    return Server(**values, pooled=pooled, keeps_statements=keeps)


async def holders(database: Database, *, older_than: float) -> Sequence[Holder]:
    """Who holds up the clean-up for longer than so many seconds, the longest first."""
    rows = await database.fetch(statements(_SQL)["holding"], timedelta(seconds=older_than))
    return [Holder(**dict(row)) for row in rows]
