"""The queue without a worker: claims, settlements and intake, each alone."""

from __future__ import annotations

import csv
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from provisioner.core.model import Action, Connection, Seen, Settlement, Succeed, Trace
from provisioner.core.ports import FRONT
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from tests.benchmarks.stage import fill, settle_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.core.model import Claim
    from provisioner.core.ports import Place
    from tests.benchmarks.stage import Stage

LOT = 100
COLUMNS = ("project_id", "name", "description")


async def claim_all(
    queue: PostgresQueue, worker: int, requests: int, start: Place = FRONT
) -> tuple[list[Claim], Place]:
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
    trace = Trace(
        action=Action.CREATE, started_at=now, elapsed=0.1, status=200, req_id=None, seen=Seen.CREATED, message=""
    )
    return Settlement(claim=claim, outcome=Succeed(connection=made), sent=claim.sent + 1, trace=(trace,))


async def paces(url: str, requests: int) -> dict[str, float]:
    """Claims and settlements a second, on one connection."""
    pool = Database(url)
    try:
        queue = PostgresQueue(pool)
        worker = await queue.register(name="benchmark", targets=["default"], lease=3600)
        began = time.perf_counter()
        claims, _ = await claim_all(queue, worker, requests)
        claimed = time.perf_counter()
        await settle_all(queue, worker, claims)
        settled = time.perf_counter()
        await queue.leave(worker)
    finally:
        await pool.close()
    return {"claims": requests / (claimed - began), "settles": requests / (settled - claimed)}


async def alone(stage: Stage, requests: int) -> dict[str, float]:
    """Claims alone and settlements alone."""
    async with stage.database() as database:
        async with stage.session(database) as session:
            await fill(session, requests)
            await settle_down(session)
        return {f"queue.{key}": value for key, value in (await paces(stage.server.url(database), requests)).items()}


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
