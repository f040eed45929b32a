"""A client's connection to the database, a command's pool, and the few questions that tests of the queue always ask."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from provisioner.postgres.pool import Database as Pool
from tests.support.builders import project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database

    Session = asyncpg.Connection[asyncpg.Record]

TABLE = "connection_requests"
SEALED = f"sealed:key-1:{'QUJD' * 40}"
WIPED = "sealed:key-1:wiped"

_KIND = "target, batch, requested_by, status, error_code, counted_as"
MISCOUNTED = f"""
WITH counted AS (
    SELECT {_KIND}, count(*) AS requests FROM provisioner.requests GROUP BY {_KIND}
),
kept AS (
    SELECT {_KIND}, requests FROM provisioner.request_counts
)
(TABLE counted EXCEPT TABLE kept) UNION ALL (TABLE kept EXCEPT TABLE counted)
"""


@asynccontextmanager
async def connected(url: str, *, recount: bool = True) -> AsyncIterator[Session]:
    """Lend a connection as any client has one.

    Whatever a test does to requests, in the end the counts that are kept have to be those of the wide table, which is
    counted for that unless `recount` says no.
    """
    session: Session = await asyncpg.connect(url)
    try:
        # Tests arrange what workers would have recorded.
        await session.execute("SET provisioner.recording = 'on'")
        yield session
        if recount and await sees_all(session):
            assert await session.fetch(MISCOUNTED) == []
    finally:
        await session.close()


@asynccontextmanager
async def opened(database: Database) -> AsyncIterator[Pool]:
    """Lend a small pool, as a command has one."""
    pool = Pool(database.url, size=2)
    try:
        yield pool
    finally:
        await pool.close()


async def sees_all(session: Session) -> bool:
    """Whether this is a session of the server's administrator, still open, in a database with our schema."""
    return not session.is_closed() and bool(
        await session.fetchval(
            "SELECT rolsuper AND to_regclass('provisioner.request_counts') IS NOT NULL FROM pg_roles"
            " WHERE rolname = current_user"
        )
    )


async def insert(session: Session, **columns: object) -> int:
    """Insert one row, for project 1 unless told otherwise; returns its id."""
    row = {"project_id": project(1)} | columns
    numbers = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    statement = f"INSERT INTO provisioner.{TABLE} ({', '.join(row)}) VALUES ({numbers}) RETURNING id"
    return int(await session.fetchval(statement, *row.values()))


async def insert_many(session: Session, projects: int, *, each: int = 1, first: int = 1, priority: int = 0) -> None:
    """Insert as many requests for each of so many projects, by one statement."""
    await session.execute(
        "INSERT INTO provisioner.connection_requests (project_id, name, priority)"
        " SELECT p.id::uuid, 'number-' || n, $3 FROM unnest($1::text[]) AS p (id), generate_series(1, $2::int) AS n",
        [project(number) for number in range(first, first + projects)],
        each,
        priority,
    )


async def count(session: Session, table: str) -> int:
    """How many rows a table of ours has."""
    return int(await session.fetchval(f"SELECT count(*) FROM provisioner.{table}"))


async def places(session: Session) -> dict[str, int]:
    """How many requests are where, apart from places that are empty."""
    counted = {table: await count(session, table) for table in ("ready", "waiting", "in_flight", "attempt_state")}
    return {table: rows for table, rows in counted.items() if rows}


async def row_of(session: Session, request: int) -> asyncpg.Record:
    """A request as its requester sees it."""
    row = await session.fetchrow("SELECT * FROM provisioner.connection_requests WHERE id = $1", request)
    assert row is not None
    return row


async def take(session: Session, request: int, *, attempt: int = 1) -> None:
    """Put a request that is ready into flight, as a claim does."""
    await session.execute(
        "WITH gone AS (DELETE FROM provisioner.ready WHERE id = $1 RETURNING *)"
        " INSERT INTO provisioner.in_flight (id, attempt, worker, target, rank, project_id, claimed_at)"
        " SELECT id, $2, 1, target, rank, project_id, now() FROM gone",
        request,
        attempt,
    )


async def soon(session: Session) -> None:
    """Make everything that waits due."""
    await session.execute("UPDATE provisioner.waiting SET run_at = now() - interval '1 second'")


async def lapse(session: Session, *workers: int) -> None:
    """Let the leases of these workers run out."""
    await session.execute(
        "UPDATE provisioner.workers SET lease_until = now() - interval '1 second' WHERE id = ANY ($1::bigint[])",
        workers,
    )
