"""How many creates are in flight, over all workers; a simulated Infisical with its database connections."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from provisioner.core.concurrency import (
    CLIFF_MEMORY,
    FIRST_SUSPICION,
    SELF_HOSTED_LIMIT,
    START_LIMIT,
    UPSTREAM_LIMIT,
    CallReport,
    Rules,
)
from provisioner.postgres.concurrency import SharedConcurrency
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.reports import read_gauges
from provisioner.sandbox.simulator import Options
from provisioner.worker.slots import SlotGate
from tests.support import eventually
from tests.support.fleet import Fleet
from tests.support.gateway import CREATES, Gateway, in_json
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from provisioner.core.model import Observation
    from tests.support.postgres import Database
    from tests.support.sessions import Session

SELF = Options(mode="self-hosted", projects=400)
HERE = Rules(address="https://infisical.example")
MANY = CallReport(wanted=100)
JOIN = (
    "INSERT INTO provisioner.workers (name, version, targets, lease_until)"
    " VALUES ('w', '1', '{default}', now() + interval '30 s') RETURNING id"
)
TOO_MANY = {
    "reqId": "req-Ab3dE6gH9jK2mN",
    "statusCode": 500,
    "error": "InternalServerError",
    "message": "Something went wrong",
}
LOGIN = "/api/v1/auth/universal-auth/login"


async def known(
    session: Session, columns: str, source: str = "provisioner.concurrency WHERE target = 'default'"
) -> tuple[Any, ...]:
    """The values of the shared row."""
    row = await session.fetchrow(f"SELECT {columns} FROM {source}")
    return tuple(row or ())


class Peak:
    """The most creates that were in flight at once, over all workers of this process."""

    def __init__(self) -> None:
        self.most = self._running = 0

    async def count(self, call: Callable[[], Awaitable[Observation]]) -> Observation:
        """Make a call, and count it while it lasts."""
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            return await call()
        finally:
            self._running -= 1


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Peak:
    """Count the calls that slots let through."""
    counted, send = Peak(), SlotGate.send
    monkeypatch.setattr(SlotGate, "send", lambda gate, call: send(gate, partial(counted.count, call)))
    return counted


def never_stopped(fleet: Fleet) -> bool:
    """Whether no wait for one of the server's database connections has ever timed out."""
    return bool(fleet.simulator.state()["pool"]["timedOut"] == 0)


@asynccontextmanager
async def stranger(fleet: Fleet) -> AsyncIterator[list[float]]:
    """Another client that logs in repeatedly; returns each login's duration in seconds."""
    took: list[float] = []
    simulator = fleet.simulator
    body = {"clientId": simulator.client_id, "clientSecret": simulator.client_secret}

    async def log_in(session: aiohttp.ClientSession) -> None:
        while True:
            began = time.monotonic()
            took.append(float("inf"))
            async with session.post(LOGIN, json=body) as answer:
                assert answer.status == 200
            took[-1] = time.monotonic() - began
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(simulator.url) as session:
        logging_in = asyncio.create_task(log_in(session))
        try:
            yield took
        finally:
            logging_in.cancel()


async def test_two_workers_do_not_stop_a_self_hosted_server(database: Database, peak: Peak) -> None:
    """With default settings 300 rows are done in seconds, eight at once at most, and everybody else can log in."""
    async with Fleet(database.url, SELF, workers=2) as fleet, stranger(fleet) as took:
        await fleet.start()
        await fleet.insert(300)
        await fleet.done(within=30.0)
        assert await fleet.states() == {"succeeded": 300}
        assert fleet.requests() == {"200": 300}
        assert never_stopped(fleet)
        assert len(took) > 1  # each login was answered, or the stranger would have failed
    assert peak.most <= SELF_HOSTED_LIMIT


async def test_sixteen_in_flight_are_spread_where_openrouter_takes_the_time(database: Database, peak: Peak) -> None:
    """A number that the server handles in flight does not stop it by arriving all at once."""
    settings = {
        "PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": "16",
        "PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-k-mode-delay3",
    }
    slow = replace(SELF, upstream_pace=0.1)
    async with Fleet(database.url, slow, settings=settings) as fleet:
        await fleet.start()
        await fleet.insert(100)
        await fleet.done(within=30.0)
        assert never_stopped(fleet)
        assert peak.most == 16
        peak.most = 0
        await fleet.insert(60, name="again")  # all sixteen slots are free at this moment
        await fleet.done(within=30.0)
        assert never_stopped(fleet)
        assert peak.most == 16


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_slow_openrouter_does_not_stop_it_by_default(database: Database, workers: int) -> None:
    """With 0.3 s per call to OpenRouter the limit grows as far as allowed, and no wait for the pool times out."""
    slow, key = replace(SELF, upstream_pace=0.1), {"PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-k-mode-delay3"}
    async with Fleet(database.url, slow, workers=workers, settings=key) as fleet:
        await fleet.start()
        await fleet.insert(100)
        await fleet.done(within=30.0)
        assert fleet.requests() == {"200": 100}
        assert never_stopped(fleet)
        (limit,) = await known(fleet.session, "in_flight_limit")
        assert START_LIMIT < limit <= UPSTREAM_LIMIT


async def test_timeouts_leave_a_suspicion_and_infisicals_own_errors_a_cliff(database: Database) -> None:
    """Only an error with Infisical's own id proves that there were too many."""
    pool = Pool(database.url)
    async with connected(database.url) as session:
        worker = await session.fetchval(JOIN)
        shared = SharedConcurrency(pool, target="default", rules=HERE)
        await shared.exchange(worker, replace(MANY, running=4, oldest=60.0))
        lost = await shared.exchange(worker, replace(MANY, calls=4, failed=4, lost=4))
        assert (lost.cliff, *await known(session, "cliff, memory")) == (None, 4, FIRST_SUSPICION)
        assert [each.cliff for each in (await read_gauges(pool)).concurrency] == [None]
        told = await shared.exchange(worker, replace(MANY, calls=1, failed=1, slow=1))
        assert (told.cliff, *await known(session, "cliff, memory")) == (4, 4, CLIFF_MEMORY)
        assert [each.cliff for each in (await read_gauges(pool)).concurrency] == [4]
    await pool.close()


async def test_workers_with_different_addresses_do_not_stop_each_other(database: Database) -> None:
    """While a target's address is being changed, one worker after the other, all of them get slots, a few at most."""
    pool = Pool(database.url)
    async with connected(database.url) as session:
        old, new = await session.fetchval(JOIN), await session.fetchval(JOIN)
        here = SharedConcurrency(pool, target="default", rules=HERE)
        there = SharedConcurrency(pool, target="default", rules=Rules(address="https://other.example"))
        for _ in range(5):
            first = await here.exchange(old, replace(MANY, calls=8, accepted=8, elapsed=0.8, pressed=True, quick=True))
            second = await there.exchange(
                new, replace(MANY, calls=8, accepted=8, elapsed=0.8, pressed=True, quick=True)
            )
            assert first.limit <= SELF_HOSTED_LIMIT
            assert second.limit <= SELF_HOSTED_LIMIT
            assert first.slots + second.slots <= SELF_HOSTED_LIMIT
            assert first.slots + second.slots > 0
    await pool.close()


async def test_a_locked_row_stops_nobody(database: Database) -> None:
    """While a long transaction locks the target's row, workers go on with their slots."""
    async with Fleet(database.url, SELF) as fleet, connected(database.url) as session:
        await fleet.start()
        await fleet.insert(100)
        await fleet.done()
        async with session.transaction():
            await session.execute("SELECT FROM provisioner.concurrency FOR UPDATE")
            await fleet.insert(100, name="meanwhile")
            await fleet.done(within=30.0)
            assert await fleet.states() == {"succeeded": 200}
        await fleet.insert(100, name="afterwards")
        await fleet.done(within=30.0)
        assert fleet.requests() == {"200": 300}


@pytest.mark.parametrize(("most", "rows"), [("1", 60), ("3", 180)])
async def test_a_number_is_the_most_over_all_workers(database: Database, peak: Peak, most: str, rows: int) -> None:
    """Three workers together never have more in flight than the settings say, and all of them work."""
    settings = {"PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": most}
    slow = replace(SELF, latency=0.03)
    async with Fleet(database.url, slow, workers=3, settings=settings) as fleet:
        await fleet.start()
        await fleet.insert(rows)
        await fleet.done(within=60.0)
        assert peak.most == int(most)
        # A single slot may stay with one worker until everything is done; several are shared.
        assert sum(worker.created > 0 for worker in fleet.workers) > (most != "1")


class Cliff(Gateway):
    """A server that stops as soon as `at` creates are in flight, until released, and fails all of them."""

    def __init__(self, target: str, *, at: int) -> None:
        super().__init__(target)
        self.at = at
        self.running = self.busiest = self.stops = 0
        self.stopped = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, lines: list[str], body: bytes
    ) -> None:
        if (method, path) != ("POST", CREATES):
            await super()._answer(writer, method, path, lines, body)
            return
        self.running += 1
        self.busiest = max(self.busiest, self.running)
        try:
            if self.running >= self.at and not self.stopped.is_set():
                self.stops += 1
                self.stopped.set()
            if self.stopped.is_set():
                await self.goes_on.wait()
                writer.write(in_json(500, TOO_MANY))
            else:
                await super()._answer(writer, method, path, lines, body)
        finally:
            self.running -= 1
            if not self.running:
                self.stopped.clear()


async def test_a_cliff_is_remembered(database: Database) -> None:
    """A server that stops at seven is not treated as down: it gets time, and never reaches its cliff again."""
    async with (
        Fleet(database.url, replace(SELF, latency=0.02), workers=2) as fleet,
        Cliff(fleet.simulator.url, at=7) as server,
    ):
        # A fixed number: a busy machine makes calls slow, and then more of them might be tried.
        await fleet.start(INFISICAL_HOST=server.url, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8")
        await fleet.insert(200)
        await asyncio.wait_for(server.stopped.wait(), 30)
        stalled = "SELECT stalled_at IS NOT NULL FROM provisioner.concurrency WHERE target = 'default'"
        await eventually(lambda: fleet.session.fetchval(stalled), within=30.0)
        server.goes_on.set()

        async def cliff() -> Any:
            assert not await fleet.session.fetchval("SELECT count(*) FROM provisioner.target_incidents")
            return await fleet.session.fetchval("SELECT cliff FROM provisioner.concurrency WHERE target = 'default'")

        await eventually(cliff, within=30.0)
        met = await known(fleet.session, "cliff, bar, cliff_at")
        assert server.stops == 1
        assert server.at <= met[0] <= 8
        server.busiest = 0
        await fleet.done(within=60.0)
        await fleet.insert(200, name="more")
        await fleet.done(within=60.0)
        assert await fleet.states() == {"succeeded": 400}
        assert len(fleet.simulator.world.connections) == 400
        assert await known(fleet.session, "cliff, bar, cliff_at") == met
        assert 1 < server.busiest <= met[1] < server.at
        assert server.stops == 1
        await fleet.stop()  # while the server is there for logging out


class TestShared:
    """The row that all workers share."""

    async def test_never_allots_more_than_there_is(self, database: Database) -> None:
        """However many workers ask at the same moment, they never have more slots than the limit."""
        pool = Pool(database.url, size=10)
        async with connected(database.url) as session:
            workers = [await session.fetchval(JOIN) for _ in range(12)]
            shared = SharedConcurrency(pool, target="default", rules=HERE)
            allotted = await asyncio.gather(*(shared.exchange(worker, MANY) for worker in workers))
            assert sum(each.slots for each in allotted) == allotted[0].limit
            held, limit = await known(session, "held, in_flight_limit")
            assert sum(held) <= limit
        await pool.close()

    async def test_gives_the_slots_of_the_dead_to_the_living(self, database: Database) -> None:
        """When a worker's lease has expired, or it has left, the others get its slots."""
        pool = Pool(database.url)
        async with connected(database.url) as session:
            dead, alive = await session.fetchval(JOIN), await session.fetchval(JOIN)
            shared = SharedConcurrency(pool, target="default", rules=HERE)
            assert (await shared.exchange(dead, MANY)).slots == 4
            assert (await shared.exchange(alive, MANY)).slots == 0
            await session.execute("UPDATE provisioner.workers SET lease_until = now() WHERE id = $1", dead)
            assert (await shared.exchange(alive, MANY)).slots == 4
        await pool.close()

    async def test_begins_anew_at_another_address(self, database: Database) -> None:
        """One server's limit does not apply to the next one."""
        pool = Pool(database.url)
        async with connected(database.url) as session:
            worker = await session.fetchval(JOIN)
            await SharedConcurrency(pool, target="default", rules=HERE).exchange(worker, MANY)
            await session.execute("UPDATE provisioner.concurrency SET in_flight_limit = 64, metered = true, cliff = 70")
            there = SharedConcurrency(pool, target="default", rules=Rules(address="https://other.example"))
            allotment = await there.exchange(worker, MANY)
            assert (allotment.limit, allotment.cliff) == (4, None)
            assert await known(session, "address, metered") == ("https://other.example", False)
        await pool.close()


async def test_a_learned_pace_ends_with_the_address(database: Database) -> None:
    """A target whose URL changes from a cloud to a self-hosted server is not paced by the cloud's limit."""
    async with Fleet(database.url, SELF) as fleet:
        await fleet.session.execute(
            "INSERT INTO provisioner.permits (target, kind, metered, permits, granted, used, address, bare_since)"
            " VALUES ('default', 'write', true, 90, 90, 90, 'https://us.infisical.com', 0)"
            " ON CONFLICT (target, kind) DO UPDATE SET metered = true, permits = 90, granted = 90, used = 90,"
            " address = 'https://us.infisical.com'"
        )
        await fleet.start(1)
        await fleet.insert(150)
        await fleet.done(within=20.0)
        learned = await known(fleet.session, "metered, address", "provisioner.permits WHERE kind = 'write'")
        assert learned == (False, fleet.simulator.url)
