"""The settings that a session needs, whatever the defaults of role, database or server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from provisioner.core.errors import DatabaseUnusable
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Session = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

# Sent at the beginning, before any time limit can strike, and at no cost. JIT would compile for longer than our
# statements run. We limit times ourselves.
FIRST: Final = {
    "jit": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",
}
# Not worth setting in each transaction: it costs time, or is up to the pooler.
BESIDES: Final = ("jit", "idle_session_timeout")


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


# Checked in each new session: the value to set, and whether the present value is acceptable. Servers that lack a
# setting are fine.
_NEEDS: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    **{name: (value, _is(value)) for name, value in FIRST.items()},
    "transaction_timeout": ("0", _is("0")),
    "synchronous_commit": ("on", lambda value: value != "off"),  # recorded means on disk
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
    """The properties of a new session: behind a pooler or not, the encoding, and the settings to change."""

    pooled: bool
    encoding: str
    wanting: Mapping[str, str]


async def read_facts(connection: "Session") -> Facts:
    """Read a new session's properties, with an unnamed statement, because names may not be safe."""
    statement = await connection.prepare(statements("session")["facts"], name="")
    row = await statement.fetchrow(list(_NEEDS))
    if row is None:  # it has no FROM
        raise AssertionError
    has = dict(zip(_NEEDS, row["settings"], strict=True))
    wanting = {
        name: need for name, (need, will_do) in _NEEDS.items() if has[name] is not None and not will_do(has[name])
    }
    return Facts(pooled=row["pid"] != connection.get_server_pid(), encoding=row["encoding"], wanting=wanting)


async def put_right(connection: "Session", wanting: Mapping[str, str], *, local: bool) -> None:
    """Change the settings that need it: for the session, or `local` to the transaction.

    Raises `DatabaseUnusable` if our role may not.
    """
    statement = await connection.prepare(statements("session")["set"], name="")
    try:
        await statement.fetch(list(wanting), list(wanting.values()), local)
    except asyncpg.InsufficientPrivilegeError:
        # The only one of these that requires a right.
        raise DatabaseUnusable(
            "session_replication_role is not origin for our role, so triggers do not fire, and the role may not change"
            " it: ALTER ROLE … RESET session_replication_role, or ALTER DATABASE … RESET it"
        ) from None
