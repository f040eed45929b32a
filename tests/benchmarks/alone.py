"""The queue without a worker: claims, settlements and intake, each alone."""

from __future__ import annotations

import csv
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from provisioner.core.model import Action, AttemptRecord, Connection, Result, Settlement, Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from tests.benchmarks.stage import fill, settle_down, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.core.model import Claim
    from provisioner.core.queue_values import QueuePosition
    from tests.benchmarks.stage import Session, Stage

LOT = 100
NAME = "benchmark"
# Of all ordinary sessions, but only what is closed is counted to the last page, and nobody else is at work.
TOUCHED = (
    "SELECT sum(coalesce(hits, 0) + coalesce(reads, 0))::float8 FROM pg_stat_io WHERE backend_type = 'client backend'"
)
COLUMNS = ("project_id", "name", "description")


async def claim_all(
    queue: PostgresQueue, worker: int, requests: int, start: QueuePosition = FRONT
) -> tuple[list[Claim], QueuePosition]:
    """Claim so many, lot by lot, from a place on; the claims, and where the last one stood."""
    claims: list[Claim] = []
    while len(claims) < requests:
        brought = await queue.claim(worker, target="default", start=start, limit=min(LOT, requests - len(claims)))
        if brought.last is None:
            raise RuntimeError(f"only {len(claims)} of {requests} requests are in line")
        claims += brought.claims
        start = brought.last
    return claims, start


async def settle_all(queue: PostgresQueue, worker: int, claims: Sequence[Claim]) -> None:
    """Record that all of them succeeded, lot by lot."""
    for first in range(0, len(claims), LOT):
        report = await queue.settle(worker, [succeeded(claim) for claim in claims[first : first + LOT]])
        if report.fenced:
            raise RuntimeError(f"{len(report.fenced)} settlements changed nothing")


def succeeded(claim: Claim) -> Settlement:
    """The settlement of a claim whose only create worked."""
    now = datetime.now(UTC)
    made = Connection(
        id=str(UUID(int=(0xB << 124) + claim.request.id)),
        project_id=claim.request.project_id,
        org_id=str(UUID(int=0xA)),
        credentials_hash="ab" * 32,
        name=claim.request.name,
        app="open-router",
        method="api-key",
        description=claim.request.description,
        created_at=now,
    )
    records = AttemptRecord(
        action=Action.CREATE, started_at=now, elapsed=0.1, status=200, req_id=None, result=Result.CREATED, message=""
    )
    return Settlement(claim=claim, outcome=Succeed(connection=made), sent=claim.sent + 1, records=(records,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """Requests a second, and how many pages the server touched for each."""

    claims: float
    settles: float
    claim_pages: float
    settle_pages: float


async def paces(stage: Stage, database: str, requests: int) -> Paces:
    """Claim and settle so many, on one connection, from the front of the queue as a worker that has just started."""
    async with stage.session(database) as session:
        pool = Database(stage.server.url(database), size=1, name=NAME)
        queue = PostgresQueue(pool)
        worker = await queue.register(name=NAME, targets=["default"], lease=3600)
        before, began = await pages(session, pool), time.perf_counter()
        claims, _ = await claim_all(queue, worker, requests)
        claiming = time.perf_counter() - began
        between, began = await pages(session, pool), time.perf_counter()
        await settle_all(queue, worker, claims)
        settling = time.perf_counter() - began
        after = await pages(session, pool)
        await queue.leave(worker)
        await pool.close()
    return Paces(
        claims=requests / claiming,
        settles=requests / settling,
        claim_pages=(between - before) / requests,
        settle_pages=(after - between) / requests,
    )


async def pages(session: Session, pool: Database) -> float:
    """Pages that the pool's sessions have touched so far; closes them, for only then is everything counted."""
    await pool.close()

    async def gone() -> bool:
        return not await session.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", NAME)

    await until(gone, within=30)
    touched: float | None = await session.fetchval(TOUCHED)
    await pool.fetch("SELECT 1")  # opens it again, so that no measured statement waits for a connection
    return touched or 0.0


async def alone(stage: Stage, requests: int) -> dict[str, float]:
    """Claims alone and settlements alone."""
    async with stage.database() as database:
        async with stage.session(database) as session:
            await fill(session, requests)
            await settle_down(session)
        measured = await paces(stage, database, requests)
    return {"queue.claims": measured.claims, "queue.settles": measured.settles}


def wanted(requests: int) -> list[tuple[UUID, str, str]]:
    """Rows for the intake, over two hundred projects."""
    return [(UUID(int=number % 200), f"bench-{number:08}", "made by a benchmark") for number in range(requests)]


def write_csv(path: Path, rows: Sequence[tuple[object, ...]]) -> None:
    """The rows as a bulk file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


async def intake(stage: Stage, requests: int) -> dict[str, float]:
    """Rows a second by COPY, and by `provisioner submit` with its start."""
    rows = wanted(requests)
    async with stage.database() as database, stage.session(database) as session:
        began = time.perf_counter()
        await session.copy_records_to_table(
            "connection_requests", schema_name="provisioner", columns=COLUMNS, records=rows
        )
        copied = requests / (time.perf_counter() - began)
    async with stage.database() as database:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "requests.csv")
            write_csv(path, rows)
            took = stage.command(database, "submit", str(path))
        async with stage.session(database) as session:
            loaded = await session.fetchval("SELECT count(*) FROM provisioner.ready")
    if loaded != requests:
        raise RuntimeError(f"`submit` loaded {loaded} of {requests} rows")
    return {"intake.copy": copied, "intake.submit": requests / took}
