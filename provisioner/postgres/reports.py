"""Read what people and probes are told: progress, pace, and problems."""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from provisioner.core.concurrency import CLIFF_MEMORY
from provisioner.core.history import HOURS, MINUTES, History, Slot, without_gaps
from provisioner.core.queue_values import OperatorLimit
from provisioner.core.reports import (
    EMPTY,
    BudgetReport,
    ConcurrencyReport,
    Failures,
    Gauges,
    InaccessibleProjects,
    Leftovers,
    Progress,
    RefusedKey,
    Retries,
    StateCount,
    Status,
    TargetReport,
    Unrecorded,
    WorkerReport,
    Workers,
)
from provisioner.postgres.access import sees_all
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

_SQL: Final = "reports"
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)


__all__ = [
    "BudgetReport",
    "ConcurrencyReport",
    "Failures",
    "Gauges",
    "Leftovers",
    "Progress",
    "StateCount",
    "Status",
    "TargetReport",
    "WorkerReport",
    "Workers",
    "read_gauges",
    "read_history",
    "read_leftovers",
    "read_outlook",
    "read_status",
    "seconds_left",
]


async def read_status(
    database: Database, *, batch: str | None = None, target: str | None = None, batches: int | None = None
) -> Status:
    """Read the status of everything, one batch, or one target; at most `batches` are listed.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        sql = statements(_SQL, own=not await sees_all(connection))
        now = await connection.fetchval(sql["now"])
        asked = (batch, None if batches is None else batches + 1, target)
        rows = await connection.fetch(
            sql["progress" if target is None or "/" not in target else "progress_of_line"], *asked
        )
        progress = [_progress(row) for row in rows] or ([EMPTY] if batch is None and target is None else [])
        failures = await connection.fetch(sql["failures"], batch, target)

        async def there(name: str, *arguments: object) -> Sequence["asyncpg.Record"]:
            found = await connection.fetch(sql[name], *arguments)
            return [row for row in found if _is_of(target, row["target"])]

        drifted = await there("drifted", batch)
        return Status(
            now=now,
            progress=progress[0] if progress else None,
            batches=tuple(each for each in progress if not each.total),
            more_batches=rows[0]["found"] - len(rows) if rows else 0,
            targets=tuple(each for each in await _targets(connection, batch) if _is_of(target, each.target)),
            workers=await _workers(connection),
            failures=tuple(Failures(**dict(row)) for row in failures),
            unrecorded=Unrecorded(**dict((await connection.fetch(sql["unrecorded"], batch))[0])),
            outside=tuple(InaccessibleProjects(**dict(row)) for row in await there("outside", batch)),
            retries=tuple(Retries(**dict(row)) for row in await there("retries", batch)),
            refused_keys=tuple(RefusedKey(**dict(row)) for row in await there("keys")),
            drifted=sum(row["requests"] for row in drifted),
            drifted_rotations=sum(row["requests"] for row in drifted if row["are_rotations"]),
            leaving=sum(row["rotations"] for row in await there("left_behind", batch)),
            crew=tuple(_worker(row) for row in await connection.fetch(sql["crew"])),
        )


async def read_outlook(database: Database) -> tuple[Sequence[TargetReport], Workers]:
    """Read the queues and the pace only, quickly in a table of any size. Raises as `read_status` does."""
    async with database.acquire() as connection:
        return await _targets(connection, None), await _workers(connection)


async def read_gauges(database: Database) -> Gauges:
    """Read the figures for a monitor. Raises as `read_status` does."""
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        sql = statements(_SQL, own=not await sees_all(connection))
        return Gauges(
            lines=tuple(StateCount(**dict(row)) for row in await connection.fetch(sql["lines"])),
            budgets=tuple(BudgetReport(**dict(row)) for row in await connection.fetch(sql["budgets"])),
            workers=await _workers(connection),
            drifted={row["target"]: row["requests"] for row in await connection.fetch(sql["drifted"], None)},
            leaving={row["target"]: row["rotations"] for row in await connection.fetch(sql["left_behind"], None)},
            concurrency=tuple(
                ConcurrencyReport(**dict(row)) for row in await connection.fetch(sql["concurrency"], CLIFF_MEMORY)
            ),
            ends={row["target"]: row["seconds"] for row in await connection.fetch(sql["ends"])},
            limits={target: OperatorLimit(*limit) for target, *limit in await connection.fetch(sql["limits"])},
        )


async def read_leftovers(database: Database, targets: Collection[str]) -> Leftovers:
    """Read what is left of these targets, and why. Raises as `read_status` does."""
    found: dict[str, dict[str, int]] = {}
    for kind, whose, requests in await database.fetch(statements(_SQL)["leftovers"], list(targets)):
        found.setdefault(kind, {})[whose] = requests
    return Leftovers(
        paused=found.get("paused", {}),
        quarantined=found.get("quarantined", {}),
        outside=found.get("outside", {}),
        failed=found.get("failed", {}),
        succeeded=sum(found.get("succeeded", {}).values()),
        removed=sum(found.get("removed", {}).values()),
        scheduled=sum(found.get("scheduled", {}).values()),
        unfinished=sum(found.get("unfinished", {}).values()),
        unrecorded=sum(found.get("unrecorded", {}).values()),
    )


async def read_history(database: Database) -> History:
    """Return the last hours and days of all targets. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    sql = statements(_SQL)
    found: dict[int, list[Slot]] = {60: [], 3600: []}
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        now = await connection.fetchval(sql["now"])
        for row in await connection.fetch(sql["history"], MINUTE * MINUTES, HOUR * HOURS):
            values = dict(row)
            found[values.pop("span")].append(Slot(**values))
    return History(
        minutes=without_gaps(found[60], now=now, span=MINUTE, number=MINUTES),
        hours=without_gaps(found[3600], now=now, span=HOUR, number=HOURS),
    )


def seconds_left(targets: Iterable[TargetReport], workers: Workers) -> float | None:
    """Return how long everything pending takes at the current pace; None if that is unknown.

    The targets are served side by side, so the slowest counts.
    """
    longest = 0.0
    for target in targets:
        if target.pending:
            pace = target.expected or workers.pace
            if not pace or target.obstacle:
                return None
            longest = max(longest, target.pending / pace)
    return longest


async def _targets(connection: "PoolConnectionProxy[asyncpg.Record]", batch: str | None) -> tuple[TargetReport, ...]:
    rows = await connection.fetch(statements(_SQL)["targets"], batch, CLIFF_MEMORY)
    return tuple(TargetReport(**dict(row)) for row in rows)


async def _workers(connection: "PoolConnectionProxy[asyncpg.Record]") -> Workers:
    row = await connection.fetchrow(statements(_SQL)["workers"])
    if row is None:  # an aggregate without GROUP BY has exactly one row
        raise AssertionError
    return Workers(**dict(row))


def _is_of(target: str | None, line: str) -> bool:
    """Whether a line is the one that was asked for, or one of the target that was; None means all."""
    return target in {None, line, line.partition("/")[0]}


def _progress(row: "asyncpg.Record") -> Progress:
    values = dict(row)
    del values["found"]
    return Progress(**values)


def _worker(row: "asyncpg.Record") -> WorkerReport:
    values = dict(row)
    values["targets"] = tuple(values["targets"])
    return WorkerReport(**values)
