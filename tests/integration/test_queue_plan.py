"""No statement of the journey reads a table whole, however long the queue is and whatever the planner knows of it.

The real queue runs against hundreds of thousands of rows; the server's own counters tell what was read.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from provisioner.core.model import Cancel, Claim, ErrorCode, Fail, Outcome, Retry, Succeed
from provisioner.core.queue_values import FRONT, QueuePosition
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from tests.support import eventually
from tests.support.builders import a_connection, a_settlement, doubted
from tests.support.postgres import Database, Databases
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.sessions import Session

# One process makes the large database, once.
pytestmark = pytest.mark.xdist_group("queue_plan")

READY: Final = 400_000
KNOWN: Final = 100_000  # rows of the wide table, of `incidents` and of `waiting`: enough for a plan to go wrong
LOT: Final = 100
ROUNDS: Final = 8  # from the sixth on the server prefers a plan that is made for no argument in particular
WATCHED: Final = ("ready", "waiting", "attempt_state", "sent_creates", "failed_boxes", "connection_requests")

# Straight into the tables, past the triggers; the indexes are made afterwards, as they were.
FILL: Final = f"""
SET session_replication_role = replica;
ALTER TABLE provisioner.ready SET (autovacuum_enabled = false);
ALTER TABLE provisioner.waiting SET (autovacuum_enabled = false);
ALTER TABLE provisioner.attempt_state SET (autovacuum_enabled = false);
ALTER TABLE provisioner.sent_creates SET (autovacuum_enabled = false);
ALTER TABLE provisioner.connection_requests SET (autovacuum_enabled = false);
CREATE TEMP TABLE kept AS
    SELECT indexdef FROM pg_indexes WHERE schemaname = 'provisioner' AND tablename = 'ready';
ALTER TABLE provisioner.ready DROP CONSTRAINT ready_in_order;
DROP INDEX provisioner.ready_of_project, provisioner.ready_by_id;
INSERT INTO provisioner.ready (target, rank, turn, id, project_id)
    SELECT 'default', 0, n / 500 + 1, n, md5((n % 500)::text)::uuid FROM generate_series(1, {READY}) AS n;
DO $$ DECLARE made text; BEGIN FOR made IN SELECT indexdef FROM kept LOOP EXECUTE made; END LOOP; END $$;
INSERT INTO provisioner.connection_requests (id, project_id, name) OVERRIDING SYSTEM VALUE
    SELECT n, md5((n % 500)::text)::uuid, 'n' || n FROM generate_series(1, {KNOWN}) AS n;
INSERT INTO provisioner.counts (target, batch, requested_by, status, error_code, requests)
    SELECT 'default', '', current_user, 'pending', '', {KNOWN};
INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since)
    SELECT n * 2, 1, 1, 1, now() FROM generate_series(1, {KNOWN}) AS n;
INSERT INTO provisioner.sent_creates (id, sent_at, ended_at, target, project_id, name, description, exact)
    SELECT n * 2, now() - interval '1 minute', now(), 'default', md5(n::text)::uuid, 'openrouter', '', true
    FROM generate_series(1, {KNOWN}) AS n;
INSERT INTO provisioner.failed_boxes (id, failed_at, box)
    SELECT n, now() - interval '2 days' + make_interval(secs => n / 10), 0 FROM generate_series(1, {KNOWN}) AS n;
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT n, now() - interval '1 hour' + make_interval(secs => (n - {READY}) / 50), 'default', 0, md5(n::text)::uuid
    FROM generate_series({READY} + 1, {READY} + {KNOWN}) AS n;
INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_message)
    SELECT n, 1, 1, 1, now(), 'no' FROM generate_series({READY} + 1, {READY} + {KNOWN}, 2) AS n;
"""


@pytest.fixture(scope="module")
def large(databases: Databases, template_database: str) -> Iterator[Database]:
    """Lend a database with so many requests in line, made once."""
    with databases.fresh(template_database) as made:
        with ThreadPoolExecutor(1) as thread:  # so that the event loops of the tests are not affected
            thread.submit(asyncio.run, _fill(made.url)).result()
        yield made


async def _fill(url: str) -> None:
    async with connected(url) as session:
        await session.execute(FILL)


@dataclass(slots=True)
class Bench:
    """Runs one step of the journey in its own sessions and reports what was read."""

    url: str
    session: "Session"
    worker: int = 0
    start: QueuePosition = FRONT

    async def measure(self, step: "Step") -> dict[str, tuple[int, int]]:
        """For each table how often it was read from end to end, and how many entries of its indexes were read."""
        before = await self._counters()
        pool = Pool(self.url, size=1)
        try:
            await step(self, PostgresQueue(pool))
        finally:
            await pool.close()
        away: Callable[[], bool | Awaitable[bool]] = partial(_away, self.session)
        await eventually(away)  # a session reports its statistics when it ends
        after = await self._counters()
        return {table: (after[table][0] - before[table][0], after[table][1] - before[table][1]) for table in WATCHED}

    async def claim(self, queue: PostgresQueue) -> list[Claim]:
        """Claim a lot, going on from where the last claim ended."""
        self.worker = self.worker or await queue.register(name="w", targets=["default"], lease=600.0)
        brought = await queue.claim(self.worker, target="default", start=self.start, limit=LOT)
        self.start = brought.last or self.start
        assert len(brought.claims) == LOT
        return list(brought.claims)

    async def _counters(self) -> dict[str, tuple[int, int]]:
        rows = await self.session.fetch(
            "SELECT t.relname AS name, t.seq_scan AS whole, coalesce(sum(i.idx_tup_read), 0)::bigint AS entries"
            " FROM pg_stat_user_tables AS t LEFT JOIN pg_stat_user_indexes AS i USING (relid)"
            " WHERE t.schemaname = 'provisioner' GROUP BY t.relname, t.seq_scan"
        )
        return {row["name"]: (row["whole"], row["entries"]) for row in rows}


Step = Callable[[Bench, PostgresQueue], "Awaitable[None]"]


async def _away(session: "Session") -> bool:
    return not await session.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )


def settling(outcome: Outcome, *, lost: bool = False) -> Step:
    """Claim and settle, lot after lot; the creates' answers were lost or not."""

    async def step(bench: Bench, queue: PostgresQueue) -> None:
        for _ in range(ROUNDS):
            claims = await bench.claim(queue)
            ended = [doubted(claim) if lost else claim for claim in claims]
            report = await queue.settle(bench.worker, [a_settlement(claim, outcome) for claim in ended])
            assert len(report.settled) == LOT

    return step


async def releasing(bench: Bench, queue: PostgresQueue) -> None:
    """Claim and give back, lot after lot."""
    for _ in range(ROUNDS):
        await queue.release(bench.worker, await bench.claim(queue))


async def looking(bench: Bench, queue: PostgresQueue) -> None:
    """Poll from where the queue has been served."""
    for turn in range(ROUNDS):
        mark = QueuePosition(0, bench.start.turn + turn if bench.start != FRONT else turn)
        assert (await queue.poll(marks={"default": mark}, served={"default": mark})).heads


async def promoting(_bench: Bench, queue: PostgresQueue) -> None:
    """Promote due requests."""
    for _ in range(ROUNDS):
        assert await queue.promote(LOT)


async def retrying(bench: Bench, queue: PostgresQueue) -> None:
    """Claim retries that are due, from their position before all others."""
    bench.worker = bench.worker or await queue.register(name="w", targets=["default"], lease=600.0)
    for _ in range(ROUNDS):
        start = (await queue.promote(LOT))["default"]
        assert start.turn < 0
        # Their rows do not exist, so they leave the line and are not claimed.
        await queue.claim(bench.worker, target="default", start=start, limit=LOT // 2, retried_only=True)


async def wiping(_bench: Bench, queue: PostgresQueue) -> None:
    """Look for sealed keys of failed requests, some of which still exist."""
    for _ in range(ROUNDS):
        assert (await queue.wipe(LOT, keep=86400.0)).more


async def disowning(bench: Bench, queue: PostgresQueue) -> None:
    """Look for unknown targets, when there is none."""
    bench.worker = bench.worker or await queue.register(name="w", targets=["default"], lease=600.0)
    for _ in range(ROUNDS):
        assert list(await queue.fail_unknown_targets(LOT)) == []


async def rescuing(bench: Bench, queue: PostgresQueue) -> None:
    """Take over a lost worker's claims."""
    for _ in range(ROUNDS):
        await bench.claim(queue)
        await bench.session.execute("UPDATE provisioner.workers SET lease_until = now() - interval '1 second'")
        assert (await queue.rescue(pause=3600.0)).requests == LOT
        bench.worker = 0


async def inserting(bench: Bench, _queue: PostgresQueue) -> None:
    """Put newcomers in line, some for projects that have thousands there."""
    async with connected(bench.url, recount=False) as session:
        for number in range(ROUNDS):
            await session.execute(
                "INSERT INTO provisioner.connection_requests (id, project_id, name) OVERRIDING SYSTEM VALUE"
                " SELECT $1 + n, md5(n::text)::uuid, 'new-' || $1 + n FROM generate_series(1, 40) AS n",
                2 * READY + 100 * number,
            )


async def editing(bench: Bench, _queue: PostgresQueue) -> None:
    """Change, cancel and delete requests that are in line, one by one and many at once."""
    async with connected(bench.url, recount=False) as session:
        for number in range(ROUNDS):
            one = KNOWN - 10 * number
            await session.execute("UPDATE provisioner.connection_requests SET priority = 1 WHERE id = $1", one)
            await session.execute("SELECT provisioner.cancel(ARRAY [$1::bigint])", one - 1)
            await session.execute("DELETE FROM provisioner.connection_requests WHERE id = $1", one - 2)
        # Many of one project by one statement: what each of them reads must not grow with the project.
        many = list(range(KNOWN // 2 + 7, KNOWN - 1000, 500))
        await session.execute("UPDATE provisioner.connection_requests SET priority = 1 WHERE id = ANY ($1)", many[::2])
        await session.execute("DELETE FROM provisioner.connection_requests WHERE id = ANY ($1)", many[1::2])


STEPS: Final[dict[str, Step]] = {
    "claim, succeed": settling(Succeed(connection=a_connection())),
    "claim, fail": settling(Fail(code=ErrorCode.GAVE_UP, message="no")),
    "claim, put_back": settling(Retry(delay=3600.0, message="no", counted=True)),
    "claim, lose": settling(Retry(delay=3600.0, message="no"), lost=True),
    "claim, cancel": settling(Cancel()),
    "claim, release": releasing,
    "claim, rescue": rescuing,
    "poll": looking,
    "promote": promoting,
    "promote, claim retried": retrying,
    "fail_unknown_targets": disowning,
    "wipe": wiping,
    "insert": inserting,
    "edit, cancel, delete": editing,
}
# Entries of indexes that one step may read in all: some for each request, and far from any table's size.
ENOUGH: Final = 20_000


@pytest.mark.parametrize("plans", ["auto", "force_generic_plan"])
@pytest.mark.parametrize("analysed", [True, False], ids=["analysed", "not analysed"])
async def test_no_table_is_read_whole(databases: Databases, large: Database, plans: str, analysed: bool) -> None:
    """Every step reads only what it needs, by custom plans and by generic plans."""
    read: dict[str, dict[str, tuple[int, int]]] = {}
    with databases.fresh(large.name) as copy:
        async with connected(copy.url) as session:
            await session.execute(f"ALTER DATABASE {copy.name} SET plan_cache_mode = {plans}")
            if analysed:
                await session.execute("ANALYZE")
            bench = Bench(copy.url, session)
            for name, step in STEPS.items():
                measured = await bench.measure(step)
                read[name] = {t: found for t, found in measured.items() if found[0] or found[1] > ENOUGH}
    assert {name: tables for name, tables in read.items() if tables} == {}
