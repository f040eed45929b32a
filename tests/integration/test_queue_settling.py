"""Claims end by one statement of their owner, and nothing is kept that a row must not keep."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import OutcomeUnstorable
from provisioner.core.model import Action, Cancel, Claim, ErrorCode, Fail, Outcome, Result, Retry, Succeed
from provisioner.core.queue_values import FRONT, Report
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from tests.support import eventually
from tests.support.builders import ORGANIZATION, a_connection, a_record, a_settlement, doubted
from tests.support.postgres import Database
from tests.support.sessions import SEALED, WIPED, count, insert, insert_many, lapse, places, row_of, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.sessions import Session

REFUSED = Fail(code=ErrorCode.INVALID_REQUEST, message="no")
LATER = Retry(delay=60.0, message="not now", code=ErrorCode.PERMISSION_DENIED, counted=True)


@pytest.fixture
async def worker(queue: PostgresQueue) -> int:
    """Lend a worker that is alive."""
    return await queue.register(name="first", targets=["default"], lease=60.0)


async def claimed(queue: PostgresQueue, worker: int) -> list[Claim]:
    """Claim everything."""
    return list((await queue.claim(worker, target="default", start=FRONT, limit=1000)).claims)


async def one(queue: PostgresQueue, worker: int, session: "Session", **columns: object) -> Claim:
    """Insert a request and claim it."""
    await insert(session, **columns)
    (claim,) = await claimed(queue, worker)
    return claim


async def call_off(session: "Session", claim: Claim) -> None:
    """Cancel a request."""
    await session.execute("SELECT provisioner.cancel(ARRAY [$1::bigint])", claim.request.id)


class TestSucceed:
    """A connection was made."""

    async def test_is_recorded(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The row has Infisical's ids and hash and how often it was sent; nothing of it is left in the queue."""
        claim = await one(queue, worker, session)
        report = await queue.settle(worker, [a_settlement(claim, Succeed(connection=a_connection()))])
        assert report == Report(settled=frozenset({claim.request.id}))
        row = await row_of(session, claim.request.id)
        assert row["status"] == "succeeded"
        assert str(row["connection_id"]) == a_connection().id
        assert str(row["org_id"]) == ORGANIZATION
        assert row["credentials_hash"] == a_connection().credentials_hash
        assert (row["adopted"], row["attempts"]) == (False, 1)
        assert (row["error_code"], row["error_message"]) == (None, None)
        assert abs(row["finished_at"] - await session.fetchval("SELECT now()")) < timedelta(seconds=10)
        assert await places(session) == {}

    async def test_after_failed_attempts_leaves_none(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Earlier errors are cleared, except for the number of creates."""
        await queue.settle(worker, [a_settlement(await one(queue, worker, session), LATER)])
        await soon(session)
        await queue.promote(10)
        (again,) = await claimed(queue, worker)
        await queue.settle(worker, [a_settlement(again, Succeed(connection=a_connection(), adopted=True))])
        row = await row_of(session, again.request.id)
        assert (row["status"], row["adopted"], row["attempts"]) == ("succeeded", True, 2)
        assert await places(session) == {}

    async def test_wipes_the_sealed_key(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A sealed key is gone with the success; a credential's name stays."""
        claim = await one(queue, worker, session, credential=SEALED)
        await queue.settle(worker, [a_settlement(claim)])
        assert (await row_of(session, claim.request.id))["credential"] == WIPED
        named = await one(queue, worker, session, name="named", credential="team-a")
        await queue.settle(worker, [a_settlement(named)])
        assert (await row_of(session, named.request.id))["credential"] == "team-a"

    async def test_counts_though_it_was_called_off(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A connection that a cancelled attempt made is recorded."""
        claim = await one(queue, worker, session)
        await call_off(session, claim)
        await queue.settle(worker, [a_settlement(claim)])
        assert (await row_of(session, claim.request.id))["status"] == "succeeded"

    async def test_updates_in_place(self, database: Database, session: "Session") -> None:
        """Rows are updated within their page: no index of the wide table grows by a settlement."""
        await insert_many(session, 3000)
        pool = Pool(database.url)
        queue = PostgresQueue(pool)
        worker = await queue.register(name="first", targets=["default"], lease=60.0)
        for _ in range(30):
            claims = (await queue.claim(worker, target="default", start=FRONT, limit=100)).claims
            await queue.settle(worker, [a_settlement(claim) for claim in claims])
        await pool.close()  # a session reports its statistics when it ends
        updated: Callable[[], int | Awaitable[int]] = partial(_hot_updates, session)
        # A row ends nearly twice as wide as it begins, and a batch updates all rows of a page at once: with the
        # fillfactor of 35 every update is in place, and the table ends up smaller than with 65.
        assert await eventually(updated) >= 0.95 * 3000


async def _hot_updates(session: "Session") -> int:
    row = await session.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE relid = 'provisioner.connection_requests'::regclass"
    )
    assert row is not None
    assert row["n_tup_upd"] == 3000
    return int(row["n_tup_hot_upd"])


class TestEvidence:
    """The creates in doubt are kept, and no more of them than necessary."""

    async def test_what_a_stale_worker_made_is_told(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Others took the request over before its create was answered: they learn that it was sent, and until when."""
        claim = await one(queue, worker, session)
        await lapse(session, worker)
        await queue.rescue(pause=60.0)
        ended = claim.claimed_at + timedelta(seconds=100)
        records = a_record(started_at=ended - timedelta(seconds=10), elapsed=10.0)
        report = await queue.settle(worker, [a_settlement(claim, records=[records])])
        assert report.fenced == {claim.request.id}
        row = await session.fetchrow("SELECT sent_at, ended_at, exact FROM provisioner.sent_creates")
        assert tuple(row or ()) == (claim.claimed_at, ended, False)

    async def test_evidence_is_kept_in_few_pieces(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """An outage in which a create is lost every few seconds leaves one row, and success leaves none."""
        claim = await one(queue, worker, session)
        for _ in range(5):
            await queue.settle(worker, [a_settlement(doubted(claim), replace(LATER, counted=False))])
            await soon(session)
            await queue.promote(10)
            (claim,) = await claimed(queue, worker)
            assert len(claim.doubt) == 1
        assert await count(session, "sent_creates") == 1
        await queue.settle(worker, [a_settlement(claim)])
        assert await count(session, "sent_creates") == 0


class TestFail:
    """A person has to act."""

    async def test_is_recorded_with_its_reason(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The row has the error; its attempt state is kept for a later `retry`."""
        claim = await one(queue, worker, session, credential=SEALED)
        await queue.settle(worker, [a_settlement(doubted(claim), REFUSED)])
        row = await row_of(session, claim.request.id)
        assert (row["status"], row["error_code"], row["error_message"]) == ("failed", "invalid_request", "no")
        assert (row["attempts"], row["credential"]) == (1, SEALED)
        assert row["finished_at"] is not None
        assert await places(session) == {"attempt_state": 1}
        await session.execute("SELECT provisioner.retry(ARRAY [$1::bigint])", claim.request.id)
        await queue.promote(10)
        (again,) = await claimed(queue, worker)
        assert (again.attempt, again.sent, again.failures, len(again.doubt)) == (2, 1, 0, 1)
        assert again.since == claim.claimed_at

    async def test_keeps_an_older_doubt(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A failure that says nothing of an earlier attempt does not settle that attempt."""
        first = await one(queue, worker, session)
        await queue.settle(worker, [a_settlement(doubted(first), LATER)])
        await soon(session)
        await queue.promote(10)
        (second,) = await claimed(queue, worker)
        await queue.settle(worker, [a_settlement(second, REFUSED)])
        assert await count(session, "sent_creates") == 1

    async def test_of_a_cancelled_request_ends_it(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """A request that was cancelled meanwhile and made nothing is cancelled instead of failed."""
        claim = await one(queue, worker, session)
        await call_off(session, claim)
        await queue.settle(worker, [a_settlement(claim, REFUSED)])
        assert (await row_of(session, claim.request.id))["status"] == "cancelled"

    async def test_of_a_cancelled_request_wipes_its_key(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Every kind of cancellation wipes the sealed key."""
        claim = await one(queue, worker, session, credential=SEALED)
        await call_off(session, claim)
        await queue.settle(worker, [a_settlement(claim, REFUSED)])
        assert (await row_of(session, claim.request.id))["credential"] == WIPED


class TestPutBack:
    """It is tried again."""

    async def test_waits_and_shows_why(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The view shows the last error and the next attempt of a request that will be retried."""
        claim = await one(queue, worker, session)
        await queue.settle(worker, [a_settlement(claim, LATER)])
        row = await session.fetchrow("SELECT *, next_attempt_at - now() AS pause FROM provisioner.request_status")
        assert row is not None
        assert (row["state"], row["attempts"]) == ("retrying", 1)
        assert (row["error_code"], row["error_message"]) == ("permission_denied", "not now")
        assert timedelta(seconds=50) < row["pause"] <= timedelta(seconds=60)
        assert (await row_of(session, claim.request.id))["status"] == "pending"

    async def test_counts_what_is_the_rows_own_fault_only(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """Attempts, creates and counted failures are counted apart."""
        await insert(session)
        for outcome in (LATER, replace(LATER, counted=False), LATER):
            (claim,) = await claimed(queue, worker)
            await queue.settle(worker, [a_settlement(claim, outcome)])
            await soon(session)
            await queue.promote(10)
        (claim,) = await claimed(queue, worker)
        assert (claim.attempt, claim.sent, claim.failures) == (4, 3, 2)

    async def test_does_not_come_back_once_called_off(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A request that was cancelled in flight and certainly made nothing ends, and its sealed key is wiped."""
        claim = await one(queue, worker, session, credential=SEALED)
        await call_off(session, claim)
        report = await queue.settle(worker, [a_settlement(claim, LATER)])
        assert report.settled == {claim.request.id}
        row = await row_of(session, claim.request.id)
        assert (row["status"], row["credential"], row["attempts"]) == ("cancelled", WIPED, 1)
        assert "waiting" not in await places(session)

    async def test_is_looked_up_once_more_when_in_doubt(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A request that was cancelled in flight and is in doubt continues until a look-up ends it."""
        claim = await one(queue, worker, session)
        await call_off(session, claim)
        await queue.settle(worker, [a_settlement(doubted(claim), replace(LATER, delay=1.0))])
        await soon(session)
        await queue.promote(10)
        (last,) = await claimed(queue, worker)
        assert (len(last.doubt), last.cancelled) == (1, True)


class TestCancel:
    """It was cancelled and made nothing."""

    async def test_ends_it(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """The row is finished, its key wiped, and nothing of it is left in the queue."""
        claim = await one(queue, worker, session, credential=SEALED)
        await queue.settle(worker, [a_settlement(claim, Cancel(), sent=0)])
        row = await row_of(session, claim.request.id)
        assert (row["status"], row["credential"], row["attempts"]) == ("cancelled", WIPED, 0)
        assert row["finished_at"] is not None
        assert await places(session) == {}


class TestFencing:
    """A worker that does not own a claim settles nothing."""

    @pytest.mark.parametrize("outcome", [Succeed(connection=a_connection()), REFUSED, LATER, Cancel()], ids=repr)
    async def test_a_stale_worker_changes_nothing(
        self,
        queue: PostgresQueue,
        worker: int,
        session: "Session",
        outcome: Outcome,
    ) -> None:
        """A late result for a request that others took over is recognised and not recorded."""
        stale = await one(queue, worker, session, credential=SEALED)
        await lapse(session, worker)
        await queue.rescue(pause=0.0)
        await soon(session)
        await queue.promote(10)
        other = await queue.register(name="other", targets=["default"], lease=60.0)
        (current,) = await claimed(queue, other)
        before = await _everything(session)
        report = await queue.settle(worker, [a_settlement(stale, outcome)])
        assert report == Report(fenced=frozenset({stale.request.id}))
        assert await _everything(session) == before
        assert (await queue.settle(other, [a_settlement(current)])).settled == {current.request.id}

    @pytest.mark.parametrize("outcome", [Succeed(connection=a_connection()), REFUSED, LATER, Cancel()], ids=repr)
    async def test_the_same_attempt_of_another_worker_is_anothers(
        self, queue: PostgresQueue, worker: int, session: "Session", outcome: Outcome
    ) -> None:
        """A claim that was given back unsent keeps its attempt; its former owner settles nothing."""
        first = await one(queue, worker, session)
        await queue.release(worker, [first])
        other = await queue.register(name="other", targets=["default"], lease=60.0)
        (current,) = await claimed(queue, other)
        assert current.attempt == first.attempt
        before = await _everything(session)
        assert (await queue.settle(worker, [a_settlement(first, outcome)])).settled == frozenset()
        assert await _everything(session) == before

    async def test_an_earlier_attempt_of_the_same_worker_is_stale_too(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """The attempt fences as well as the worker."""
        first = await one(queue, worker, session)
        await queue.settle(worker, [a_settlement(first, LATER)])
        await soon(session)
        await queue.promote(10)
        await claimed(queue, worker)
        before = await _everything(session)
        assert (await queue.settle(worker, [a_settlement(first)])).settled == frozenset()
        assert await _everything(session) == before

    @pytest.mark.parametrize("outcome", [Succeed(connection=a_connection()), REFUSED, LATER, Cancel()], ids=repr)
    async def test_settling_twice_is_harmless(
        self, queue: PostgresQueue, worker: int, session: "Session", outcome: Outcome
    ) -> None:
        """A settlement whose answer was lost may be sent again."""
        claim = await one(queue, worker, session)
        await queue.settle(worker, [a_settlement(claim, outcome)])
        before = await _everything(session)
        await queue.settle(worker, [a_settlement(claim, outcome)])
        assert await _everything(session) == before

    async def test_a_deleted_request_is_settled_by_nobody(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A request that was deleted in flight stays deleted."""
        claim = await one(queue, worker, session)
        await session.execute("DELETE FROM provisioner.connection_requests")
        for outcome in (Succeed(connection=a_connection()), REFUSED, LATER):
            assert (await queue.settle(worker, [a_settlement(claim, outcome)])).settled == frozenset()
        assert await places(session) == {}


async def _everything(session: "Session") -> list[object]:
    tables = ("connection_requests", "ready", "waiting", "in_flight", "attempt_state")
    return [await session.fetch(f"SELECT * FROM provisioner.{table}") for table in tables]


class TestBatch:
    """Many settlements in one transaction."""

    async def test_holds_every_kind_of_outcome(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Each row of a mixed batch gets its own end."""
        await insert_many(session, 8)
        claims = await claimed(queue, worker)
        outcomes: list[Outcome] = [Succeed(connection=a_connection()), REFUSED, LATER, Cancel()] * 2
        batch = [a_settlement(claim, outcome) for claim, outcome in zip(claims, outcomes, strict=True)]
        report = await queue.settle(worker, batch)
        assert report.settled == {claim.request.id for claim in claims}
        told = await session.fetch("SELECT id, state FROM provisioner.request_status ORDER BY id")
        by_id = {row["id"]: row["state"] for row in told}
        states = [by_id[claim.request.id] for claim in claims]
        assert states == ["succeeded", "failed", "retrying", "cancelled"] * 2
        assert await places(session) == {"waiting": 2, "attempt_state": 4}

    async def test_tells_what_was_settled_and_what_was_not(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """One row that others took over does not delay the rest."""
        await insert_many(session, 3)
        first, *rest = await claimed(queue, worker)
        await session.execute("DELETE FROM provisioner.in_flight WHERE id = $1", first.request.id)
        report = await queue.settle(worker, [a_settlement(claim) for claim in (first, *rest)])
        assert report.fenced == {first.request.id}
        assert report.settled == {claim.request.id for claim in rest}

    async def test_is_written_wholly_or_not_at_all(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """When one statement of a batch fails, none of it has happened, and it can be sent again."""
        await insert_many(session, 2)
        good, bad = await claimed(queue, worker)
        broken = a_settlement(bad, Fail(code=ErrorCode.GAVE_UP, message="a NUL \0 in it"))
        with pytest.raises(OutcomeUnstorable):
            await queue.settle(worker, [a_settlement(good), broken])
        assert await places(session) == {"in_flight": 2}

    async def test_what_can_never_be_written_is_no_outage(
        self, queue: PostgresQueue, worker: int, session: "Session"
    ) -> None:
        """A value that the database can never store must not look like temporary trouble, or it is retried for ever."""
        claim = await one(queue, worker, session)
        broken = a_settlement(claim, Succeed(connection=a_connection(id="no uuid at all")))
        with pytest.raises(OutcomeUnstorable):
            await queue.settle(worker, [broken])

    async def test_of_nothing_is_nothing(self, queue: PostgresQueue, worker: int) -> None:
        """An empty batch is no error."""
        assert await queue.settle(worker, []) == Report()


class TestLog:
    """The attempts and their outcomes."""

    async def test_has_each_call(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """Every call of an attempt is written down; the last one has the code that it ended with."""
        claim = await one(queue, worker, session)
        calls = [
            a_record(action=Action.CREATE, status=400, result=Result.NAME_TAKEN, message="exists"),
            a_record(action=Action.IDENTIFY, status=403, result=Result.FORBIDDEN, message="no right", elapsed=1.5),
        ]
        await queue.settle(worker, [a_settlement(claim, LATER, records=calls)])
        rows = await session.fetch(
            "SELECT request_id, attempt, worker, action, http_status, req_id, error_code, error_message,"
            " ended_at - started_at AS took FROM provisioner.attempts ORDER BY action"
        )
        same = (claim.request.id, 1, worker)
        assert [tuple(row) for row in rows] == [
            (*same, "create", 400, "req-0123456789abcd", None, "exists", timedelta(seconds=0.2)),
            (*same, "identify", 403, "req-0123456789abcd", "permission_denied", "no right", timedelta(seconds=1.5)),
        ]

    async def test_has_what_was_sent_in_vain_too(self, queue: PostgresQueue, worker: int, session: "Session") -> None:
        """An attempt whose claim was lost is logged, because it was sent."""
        claim = await one(queue, worker, session)
        await lapse(session, worker)
        await queue.rescue(pause=0.0)
        before = await count(session, "attempts")
        call = a_record()
        await queue.settle(worker, [a_settlement(claim, records=[call])])
        assert await count(session, "attempts") == before + 1
