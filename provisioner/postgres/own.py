"""The same questions, asked by somebody who sees their own requests alone: a requester.

Whoever may read the line sees every request, by the rule of `migrations/0007_access.sql`. For everybody else each table
behind the requests has a view of the same columns with the rows of their own requests, so there is one statement for
both.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from provisioner.postgres.pool import Database

# Each has a view `own_…`, see `migrations/0006_views.sql`.
NARROWED: Final = (
    *("ready", "waiting", "in_flight", "attempt_state", "sent_creates", "unrecorded", "attempts", "drifts"),
    *("listed_requests", "credential_health", "project_health", "quarantined_credentials", "requests"),
)
_TABLES: Final = re.compile(rf"\bprovisioner\.({'|'.join(NARROWED)})\b")


async def sees_all(database: "Database | PoolConnectionProxy[asyncpg.Record]") -> bool:
    """Whether our role sees every request. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    row = await database.fetchrow(statements("access")["sees_all"])
    return bool(row and row["sees_all"])


@cache
def own_statements(file: str) -> Mapping[str, str]:
    """The statements of a file, of one's own requests alone."""
    return {name: own(statement) for name, statement in statements(file).items()}


@cache
def own(statement: str) -> str:
    """The statement, of one's own requests alone."""
    return _TABLES.sub(r"provisioner.own_\1", statement)


async def readable(database: "Database | PoolConnectionProxy[asyncpg.Record]", file: str) -> Mapping[str, str]:
    """The statements of a file as our role may ask them. Raises as `sees_all` does."""
    return statements(file) if await sees_all(database) else own_statements(file)
