"""An old transaction keeps the dead rows of tens of thousands of requests: claims do not read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.core.model import Connection, Settlement, Succeed
from provisioner.core.ports import FRONT
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements
from provisioner.postgres.queue import PostgresQueue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from provisioner.core.model import Claim

pytestmark = pytest.mark.xdist_group("faults-b")

LOT = 500
LEAST = 100


@pytest.mark.parametrize(
    "requests", [20_000, pytest.param(100_000, marks=(pytest.mark.soak, pytest.mark.timeout(600)))]
)
async def test_a_claim_reads_no_more_than_at_the_start(durable_url: str, requests: int) -> None:
    """With a snapshot held open all along, a claim from the mark on touches as many pages as the first one did."""
    old = await asyncpg.connect(durable_url)
    async with old.transaction(isolation="repeatable_read"):
        await old.fetchval("SELECT count(*) FROM provisioner.ready")  # takes the snapshot
        database = Database(durable_url)
        await database.execute(
            "INSERT INTO provisioner.connection_requests (project_id)"
            " SELECT gen_random_uuid() FROM generate_series(1, $1::int)",
            requests,
        )
        queue = PostgresQueue(database)
        worker = await queue.register(name="one", targets=["default"], lease=600)
        first = await _claim_plan(durable_url, FRONT, worker)
        mark, claimed = FRONT, 0
        while claimed < requests - LEAST:
            brought = await queue.claim(
                worker, target="default", start=mark, limit=min(LOT, requests - LEAST - claimed)
            )
            await queue.settle(worker, [_made(claim) for claim in brought.claims])
            mark, claimed = brought.last or mark, claimed + len(brought.claims)
        last = await _claim_plan(durable_url, mark, worker)
        from_front = await _claim_plan(durable_url, FRONT, worker)
        dead = await old.fetchval("SELECT count(*) FROM provisioner.connection_requests")
        await database.close()
    await old.close()
    assert dead == 0  # the old transaction saw nothing of it: all that was deleted had to be kept for it
    assert _touched(last) <= 2 * _touched(first) + 50
    # Without the mark, a claim would wade through all that was served.
    assert _touched(from_front) > 4 * _touched(last)


async def _claim_plan(url: str, start: Any, worker: int) -> Mapping[str, Any]:
    """What the claim statement does, without its doing it."""
    statement = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statements("claim")["claim"]
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        told = await connection.fetchval(statement, "default", start.rank, start.turn, 10, worker, start.id)
    finally:
        await transaction.rollback()
        await connection.close()
    plan: Mapping[str, Any] = json.loads(told)[0]["Plan"]
    return plan


def _touched(plan: Mapping[str, Any]) -> int:
    """Pages that were looked at to find the rows, on the way down to the scan of the queue."""
    if plan.get("Relation Name") == "ready" and "Index" in plan["Node Type"]:
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return max((_touched(child) for child in plan.get("Plans", ())), default=0)


def _made(claim: Claim) -> Settlement:
    connection = Connection(
        id=str(_uuid(claim.request.id)),
        project_id=claim.request.project_id,
        org_id=None,
        credentials_hash="ab" * 32,
        name=claim.request.name,
        app="open-router",
        method="api-key",
        description=None,
        created_at=None,
    )
    return Settlement(claim=claim, outcome=Succeed(connection=connection), sent=1)


def _uuid(number: int) -> UUID:
    from uuid import UUID

    return UUID(int=number)
