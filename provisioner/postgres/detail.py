"""Everything about one request: what it is, where it stands, what was tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from provisioner.postgres.browse import Listed, whole
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "detail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail(Listed):
    """One request at the moment `now`, on the database's clock.

    `unknown`: an attempt may have made the connection. `called_off`: it is cancelled as soon as that is certain.
    `quarantine`: why it waits together with others. `place`: how many are served up to and with it, if it is in line.
    `workers` live and serve its target, at `pace` creates a second, None if that is not known. `worker` has it in
    flight since `claimed_at`. `unrecorded`: why its outcome could not be recorded yet.
    """

    now: datetime
    unknown: bool
    called_off: bool
    failures: int
    quarantine: str | None
    claimed_at: datetime | None
    worker: str | None
    unrecorded: str | None
    unrecorded_connection: str | None
    recorded_again_at: datetime | None
    place: int | None
    workers: int
    pace: float | None
    paused_at: datetime | None
    paused_by: str | None
    trouble: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call that was made for a request, as the log has it."""

    attempt: int
    worker: int
    action: str
    started_at: datetime
    ended_at: datetime
    http_status: int | None
    req_id: str | None
    outcome: str
    error_code: str | None
    error_message: str | None

    @property
    def took(self) -> float:
        """How long it took, in seconds."""
        return (self.ended_at - self.started_at).total_seconds()


async def read_detail(database: Database, request: int) -> Detail | None:
    """One request, None if there is none of that id. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    row = await database.fetchrow(statements(_SQL)["request"], request)
    return Detail(**whole(row)) if row else None


async def read_attempts(database: Database, request: int, *, limit: int | None = None) -> tuple[Sequence[Attempt], int]:
    """The latest calls that were made for a request, the oldest of them first, and how many more are remembered."""
    rows = [dict(row) for row in await database.fetch(statements(_SQL)["attempts"], request, limit)]
    found = rows[0]["found"] if rows else 0
    attempts = [Attempt(**{name: value for name, value in row.items() if name != "found"}) for row in rows]
    return attempts, found - len(attempts)
