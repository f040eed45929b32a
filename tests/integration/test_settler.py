"""The settler on a real queue: its outcomes are recorded, whatever is wrong with others in the batch."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from provisioner.core.model import Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.database_retry import DatabaseRetry
from provisioner.worker.lease_state import LeaseState
from provisioner.worker.settler import Settler
from tests.support.builders import a_connection, a_settlement
from tests.support.sessions import connected, insert_many

if TYPE_CHECKING:
    from tests.support.postgres import Database


async def test_what_cannot_be_stored_harms_nobody_else(database: Database) -> None:
    """A result that the database refuses because of itself fails its own row; the rest of the batch is recorded."""
    pool = Pool(database.url)
    queue = PostgresQueue(pool)
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    async with connected(database.url) as session:
        await insert_many(session, 3)
        lease_state = LeaseState(clock, lease=30.0)
        lease_state.enter(await queue.register(name="w", targets=["default"], lease=30.0))
        brought = await queue.claim(lease_state.worker, target="default", start=FRONT, limit=3)
        settler = Settler(queue, lease_state=lease_state, database_retry=DatabaseRetry(clock), clock=clock)
        for number, claim in enumerate(brought.claims):
            made = a_connection(credentials_hash="a NUL \0 in it") if number == 1 else a_connection()
            settler.add(a_settlement(claim, Succeed(connection=made)))
        running = asyncio.create_task(settler.run())
        async with asyncio.timeout(10):
            await settler.flushed()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        found = await session.fetch("SELECT status, error_code FROM provisioner.connection_requests ORDER BY status")
    await pool.close()
    assert [tuple(row) for row in found] == [("failed", "outcome_unknown"), *[("succeeded", None)] * 2]
