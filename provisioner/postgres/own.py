"""Whether our role sees every request, or only its own as a requester does.

A role that may read the line sees every request, by the rule of `migrations/0007_access.sql`. For other roles, each
table behind the requests has a view with the same columns and the rows of their own requests. A statement reads the
view where it says `{own}`.
"""

from typing import TYPE_CHECKING, Final

from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from provisioner.postgres.pool import Database

# Each has a view `own_…`; see `migrations/0006_views.sql`.
NARROWED: Final = (
    *("ready", "waiting", "in_flight", "attempt_state", "sent_creates", "unrecorded", "attempts", "drifts", "requests"),
    *("listed_requests", "listed_rotations", "credential_health", "project_health", "quarantined_credentials"),
)


async def sees_all(database: "Database | PoolConnectionProxy[asyncpg.Record]") -> bool:
    """Return whether our role sees every request. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    row = await database.fetchrow(statements("access")["sees_all"])
    return bool(row and row["sees_all"])
