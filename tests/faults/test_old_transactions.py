"""An old transaction keeps the dead rows of tens of thousands of requests: claims do not read them."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from provisioner.core.model import Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements
from provisioner.postgres.queue import PostgresQueue
from tests.support import eventually
from tests.support.builders import a_connection, a_settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from provisioner.core.queue_values import QueuePosition

pytestmark = pytest.mark.xdist_group("faults-b")

LOT = 500
LEAST = 100
# One request for each of as many projects: all of them are in the first turn.
INSERT = """
INSERT INTO provisioner.connection_requests (project_id) SELECT gen_random_uuid() FROM generate_series(1, $1::int)
"""
ENTRIES = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'ready_in_order'"
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND pid <> $1
"""


@pytest.mark.parametrize(
    "requests", [20_000, pytest.param(100_000, marks=(pytest.mark.soak, pytest.mark.timeout(600)))]
)
async def test_a_claim_reads_no_more_than_at_the_start(durable_url: str, requests: int) -> None:
    """With a snapshot held open all along, a claim from the mark on touches as many pages as the first one did."""
    old = await asyncpg.connect(durable_url)
    async with old.transaction(isolation="repeatable_read"):
        await old.fetchval("SELECT count(*) FROM provisioner.ready")  # takes the snapshot
        pool = Database(durable_url)
        await pool.execute(INSERT, requests)
        queue = PostgresQueue(pool)
        worker = await queue.register(name="one", targets=["default"], lease=600)
        first = _touched(await _claim_plan(durable_url, FRONT, worker))
        mark = await _carry_all(queue, worker, requests - LEAST)
        await pool.close()
        last = _touched(await _claim_plan(durable_url, mark, worker))
        from_front = _touched(await _claim_plan(durable_url, FRONT, worker))
        entries = await _entries_of_one_round(durable_url, mark, worker, old.get_server_pid())
    await old.close()
    assert last <= 2 * first + 20
    assert entries <= 2 * LEAST
    # Without the mark, a claim wades through all that was served: the old transaction keeps it.
    assert from_front > requests / 100


async def _carry_all(queue: PostgresQueue, worker: int, requests: int) -> QueuePosition:
    mark, left = FRONT, requests
    while left:
        brought = await queue.claim(worker, target="default", start=mark, limit=min(LOT, left))
        await queue.settle(
            worker,
            [
                a_settlement(claim, Succeed(connection=a_connection(id=str(UUID(int=claim.request.id)))))
                for claim in brought.claims
            ],
        )
        mark, left = brought.last or mark, left - len(brought.claims)
    return mark


async def _entries_of_one_round(url: str, mark: QueuePosition, worker: int, old: int) -> int:
    """How many entries of the queue's index a claim and a poll of the real queue read, dead ones included."""
    watcher = await asyncpg.connect(url)
    # A session reports its statistics when it ends.
    alone: Callable[[], bool | Awaitable[bool]] = partial(_is_alone, watcher, old)
    await eventually(alone)
    before = await watcher.fetchval(ENTRIES)
    pool = Database(url)
    queue = PostgresQueue(pool)
    brought = await queue.claim(worker, target="default", start=mark, limit=10)
    assert len(brought.claims) == 10
    await queue.poll(marks={"default": mark}, served={})
    await pool.close()
    await eventually(alone)
    after = await watcher.fetchval(ENTRIES)
    await watcher.close()
    assert after > before
    return int(after - before)


async def _is_alone(watcher: asyncpg.Connection[asyncpg.Record], old: int) -> bool:
    return int(await watcher.fetchval(OTHERS, old)) == 0


async def _claim_plan(url: str, start: QueuePosition, worker: int) -> Mapping[str, Any]:
    """The effect of the claim statement, without its changes."""
    statement = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statements("claim")["claim"]
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        told = await connection.fetchval(statement, "default", start.rank, start.turn, 10, worker, start.id, 1)
    finally:
        await transaction.rollback()
        await connection.close()
    plan: Mapping[str, Any] = json.loads(told)[0]["Plan"]
    return plan


def _touched(plan: Mapping[str, Any]) -> int:
    """Pages read to find the rows, by the scan of the queue's index."""
    if plan.get("Index Name") == "ready_in_order":
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return max((_touched(child) for child in plan.get("Plans", ())), default=0)
