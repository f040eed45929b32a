"""What people and probes want to know: how far everything has come, at which pace, and what went wrong."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

_SQL: Final = "reports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one batch has come, or everything (`total`). `batch` None and not `total`: requests without a batch.

    `ended_at` is when the last one finished, `ends_at` when the last one probably will; at most one of them is known.
    """

    batch: str | None
    total: bool
    requests: int
    waiting: int
    ready: int
    in_flight: int
    succeeded: int
    failed: int
    cancelled: int
    started_at: datetime | None
    ended_at: datetime | None
    ends_at: datetime | None

    @property
    def pending(self) -> int:
        """How many are not finished."""
        return self.waiting + self.ready + self.in_flight

    @property
    def finished(self) -> int:
        """How many have ended, well or not."""
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    """One target: what is left to do there, how many living workers serve it, what limits it.

    `metered` is None while nobody knows whether there is a limiter; `permits` creates in `period` seconds.
    """

    target: str
    waiting: int = 0
    ready: int = 0
    in_flight: int = 0
    workers: int = 0
    metered: bool | None = None
    permits: int | None = None
    period: float | None = None
    blocked_until: datetime | None = None
    paused_at: datetime | None = None
    paused_by: str | None = None
    trouble: str | None = None
    trouble_since: datetime | None = None

    @property
    def pending(self) -> int:
        """How many requests are not finished."""
        return self.waiting + self.ready + self.in_flight

    @property
    def allowed(self) -> float | None:
        """Creates a second that the limiter allows; None when there is none or it is not known yet."""
        return self.permits / self.period if self.metered and self.permits and self.period else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Workers whose lease is good, workers whose lease ran out, and creates a second lately of the former."""

    living: int
    lost: int
    pace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Requests that failed for one reason, and the newest of them."""

    error_code: str
    requests: int
    example_id: int
    example: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything at one moment, or one batch.

    `progress` is that of all that was asked about, None if that is an unknown batch. `more_batches` were not listed.
    """

    now: datetime
    progress: Progress | None
    batches: tuple[Progress, ...]
    more_batches: int
    targets: tuple[TargetReport, ...]
    workers: Workers
    failures: tuple[Failures, ...]


async def read_status(database: Database, *, batch: str | None = None, batches: int | None = None) -> Status:
    """Look at everything, or at one batch; at most `batches` of them are listed.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    sql = statements(_SQL)
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        now = await connection.fetchval(sql["now"])
        rows = await connection.fetch(sql["progress"], batch, None if batches is None else batches + 1)
        progress = [_progress(row) for row in rows]
        failures = await connection.fetch(sql["failures"], batch)
        return Status(
            now=now,
            progress=progress[0] if progress else None,
            batches=tuple(each for each in progress if not each.total),
            more_batches=rows[0]["found"] - len(rows) if rows else 0,
            targets=await _targets(connection, batch),
            workers=await _workers(connection),
            failures=tuple(Failures(**dict(row)) for row in failures),
        )


async def read_outlook(database: Database) -> tuple[Sequence[TargetReport], Workers]:
    """Look at the queues and the pace only, quick whatever the table's size. Raises as `read_status` does."""
    async with database.acquire() as connection:
        return await _targets(connection, None), await _workers(connection)


def seconds_left(targets: Iterable[TargetReport], workers: Workers) -> float | None:
    """How long all that is pending takes at the present pace; None when the pace is not known.

    The targets are worked on side by side, so the slowest counts.
    """
    longest = 0.0
    for target in targets:
        if target.pending:
            pace = target.allowed or workers.pace
            if not pace:
                return None
            longest = max(longest, target.pending / pace)
    return longest


async def _targets(connection: "PoolConnectionProxy[asyncpg.Record]", batch: str | None) -> tuple[TargetReport, ...]:
    return tuple(TargetReport(**dict(row)) for row in await connection.fetch(statements(_SQL)["targets"], batch))


async def _workers(connection: "PoolConnectionProxy[asyncpg.Record]") -> Workers:
    row = await connection.fetchrow(statements(_SQL)["workers"])
    if row is None:  # an aggregate without GROUP BY has exactly one row
        raise AssertionError
    return Workers(**dict(row))


def _progress(row: "asyncpg.Record") -> Progress:
    values = dict(row)
    del values["found"]
    return Progress(**values)
