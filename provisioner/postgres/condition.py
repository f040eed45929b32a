"""Check the database for `doctor`: the server, our role's rights, and what blocks vacuum."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from provisioner.postgres.connector import is_pooled, translates_names
from provisioner.postgres.listener import hears
from provisioner.postgres.pool import Database, database_errors
from provisioner.postgres.queries import statements
from provisioner.postgres.session import NEEDED

_SQL: Final = "condition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server and our session on it.

    `pooled`: there is a pooler between us and the server. `keeps_statements`: it supports prepared statements across
    sessions. `notifies`: notifications reach us. `sees_all`: our role sees other sessions' activity.
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
    notifies: bool
    jit: bool
    encoding: str
    fsync: bool
    full_page_writes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A publication with tables of ours; `bare` are those whose rows have no replica identity."""

    publication: str
    tables: int
    bare: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Something that blocks vacuum: for how many seconds, if that is visible, and the SQL that ends it.

    `query` is the beginning of its last statement, up to the first literal; `wal` is the number of bytes kept for it.
    """

    what: str
    role: str
    application: str
    seconds: float | None
    query: str
    wal: int | None
    remedy: str


async def read_server(database: Database) -> Server:
    """Read the server's state. Raises `DatabaseUnavailable` and `DatabaseUnusable`, as all functions here do."""
    row = await database.fetchrow(statements(_SQL)["server"])
    if row is None:  # it has no FROM
        raise AssertionError
    session = await database.connect()
    try:
        with database_errors():
            pooled = await is_pooled(session)
            translates = pooled and await translates_names(session)
            notifies = not pooled or (not row["standby"] and await hears(session, database))
    finally:
        await session.close()
    return Server(**dict(row), pooled=pooled, keeps_statements=not pooled or translates, notifies=notifies)


async def defaults(database: Database) -> Sequence[str]:
    """Return defaults of our role and database that affect our sessions; the sessions override them."""
    rows = await database.fetch(statements(_SQL)["defaults"])
    return [row["setting"] for row in rows if row["setting"].partition("=")[0].lower() in NEEDED]


async def publications(database: Database) -> Sequence[Published]:
    """Return the publications that contain tables of ours."""
    rows = await database.fetch(statements(_SQL)["published"])
    return [Published(**{**dict(row), "bare": row["bare"] or ()}) for row in rows]


async def holders(database: Database, *, older_than: float) -> Sequence[Holder]:
    """Return what blocks vacuum for longer than this many seconds, longest first."""
    rows = await database.fetch(statements(_SQL)["holding"], timedelta(seconds=older_than))
    return [Holder(**dict(row)) for row in rows]
