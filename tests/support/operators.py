"""Requests in every state, put there behind the product's back, for the tests of the operators' commands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from provisioner.postgres.forecasts import renew_forecasts
from provisioner.postgres.pool import Database as Pool
from tests.support.cli import query

if TYPE_CHECKING:
    from tests.support.postgres import Database

WORKER = (
    "INSERT INTO provisioner.workers (name, version, targets, lease_until, pace)"
    " VALUES ('host:7', '1', '{default}', now() + interval '1 hour', 2) RETURNING id"
)


def ask(database: Database, count: int = 1, **columns: str) -> list[int]:
    """Insert this many requests, each in its own project; columns are SQL. Returns the ids."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    said = query(
        database,
        f"INSERT INTO provisioner.connection_requests (project_id{names})"
        f" SELECT gen_random_uuid(){values} FROM generate_series(1, {count}) AS i RETURNING id",
    )
    return [int(line) for line in said.splitlines()]


def finish(database: Database, ids: list[int], status: str = "succeeded", code: str | None = None) -> None:
    """End requests that are in line."""
    listed = ",".join(map(str, ids))
    error = f"'{code}', 'because of [this]'" if code else "NULL, NULL"
    made = "gen_random_uuid()" if status == "succeeded" else "NULL"
    query(
        database,
        f"DELETE FROM provisioner.ready WHERE id IN ({listed}); UPDATE provisioner.connection_requests"
        f" SET status = '{status}', (error_code, error_message) = ({error}), connection_id = {made}, attempts = 1,"
        f" finished_at = now() WHERE id IN ({listed})",
    )


DOUBT = """
INSERT INTO provisioner.sent_creates (id, sent_at, ended_at, target, project_id, name, description, exact)
SELECT id, now() - interval '5 seconds', now(), target, project_id, name, coalesce(description, ''), true
FROM provisioner.connection_requests WHERE id = {request}
"""


def postpone(database: Database, request: int, *, code: str = "permission_denied", unknown: bool = False) -> None:
    """Let a request that is in line wait an hour for its next attempt."""
    query(
        database,
        f"WITH gone AS (DELETE FROM provisioner.ready WHERE id = {request} RETURNING *)"
        " INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)"
        " SELECT id, now() + interval '1 hour', target, rank, project_id FROM gone;"
        " INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_code, error_message)"
        f" VALUES ({request}, 2, 2, 1, now(), '{code}', 'not yet');"
        + (DOUBT.format(request=request) if unknown else ""),
    )


def fly(database: Database, request: int) -> None:
    """Put a request that is in line into flight, with a worker that lives."""
    query(
        database,
        f"WITH gone AS (DELETE FROM provisioner.ready WHERE id = {request} RETURNING *), worker AS ({WORKER})"
        " INSERT INTO provisioner.in_flight (id, attempt, worker, target, rank, project_id, claimed_at)"
        " SELECT g.id, 1, w.id, g.target, g.rank, g.project_id, now() FROM gone AS g, worker AS w",
    )


def one_of_each(database: Database) -> dict[str, int]:
    """Make a request in every state; returns their ids by state."""
    ids = {
        state: ask(database, batch="'mixed'")[0]
        for state in ("succeeded", "failed", "cancelled", "retrying", "in_flight", "ready")
    }
    finish(database, [ids["succeeded"]])
    finish(database, [ids["failed"]], "failed", "project_not_found")
    finish(database, [ids["cancelled"]], "cancelled")
    postpone(database, ids["retrying"])
    fly(database, ids["in_flight"])
    return ids


def states(database: Database) -> dict[int, str]:
    """The live state of every request."""
    said = query(database, "SELECT id, state FROM provisioner.request_status ORDER BY id")
    return {int(line.split("|")[0]): line.split("|")[1] for line in said.splitlines()}


def foresee(database: Database) -> None:
    """Renew the forecasts, as a worker does every few seconds."""

    async def renew() -> None:
        pool = Pool(database.url)
        try:
            await renew_forecasts(pool, every=60.0)
        finally:
            await pool.close()

    query(database, "UPDATE provisioner.forecast_turn SET due_at = '-infinity'")
    asyncio.run(renew())
