"""What a session has to be like, whatever defaults a role, a database or a server gives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from provisioner.core.errors import DatabaseUnusable
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Session = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

# Said in the beginning: as early as a time limit can strike, and at no cost. JIT compiles for longer than any of our
# statements runs. Time is limited on our side.
FIRST: Final = {
    "jit": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",
}
# What is not worth setting anew in each transaction: it costs time, or is the pooler's business.
BESIDES: Final = ("jit", "idle_session_timeout")


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


# What is looked at in each new session: what it has to be, and whether what it is will do. Servers that do not have a
# setting have nothing wrong with it.
_NEEDS: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    **{name: (value, _is(value)) for name, value in FIRST.items()},
    "transaction_timeout": ("0", _is("0")),
    "synchronous_commit": ("on", lambda value: value != "off"),  # what is said to be recorded has to be on the disk
    "search_path": ("pg_catalog", lambda value: "pg_catalog" not in value or value.startswith("pg_catalog")),
    "row_security": ("on", _is("on")),
    "session_replication_role": ("origin", _is("origin", "local")),
    "default_tablespace": ("", _is("")),
    "default_table_access_method": ("heap", _is("heap")),
    "standard_conforming_strings": ("on", _is("on")),
    "bytea_output": ("hex", _is("hex")),
    "datestyle": ("ISO", lambda value: value.startswith("ISO")),
    "intervalstyle": ("postgres", _is("postgres")),
    "exit_on_error": ("off", _is("off")),
}
NEEDED: Final = frozenset(_NEEDS)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a new session turned out to be: behind a pooler or not, how text is kept, what has to be set."""

    pooled: bool
    encoding: str
    wanting: Mapping[str, str]


async def look(connection: "Session") -> Facts:
    """Ask a new session what it is. Without a name for the statement, for nobody knows yet whether names are safe."""
    statement = await connection.prepare(statements("session")["look"], name="")
    row = await statement.fetchrow(list(_NEEDS))
    if row is None:  # it has no FROM
        raise AssertionError
    has = dict(zip(_NEEDS, row["settings"], strict=True))
    wanting = {
        name: need for name, (need, will_do) in _NEEDS.items() if has[name] is not None and not will_do(has[name])
    }
    return Facts(pooled=row["pid"] != connection.get_server_pid(), encoding=row["encoding"], wanting=wanting)


async def put_right(connection: "Session", wanting: Mapping[str, str], *, local: bool) -> None:
    """Set what is not as it has to be: for the session, or `local` to the transaction.

    Raises `DatabaseUnusable` where our role may not.
    """
    statement = await connection.prepare(statements("session")["set"], name="")
    try:
        await statement.fetch(list(wanting), list(wanting.values()), local)
    except asyncpg.InsufficientPrivilegeError:
        # Of all of these it is the only one that takes a right to set.
        raise DatabaseUnusable(
            "session_replication_role is not origin for our role, so triggers do not fire, and the role may not change"
            " it: ALTER ROLE … RESET session_replication_role, or ALTER DATABASE … RESET it"
        ) from None
