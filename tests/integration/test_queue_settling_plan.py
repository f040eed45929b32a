"""Settling reads the claims that it settles, and none of the dead ones that an old transaction keeps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from provisioner.core.model import Cancel, ErrorCode, Fail, Outcome, Retry, Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from tests.support import eventually
from tests.support.builders import a_connection, a_settlement
from tests.support.sessions import connected, insert_many

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.postgres import Database
    from tests.support.sessions import Session

SERVED = 3_000
LOT = 100
ENTRIES = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'in_flight_pkey'"
NAME = "settling"


async def carry(queue: PostgresQueue, worker: int, requests: int, outcome: Outcome) -> None:
    """Claim and settle this many, lot by lot."""
    start = FRONT
    for _ in range(requests // LOT):
        brought = await queue.claim(worker, target="default", start=start, limit=LOT)
        report = await queue.settle(worker, [a_settlement(claim, outcome) for claim in brought.claims])
        assert len(report.settled) == LOT
        start = brought.last or start


async def gone(session: Session) -> bool:
    """Whether the queue's session has ended, which is when it reports its statistics."""
    return not await session.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", NAME)


@pytest.mark.parametrize(
    "outcome",
    [
        Succeed(connection=a_connection()),
        Fail(code=ErrorCode.GAVE_UP, message="no"),
        Retry(delay=3600.0, message="no", counted=True),
        Cancel(),
    ],
    ids=["succeed", "fail", "put_back", "cancel"],
)
async def test_settling_passes_no_dead_claims(database: Database, outcome: Outcome) -> None:
    """With an open snapshot and statistics of an empty claims' table, a lot costs one look-up per claim."""
    async with connected(database.url) as session, connected(database.url) as old:
        await insert_many(session, SERVED + LOT)
        async with old.transaction(isolation="repeatable_read"):
            await old.fetchval("SELECT count(*) FROM provisioner.ready")  # takes the snapshot
            pool = Pool(database.url, size=1, name=NAME)
            queue = PostgresQueue(pool)
            worker = await queue.register(name="one", targets=["default"], lease=600)
            await carry(queue, worker, SERVED, Succeed(connection=a_connection()))
            await session.execute("VACUUM (ANALYZE) provisioner.in_flight")
            away: Callable[[], bool | Awaitable[bool]] = partial(gone, session)
            await pool.close()
            await eventually(away)
            before = await session.fetchval(ENTRIES)
            await carry(queue, worker, LOT, outcome)
            await pool.close()
            await eventually(away)
            after = await session.fetchval(ENTRIES)
    assert LOT <= after - before <= 3 * LOT
