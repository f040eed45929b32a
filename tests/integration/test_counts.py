"""How many requests there are is known without counting them, whatever was done to them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings, strategies as st

from provisioner.core.history import HOURS, MINUTES, Slot, total
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.reports import read_history, read_status
from provisioner.worker import maintenance
from tests.support import eventually
from tests.support.builders import project
from tests.support.operators import ask, finish
from tests.support.sessions import MISCOUNTED, connected, count, insert, insert_many
from tests.support.small_world import SmallWorld

if TYPE_CHECKING:
    import pytest

    from tests.support.postgres import Database
    from tests.support.sessions import Session

TABLE = "provisioner.connection_requests"
# Actions of people and workers on rows; each takes one number.
DEEDS = (
    (
        f"INSERT INTO {TABLE} (project_id, name, batch)"
        " VALUES (gen_random_uuid(), 'n-' || $1::int, nullif($1::int % 3, 0)::text)"
    ),
    f"UPDATE {TABLE} SET status = 'succeeded', finished_at = now() WHERE id % 4 = $1::int % 4",
    (
        f"UPDATE {TABLE} SET status = 'failed', error_code = 'code_' || $1::int % 2, finished_at = now()"
        " WHERE id % 3 = $1::int % 3"
    ),
    (
        f"UPDATE {TABLE} SET status = 'pending', error_code = NULL, finished_at = NULL"
        " WHERE id % 5 = $1::int % 5 AND status = 'failed'"
    ),
    f"UPDATE {TABLE} SET batch = 'b-' || $1::int % 2 WHERE id % 2 = $1::int % 2",
    f"UPDATE {TABLE} SET requested_by = nullif('r-' || $1::int % 2, 'r-0') WHERE id % 2 = 0",
    f"DELETE FROM {TABLE} WHERE id % 7 = $1::int % 7",
    f"UPDATE {TABLE} SET attempts = attempts WHERE id % 2 = $1::int % 2",
    "SELECT provisioner.fold_counts(1 + $1::int % 3)",
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 11)), max_size=25))
def test_they_are_those_of_the_table(database: Database, deeds: list[tuple[str, int]]) -> None:
    """After any statements and any folding, kind by kind."""

    async def act() -> None:
        async with connected(database.url) as session:  # which compares in the end
            transaction = session.transaction()
            await transaction.start()
            for operation, number in deeds:
                await session.execute(operation, number)
            assert await session.fetch(MISCOUNTED) == []
            await transaction.rollback()

    asyncio.run(act())


async def test_folding_empties_the_changes(session: Session) -> None:
    """A fold takes at most the given number of changes, returns how many, and leaves the sums unchanged."""
    for number in range(1, 6):
        await insert(session, project_id=project(number), batch="b")
    assert [await session.fetchval("SELECT provisioner.fold_counts(3)") for _ in range(3)] == [3, 2, 0]
    assert (await count(session, "count_changes"), await count(session, "counts")) == (0, 1)
    assert await session.fetchval("SELECT requests FROM provisioner.request_counts") == 5


async def test_two_fold_at_once(database: Database, session: Session) -> None:
    """Concurrent folds take different changes, and do not deadlock."""
    await asyncio.gather(*(insert_one(database, number) for number in range(1, 9)))
    async with connected(database.url) as one, connected(database.url) as other:
        async with one.transaction():
            assert await one.fetchval("SELECT provisioner.fold_counts(5)") == 5
            assert await other.fetchval("SELECT count(*) FROM provisioner.count_changes") == 8
            folding = asyncio.create_task(other.fetchval("SELECT provisioner.fold_counts(100)"))
            await eventually(lambda: blocked(session))
        assert await folding == 3
    assert await count(session, "count_changes") == 0


async def test_what_is_gone_began_nothing(session: Session) -> None:
    """When all requests of a kind were deleted, the first of the next ones is when it began."""
    await insert(session, batch="b")
    await session.execute(f"UPDATE {TABLE} SET created_at = now() - interval '1 year'")
    await session.execute("SELECT provisioner.fold_counts(10)")
    await session.execute(f"DELETE FROM {TABLE}")
    await session.execute("SELECT provisioner.fold_counts(10)")
    await insert(session, batch="b")
    await session.execute("SELECT provisioner.fold_counts(10)")
    assert await session.fetchval(
        "SELECT started_at > now() - interval '1 day' FROM provisioner.batch_progress WHERE total"
    )


async def test_truncating_forgets_them(session: Session) -> None:
    """No requests, no counts."""
    await insert_many(session, 3)
    await session.execute("SELECT provisioner.fold_counts(10)")
    await session.execute(f"TRUNCATE {TABLE}")
    assert await session.fetch("SELECT * FROM provisioner.request_counts") == []


async def test_a_retried_example_gives_way(database: Database, session: Session) -> None:
    """If the newest failure was retried, the newest with known attempts is the example; else there is none."""
    first, second = await insert(session, name="a"), await insert(session, name="b")
    await session.execute(f"UPDATE {TABLE} SET status = 'failed', error_code = 'gave_up', error_message = name")
    await session.execute(f"UPDATE {TABLE} SET status = 'pending', error_code = NULL WHERE id = $1", second)
    pool = Pool(database.url)
    [known] = (await read_status(pool)).failures
    assert (known.requests, known.example_id) == (1, None)
    await session.execute(
        "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since) VALUES ($1, 1, 1, 1, now())",
        first,
    )
    [known] = (await read_status(pool)).failures
    await pool.close()
    assert (known.requests, known.example_id, known.example) == (1, first, "a")


async def test_a_worker_folds(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its changes do not pile up, and a large pile is taken in lots, one after the other."""
    monkeypatch.setattr(maintenance, "FOLDED_AT_ONCE", 2)
    async with SmallWorld(database) as it:
        for number in range(1, 8):
            await insert(it.session, project_id=project(number))
        await it.start()
        await it.done()
        it.time.jump(maintenance.FOLD_INTERVAL)
        await it.until("SELECT count(*) FROM provisioner.count_changes", 0)


async def test_the_queue_says_whether_more_is_left(database: Database, session: Session) -> None:
    """A large pile is taken in lots."""
    await insert(session, name="a")
    await insert(session, name="b")
    pool = Pool(database.url)
    assert [await PostgresQueue(pool).fold(1, retried={}) for _ in range(3)] == [True, True, False]
    await pool.close()


async def insert_one(database: Database, number: int) -> None:
    """Insert from a session of its own."""
    async with connected(database.url) as session:
        await insert(session, project_id=project(number), batch=f"b-{number % 2}")


async def blocked(session: Session) -> Any:
    """Whether anybody waits for another's transaction."""
    return await session.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def test_what_is_folded_is_history(database: Database, session: Session) -> None:
    """Successes and failures are counted in this minute and this hour, once, whoever folds; retries as reported."""
    ids = ask(database, 5)
    finish(database, ids[:3])
    finish(database, ids[3:], "failed", "gave_up")
    pool = Pool(database.url, size=1)
    queue = PostgresQueue(pool)
    await queue.fold(2, retried={"default": 4, "eu": 1})
    await asyncio.gather(*(queue.fold(100, retried={}) for _ in range(3)))
    await session.execute("SELECT provisioner.retry(ARRAY [$1::bigint])", ids[4])
    await queue.fold(100, retried={})
    history = await read_history(pool)
    for slots, number in ((history.minutes, MINUTES), (history.hours, HOURS)):
        assert len(slots) == number
        assert total(slots) == Slot(at=slots[0].at, succeeded=3, failed=2, retried=5)
        assert total(slots[-2:]) == Slot(at=slots[-2].at, succeeded=3, failed=2, retried=5)
        assert slots == tuple(sorted(slots, key=lambda slot: slot.at))
    await pool.close()


async def test_history_is_forgotten(session: Session) -> None:
    """Minutes are kept for hours and hours for weeks: the table stays small."""
    await session.execute(
        "INSERT INTO provisioner.history (span, at, target, succeeded)"
        " SELECT s, now() - make_interval(hours => h), 'x', 1"
        " FROM (VALUES (60), (3600)) AS v (s), (VALUES (1), (7), (800)) AS t (h)"
    )
    await session.execute("SELECT provisioner.add_history('{y}', '{1}', '{0}', '{0}')")
    kept = await session.fetch(
        "SELECT span, count(*) FROM provisioner.history WHERE target = 'x' GROUP BY span ORDER BY span"
    )
    assert [tuple(row) for row in kept] == [(60, 1), (3600, 2)]
