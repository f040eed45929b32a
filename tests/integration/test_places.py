"""Every pending request has a place, one alone, and ids that come again bring nothing of the old ones with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.core.model import Retry
from provisioner.core.queue_values import FRONT, Report
from provisioner.postgres.detail import read_attempts
from provisioner.postgres.pool import Database as Pool
from tests.support.builders import a_record, a_settlement, project
from tests.support.sessions import MISCOUNTED, count, insert, insert_many, places, row_of
from tests.support.small_world import SmallWorld

if TYPE_CHECKING:
    from provisioner.postgres.queue import PostgresQueue
    from tests.support.postgres import Database
    from tests.support.sessions import Session

AGAIN = {
    "truncated": "TRUNCATE provisioner.connection_requests RESTART IDENTITY",
    "deleted": "DELETE FROM provisioner.connection_requests",
    "emptied past the triggers": (
        "SET session_replication_role = replica; DELETE FROM provisioner.connection_requests;"
        " DELETE FROM provisioner.in_flight; RESET session_replication_role"
    ),
}
LOAD = (
    "INSERT INTO provisioner.connection_requests (project_id, name, batch)"
    " SELECT gen_random_uuid(), 'number-' || n, 'loaded' FROM generate_series(1, $1::int) AS n"
)


async def load(session: Session, rows: int) -> None:
    """Load requests with triggers off, as a restore or a replica does."""
    await session.execute("SET session_replication_role = replica")
    await session.execute(LOAD, rows)
    await session.execute("RESET session_replication_role")


class TestIdsThatComeAgain:
    """Requests that reuse ids whose earlier creates are still running."""

    @pytest.mark.parametrize("how", AGAIN)
    async def test_are_not_given_the_others_connections(
        self, database: Database, queue: PostgresQueue, session: Session, how: str
    ) -> None:
        """Earlier claims are fenced off, although worker, id and attempt are the same."""
        await insert_many(session, 8)
        worker = await queue.register(name="w", targets=["default"], lease=60.0)
        old = (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        await session.execute(AGAIN[how])
        await session.execute("ALTER SEQUENCE provisioner.connection_requests_id_seq RESTART")
        await insert_many(session, 8, first=101)
        new = (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        assert {(each.request.id, each.attempt) for each in new} == {(each.request.id, each.attempt) for each in old}
        traces = [a_record(started_at=each.claimed_at) for each in old]
        late = [a_settlement(each, records=[trace]) for each, trace in zip(old, traces, strict=True)]
        ids = frozenset(each.request.id for each in old)
        assert await queue.settle(worker, late) == Report(fenced=ids)
        await queue.release(worker, old)
        assert await places(session) == {"in_flight": 8}
        pool = Pool(database.url)
        assert await read_attempts(pool, new[0].request.id) == ([], 0)
        await pool.close()
        assert await queue.settle(worker, [a_settlement(each) for each in new]) == Report(settled=ids)
        connections = (
            "SELECT count(DISTINCT project_id) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        )
        assert await session.fetchval(connections) == 8
        if how == "emptied past the triggers":
            await session.execute("SELECT provisioner.recount()")

    async def test_an_id_that_is_given_again(self, queue: PostgresQueue, session: Session) -> None:
        """A request that is deleted and inserted with its old id is another one."""
        request = await insert(session)
        worker = await queue.register(name="w", targets=["default"], lease=60.0)
        (old,) = (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        await session.execute("DELETE FROM provisioner.connection_requests")
        await session.execute(
            "INSERT INTO provisioner.connection_requests (id, project_id) OVERRIDING SYSTEM VALUE VALUES ($1, $2)",
            request,
            project(2),
        )
        (new,) = (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        assert new.attempt == old.attempt
        assert (await queue.settle(worker, [a_settlement(old)])).fenced == {request}
        assert (await queue.settle(worker, [a_settlement(old, Retry(delay=1.0, message=""))])).fenced == {request}
        assert (await row_of(session, request))["status"] == "pending"


class TestSettledTwice:
    """A settlement that is repeated because its answer was lost."""

    @pytest.mark.parametrize("outcome", [None, Retry(delay=1.0, message="later")])
    async def test_is_logged_once(self, queue: PostgresQueue, session: Session, outcome: Retry | None) -> None:
        """The second settlement finds nothing in flight, and its log entries exist already."""
        await insert(session)
        worker = await queue.register(name="w", targets=["default"], lease=60.0)
        (claim,) = (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        settlement = a_settlement(
            claim, outcome, records=[a_record(), a_record(elapsed=2.0, started_at=claim.claimed_at)]
        )
        for _ in range(2):
            await queue.settle(worker, [settlement])
        assert await count(session, "attempts") == 2

    async def test_a_plain_success_too(self, queue: PostgresQueue, session: Session) -> None:
        """The statement that records and logs in one does not log twice either."""
        await insert(session)
        worker = await queue.register(name="w", targets=["default"], lease=60.0)
        (claim,) = (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        for _ in range(2):
            await queue.settle(worker, [a_settlement(claim, records=[a_record()])])
        assert await count(session, "attempts") == 1


class TestWithoutAPlace:
    """Requests that were written with triggers off."""

    async def test_are_found_and_done(self, database: Database) -> None:
        """A worker puts them in line, makes them, and corrects the counts."""
        async with SmallWorld(database) as it:
            await insert_many(it.session, 3)
            await load(it.session, 30)
            await it.start()
            await it.done(within=30)
            assert it.server.creates == 33
            await it.until(f"SELECT count(*) FROM ({MISCOUNTED}) AS m", 0)

    async def test_keep_a_drain_from_ending(self, database: Database) -> None:
        """A drain looks for them once before it ends, and does them first."""
        async with SmallWorld(database, drain=True) as it:
            await load(it.session, 5)
            await it.start()
            await it.ended()
            states = "SELECT DISTINCT status FROM provisioner.connection_requests"
            assert [row["status"] for row in await it.session.fetch(states)] == ["succeeded"]
            await it.session.execute("SELECT provisioner.recount()")

    async def test_a_sweep_goes_round_in_lots(self, queue: PostgresQueue, session: Session) -> None:
        """Each lot continues where the last one ended; the newest are always checked; after the end it starts over."""
        await load(session, 100)
        found = [await queue.sweep(20, pause=0.0) for _ in range(6)]
        assert [each.placed for each in found] == [25, 20, 20, 20, 15, 0]
        assert [each.done for each in found] == [False] * 5 + [True]
        assert await places(session) == {"waiting": 100}
        assert await queue.recount() == 1
        assert await queue.recount() == 0

    async def test_one_sweep_at_a_time(self, queue: PostgresQueue, session: Session) -> None:
        """A sweep so soon after another does nothing."""
        await load(session, 1)
        assert (await queue.sweep(20, pause=60.0)).placed == 1
        await session.execute("DELETE FROM provisioner.waiting")
        assert (await queue.sweep(20, pause=60.0)).found == 0
        assert await queue.recount() == 1

    async def test_what_breaks_a_rule_fails(self, queue: PostgresQueue, session: Session) -> None:
        """A row that an insert would have refused fails with the message of that refusal."""
        await session.execute("SET session_replication_role = replica")
        await session.execute("INSERT INTO provisioner.connection_requests (project_id, name) VALUES (NULL, 'no')")
        await session.execute("RESET session_replication_role")
        assert (await queue.sweep(20, pause=0.0)).placed == 1
        row = await session.fetchrow("SELECT * FROM provisioner.connection_requests")
        assert row is not None
        assert (row["status"], row["error_code"]) == ("failed", "invalid_request")
        assert row["error_message"] == "project_id is required: the UUID of the Infisical project"
        assert await queue.recount() == 1

    async def test_set_to_pending_by_hand(self, queue: PostgresQueue, session: Session) -> None:
        """Setting a request to pending retries it; an invalid status is refused."""
        request = await insert(session)
        await session.execute("SELECT provisioner.cancel(ARRAY [$1::bigint])", request)
        assert await places(session) == {}
        await session.execute("UPDATE provisioner.connection_requests SET status = 'pending', finished_at = NULL")
        assert await places(session) == {"waiting": 1}
        with pytest.raises(Exception, match="status must be pending"):
            await session.execute("UPDATE provisioner.connection_requests SET status = 'again'")
        assert (await queue.sweep(20, pause=0.0)).found == 0

    async def test_finished_by_hand(self, queue: PostgresQueue, session: Session) -> None:
        """Setting a request in line to cancelled prevents its claim."""
        await insert(session)
        await session.execute("UPDATE provisioner.connection_requests SET status = 'cancelled'")
        worker = await queue.register(name="w", targets=["default"], lease=60.0)
        assert not (await queue.claim(worker, target="default", start=FRONT, limit=8)).claims
        assert await places(session) == {}


async def test_counts_of_nothing_are_taken_out(queue: PostgresQueue, session: Session) -> None:
    """Requests of many batches that are deleted again leave no counts behind."""
    await session.execute(
        "INSERT INTO provisioner.connection_requests (project_id, name, batch)"
        " SELECT gen_random_uuid(), 'openrouter', 'batch ' || n FROM generate_series(1, 500) AS n"
    )
    await queue.fold(10_000, retried={})
    assert await count(session, "counts") == 500
    await session.execute("DELETE FROM provisioner.connection_requests WHERE batch <> 'batch 7'")
    await queue.fold(10_000, retried={})
    assert await count(session, "counts") == 1
