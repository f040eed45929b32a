"""The queue hands each request to one worker at a time, in a fair order, and forgets none."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import LeaseLost, SchemaMismatch
from provisioner.core.model import OnConflict, Retry
from provisioner.core.queue_values import FRONT, Claims, Heartbeat, QueuePosition
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queries import statements
from provisioner.postgres.queue import PostgresQueue
from tests.support.builders import a_settlement, doubted, project
from tests.support.postgres import Database
from tests.support.sessions import connected, count, insert, insert_many, lapse, places, row_of, soon

if TYPE_CHECKING:
    from tests.support.sessions import Session

TARGETS = ["default"]


@pytest.fixture
async def worker(queue: PostgresQueue) -> int:
    """Lend a worker that is alive."""
    return await queue.register(name="first", targets=TARGETS, lease=60.0)


async def claim(
    queue: PostgresQueue, worker: int, limit: int = 100, *, start: QueuePosition = FRONT, target: str = "default"
) -> Claims:
    """Claim from the front."""
    return await queue.claim(worker, target=target, start=start, limit=limit)


def ids(claims: Claims) -> list[int]:
    """The requests that were claimed, in their order."""
    return [claimed.request.id for claimed in claims.claims]


class TestClaim:
    """The results of a claim."""

    async def test_brings_all_that_making_it_needs(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A first claim carries the row, is its first attempt, and says where in line it stood."""
        request = await insert(session, name="a", description="d", credential="team-a", on_conflict="adopt", priority=3)
        before = await session.fetchval("SELECT clock_timestamp()")
        brought = await claim(queue, worker)
        (claimed,) = brought.claims
        assert (claimed.request.id, claimed.request.project_id, claimed.request.name) == (request, project(1), "a")
        assert (claimed.request.description, claimed.request.credential) == ("d", "team-a")
        assert claimed.request.on_conflict is OnConflict.ADOPT
        assert (claimed.attempt, claimed.sent, claimed.failures) == (1, 0, 0)
        assert (claimed.since, claimed.doubt, claimed.cancelled) == (None, (), False)
        assert before <= claimed.claimed_at <= await session.fetchval("SELECT clock_timestamp()")
        assert brought.last == QueuePosition(-3, 1, claimed.request.id)

    async def test_is_durable_when_it_returns(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Others see the intent before anything is sent, and whose it is."""
        request = await insert(session)
        await claim(queue, worker)
        assert await places(session) == {"in_flight": 1}
        row = await session.fetchrow("SELECT id, attempt, worker FROM provisioner.in_flight")
        assert tuple(row or ()) == (request, 1, worker)

    async def test_brings_nothing_when_there_is_nothing(self, queue: PostgresQueue, worker: int) -> None:
        """An empty queue is an answer, too."""
        assert await claim(queue, worker) == Claims(claims=[], last=None)

    async def test_takes_no_more_than_it_may(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """As many as there are permits, the rest stays in line."""
        await insert_many(session, 10)
        assert len(ids(await claim(queue, worker, 4))) == 4
        assert await places(session) == {"ready": 6, "in_flight": 4}

    async def test_takes_a_request_once_that_is_in_line_twice(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """An extra place of a request that is claimed, or in flight already, is removed, and the others are claimed."""
        await insert_many(session, 4)
        (flying,) = ids(await claim(queue, worker, 1))
        again = (
            "INSERT INTO provisioner.ready (target, rank, turn, id, project_id)"
            " SELECT target, rank - 1, 0, id, project_id FROM provisioner.in_flight UNION ALL"
            " SELECT target, rank + 1, turn, id, project_id FROM provisioner.ready"
        )
        await session.execute(again)
        assert await places(session) == {"ready": 7, "in_flight": 1}
        rest = ids(await claim(queue, worker))
        assert (len(rest), len({*rest, flying})) == (3, 4)
        assert await places(session) == {"in_flight": 4}

    async def test_keeps_to_its_target(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Other targets' requests are left for their workers."""
        here, there = await insert(session), await insert(session, target="eu")
        assert ids(await claim(queue, worker)) == [here]
        assert ids(await claim(queue, worker, target="eu")) == [there]

    async def test_never_brings_what_was_deleted(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A request that is gone leaves no place in line."""
        await session.execute("DELETE FROM provisioner.connection_requests WHERE id = $1", await insert(session))
        assert ids(await claim(queue, worker)) == []
        assert await places(session) == {}

    async def test_counts_attempts(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The second claim is the second attempt and knows what came of the first."""
        await insert(session)
        (first,) = (await claim(queue, worker)).claims
        outcome, first = Retry(delay=0.0, message="no", counted=True), doubted(first)
        await queue.settle(worker, [a_settlement(first, outcome)])
        await soon(session)
        await queue.promote(10)
        (second,) = (await claim(queue, worker)).claims
        assert (second.attempt, second.sent, second.failures, second.doubt) == (2, 1, 1, first.doubt)
        assert second.since == first.claimed_at


class TestTogether:
    """Many workers on one queue."""

    async def test_no_request_is_claimed_twice(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Workers that claim at the same time share the queue without gaps or overlaps."""
        await insert_many(session, 400)
        taken: list[int] = []

        async def work() -> None:
            while brought := ids(await claim(queue, worker, 7)):
                taken.extend(brought)

        await asyncio.gather(*(work() for _ in range(6)))
        assert len(taken) == 400
        assert Counter(taken).most_common(1)[0][1] == 1

    async def test_what_another_is_claiming_is_skipped(
        self, database: Database, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """No worker waits for a claim that is not committed yet."""
        await insert_many(session, 10)
        async with connected(database.url) as other, other.transaction():
            held = await other.fetch(statements("claim")["claim"], "default", FRONT.rank, FRONT.turn, 4, worker, 0, 1)
            async with asyncio.timeout(5):
                mine = ids(await claim(queue, worker))
            assert len(mine) == 6
            assert not {row["id"] for row in held} & set(mine)
        assert await places(session) == {"in_flight": 10}

    async def test_a_claim_that_was_rolled_back_took_nothing(
        self, database: Database, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Requests that a dying worker had begun to claim are in line as before."""
        request = await insert(session)
        async with connected(database.url) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.fetch(statements("claim")["claim"], "default", FRONT.rank, FRONT.turn, 4, worker, 0, 1)
            await transaction.rollback()
        assert ids(await claim(queue, worker)) == [request]


class TestOrder:
    """The order of service."""

    async def test_priorities_are_strict(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Everything urgent goes before anything that is less so, whenever it came."""
        await insert_many(session, 5, priority=0)
        await insert_many(session, 5, first=11, priority=9)
        await insert_many(session, 5, first=21, priority=-9)
        ranks = [-(await row_of(session, request))["priority"] for request in ids(await claim(queue, worker))]
        assert ranks == [-9] * 5 + [0] * 5 + [9] * 5

    async def test_a_hint_of_something_urgent_is_served_first(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A worker that goes on where it stopped misses an urgent newcomer; one that knows its position takes it."""
        await insert_many(session, 20)
        mark = (await claim(queue, worker, 5)).last
        assert mark is not None
        urgent = await insert(session, priority=5)
        assert urgent not in ids(await claim(queue, worker, 5, start=mark))
        heard = (await queue.poll(marks={"default": FRONT}, served={})).heads["default"]
        assert heard == QueuePosition(-5, 1, urgent)
        assert ids(await claim(queue, worker, 5, start=min(mark, heard)))[0] == urgent

    async def test_who_starts_where_it_stopped_misses_nothing(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Claim after claim from the last place on empties the queue in order."""
        await insert_many(session, 7, each=9)
        start, taken = FRONT, list[int]()
        while (brought := await claim(queue, worker, 4, start=start)).last is not None:
            taken += ids(brought)
            start = brought.last
        assert len(set(taken)) == len(taken) == 63

    @pytest.mark.parametrize("when", ["before", "after", "while claims have begun"])
    async def test_a_large_project_delays_no_small_one(
        self, queue: PostgresQueue, worker: int, session: "Session", when: str
    ) -> None:
        """Forty projects with one request each are served at once, wherever a thousand of another project are."""
        small: set[int] = set()
        if when == "before":
            await insert_many(session, 40, first=100)
        await insert_many(session, 1, each=1000)
        start = FRONT
        if when == "while claims have begun":
            for _ in range(30):
                start = (await claim(queue, worker, 10, start=start)).last or start
            await queue.poll(marks={}, served={"default": start})
        if when != "before":
            await insert_many(session, 40, first=100)
        for row in await session.fetch("SELECT id FROM provisioner.ready WHERE project_id <> $1", project(1)):
            small.add(row["id"])
        assert len(small) == 40
        assert small <= set(ids(await claim(queue, worker, 50)))

    async def test_a_newcomer_waits_for_nobody_who_was_served(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A late request joins where the queue is served now: not before it, where it is missed, nor at the end."""
        await insert_many(session, 2, each=100)
        mark = (await claim(queue, worker, 100)).last
        assert mark is not None
        await queue.poll(marks={}, served={"default": mark})
        newcomer = await insert(session, project_id=project(50))
        assert newcomer in ids(await claim(queue, worker, 3, start=mark))

    async def test_a_project_that_adds_to_its_own_goes_behind_them(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A project's requests keep the order in which they came, also over many statements."""
        wanted = [await insert(session, name=f"n{number}") for number in range(20)]
        assert ids(await claim(queue, worker)) == wanted

    async def test_scheduled_requests_are_as_fair(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Requests that become due together are put in line like those inserted together."""
        await insert_many(session, 1, each=300)
        await insert_many(session, 20, first=100)
        await session.execute("UPDATE provisioner.connection_requests SET not_before = now() - interval '1 minute'")
        await soon(session)
        await queue.promote(1000)
        taken = ids(await claim(queue, worker, 25))
        served = {str((await row_of(session, request))["project_id"]) for request in taken}
        assert len(served) == 21


class TestGivingBack:
    """Claims that were never sent."""

    async def test_lose_nothing(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """They are in line again as if they had never been claimed, before requests that are not served yet."""
        await insert_many(session, 5, each=4)
        first = (await claim(queue, worker, 5)).claims
        await queue.release(worker, first[:3])
        assert await places(session) == {"ready": 18, "in_flight": 2}
        again = await claim(queue, worker, 3)
        assert sorted(ids(again)) == sorted(each.request.id for each in first[:3])
        assert {claimed.attempt for claimed in again.claims} == {1}

    async def test_only_the_holder_can(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Another worker's claims are not given back."""
        await insert(session)
        held = (await claim(queue, worker)).claims
        other = await queue.register(name="other", targets=TARGETS, lease=60.0)
        await queue.release(other, held)
        assert await places(session) == {"in_flight": 1}

    async def test_who_was_called_off_meanwhile_is_finished(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A cancelled request that is given back is not put in line again."""
        request = await insert(session)
        held = await claim(queue, worker)
        await session.execute("SELECT provisioner.cancel($1::bigint[])", ids(held))
        await queue.release(worker, held.claims)
        assert (await row_of(session, request))["status"] == "cancelled"
        assert await places(session) == {}

    async def test_what_nobody_knows_of_is_given_back(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A claim whose answer was lost goes back in line; the worker's known claims stay."""
        await insert_many(session, 6)
        known = ids(await claim(queue, worker, 2))
        await claim(queue, worker, 3)
        assert await queue.release_lost(worker, target="default", known=known) == 3
        assert await places(session) == {"ready": 4, "in_flight": 2}
        assert await queue.release_lost(worker, target="default", known=known) == 0

    async def test_what_nobody_knows_of_may_be_called_off(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A lost claim that was cancelled does not come back to life."""
        request = await insert(session)
        held = ids(await claim(queue, worker))
        await session.execute("SELECT provisioner.cancel($1::bigint[])", held)
        await queue.release_lost(worker, target="default", known=[])
        assert (await row_of(session, request))["status"] == "cancelled"


class TestLeases:
    """Workers come, live and go."""

    async def test_are_renewed_while_the_worker_lives(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A renewal extends the lease and stores the heartbeat."""
        await lapse(session, worker)
        await queue.renew(worker, lease=45.0, heartbeat=Heartbeat(created=7, pace=2.5, stopping=True))
        row = await session.fetchrow(
            "SELECT extract(epoch FROM lease_until - clock_timestamp())::float AS left, created, pace, stopping"
            " FROM provisioner.workers WHERE id = $1",
            worker,
        )
        assert row is not None
        assert 30 < row["left"] <= 45
        assert (row["created"], row["pace"], row["stopping"]) == (7, 2.5, True)

    async def test_who_was_taken_over_learns_it(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """After a rescue the old worker cannot renew any more."""
        await lapse(session, worker)
        await queue.rescue(pause=0.0)
        with pytest.raises(LeaseLost):
            await queue.renew(worker, lease=45.0, heartbeat=Heartbeat())

    async def test_who_holds_nothing_may_leave(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A worker is struck off the list only when everything it held is settled."""
        await insert(session)
        held = (await claim(queue, worker)).claims
        await queue.leave(worker)
        assert await count(session, "workers") == 1
        await queue.release(worker, held)
        await queue.leave(worker)
        assert await count(session, "workers") == 0

    async def test_a_living_workers_requests_are_its_own(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A rescue ignores claims with a valid lease, however old they are."""
        await insert(session)
        await claim(queue, worker)
        await session.execute("UPDATE provisioner.in_flight SET claimed_at = now() - interval '1 day'")
        assert (await queue.rescue(pause=0.0)).requests == 0
        assert await places(session) == {"in_flight": 1}


class TestRescue:
    """The claims of a lost worker."""

    async def test_waits_and_is_in_doubt(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """It is retried after the pause, with another attempt, and looked up first."""
        request = await insert(session)
        (first,) = (await claim(queue, worker)).claims
        await lapse(session, worker)
        rescued = await queue.rescue(pause=30.0)
        assert (rescued.requests, list(rescued.workers)) == (1, ["first"])
        assert await places(session) == {"waiting": 1, "attempt_state": 1}
        row = await session.fetchrow("SELECT * FROM provisioner.request_status WHERE id = $1", request)
        assert row is not None
        assert (row["state"], row["attempts"], row["error_code"]) == ("retrying", 1, "outcome_unknown")
        pause = row["next_attempt_at"] - await session.fetchval("SELECT now()")
        assert timedelta(seconds=20) < pause <= timedelta(seconds=30)
        await soon(session)
        await queue.promote(10)
        other = await queue.register(name="other", targets=TARGETS, lease=60.0)
        (second,) = (await claim(queue, other)).claims
        assert (second.attempt, second.failures, second.since) == (2, 0, first.claimed_at)
        (sent,) = second.doubt
        assert (sent.sent_at, sent.exact, sent.project_id) == (first.claimed_at, False, first.request.project_id)
        assert sent.sent_at < sent.ended_at <= second.claimed_at

    async def test_is_written_down(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The attempt log shows which attempt of which worker was lost."""
        request = await insert(session)
        await claim(queue, worker)
        await lapse(session, worker)
        await queue.rescue(pause=0.0)
        row = await session.fetchrow("SELECT * FROM provisioner.attempts")
        assert row is not None
        assert (row["request_id"], row["attempt"], row["worker"]) == (request, 1, worker)
        assert row["error_code"] == "outcome_unknown"

    async def test_is_taken_over_once(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Concurrent rescues share the work."""
        await insert_many(session, 50)
        await claim(queue, worker)
        await lapse(session, worker)
        rescues = await asyncio.gather(*(queue.rescue(pause=0.0) for _ in range(4)))
        assert sum(rescue.requests for rescue in rescues) == 50
        assert await places(session) == {"waiting": 50, "attempt_state": 50}

    async def test_includes_claims_without_a_worker(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A claim that was committed while its worker was removed is found too."""
        await insert(session)
        await claim(queue, worker)
        await session.execute("DELETE FROM provisioner.workers")
        assert (await queue.rescue(pause=0.0)).requests == 1

    async def test_remembers_earlier_failed_attempts(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Earlier counts stay, and a lost attempt is not the row's fault."""
        await insert(session)
        (first,) = (await claim(queue, worker)).claims
        await queue.settle(worker, [a_settlement(first, Retry(delay=0.0, message="no", counted=True))])
        await soon(session)
        await queue.promote(10)
        await claim(queue, worker)
        await lapse(session, worker)
        await queue.rescue(pause=0.0)
        row = await session.fetchrow("SELECT attempt, sent, failures, since FROM provisioner.attempt_state")
        assert tuple(row or ()) == (2, 2, 1, first.claimed_at)
        assert await session.fetchval("SELECT count(*) FROM provisioner.sent_creates") == 1

    async def test_of_a_cancelled_request_keeps_that_it_was_called_off(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """The next worker looks it up, and creates nothing."""
        await insert(session)
        held = ids(await claim(queue, worker))
        await session.execute("SELECT provisioner.cancel($1::bigint[])", held)
        await lapse(session, worker)
        await queue.rescue(pause=1.0)
        await soon(session)
        await queue.promote(10)
        (last,) = (await claim(queue, await queue.register(name="next", targets=TARGETS, lease=60.0))).claims
        assert (len(last.doubt), last.cancelled) == (1, True)


class TestLook:
    """A worker's poll, once a second."""

    async def test_an_idle_system_shows_nothing(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Nothing in line, nothing due, no lease expired: only the time."""
        assert worker
        snapshot = await queue.poll(marks={"default": FRONT}, served={})
        assert (snapshot.next_due, snapshot.lapsed, snapshot.paused, snapshot.heads) == (None, False, frozenset(), {})
        assert abs(snapshot.now - await session.fetchval("SELECT now()")) < timedelta(seconds=5)

    async def test_shows_what_there_is(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The heads of our targets' lines, the next due time, the paused targets, and an expired lease."""
        later = await session.fetchval("SELECT now() + interval '1 hour'")
        first = await insert(session, priority=4)
        second = await insert(session, target="eu")
        await insert(session, target="others")
        await insert(session, name="later", not_before=later)
        await session.execute("SELECT provisioner.pause('eu')")
        await lapse(session, worker)
        snapshot = await queue.poll(marks={"default": FRONT, "eu": FRONT, "us": FRONT}, served={})
        assert snapshot.heads == {"default": QueuePosition(-4, 1, first), "eu": QueuePosition(0, 1, second)}
        assert snapshot.next_due == later
        assert snapshot.paused == {"eu"}
        assert snapshot.lapsed

    async def test_looks_from_the_mark_on(self, queue: PostgresQueue, session: "Session") -> None:
        """Requests before the mark are not reported."""
        await insert_many(session, 1, each=5)
        third = await session.fetchval("SELECT id FROM provisioner.ready WHERE turn = 3")
        assert (await queue.poll(marks={"default": QueuePosition(0, 3)}, served={})).heads == {
            "default": QueuePosition(0, 3, third)
        }
        assert (await queue.poll(marks={"default": QueuePosition(0, 6)}, served={})).heads == {}

    async def test_tells_newcomers_how_far_it_was_served(self, queue: PostgresQueue, session: "Session") -> None:
        """Only forward: a worker that lags behind does not move the place back."""
        for turn in (5, 9, 7):
            await queue.poll(marks={}, served={"default": QueuePosition(0, turn)})
        await insert(session)
        assert await session.fetchval("SELECT turn FROM provisioner.ready") == 10


class TestPromote:
    """Requests that have become due."""

    async def test_is_put_in_line_when_it_is_due(self, queue: PostgresQueue, session: "Session") -> None:
        """Due requests move, up to the limit, and the first new position of each target is returned."""
        await insert_many(session, 10)
        await insert(session, target="eu", priority=2)
        await session.execute("UPDATE provisioner.connection_requests SET not_before = now() + interval '1 hour'")
        assert await queue.promote(100) == {}
        await soon(session)
        assert await places(session) == {"waiting": 11}
        assert len(await queue.promote(5)) >= 1
        assert await places(session) == {"waiting": 6, "ready": 5}
        heads = await queue.promote(100)
        assert await places(session) == {"ready": 11}
        assert heads["default"] == QueuePosition(0, 1)

    async def test_what_was_tried_before_stands_before_all_that_was_not(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """However long the line is: each project's retries one behind the other, and others' before its second."""
        await insert_many(session, 3, each=2)
        tried = [each.request.id for each in (await claim(queue, worker)).claims]
        await insert_many(session, 50, first=10)
        await session.execute(
            "WITH gone AS (DELETE FROM provisioner.in_flight RETURNING *)"
            " INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)"
            " SELECT id, now(), target, rank, project_id FROM gone"
        )
        await session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_message)"
            " SELECT id, 1, 1, 1, now(), 'no' FROM provisioner.waiting"
        )
        await session.execute(
            "UPDATE provisioner.waiting SET run_at = run_at - interval '1 s' WHERE id <= $1", tried[2]
        )
        heads = await queue.promote(4)
        assert heads["default"].turn < 0
        await queue.promote(100)
        brought = await claim(queue, worker, limit=10)
        found = [each.request for each in brought.claims]
        assert brought.retried == 6
        assert {one.id for one in found[:6]} == set(tried)
        assert [one.project_id for one in found[:3]] == [project(number) for number in (1, 2, 3)]

    async def test_what_was_tried_before_and_is_given_back_keeps_its_place(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A worker that stops does not put its requests behind untried ones."""
        await insert_many(session, 5)
        first = (await claim(queue, worker, limit=1)).claims[0]
        await queue.settle(worker, [a_settlement(first, Retry(delay=0.0, message="no"))])
        await queue.promote(10)
        again = await claim(queue, worker, limit=1)
        assert (again.retried, again.claims[0].request.id) == (1, first.request.id)
        await queue.release(worker, again.claims)
        assert (await claim(queue, worker, limit=1)).claims[0].request.id == first.request.id

    async def test_many_may_do_it_at_once(self, queue: PostgresQueue, session: "Session") -> None:
        """No request is put in line twice."""
        await insert_many(session, 200)
        await session.execute("UPDATE provisioner.connection_requests SET not_before = now() - interval '1 second'")
        await soon(session)
        await asyncio.gather(*(queue.promote(30) for _ in range(8)))
        assert await places(session) == {"ready": 200}
        assert await session.fetchval("SELECT count(DISTINCT id) FROM provisioner.ready") == 200


class TestDisown:
    """Requests for an unknown target."""

    async def test_fail_by_name(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """They are failed with what to do about it; those of living workers' targets are left alone."""
        assert worker
        known, strange = await insert(session), await insert(session, target="nowhere")
        assert list(await queue.fail_unknown_targets(100)) == [strange]
        row = await row_of(session, strange)
        assert (row["status"], row["error_code"]) == ("failed", "target_unknown")
        assert "[targets.nowhere]" in row["error_message"]
        assert row["finished_at"] is not None
        assert (await row_of(session, known))["status"] == "pending"
        assert await places(session) == {"ready": 1}

    async def test_takes_no_more_than_it_may(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A large mistake is worked off in lots."""
        assert worker
        for number in range(5):
            await insert(session, target="nowhere", name=f"n{number}")
        assert [len(await queue.fail_unknown_targets(3)) for _ in range(3)] == [3, 2, 0]

    async def test_an_outage_of_its_workers_fails_nobody(self, queue: PostgresQueue, session: "Session") -> None:
        """While the only worker of a target is restarted, other targets' workers leave its requests alone."""
        gone = await queue.register(name="eu", targets=["eu"], lease=60.0)
        await queue.register(name="us", targets=["us"], lease=60.0)
        await insert(session, target="eu")
        await queue.leave(gone)
        assert list(await queue.fail_unknown_targets(100)) == []

    async def test_what_was_known_is_forgotten(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """If `targets` is emptied, or omitted from a restore, a running worker still knows its own."""
        assert worker
        await insert(session)
        await session.execute("TRUNCATE provisioner.targets")
        assert list(await queue.fail_unknown_targets(100)) == []

    async def test_a_lapsed_worker_fails_nobody(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A lone worker that was stopped for a while, and asks before it renews, does not fail its own requests."""
        await insert(session)
        await lapse(session, worker)
        assert list(await queue.fail_unknown_targets(100)) == []


class TestWorkLeft:
    """What `run --drain` waits for."""

    async def test_is_what_can_be_done_now(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Ready, in flight, and waiting for another attempt; not finished or scheduled for later."""
        assert not await queue.work_left(TARGETS)
        later = await session.fetchval("SELECT now() + interval '1 hour'")
        await insert(session, name="later", not_before=later)
        assert not await queue.work_left(TARGETS)
        await insert(session)
        assert await queue.work_left(TARGETS)
        (claimed,) = (await claim(queue, worker)).claims
        assert await queue.work_left(TARGETS)
        await queue.settle(worker, [a_settlement(claimed, Retry(delay=3600.0, message="no"))])
        assert await queue.work_left(TARGETS)
        await soon(session)
        await queue.promote(10)
        claims = (await claim(queue, worker)).claims
        await queue.settle(worker, [a_settlement(again) for again in claims])
        await session.execute("DELETE FROM provisioner.waiting")
        assert not await queue.work_left(TARGETS)

    async def test_is_not_what_others_do(self, queue: PostgresQueue, session: "Session") -> None:
        """Other targets and paused ones do not keep a drain from ending."""
        await insert(session, target="eu")
        await insert(session)
        await session.execute("SELECT provisioner.pause('default')")
        assert not await queue.work_left(TARGETS)
        assert await queue.work_left(["default", "eu"])
        await session.execute("SELECT provisioner.resume('default')")
        assert await queue.work_left(TARGETS)


class TestLog:
    """Making room in the attempt log."""

    async def test_forgets_what_is_old(self, queue: PostgresQueue, session: "Session") -> None:
        """Older entries than asked for are gone, younger ones stay."""
        for age in ("40 days", "1 minute"):
            await session.execute(
                "INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, outcome)"
                " VALUES (1, 1, 1, 'create', now(), now() - $1::text::interval, 'created')",
                age,
            )
        await queue.turn_log(keep=30 * 86400.0)
        assert await count(session, "attempts") == 1


async def test_a_database_without_the_schema_says_what_to_do(empty_database: Database) -> None:
    """Every call on an empty database names the command that helps."""
    pool = Pool(empty_database.url)
    try:
        with pytest.raises(SchemaMismatch, match="provisioner migrate"):
            await PostgresQueue(pool).promote(1)
    finally:
        await pool.close()


@pytest.mark.parametrize("file", ["claim", "maintenance", "settle", "permits"])
async def test_no_statement_depends_on_the_search_path(session: "Session", file: str) -> None:
    """Every name is qualified with its schema, because a pooler may share a session with any search path."""
    await session.execute("SET search_path = ''")
    for statement in statements(file).values():
        await session.prepare(statement)
