"""Operators' limits while workers run: all workers obey soon, and return to normal when they are lifted."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.core.concurrency import CallReport, Rules
from provisioner.core.pacing import Allowance, Budget, fixed
from provisioner.postgres.concurrency import SharedConcurrency
from provisioner.postgres.permits import UNLIMITED, Allowed, LonePermits, SharedPermits
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.simulator import Options
from provisioner.worker.clock import DatabaseClock
from tests.support import eventually
from tests.support.builders import NOON, rate
from tests.support.fleet import Fleet
from tests.support.sessions import connected

if TYPE_CHECKING:
    from tests.support.postgres import Database

SELF = Options(mode="self-hosted", projects=1000, latency=0.02)
CLOCK = DatabaseClock(wall=lambda: NOON, monotonic=time.monotonic)


async def set_limit(fleet: Fleet, writes: int | None = None, in_flight: int | None = None) -> None:
    """Set it as an operator does."""
    await fleet.session.execute(
        "SELECT provisioner.set_limit('default', writes => $1, in_flight => $2)", writes, in_flight
    )


@pytest.mark.parametrize("written", ["auto", "none", "100/s"])
async def test_two_workers_keep_to_a_pace_that_is_set_while_they_work(database: Database, written: str) -> None:
    """Within about a second two busy workers make one create in two seconds together; lifted, they are fast again."""
    settings = {"PROVISIONER_TARGETS__DEFAULT__WRITE_LIMIT": written}
    async with Fleet(database.url, SELF, workers=2, settings=settings) as fleet:
        await fleet.start()
        await fleet.insert(1000)
        await eventually(lambda: fleet.created() >= 20)
        await set_limit(fleet, writes=30)

        async def slow() -> Any:
            before = fleet.created()
            await asyncio.sleep(1.0)
            return fleet.created() - before <= 1

        await eventually(slow, within=10.0)
        assert (await fleet.states())["pending"] > 400  # without a limit all would be done by then
        await set_limit(fleet)
        lifted = fleet.created()
        await eventually(lambda: fleet.created() >= lifted + 30, within=6.0)


async def test_workers_keep_to_a_number_in_flight_that_is_set_while_they_work(database: Database) -> None:
    """The slots of all workers together fall to one, and become more again when it is lifted."""
    async with Fleet(database.url, replace(SELF, latency=0.05), workers=2) as fleet:
        await fleet.start()
        await fleet.insert(1000)

        async def slots() -> Any:
            return await fleet.session.fetchval(
                "SELECT in_flight_limit FROM provisioner.concurrency WHERE target = 'default'"
            )

        async def many() -> Any:
            return (await slots() or 0) > 2

        async def one() -> Any:
            return await slots() == 1

        await eventually(many)
        await set_limit(fleet, in_flight=1)
        await eventually(one, within=5.0)
        await set_limit(fleet)
        await eventually(many, within=10.0)


class TestTheRow:
    """The values of the target's row."""

    async def test_all_lines_of_a_target_obey(self, database: Database) -> None:
        """Rotations hear of it too, and keep to their own number when more is allowed."""
        pool = Pool(database.url)
        async with connected(database.url) as session:
            await session.execute("SELECT provisioner.set_limit('default', 60, in_flight => 5)")
            for target, capped, most in (("default", False, 5), ("default/rotations", True, 2)):
                allowed = Allowed()
                rules = Rules(address="https://a.example", most=2)
                shared = SharedConcurrency(pool, target=target, rules=rules, allowed=allowed, capped=capped)
                told = CallReport(wanted=9, calls=9, accepted=9, elapsed=0.9, pressed=True, quick=True)
                for _ in range(9):
                    allotment = await shared.exchange(1, told)
                assert allotment.limit == most
                assert allowed.writes == Allowance(60, 60.0)
            await session.execute("SELECT provisioner.set_limit('default')")
            await shared.exchange(1, CallReport(wanted=9))
            assert allowed.writes is None
        await pool.close()

    async def test_it_stands_in_for_the_settings_and_never_for_the_answers(self, database: Database) -> None:
        """Above a configured limit it rules until an answer names one; lifted, the settings rule again."""
        pool, allowed = Pool(database.url), Allowed()
        async with connected(database.url) as session:
            permits = SharedPermits(
                pool, CLOCK, target="default", kind="write", start=fixed(100, 60.0), allowed=allowed
            )

            async def limit() -> tuple[Any, ...]:
                await permits.acquire(1)
                row = await session.fetchrow("SELECT permits, period, configured FROM provisioner.permits")
                return tuple(row or ())

            assert await limit() == (100, 60.0, True)
            allowed.writes = Allowance(600, 60.0)
            assert await limit() == (600, 60.0, True)
            allowed.writes = Allowance(1, 3600.0)  # nothing waits for an hour once it is lifted
            assert await limit() == (100, 60.0, True)
            allowed.writes = Allowance(600, 60.0)
            permits.learn(rate(200, 199, 60.0), metered=True, throttled_for=None)
            assert await limit() == (200, 60.0, False)
            allowed.writes = None
            assert await limit() == (100, 60.0, True)
        await pool.close()


@pytest.mark.parametrize("start", [UNLIMITED, Budget(metered=False)])
async def test_who_has_no_limiter_asks_again_once_limited(start: Budget) -> None:
    """Unlimited permits end when a limit is set, and come back when it is lifted."""
    allowed = Allowed()
    permits = LonePermits(CLOCK, target="default", kind="write", start=start, allowed=allowed)
    assert (await permits.acquire(500)).permits == 500
    allowed.writes = Allowance(1, 60.0)
    assert (await permits.acquire(500)).permits == 1
    assert (await permits.acquire(500)).permits == 0
    permits.give_back(1)
    assert (await permits.acquire(500)).permits == 1
    allowed.writes = None
    assert (await permits.acquire(500)).permits == 500


async def test_a_refusal_always_counts() -> None:
    """Whatever an operator allows, nothing is sent for as long as Infisical said."""
    permits = LonePermits(
        CLOCK, target="default", kind="write", start=UNLIMITED, allowed=Allowed(Allowance(6000, 60.0))
    )
    assert (await permits.acquire(1)).permits == 1
    permits.learn(None, metered=True, throttled_for=30.0)
    assert (await permits.acquire(1)).permits == 0
