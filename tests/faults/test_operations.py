"""Cancel, retry, pause and resume at every moment of a request's life, and all at once."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.core.errors import DatabaseUnavailable, OutcomeDelayed, StatementRefused
from provisioner.core.model import ErrorCode, Fail, Retry, Settlement, Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from provisioner.sandbox.simulator.options import Options
from tests.support import eventually
from tests.support.builders import a_connection, doubted
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.core.model import Claim
    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-a")

CANCEL = "SELECT id, outcome FROM provisioner.cancel($1)"
RETRY = "SELECT id, was FROM provisioner.retry($1)"
MISPLACED = """
SELECT q.id, q.status FROM provisioner.connection_requests AS q
WHERE (q.status = 'pending')::int <> (SELECT count(*) FROM provisioner.ready AS r WHERE r.id = q.id)
    + (SELECT count(*) FROM provisioner.waiting AS w WHERE w.id = q.id)
    + (SELECT count(*) FROM provisioner.in_flight AS f WHERE f.id = q.id)
"""
HURRY = "UPDATE provisioner.waiting SET run_at = now()"
# A request that is cancelled in doubt waits for a late commit; this test cannot wait so long.
LONG_AGO = """
UPDATE provisioner.sent_creates SET sent_at = sent_at - interval '1 hour', ended_at = ended_at - interval '1 hour'
"""


async def test_called_off_while_in_line(world: Callable[..., Fleet[Process]]) -> None:
    """Nothing is sent for it; after a retry it is made."""
    async with world(Options(mode="self-hosted", projects=3, seed=71), **UNLIMITED) as it:
        requests = await it.insert()
        assert [row["outcome"] for row in await it.fetch(CANCEL, requests[:2])] == ["cancelled"] * 2
        await it.start()
        await it.done(within=20)
        assert (await it.audit()).creates == 1
        assert [tuple(row) for row in await it.fetch(RETRY, requests)] == [(one, "cancelled") for one in requests[:2]]
        await it.done(within=20)
        assert (await it.audit()).states == {"succeeded": 3}


async def test_called_off_while_its_create_is_under_way(world: Callable[..., Fleet[Process]]) -> None:
    """The attempt finishes, and its connection is recorded."""
    options = Options(mode="self-hosted", projects=3, seed=72, latency=0.5)
    async with world(options, **UNLIMITED) as it:
        await it.insert(name="first")  # in unknown projects few creates are in flight at once
        await it.start()
        await it.done(within=20)
        requests = await it.insert()
        await it.simulator.until(lambda: len(it.simulator.world.creates) == 6)
        assert [row["outcome"] for row in await it.fetch(CANCEL, requests)] == ["ending"] * 3
        await it.done(within=20)
        found = await it.audit()
        assert (found.states, found.made) == ({"succeeded": 6}, 6)


@pytest.mark.parametrize(
    ("moment", "fault", "ends"),
    [
        ("in flight", "error-after-commit", "succeeded"),
        ("in doubt", "error-before-commit", "cancelled"),
        pytest.param("in flight", "error-before-commit", "cancelled", marks=pytest.mark.soak),
        pytest.param("in doubt", "error-after-commit", "succeeded", marks=pytest.mark.soak),
    ],
)
async def test_called_off_in_doubt(world: Callable[..., Fleet[Process]], fault: str, ends: str, moment: str) -> None:
    """It is looked up: an existing connection is recorded, and one missing after a late commit was never made."""
    options = Options(mode="self-hosted", projects=3, seed=73, latency=0.4, faults={fault: 1.0})
    async with world(options, **UNLIMITED) as it:
        requests = await it.insert()
        await it.start()
        await it.simulator.until(lambda: len(it.simulator.world.creates) == 3)
        if moment == "in doubt":
            # Paused, all three stay in doubt, however differently their first creates began.
            await it.until("SELECT count(DISTINCT id) FROM provisioner.sent_creates", 3)
            await it.fetch("SELECT provisioner.pause('default')")
            await it.until("SELECT count(*) FROM provisioner.in_flight", 0)
        it.simulator.configure(faults={})
        if moment == "in flight" or fault == "error-after-commit":
            it.simulator.configure(faults={fault: 1.0})
        assert [row["outcome"] for row in await it.fetch(CANCEL, requests)] == ["ending"] * 3
        await it.fetch("SELECT provisioner.resume('default')")
        if ends == "cancelled":
            called_off = "SELECT count(*) FROM provisioner.waiting WHERE run_at > now() + interval '25 seconds'"
            await it.until(called_off, 3)
            creates = len(it.simulator.world.creates)
            await it.fetch(LONG_AGO)
            await it.fetch(HURRY)
        await it.done(within=20)
        found = await it.audit()
        assert (found.states, found.made) == ({ends: 3}, 3 if ends == "succeeded" else 0)
        assert ends == "succeeded" or found.creates == creates


async def test_a_paused_target(world: Callable[..., Fleet[Process]]) -> None:
    """While it is paused there are no claims, requests in flight finish, and it continues where it stopped."""
    options = Options(mode="self-hosted", projects=60, seed=74, latency=0.1)
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="4", **UNLIMITED) as it:
        await it.insert()
        (worker,) = await it.start()
        await it.made(10)
        assert len(await it.fetch("SELECT * FROM provisioner.pause('default')")) == 1
        await eventually(lambda: "target_paused" in worker.log())
        await it.until("SELECT count(*) FROM provisioner.in_flight", 0)
        creates = len(it.simulator.world.creates)
        more = await it.insert(it.simulator.projects[:1], name="another")
        looked = await it.value("SELECT max(seen_at) FROM provisioner.workers")
        await it.until("SELECT max(seen_at) FROM provisioner.workers", lambda seen: seen > looked)
        assert len(it.simulator.world.creates) == creates < 61
        assert len(await it.fetch("SELECT * FROM provisioner.resume('default')")) == 1
        await it.done(within=30)
        assert (await it.row(more[0]))["status"] == "succeeded"
        assert (await it.audit()).states == {"succeeded": 61}


@pytest.mark.parametrize(
    ("requests", "rounds"), [(300, 60), pytest.param(1000, 1000, marks=(pytest.mark.soak, pytest.mark.timeout(600)))]
)
async def test_everything_at_once(durable_url: str, requests: int, rounds: int) -> None:
    """Claims, settlements, rescues, cancellations, retries and edits collide, and each request keeps its one place."""
    setup = await asyncpg.connect(durable_url)
    name = await setup.fetchval("SELECT current_database()")
    await setup.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '20ms'")  # a second each is too long to wait
    await setup.close()
    database = Database(durable_url, size=8)
    await database.execute(
        "INSERT INTO provisioner.connection_requests (project_id) SELECT gen_random_uuid() FROM generate_series(1, $1)",
        requests,
    )
    crowd = Crowd(database, requests)
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(crowd.work(Random(number), rounds), name=f"worker-{number}")  # noqa: S311 - repeatable
            group.create_task(crowd.operate(Random(100 + number), rounds), name=f"operator-{number}")  # noqa: S311
    assert await database.fetch(MISPLACED) == []
    ended = await database.fetch("SELECT status, count(*) FROM provisioner.connection_requests GROUP BY status")
    assert len(ended) > 1
    await database.close()


class Crowd:
    """Workers and operators that act independently."""

    def __init__(self, database: Database, requests: int) -> None:
        self._database = database
        self._queue = PostgresQueue(database)
        self._requests = requests

    async def work(self, random: Random, rounds: int) -> None:
        """Claim and settle in every way, and die now and then."""
        worker = await self._queue.register(name="one", targets=["default"], lease=60)
        for _ in range(rounds):
            try:
                brought = await self._queue.claim(worker, target="default", start=FRONT, limit=random.randint(1, 20))
                claims = list(brought.claims)
                random.shuffle(claims)
                if random.random() < 0.1:
                    past = "UPDATE provisioner.workers SET lease_until = now() - interval '1 second' WHERE id = $1"
                    await self._database.execute(past, worker)
                    worker = await self._queue.register(name="one", targets=["default"], lease=60)
                await self._queue.settle(worker, [self._settlement(claim, random) for claim in claims[2:]])
                await self._queue.release(worker, claims[:2])
                await self._queue.rescue(pause=0.0)
                await self._database.execute(HURRY)
                await self._queue.promote(50)
            except (DatabaseUnavailable, OutcomeDelayed):  # a deadlock, or a row that changed: workers try again
                continue

    async def operate(self, random: Random, rounds: int) -> None:
        """Call off, try again, and move to the front."""
        for _ in range(2 * rounds):
            some = random.sample(range(1, self._requests + 1), 12)
            if random.random() < 0.3:
                await self._edit(some[0], random.randint(0, 3))
            else:
                await self._database.fetch(random.choice([CANCEL, RETRY, RETRY]), some)

    async def _edit(self, request: int, priority: int) -> None:
        statement = "UPDATE provisioner.connection_requests SET priority = $2 WHERE id = $1"
        try:
            await self._database.execute(statement, request, priority)
        except StatementRefused:
            return

    def _settlement(self, claim: Claim, random: Random) -> Settlement:
        outcomes: list[Any] = [
            Succeed(connection=a_connection(project_id=claim.request.project_id)),
            Fail(code=ErrorCode.GAVE_UP, message="no"),
            Retry(delay=0.0, message="later"),
        ]
        claim = doubted(claim) if random.random() < 0.5 else claim
        return Settlement(claim=claim, outcome=random.choice(outcomes), sent=claim.sent + 1)
