"""Workers die at any moment: everything is made once, and everything is recorded."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.postgres.migrations import known_migrations
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from provisioner.sandbox.simulator.options import Options
from tests.faults.proxy import Proxy
from tests.support import eventually
from tests.support.cli import environment
from tests.support.fleet import UNLIMITED, Fleet
from tests.support.forking import Forked

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provisioner.sandbox.postgres import PostgresServer
    from tests.faults.proxy import Trap, When
    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-a")

SLOW_KEY = "sk-or-v1-slow-mode-delay3"  # each create takes three seconds
SCALED = (160, 4, 0.4, 8)
WHOLE = (1200, 40, 0.5, 8)


@pytest.mark.parametrize(
    ("requests", "kills", "latency", "in_flight"),
    [SCALED, pytest.param(*WHOLE, marks=(pytest.mark.soak, pytest.mark.timeout(600)))],
)
async def test_workers_killed_at_random(
    world: Callable[..., Fleet[Process]], requests: int, kills: int, latency: float, in_flight: int
) -> None:
    """Two workers with slow creates, one of them killed every second: each request succeeds, made exactly once."""
    options = Options(mode="self-hosted", projects=requests, latency=latency, seed=11)
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT=str(in_flight)) as it:
        await it.insert()
        running = await it.start(2)
        await it.at_work(2)
        for _ in range(kills):
            # At most a second apart, and at the very moment when an answer is on its way.
            before = len(it.simulator.world.connections)
            if before >= requests:
                break
            await it.made(min(requests, before + it.random.randrange(1, int(2 * in_flight / latency))))
            victim = it.random.randrange(2)
            it.kill(running[victim])
            (running[victim],) = await it.start()
        await it.done(within=120)
        found = await it.audit()
        assert found.states == {"succeeded": requests}
        assert found.made == requests


CLAIM = b"INSERT INTO provisioner.in_flight"
RECORD = b"adopted = o.adopted"
PUT_BACK = b"secs => o.delay"
RESCUE = b"WITH lapsed AS"
PROMOTE = b"WITH due AS"
RENEW = b"SET lease_until"
LOOK = b"SELECT l.target, head.rank"
STRANGERS = b"WITH RECURSIVE queues AS"
REGISTER = b"INSERT INTO provisioner.workers"
STEPS: Sequence[tuple[bytes, When]] = [
    (CLAIM, "asked"),
    (CLAIM, "answered"),
    (RESCUE, "asked"),
    (RESCUE, "answered"),
    (PROMOTE, "answered"),
    (RECORD, "asked"),
    (RECORD, "answered"),
    (PUT_BACK, "answered"),
    (RENEW, "asked"),
]
MORE_STEPS: Sequence[tuple[bytes, When]] = [
    (REGISTER, "asked"),
    (REGISTER, "answered"),
    (LOOK, "asked"),
    (LOOK, "answered"),
    (RENEW, "answered"),
    (PROMOTE, "asked"),
    *STEPS,
]
EXPIRE = "UPDATE provisioner.workers SET lease_until = now() - interval '1 second'"


@pytest.mark.parametrize("steps", [STEPS, pytest.param(MORE_STEPS, marks=pytest.mark.soak)], ids=["few", "all"])
async def test_a_worker_killed_at_each_step(
    world: Callable[..., Fleet[Process]], durable_server: PostgresServer, steps: Sequence[tuple[bytes, When]]
) -> None:
    """Killed before a statement or before its answer, the work is done by others, and each connection is made once."""
    options = Options(mode="self-hosted", projects=6 * len(steps), latency=0.05, seed=12)
    async with world(options, **UNLIMITED) as it, Proxy(durable_server.port) as proxy:
        for number, (word, when) in enumerate(steps):
            await it.insert(it.simulator.projects[6 * number : 6 * number + 6])
            # A request has to be put back for its pause to end: rescued ones may have been promoted already.
            it.simulator.configure(faults={"error-after-commit": 0.5} if word in {PUT_BACK, PROMOTE} else {})
            trap = proxy.trap(word, when)
            (worker,) = await it.start(PROVISIONER_DATABASE_URL=proxy.url(it.url))
            async with asyncio.timeout(20):
                await trap.sprung.wait()
            it.kill(worker)
            trap.release()
            await it.fetch(EXPIRE)
        await it.start()
        await it.done(within=30)
        found = await it.audit()
        assert found.states == {"succeeded": 6 * len(steps)}


async def test_a_claim_that_arrives_after_the_lease_is_let_go(
    world: Callable[..., Fleet[Process]], durable_server: PostgresServer
) -> None:
    """A worker whose lease was lost while a claim's answer was on its way sends nothing for that claim."""
    options = Options(mode="self-hosted", projects=6, seed=13)
    async with world(options, **UNLIMITED) as it, Proxy(durable_server.port) as proxy:
        await it.insert(on_conflict="replace")
        trap = proxy.trap(CLAIM, "answered")
        (late,) = await it.start(PROVISIONER_DATABASE_URL=proxy.url(it.url))
        async with asyncio.timeout(20):
            await trap.sprung.wait()
        await it.fetch(EXPIRE)
        await it.start()
        await it.done(within=30)
        await eventually(lambda: "lease_lost" in late.log())
        recorded = await it.audit()
        trap.release()
        assert await late.ends() == 0
        assert recorded == await it.audit()
        assert (recorded.creates, recorded.made) == (6, 6)


async def test_a_worker_that_meets_its_own_past(world: Callable[..., Fleet[Process]]) -> None:
    """A worker that lost its lease claims the same request again while its first create is running, and survives."""
    options = Options(mode="self-hosted", projects=3, seed=14)
    async with world(options, PROVISIONER_CREDENTIALS__DEFAULT__VALUE=SLOW_KEY, **UNLIMITED) as it:
        await it.insert()
        (worker,) = await it.start()
        await it.simulator.until(lambda: len(it.simulator.world.creates) == 3)
        await it.fetch(EXPIRE)
        await eventually(lambda: "lease_lost" in worker.log())
        await it.done(within=30)
        assert worker.alive
        assert await worker.ends() == 0
        found = await it.audit()
        assert found.states == {"succeeded": 3}
        assert it.said("creator_failed") == 0


@pytest.mark.parametrize(
    ("requests", "stalls"), [(60, 1), pytest.param(480, 8, marks=(pytest.mark.soak, pytest.mark.timeout(600)))]
)
async def test_workers_stalled_for_longer_than_their_lease(
    world: Callable[..., Fleet[Process]], requests: int, stalls: int
) -> None:
    """Others take over from a frozen worker; when it continues, its late reports change nothing."""
    options = Options(mode="self-hosted", projects=requests, latency=0.5, seed=15)
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8") as it:
        workers = await it.start(2)
        await it.at_work(2)
        lot = requests // stalls
        for number in range(stalls):
            before = len(it.simulator.world.creates)
            projects = it.simulator.projects[number * lot : number * lot + lot]
            await it.insert(projects, on_conflict=it.random.choice(["fail", "replace"]))
            await _created(it, before + it.random.randrange(1, 12))
            victim = it.random.choice(workers)
            victim.signal(signal.SIGSTOP)
            it.tally["stalls"] += 1
            await it.until("SELECT count(*) FROM provisioner.workers", 1)
            victim.signal(signal.SIGCONT)
            await it.at_work(2)
        await it.done(within=60)
        assert all(worker.alive for worker in workers)
        assert [await worker.ends() for worker in workers] == [0, 0]
        found = await it.audit()
        assert found.states == {"succeeded": lot * stalls}
        assert it.said("lease_lost") == stalls


async def _created(it: Fleet[Process], creates: int) -> None:
    await it.simulator.until(lambda: len(it.simulator.world.creates) >= creates)


async def test_a_late_answer_does_not_set_the_clock(
    world: Callable[..., Fleet[Process]], durable_server: PostgresServer
) -> None:
    """A worker that learns the database's time only seconds later still recognises its connections by their age."""
    options = Options(mode="self-hosted", projects=3, seed=16, faults={"cut-after-commit": 1.0})
    settings = {"PROVISIONER_WORKER__POLL": "2.4", **UNLIMITED}
    async with world(options, **settings) as it, Proxy(durable_server.port) as proxy:
        first = proxy.trap(LOOK, "answered")
        await it.start(PROVISIONER_DATABASE_URL=proxy.url(it.url))
        await _sprung(first)
        late = proxy.trap(LOOK, "answered")
        first.release()
        await _sprung(late)
        await it.insert()
        in_doubt = "SELECT count(*) FROM provisioner.attempt_state WHERE updated_at < now() - interval '3 seconds'"
        await it.until(in_doubt, 3)
        beyond = proxy.trap(STRANGERS, "asked")  # events after the poll: by then the worker has set its clock
        late.release()
        await _sprung(beyond)
        others = Database(it.url)
        await PostgresQueue(others).promote(100)
        await others.execute("NOTIFY provisioner")
        await others.close()
        await it.done(within=20)
        beyond.release()
        found = await it.audit()
        assert (found.states, found.adopted, found.found_again) == ({"succeeded": 3}, 0, 3)


async def _sprung(trap: Trap) -> None:
    async with asyncio.timeout(20):
        await trap.sprung.wait()


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.soak)])
async def test_migrations_killed_in_the_middle(
    durable_server: PostgresServer, tally: Counter[str], tmp_path: Path, kills: int
) -> None:
    """A migrator that is killed leaves whole steps only, and the next one, or two at once, do the rest."""
    name = f"killed_{kills}"
    connection = await asyncpg.connect(durable_server.url())
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    async with Proxy(durable_server.port) as proxy:
        told = environment(None, PROVISIONER_DATABASE_URL=proxy.url(durable_server.url(name)))
        words = [b"to_regclass", b"lock_timeout", b"CREATE TABLE", b"CREATE VIEW", b"COMMIT", b"FUNCTION"]
        for kill in range(kills):
            trap = proxy.trap(words[kill % len(words)], "asked" if kill % 2 else "answered")
            process = Forked(["migrate"], env=told, cwd=tmp_path)
            await _trapped_or_done(trap, process)
            process.kill()
            process.wait()
            trap.release()
            tally["migrations killed"] += 1
    told = environment(None, PROVISIONER_DATABASE_URL=durable_server.url(name))
    both = [Forked(["migrate"], env=told, cwd=tmp_path) for _ in range(2)]
    assert [await asyncio.to_thread(process.wait, 30) for process in both] == [0, 0]
    again = await asyncpg.connect(durable_server.url(name))
    applied = await again.fetch("SELECT version, name FROM provisioner.migrations ORDER BY version")
    await again.close()
    assert [tuple(row) for row in applied] == [(step.version, step.name) for step in known_migrations()]


async def _trapped_or_done(trap: Trap, process: Forked) -> None:
    await eventually(lambda: trap.sprung.is_set() or process.poll() is not None)
