"""Budgets are rows that all workers share: together they keep to one limit, whatever their timing."""

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.pacing import Budget, Grant, fixed
from provisioner.postgres.permits import UNLIMITED, SharedPermits
from provisioner.postgres.pool import Database as Pool
from provisioner.worker.clock import DatabaseClock
from tests.support.builders import NOON, rate
from tests.support.postgres import Database

if TYPE_CHECKING:
    from tests.support.sessions import Session


def permits(pool: Pool, start: Budget | None = None, *, kind: str = "write") -> SharedPermits:
    """The permits of one worker, whose host's clock is hours off."""
    clock = DatabaseClock(wall=lambda: NOON, monotonic=time.monotonic)
    return SharedPermits(pool, clock, target="default", kind=kind, start=start or Budget())


async def pass_time(session: "Session", seconds: float) -> None:
    """Advance time for the budgets: it is the database's time, so their data become older."""
    await session.execute(
        "UPDATE provisioner.permits SET version = version + 1, starts_at = starts_at - $1, ends_at = ends_at - $1,"
        " next_at = next_at - $1, blocked_until = blocked_until - $1, seen_at = seen_at - $1",
        seconds,
    )


async def version(session: "Session") -> int:
    """How often the budget has been written."""
    return int(await session.fetchval("SELECT coalesce(sum(version), 0) FROM provisioner.permits"))


async def forget(session: "Session") -> None:
    """Remove the table, so that every query of it fails."""
    await session.execute("ALTER TABLE provisioner.permits RENAME TO gone")


class TestShared:
    """Two workers, one budget."""

    async def test_no_permit_is_granted_twice(self, pool: Pool, session: "Session") -> None:
        """However many ask at once, together they get exactly one window's permits, spread over it."""
        workers = [permits(pool, fixed(50, 60.0)) for _ in range(4)]
        granted = 0
        for _ in range(59):
            now = await asyncio.gather(*(worker.acquire(50) for worker in workers for _ in range(2)))
            assert sum(grant.permits for grant in now) <= 2  # one in 1.2 seconds
            granted += sum(grant.permits for grant in now)
            await pass_time(session, 1.0)
        assert 45 <= granted <= 50

    async def test_a_lot_is_shared_not_doubled(self, pool: Pool) -> None:
        """A fast budget's lot goes to the first caller; the other learns when to come again."""
        one, other = (permits(pool, fixed(60_000, 60.0)) for _ in range(2))
        both = await asyncio.gather(one.acquire(10_000), other.acquire(10_000))
        assert sorted(grant.permits > 0 for grant in both) == [False, True]
        assert all(grant.permits or 0 < grant.wait < 1 for grant in both)

    async def test_what_one_learned_the_other_knows(self, pool: Pool, session: "Session") -> None:
        """The answer's headers reach the other workers with the next request for permits."""
        one, other = permits(pool), permits(pool)
        assert (await one.acquire(10)).permits == 1
        assert (await other.acquire(10)).permits == 0
        one.learn(rate(200, 0, 30.0), metered=True, throttled_for=None)
        await one.acquire(1)
        held = await other.acquire(10)
        assert held.permits == 0
        assert 25 < held.wait <= 30
        await pass_time(session, 30.5)
        assert (await other.acquire(10)).permits > 0

    async def test_a_refusal_blocks_everybody(self, pool: Pool, session: "Session") -> None:
        """One worker's 429 blocks the others, for its duration and no longer."""
        one, other = (permits(pool, fixed(200, 60.0)) for _ in range(2))
        await one.acquire(1)
        one.learn(rate(200, 0, 42.0), metered=True, throttled_for=42.0)
        await one.acquire(1)
        held = await other.acquire(10)
        assert held.permits == 0
        assert 35 < held.wait <= 42
        await pass_time(session, 42.1)
        # A refusal without headers begins no window of its own, which would end only after 60 s.
        assert (await other.acquire(10)).permits > 0

    async def test_kinds_of_calls_have_budgets_of_their_own(self, pool: Pool) -> None:
        """A refused write holds no read."""
        writes, reads = (permits(pool, fixed(200, 60.0), kind=kind) for kind in ("write", "read"))
        writes.learn(None, metered=True, throttled_for=60.0)
        assert (await writes.acquire(1)).permits == 0
        assert (await reads.acquire(1)).permits == 1

    async def test_unused_permits_go_to_others(self, pool: Pool) -> None:
        """Another worker can use permits that were given back at once."""
        one, other = (permits(pool, fixed(60, 60.0)) for _ in range(2))
        assert (await one.acquire(1)).permits == 1
        assert (await other.acquire(1)).permits == 0
        one.give_back(1)
        assert (await one.acquire(0)).permits == 0
        assert (await other.acquire(1)).permits == 1

    async def test_many_questions_of_one_worker_count_each_lesson_once(self, pool: Pool, session: "Session") -> None:
        """If one worker's creators ask at the same time, what was learned is applied once."""
        reads = permits(pool, fixed(6000, 60.0))
        await reads.acquire(1)
        reads.learn(None, metered=True, throttled_for=None)
        await asyncio.gather(*(reads.acquire(1) for _ in range(12)))
        row = await session.fetchrow("SELECT answered, granted FROM provisioner.permits")
        assert row is not None
        assert row["answered"] == 1
        assert 1 <= row["granted"] <= 13

    async def test_many_that_give_back_give_back_once(self, pool: Pool) -> None:
        """Permits given back during several requests are neither doubled nor owed."""
        shared = permits(pool, fixed(6000, 60.0))
        taken = (await shared.acquire(20)).permits
        shared.give_back(taken)
        await asyncio.gather(*(shared.acquire(0) for _ in range(12)))
        assert shared._unused == 0


class TestUnlimited:
    """Where there is no limiter."""

    async def test_the_database_is_not_asked_by_setting(self, pool: Pool, session: "Session") -> None:
        """A limit of none in the settings costs no query, whatever is learned."""
        await forget(session)
        free = permits(pool, UNLIMITED)
        free.learn(rate(200, 0, 60.0), metered=True, throttled_for=None)
        assert await free.acquire(5000) == Grant(permits=5000)

    async def test_the_database_is_not_asked_after_the_first_answer(self, pool: Pool, session: "Session") -> None:
        """Once an answer without headers has been taken in, permits cost nothing any more."""
        learned = permits(pool)
        await learned.acquire(1)
        learned.learn(None, metered=True, throttled_for=None)
        assert (await learned.acquire(300)).permits == 300
        await forget(session)
        for _ in range(10):
            learned.learn(None, metered=True, throttled_for=None)
            assert (await learned.acquire(300)).permits == 300

    async def test_others_learn_it_by_asking_once(self, pool: Pool, session: "Session") -> None:
        """A later worker finds in the row that there is no limit."""
        first = permits(pool)
        await first.acquire(1)
        first.learn(None, metered=True, throttled_for=None)
        await first.acquire(1)
        second = permits(pool)
        assert (await second.acquire(300)).permits == 300
        await forget(session)
        assert (await second.acquire(300)).permits == 300

    async def test_what_never_arrived_teaches_nothing(self, pool: Pool) -> None:
        """A call that did not reach the limiter does not prove that there is none: the next one asks, alone."""
        learned = permits(pool)
        await learned.acquire(1)
        learned.learn(None, metered=False, throttled_for=None)
        assert (await learned.acquire(300)).permits <= 1

    @pytest.mark.parametrize("start", [UNLIMITED, Budget()], ids=["by setting", "learned"])
    async def test_a_refusal_is_heeded_all_the_same(self, pool: Pool, session: "Session", start: Budget) -> None:
        """A 429 where none was expected holds for its own time."""
        free = permits(pool, start)
        if start.metered is None:
            await free.acquire(1)
            free.learn(None, metered=True, throttled_for=None)
            assert (await free.acquire(300)).permits == 300
        free.learn(None, metered=True, throttled_for=20.0)
        held = await free.acquire(300)
        assert held.permits == 0
        assert 15 < held.wait <= 20
        await pass_time(session, 20.0)
        assert (await free.acquire(300)).permits > 0

    async def test_by_setting_it_is_free_again_afterwards(self, pool: Pool, session: "Session") -> None:
        """A refusal does not become a limit where the settings say that there is none."""
        free = permits(pool, UNLIMITED)
        free.learn(None, metered=True, throttled_for=20.0)
        await free.acquire(1)
        await pass_time(session, 20.0)
        assert (await free.acquire(300)).permits == 300


async def test_a_wait_writes_nothing(pool: Pool, session: "Session") -> None:
    """Asking while there is nothing to grant leaves the row alone, so that waiting costs no write."""
    one, other = (permits(pool, fixed(60, 60.0)) for _ in range(2))
    await one.acquire(1)
    before = await version(session)
    for _ in range(5):
        assert (await other.acquire(1)).permits == 0
    assert await version(session) == before


async def test_a_limit_that_the_settings_name_is_kept(pool: Pool, session: "Session") -> None:
    """Headers do not change it, a change of the settings does, and only a refusal proves more."""
    named = permits(pool, fixed(60, 60.0))
    await named.acquire(1)
    named.learn(rate(10_000, 9_999, 60.0), metered=True, throttled_for=None)
    await named.acquire(0)
    assert await session.fetchval("SELECT permits FROM provisioner.permits") == 60
    await permits(pool, fixed(6000, 60.0)).acquire(1)
    assert await session.fetchval("SELECT permits FROM provisioner.permits") == 6000


async def test_an_absent_database_is_said_to_be_away(session: "Session", database: Database) -> None:
    """The caller may ask again; what was learned is not lost."""
    away = Pool(database.url.replace(f":{database.server.port}/", ":1/"))
    shared = permits(away)
    shared.learn(rate(60, 0, 30.0), metered=True, throttled_for=None)
    with pytest.raises(DatabaseUnavailable):
        await shared.acquire(1)
    pool = Pool(database.url)
    try:
        shared._database = pool
        assert (await shared.acquire(1)).permits == 0
        assert await session.fetchval("SELECT used FROM provisioner.permits") == 60
    finally:
        await pool.close()
