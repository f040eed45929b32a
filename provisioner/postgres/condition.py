"""The database's condition, for `doctor`: what the server is, what our role may, what holds up the clean-up."""

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

    `pooled`: a pooler is between us and the server. `keeps_statements`: it finds prepared statements again in whatever
    session it gives us. `notifies`: notifications reach us. `sees_all`: our role sees what others' sessions do.
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
    """A publication that has tables of ours; `bare` are those whose rows nothing identifies."""

    publication: str
    tables: int
    bare: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Something that holds up the clean-up: since how many seconds, if that can be seen, and the SQL that ends it.

    `query` is how its last statement begins, up to the first literal; `wal` the bytes that the server keeps for it.
    """

    what: str
    role: str
    application: str
    seconds: float | None
    query: str
    wal: int | None
    remedy: str


async def read_server(database: Database) -> Server:
    """Look at the server. Raises `DatabaseUnavailable` and `DatabaseUnusable`, as all of these do."""
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
    """What is set for our role and database and concerns our sessions: they set it as they need it."""
    rows = await database.fetch(statements(_SQL)["defaults"])
    return [row["setting"] for row in rows if row["setting"].partition("=")[0].lower() in NEEDED]


async def publications(database: Database) -> Sequence[Published]:
    """The publications that have tables of ours."""
    rows = await database.fetch(statements(_SQL)["published"])
    return [Published(**{**dict(row), "bare": row["bare"] or ()}) for row in rows]


async def holders(database: Database, *, older_than: float) -> Sequence[Holder]:
    """Who holds up the clean-up for longer than so many seconds, the longest first."""
    rows = await database.fetch(statements(_SQL)["holding"], timedelta(seconds=older_than))
    return [Holder(**dict(row)) for row in rows]
