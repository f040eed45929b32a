"""A worker and trouble with its lease, its clock and its database's answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.model import Claim, Observation, Result
from provisioner.core.queue_values import FRONT
from provisioner.worker import settler
from tests.support import eventually
from tests.support.builders import a_connection, project
from tests.support.operators import DOUBT
from tests.support.sessions import connected, insert, insert_many, places
from tests.support.small_world import SmallWorld, lose_the_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.support.postgres import Database


FAR = 3600.0


def once(act: Callable[[], object]) -> Callable[[], None]:
    """Do it the first time only."""
    left = [act]

    def first() -> None:
        if left:
            left.pop()()

    return first


async def turns(number: int = 100) -> None:
    """Let all ready tasks run, this many times."""
    for _ in range(number):
        await asyncio.sleep(0)


class TestLastOnes:
    """The settler does not wait for outcomes that will not come."""

    async def test_they_are_recorded_at_once(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """When nothing more is in line the last batch is written, however long batches are gathered."""
        monkeypatch.setattr(settler, "GATHER_TIME", FAR)
        async with SmallWorld(database) as it:
            await insert_many(it.session, 3 * settler.FEW_IN_HAND)
            await it.start()
            await it.done()


class TestBusyHost:
    """A host that gives the worker little time."""

    async def test_each_statement_is_a_sign_of_life(self, database: Database) -> None:
        """However long the statements of one round of maintenance take, the worker is not considered dead."""
        async with SmallWorld(database) as it:
            seen: list[int] = []
            it.queue.after_renewal = it.queue.before_look = lambda: seen.append(it.worker.vitals().moves)
            await it.start()
            await eventually(lambda: len(seen) > 6)
            assert len(set(seen)) == len(seen)

    async def test_a_late_entry_has_a_whole_lease(self, database: Database) -> None:
        """The lease counts from the attempt that was answered, not from the first one, which met no database."""
        async with SmallWorld(database) as it:
            register, tries = it.queue.register, [1]

            async def late(**entry: Any) -> int:
                if tries:
                    tries.pop()
                    it.time.jump(FAR)
                    raise DatabaseUnavailable("it is away")
                return await register(**entry)

            it.queue.register = late  # type: ignore[method-assign]  # for this test's worker
            it.queue.renewals.clear()
            await it.start()
            await eventually(lambda: it.worker.vitals().worker)
            assert it.worker.vitals().lease_good
            it.queue.renewals.set()


class TestLease:
    """Nothing is begun by a worker whose requests may be others' by now."""

    async def test_nothing_is_claimed_without_one(self, database: Database) -> None:
        """A worker that was frozen asks for nothing before it has its lease again."""
        async with SmallWorld(database) as it:
            await it.start()
            await it.idle()
            it.queue.renewals.clear()
            it.time.jump(FAR)
            asked = it.queue.asked
            await insert_many(it.session, 3)
            it.worker.hear(None, FRONT)
            await turns()
            assert it.queue.asked == asked
            it.queue.renewals.set()
            await it.done()

    async def test_nothing_is_sent_without_one(self, database: Database) -> None:
        """Claims from just before it was frozen go back unsent, and have lost nothing."""
        async with SmallWorld(database) as it:

            def stand_still() -> None:
                it.queue.renewals.clear()
                it.time.jump(FAR)

            it.queue.after_claim = once(stand_still)
            await insert_many(it.session, 3)
            await it.start()
            await it.until("SELECT count(*) FROM provisioner.waiting", 3)
            assert it.server.creates == 0
            it.queue.renewals.set()
            await it.done()
            assert it.server.creates == 3
            assert await it.session.fetchval("SELECT max(attempts) FROM provisioner.connection_requests") == 1

    async def test_it_lasts_from_when_it_was_asked_for(self, database: Database) -> None:
        """A renewal whose answer comes after the lease's time is none: the database counted from the question."""
        async with SmallWorld(database, lease=3.0) as it:
            seen: list[bool] = []
            await it.start()
            await it.idle()

            def late() -> None:
                it.time.jump(FAR)
                it.queue.before_look = once(lambda: seen.append(it.worker.vitals().lease_good))

            it.queue.after_renewal = once(late)
            await eventually(lambda: seen)
            assert seen == [False]

    async def test_it_is_renewed_while_creates_last(self, database: Database) -> None:
        """Creates that outlast the lease several times are not taken over meanwhile, and are sent once."""
        async with SmallWorld(database, lease=0.6) as it:
            it.server.open.clear()
            await insert_many(it.session, 3)
            await it.start()
            lasted = (
                "SELECT coalesce(bool_and(now() - claimed_at > interval '2 seconds'), false) FROM provisioner.in_flight"
            )
            await it.until(lasted, True)
            it.server.open.set()
            await it.done()
            assert it.server.creates == 3
            assert await places(it.session) == {}


class TestDatabase:
    """Its answers may be lost, its notifications too, and its time is everybody's."""

    async def test_what_a_lost_claim_brought_is_done_at_once(self, database: Database) -> None:
        """A claim whose answer was lost is given back long before the lease ends, and nothing is sent twice."""
        async with SmallWorld(database) as it:
            it.queue.after_claim = once(lose_the_answer)
            await insert_many(it.session, 3)
            await it.start()
            await it.done(within=5)
            assert it.server.creates == 3

    async def test_a_lost_notification_costs_a_moment(self, database: Database) -> None:
        """Without notifications a worker polls: new and due requests are done within a poll or two."""
        async with SmallWorld(database) as it:
            await it.start()
            await it.idle()
            await insert_many(it.session, 2)
            await it.done(within=5)
            await insert(it.session, name="later", not_before=datetime.now(UTC) + timedelta(seconds=0.3))
            await it.done(within=5)
            assert it.server.creates == 3

    async def test_its_time_is_known_before_anything_is_claimed(self, database: Database) -> None:
        """A host whose clock is an hour off judges already its first request by the database's time."""
        async with SmallWorld(database, wrong_by=-FAR) as it:
            errors: list[float] = []
            it.queue.after_claim = lambda: errors.append((it.clock.now() - datetime.now(UTC)).total_seconds())
            await insert_many(it.session, 3)
            await it.start()
            await it.done()
            assert errors
            assert max(map(abs, errors)) < 1


class TestPermits:
    """A permit without a create is given back."""

    async def test_what_a_claim_did_not_need(self, database: Database) -> None:
        """Three requests and room for eight: three permits are spent."""
        async with SmallWorld(database) as it:
            await insert_many(it.session, 3)
            await it.start()
            await it.done()
            await eventually(lambda: it.writes.out == it.server.creates == 3)

    async def test_what_a_look_up_made_needless(self, database: Database) -> None:
        """A request that is found instead of made spends none."""
        async with SmallWorld(database) as it:
            request = await insert(it.session)
            it.server.made[project(1)] = a_connection(created_at=datetime.now(UTC))
            await it.session.execute(
                "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since)"
                " VALUES ($1, 1, 1, 0, now() - interval '5 seconds')",
                request,
            )
            await it.session.execute(DOUBT.format(request=request))
            await it.start()
            await it.done()
            await eventually(lambda: it.writes.out == it.server.creates == 0)

    async def test_what_was_claimed_and_dropped(self, database: Database) -> None:
        """A worker that drops unsent claims gives back their permits."""
        async with SmallWorld(database) as it:
            drop = it.worker.feeders["default"].drop
            dropped: list[Claim] = []
            # Between the claim and the creators, which come to it a moment later.
            it.queue.after_claim = once(lambda: asyncio.get_running_loop().call_soon(lambda: dropped.extend(drop())))
            await insert_many(it.session, 3)
            await it.start()
            await eventually(lambda: len(dropped) == 3)
            await eventually(lambda: it.writes.out == it.server.creates == 0)


class TestStop:
    """A worker that is told to stop leaves nothing behind that others would have to wait for."""

    async def test_what_was_claimed_and_not_sent_is_back_in_line(self, database: Database) -> None:
        """Others may have it at once, not only when the lease ends."""
        async with SmallWorld(database) as it:
            # Between the claim and the creators, which come to it a moment later.
            it.queue.after_claim = once(it.worker.stop)
            await insert_many(it.session, 3)
            await it.start()
            await eventually(lambda: it.worker.vitals().stopping)
        async with connected(database.url) as session:
            assert await places(session) == {"ready": 3}
        assert it.server.creates == 0


class TestMaintenance:
    """Infisical reads, and does not write."""

    async def test_that_nothing_is_found_does_not_end_it(self, database: Database) -> None:
        """A withheld target stays withheld: successful look-ups do not show that creates work."""
        async with SmallWorld(database) as it:
            target = it.worker.feeders["default"].target
            held: list[bool] = []

            it.server.maintenance = lambda: held.append(target.breaker.is_open)
            await insert_many(it.session, 8)
            await it.start()
            await eventually(lambda: len(held) >= 11, within=20)
            assert all(held[8:])
            it.server.maintenance = None
            await it.done(within=20)


class TestWrongScope:
    """Infisical made a connection outside the project."""

    async def test_it_is_deleted_once_that_is_possible(self, database: Database) -> None:
        """A rate limiter and a lost answer delay a deletion briefly; nobody has to do it by hand."""
        async with SmallWorld(database) as it:
            it.server.wrong_scope = True
            it.server.script = [
                Observation(result=Result.THROTTLED, status=429, retry_after=0.2),
                Observation(result=Result.NOT_SENT, message="refused"),
                Observation(result=Result.UNKNOWN, message="cut"),
                Observation(result=Result.ABSENT, status=404),
            ]
            request = await insert(it.session)
            await it.start()
            await it.done()
            assert len(it.server.removals) == 4
            row = await it.row(request)
            assert (row["status"], row["error_code"]) == ("failed", "wrong_scope")
            assert "deleted again" in row["error_message"]


class TestDoubt:
    """Lost answers with clocks that jump."""

    async def test_the_walls_clock_steps_back(self, database: Database) -> None:
        """The clock goes back 3 s between each lost answer and its look-up: every connection is recognised."""
        async with SmallWorld(database) as it:
            it.server.lose = lambda: it.time.set_back(3.0)
            await insert_many(it.session, 8)
            await it.start()
            await it.done(within=20)
            assert await it.states() == {"succeeded": 8}
            assert it.server.creates == 8
