"""When a batch ends, or why that is unknown: the database's facts, the core's decision, the view's result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.core.forecast import NoForecast
from provisioner.postgres import forecasts
from tests.support.builders import project
from tests.support.sessions import count, insert, insert_many

if TYPE_CHECKING:
    from provisioner.postgres.queue import PostgresQueue
    from tests.support.sessions import Session

WORKER = (
    "INSERT INTO provisioner.workers (name, version, targets, lease_until)"
    " VALUES ('w', '0', '{default,other,eu}', now() + interval '1 hour')"
)
LIMIT = (
    "INSERT INTO provisioner.permits (target, kind, metered, permits, period) VALUES ('default', 'write', true, 60, 60)"
)
HOLD = (
    "WITH gone AS (DELETE FROM provisioner.ready RETURNING *)"
    " INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)"
    " SELECT id, now() + interval '20 seconds', target, rank, project_id, {} FROM gone"
)


@pytest.fixture
async def session(session: Session) -> Session:
    """Lend a connection as any client has one, with a worker at work and 60 creates a minute allowed."""
    await session.execute(WORKER)
    await session.execute(LIMIT)
    return session


async def ask(session: Session, batch: str, requests: int, *, priority: int = 0, one: bool = False) -> None:
    """Ask for connections in as many projects, or in one."""
    await session.execute(
        "INSERT INTO provisioner.connection_requests (project_id, name, batch, priority)"
        " SELECT CASE WHEN $3 THEN $4::uuid ELSE gen_random_uuid() END, 'n-' || n, $1, $5"
        " FROM generate_series(1, $2::int) AS n",
        batch,
        requests,
        one,
        project(1),
        priority,
    )


async def shown(session: Session) -> dict[str | None, object]:
    """The view by batch: the seconds until the end, or why that is unknown. `total` is everything."""
    rows = await session.fetch(
        "SELECT CASE WHEN total THEN 'total' ELSE batch END AS batch,"
        " extract(epoch FROM ends_at - now())::float AS ends, ends_why FROM provisioner.batch_progress"
    )
    return {row["batch"]: row["ends_why"] or pytest.approx(row["ends"], abs=0.2) for row in rows}


async def foreseen(session: Session, queue: PostgresQueue, *, measured: bool = False) -> dict[str | None, object]:
    """The same after a full computation; unless `measured`, recent endings say nothing."""
    await session.execute("UPDATE provisioner.forecast_turn SET due_at = '-infinity'")
    if not measured:
        await session.execute("UPDATE provisioner.line_forecasts SET busy = false")
    assert await queue.renew_forecasts(every=2.0)
    return await shown(session)


class TestPlaces:
    """A batch ends when its last request has been served."""

    async def test_projects_take_turns(self, session: Session, queue: PostgresQueue) -> None:
        """A small batch of other projects ends long before a whale that was there first, and the whale last of all."""
        await ask(session, "whale", 50, one=True)
        await ask(session, "small", 5)
        assert await foreseen(session, queue) == {"whale": 55.0, "small": 6.0, "total": 55.0}

    async def test_a_priority_goes_first(self, session: Session, queue: PostgresQueue) -> None:
        """Urgent requests end first, and the others after them."""
        await ask(session, "usual", 10)
        await ask(session, "urgent", 10, priority=5)
        assert await foreseen(session, queue) == {"usual": 20.0, "urgent": 10.0, "total": 20.0}

    async def test_behind_the_front_a_sample_tells(
        self, session: Session, queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a line that is too long to read, batches are found at about their positions."""
        monkeypatch.setattr(forecasts, "HEAD", 100)
        await ask(session, "first", 2000)
        await ask(session, "tiny", 20)
        await ask(session, "second", 1000)
        ends = await foreseen(session, queue)
        assert ends["total"] == 3020.0
        assert ends["first"].expected == pytest.approx(2000, rel=0.15)  # type: ignore[attr-defined]  # approx's own
        assert ends["tiny"].expected == pytest.approx(2020, rel=0.15)  # type: ignore[attr-defined]  # as above
        assert ends["second"].expected == pytest.approx(3020, rel=0.05)  # type: ignore[attr-defined]  # as above

    async def test_each_target_moves_at_its_own_pace(self, session: Session, queue: PostgresQueue) -> None:
        """Another target's limit makes a batch no faster, and a batch of two targets ends with the slower one."""
        await session.execute(
            "INSERT INTO provisioner.permits (target, kind, metered, permits, period)"
            " VALUES ('other', 'write', true, 6, 60)"
        )
        await insert(session, batch="a")
        for target in ("default", "other"):
            await insert(session, batch="b", target=target, name="b")
        assert await foreseen(session, queue) == {"a": 1.0, "b": 10.0, "total": 10.0}

    async def test_one_that_came_after_the_look_is_not_foreseen_yet(
        self, session: Session, queue: PostgresQueue
    ) -> None:
        """A new batch has a forecast after the next computation, and none from before."""
        await ask(session, "old", 10)
        await foreseen(session, queue)
        await ask(session, "new", 10)
        assert (await shown(session))["new"] == NoForecast.NEW
        assert (await foreseen(session, queue))["new"] == 20.0

    async def test_batches_that_are_too_many_end_with_their_line(
        self, session: Session, queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only a number of batches have their own forecast; the others get that of the whole line."""
        monkeypatch.setattr(forecasts, "BATCHES", 1)
        for batch in ("a", "b"):
            await ask(session, batch, 10)
        assert await foreseen(session, queue) == {"a": 20.0, "b": 20.0, "total": 20.0}
        assert await count(session, "forecasts") == 1

    async def test_nothing_is_kept_of_what_has_ended(self, session: Session, queue: PostgresQueue) -> None:
        """A batch that has ended has no forecast any more."""
        await ask(session, "a", 10)
        await foreseen(session, queue)
        await session.execute("DELETE FROM provisioner.connection_requests")
        await foreseen(session, queue)
        assert await count(session, "forecasts") == 0
        assert not (await queue.poll(marks={}, served={})).forecast_due


class TestTimes:
    """Requests that are not due yet."""

    async def test_what_is_retried_is_served_when_it_is_due(self, session: Session, queue: PostgresQueue) -> None:
        """Its backoff ends in 20 s, and then it goes before untried requests."""
        await ask(session, "again", 1)
        await session.execute(HOLD.format("NULL"))
        await session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since)"
            " SELECT id, 1, 1, 1, now() FROM provisioner.waiting"
        )
        await ask(session, "others", 100)
        assert await foreseen(session, queue) == {"again": 21.0, "others": 100.0, "total": 100.0}

    async def test_no_batch_ends_before_its_last_request_may_start(
        self, session: Session, queue: PostgresQueue
    ) -> None:
        """However fast the target is, a hundred requests of an hour's time end an hour and their own time later."""
        await insert(session, batch="b")
        await session.execute(
            "INSERT INTO provisioner.connection_requests (project_id, batch, not_before)"
            " SELECT gen_random_uuid(), 'b', now() + interval '1 hour' FROM generate_series(1, 100)"
        )
        assert await foreseen(session, queue) == {"b": 3700.0, "total": 3700.0}

    @pytest.mark.parametrize(
        ("theirs", "ago", "seconds"), [(0.5, 10, 20.0), (0.5, 90, 10.0), (7.0, 10, 40.0)], ids=["now", "gone", "greedy"]
    )
    async def test_what_others_use_is_not_ours(
        self, session: Session, queue: PostgresQueue, theirs: float, ago: float, seconds: float
    ) -> None:
        """Half of the limit used by others doubles the time, if it was recent; a quarter is always ours."""
        await insert_many(session, 10)
        # The present window is over, so its rest does not matter.
        await session.execute(
            "UPDATE provisioner.permits SET their_pace = $1, seen_at = extract(epoch FROM now()) - $2, starts_at = 1",
            theirs,
            ago,
        )
        assert (await foreseen(session, queue))["total"] == seconds

    async def test_an_operators_limit_is_kept(self, session: Session, queue: PostgresQueue) -> None:
        """At six writes a minute ten requests take a hundred seconds."""
        await insert_many(session, 10)
        await session.execute("SELECT provisioner.set_limit('default', 6)")
        assert (await foreseen(session, queue))["total"] == 100.0


class TestNoForecast:
    """Where the end cannot be known there is none, but a reason."""

    @pytest.mark.parametrize(
        ("statement", "why"),
        [
            ("SELECT provisioner.pause('default')", NoForecast.PAUSED),
            ("DELETE FROM provisioner.workers", NoForecast.NOBODY),
            (
                "INSERT INTO provisioner.target_incidents (target, reporter, reason) VALUES ('default', 'w', 'down')",
                NoForecast.TROUBLE,
            ),
            (
                (
                    "INSERT INTO provisioner.concurrency (target, address, in_flight_limit, stalled_at)"
                    " VALUES ('default', 'https://a', 1, extract(EPOCH FROM now()) - 100)"
                ),
                NoForecast.TROUBLE,
            ),
            (HOLD.format("'credential:default'"), NoForecast.KEY),
            (HOLD.format("'project:' || project_id"), NoForecast.PROJECT),
            (HOLD.format("'connection'"), NoForecast.CONNECTION),
            ("UPDATE provisioner.connection_requests SET not_before = now() + interval '1 hour'", NoForecast.SCHEDULED),
            ("UPDATE provisioner.permits SET metered = NULL", NoForecast.PACE),
            ("UPDATE provisioner.permits SET metered = false", NoForecast.PACE),
        ],
    )
    async def test_what_is_in_the_way_is_said(
        self, session: Session, queue: PostgresQueue, statement: str, why: NoForecast
    ) -> None:
        """Each obstacle, where there was a forecast before."""
        await insert(session, batch="b")
        assert (await foreseen(session, queue))["b"] == 1.0
        await session.execute(statement)
        assert await foreseen(session, queue) == {"b": why, "total": why}

    async def test_a_pause_shows_at_once(self, session: Session, queue: PostgresQueue) -> None:
        """A pause shows without another computation, and afterwards nothing outdated does."""
        await insert(session, batch="b")
        await foreseen(session, queue)
        await session.execute("SELECT provisioner.pause('default')")
        assert await shown(session) == {"b": NoForecast.PAUSED, "total": NoForecast.PAUSED}
        await session.execute("SELECT provisioner.resume('default')")
        assert await shown(session) == {"b": NoForecast.NEW, "total": NoForecast.NEW}

    async def test_what_nobody_renews_is_no_forecast(self, session: Session, queue: PostgresQueue) -> None:
        """An outdated forecast is reported, and whether a worker exists that could renew it."""
        await insert(session, batch="b")
        await foreseen(session, queue)
        await session.execute("UPDATE provisioner.forecast_turn SET due_at = now() - interval '1 minute'")
        assert (await shown(session))["b"] == NoForecast.NEW
        await session.execute("DELETE FROM provisioner.workers")
        assert (await shown(session))["b"] == NoForecast.NOBODY


class TestMeasured:
    """What permits achieved recently."""

    async def test_where_half_of_the_permits_end_a_request_it_takes_twice_as_long(
        self, session: Session, queue: PostgresQueue
    ) -> None:
        """Ten requests ended in twenty seconds that allowed twenty: at that pace the other hundred take 200 s."""
        await insert_many(session, 110)
        await foreseen(session, queue)
        await session.execute(
            "UPDATE provisioner.line_forecasts SET seen_at = seen_at - 20, permits = 1000, got = 500, seconds = 1000"
        )
        await session.execute(
            "WITH gone AS (DELETE FROM provisioner.ready"
            " WHERE id IN (SELECT id FROM provisioner.ready LIMIT 10) RETURNING id)"
            " UPDATE provisioner.connection_requests SET status = 'succeeded' WHERE id IN (SELECT id FROM gone)"
        )
        assert (await foreseen(session, queue, measured=True))["total"] == pytest.approx(200.0, rel=0.02)

    async def test_without_a_limiter_the_pace_is_what_was_done(self, session: Session, queue: PostgresQueue) -> None:
        """Two requests a second ended lately: the other hundred take 50 s."""
        await session.execute("UPDATE provisioner.permits SET metered = false")
        await insert_many(session, 100)
        await foreseen(session, queue)
        await session.execute("UPDATE provisioner.line_forecasts SET seconds = 100, got = 200")
        assert (await foreseen(session, queue, measured=True))["total"] == pytest.approx(50.0, rel=0.02)


async def test_one_worker_looks_for_all(session: Session, queue: PostgresQueue) -> None:
    """It is due when there is work, until it has been done; a second worker does nothing."""
    assert not (await queue.poll(marks={}, served={})).forecast_due
    await insert(session, batch="b")
    await session.execute("SELECT provisioner.cancel(ARRAY [0::bigint])")
    await foreseen(session, queue)
    assert not (await queue.poll(marks={}, served={})).forecast_due
    assert not await queue.renew_forecasts(every=2.0)
    await session.execute("UPDATE provisioner.forecast_turn SET due_at = now()")
    assert (await queue.poll(marks={}, served={})).forecast_due
