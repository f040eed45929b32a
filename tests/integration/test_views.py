"""The views that people read: the queue, and the log of attempts."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from tests.support.postgres import Database
from tests.support.sessions import count, insert, take

if TYPE_CHECKING:
    from tests.support.sessions import Session


class TestViews:
    """The views that people read."""

    async def test_every_state_is_told(self, session: "Session") -> None:
        """Each request has its live state, and while it is pending its attempts and its last error too."""
        ids = {name: await insert(session, name=name) for name in ("ready", "behind", "flying", "retrying", "ended")}
        await take(session, ids["flying"], attempt=3)
        await session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_code, error_message)"
            " SELECT id, 2, 2, 1, now(), 'permission_denied', 'no' FROM unnest($1::bigint[]) AS id",
            [ids["flying"], ids["retrying"]],
        )
        await session.execute(
            "WITH gone AS (DELETE FROM provisioner.ready WHERE id = $1 RETURNING *)"
            " INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)"
            " SELECT id, now() + interval '5 seconds', target, rank, project_id FROM gone",
            ids["retrying"],
        )
        await session.execute(
            "DELETE FROM provisioner.ready WHERE id = $1",
            ids["ended"],
        )
        await session.execute(
            "UPDATE provisioner.connection_requests SET status = 'failed', attempts = 8, error_code = 'gave_up',"
            " finished_at = now() WHERE id = $1",
            ids["ended"],
        )
        rows = await session.fetch(
            "SELECT name, state, attempts, error_code, next_attempt_at IS NOT NULL, queue_position"
            " FROM provisioner.request_status ORDER BY id"
        )
        assert [tuple(row) for row in rows] == [
            ("ready", "ready", 0, None, False, 1),
            ("behind", "ready", 0, None, False, 2),
            ("flying", "in_flight", 2, "permission_denied", False, None),
            ("retrying", "retrying", 2, "permission_denied", True, None),
            ("ended", "failed", 8, "gave_up", False, None),
        ]

    async def test_each_target_has_its_own_line(self, session: "Session") -> None:
        """Places count within a target, the urgent ones first."""
        for target, name, priority in (("eu", "a", 0), ("eu", "b", 9), ("us", "a", 0)):
            await insert(session, target=target, name=name, priority=priority)
        rows = await session.fetch("SELECT target, name, queue_position FROM provisioner.request_status")
        assert {tuple(row) for row in rows} == {("eu", "b", 1), ("eu", "a", 2), ("us", "a", 1)}

    async def test_batches_are_counted(self, session: "Session") -> None:
        """Each batch, requests without one, and the total."""
        for number in range(3):
            await insert(session, name=f"a{number}", batch="a")
        await insert(session, name="b", batch="b", status="succeeded")
        await insert(session, name="none")
        await take(session, await insert(session, name="flying", batch="a"))
        rows = await session.fetch(
            "SELECT batch, total, requests, ready, in_flight, succeeded, started_at IS NOT NULL"
            " FROM provisioner.batch_progress ORDER BY total, batch"
        )
        assert [tuple(row) for row in rows] == [
            ("a", False, 4, 3, 1, 0, True),
            ("b", False, 1, 0, 0, 1, True),
            (None, False, 1, 1, 0, 0, True),
            (None, True, 6, 4, 1, 1, True),
        ]


class TestAttemptLog:
    """The log of attempts, by days."""

    async def log(self, session: "Session", *, days: int) -> None:
        """Log an attempt that ended this many days from now."""
        await session.execute(
            "INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, outcome)"
            " VALUES (1, 1, 1, 'create', now(), now() + make_interval(days => $1), 'created')",
            days,
        )

    async def test_today_has_its_place(self, session: "Session") -> None:
        """Records of today and tomorrow can be dropped by the day."""
        for days in (0, 1):
            await self.log(session, days=days)
        assert await count(session, "attempts") == 2
        assert await count(session, "attempts_other") == 0

    async def test_what_is_old_is_forgotten(self, session: "Session") -> None:
        """Older days are dropped whole, and what found no day is deleted."""
        await session.execute(
            "CREATE TABLE provisioner.attempts_20200101 PARTITION OF provisioner.attempts"
            " FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"
        )
        await self.log(session, days=0)
        await self.log(session, days=-40)
        await session.execute("SELECT provisioner.turn_attempt_log(interval '30 days')")
        assert await count(session, "attempts") == 1
        assert await session.fetchval("SELECT to_regclass('provisioner.attempts_20200101')") is None

    async def test_a_day_that_began_without_its_place_does_no_harm(self, session: "Session") -> None:
        """Attempts that were logged before the log was rotated, after days without a worker, stop nothing."""
        # A partition cannot be made for rows that the default partition has already.
        days = await session.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
            " WHERE inhparent = 'provisioner.attempts'::regclass AND inhrelid::regclass::text ~ '[0-9]{8}$'"
        )
        for day in days:
            await session.execute(f"DROP TABLE {day['name']}")
        await self.log(session, days=0)
        await session.execute("SELECT provisioner.turn_attempt_log(interval '30 days')")
        assert await count(session, "attempts") == 1

    async def test_two_may_turn_it_at_once(self, database: Database, session: "Session") -> None:
        """Concurrent workers do not fail."""
        others = [await asyncpg.connect(database.url) for _ in range(4)]
        try:
            await asyncio.gather(
                *(other.execute("SELECT provisioner.turn_attempt_log(interval '30 days')") for other in others)
            )
        finally:
            for other in others:
                await other.close()
        assert await count(session, "attempts") == 0


class TestWaiting:
    """Waiting requests, by reason."""

    async def test_what_is_retried_and_what_is_held_are_counted_apart(self, session: "Session") -> None:
        """Both wait, and only one of them needs a person."""
        first, second, _ = [await insert(session, name=f"n{n}", batch="b") for n in range(3)]
        await session.execute(
            "WITH gone AS (DELETE FROM provisioner.ready WHERE id = ANY ($1) RETURNING *)"
            " INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)"
            " SELECT id, now(), target, rank, project_id, CASE WHEN id = $2 THEN 'credential:x' END FROM gone",
            [first, second],
            second,
        )
        await session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_message)"
            " VALUES ($1, 1, 1, 1, now(), 'no')",
            first,
        )
        row = await session.fetchrow(
            "SELECT waiting, retrying, quarantined, ready FROM provisioner.batch_progress WHERE total"
        )
        assert tuple(row or ()) == (0, 1, 1, 1)
