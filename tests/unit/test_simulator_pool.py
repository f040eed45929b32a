"""The simulator's pool of database connections: too many creates at once have the recorded effects."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from provisioner.sandbox.simulator import Options, Simulator
from tests.support import eventually
from tests.support.virtual_time import in_virtual_time

CONNECTIONS = "/api/v1/app-connections/open-router"
LOGIN = "/api/v1/auth/universal-auth/login"
# The recorded server waited for a minute.
WAIT = Options().pool_wait

Outcome = tuple[int, str | None]


def now() -> float:
    """The time of the event loop, in which all of this happens."""
    return asyncio.get_running_loop().time()


def present(sim: Simulator) -> tuple[int, int]:
    """Connections that are held, and requests that wait for one."""
    pool = sim.state()["pool"]
    return pool["used"], pool["waiting"]


class Crowd:
    """Clients that do the same thing at once."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self._session = session
        self._headers = {"Authorization": f"Bearer {sim.token()}"}

    async def call(self, method: str, path: str, body: Any = None) -> Outcome:
        """Send a request; return its status and the error's name."""
        async with self._session.request(method, self.sim.url + path, json=body, headers=self._headers) as answer:
            return answer.status, (await answer.json()).get("error")

    async def create(self, number: int, key: str = "k") -> Outcome:
        """Create one connection."""
        body = {"name": f"n{number}", "method": "api-key", "credentials": {"apiKey": key}}
        return await self.call("POST", CONNECTIONS, body | {"projectId": self.sim.projects[0]})

    async def login(self) -> Outcome:
        """Log in."""
        return await self.call("POST", LOGIN, {"clientId": self.sim.client_id, "clientSecret": self.sim.client_secret})

    async def create_all(self, count: int) -> Counter[Outcome]:
        """Send this many creates at once."""
        return Counter(await asyncio.gather(*(self.create(number) for number in range(count))))

    async def keep_creating(self, total: int, in_flight: int, key: str = "k") -> Counter[Outcome]:
        """Send this many creates with a limited number in flight."""
        numbers = iter(range(total))

        async def one_after_another() -> list[Outcome]:
            return [await self.create(number, key) for number in numbers]

        runs = await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
        return Counter(outcome for run in runs for outcome in run)

    async def stand_still(self, waiting: int) -> None:
        """Wait until every connection is in use and a number of requests wait for one."""
        await eventually(lambda: present(self.sim) == (10, waiting))


@asynccontextmanager
async def crowd(**options: Any) -> AsyncIterator[Crowd]:
    """Serve a simulator to any number of clients at once."""
    chosen = Options(**{"mode": "self-hosted", **options})
    async with (
        Simulator(chosen) as sim,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Crowd(sim, session)


@pytest.mark.parametrize("mode", ["cloud", "self-hosted"])
@in_virtual_time
async def test_eleven_creates_at_once_are_made(mode: str) -> None:
    """Eleven creates at once are all made in no time."""
    async with crowd(mode=mode) as at:
        began = now()
        assert await at.create_all(11) == {(200, None): 11}
        assert now() - began < 1
        assert present(at.sim) == (0, 0)


@in_virtual_time
async def test_twelve_creates_at_once_stand_still_and_eight_fail() -> None:
    """Twelve creates at once hang until the wait ends; then eight of them are 500 and four are made."""
    async with crowd() as at:
        began = now()
        outcomes = await at.create_all(12)
        assert outcomes == {(500, "Find by id"): 8, (200, None): 4}
        pool = at.sim.state()["pool"]
        assert (pool["mostWaiting"], pool["timedOut"]) == (10, 8)
        assert WAIT <= now() - began < WAIT + 1
        assert len(at.sim.state()["connections"]) == 4
        assert await at.login() == (200, None)


@in_virtual_time
async def test_a_stranger_waits_with_them_and_fails() -> None:
    """While 64 creates hang, another client's login and read hang for the whole time and are 500 `Find one`."""
    async with crowd() as at:
        creates = asyncio.create_task(at.create_all(64))
        await eventually(lambda: at.sim.state()["pool"]["waiting"] > 20)
        began = now()
        answers = await asyncio.gather(at.login(), at.call("GET", f"{CONNECTIONS}?projectId={at.sim.projects[0]}"))
        assert list(answers) == [(500, "Find one"), (500, "Find one")]
        assert WAIT - 1 <= now() - began < WAIT + 1
        outcomes = await creates
        assert outcomes[200, None] < 20
        assert outcomes[500, "InternalServerError"] > 40


@in_virtual_time
async def test_status_needs_no_database() -> None:
    """`/api/status` answers while everything else hangs."""
    async with crowd() as at:
        creates = asyncio.create_task(at.create_all(12))
        await at.stand_still(10)
        began = now()
        assert await at.call("GET", "/api/status") == (200, None)
        assert now() - began < 1
        at.sim.configure(pool=0)
        assert await creates == {(200, None): 12}


@in_virtual_time
async def test_new_keys_stop_it_just_so() -> None:
    """PATCH with credentials holds and takes connections as a create does; without credentials it does not."""
    async with crowd(pool=0) as at:
        await at.create_all(12)
        at.sim.configure(pool=10)
        ids = [connection["id"] for connection in at.sim.state()["connections"]]

        async def patch_all(body: Any) -> Counter[Outcome]:
            calls = (at.call("PATCH", f"{CONNECTIONS}/{identifier}", body) for identifier in ids)
            return Counter(await asyncio.gather(*calls))

        assert await patch_all({"description": "d"}) == {(200, None): 12}
        assert await patch_all({"credentials": {"apiKey": "k"}}) == {(500, "Find by id"): 8, (200, None): 4}


@in_virtual_time
async def test_ten_in_flight_is_what_it_bears() -> None:
    """Ten in flight are served at the recorded pace of 90 to 120 a second, and no wait ever times out."""
    async with crowd() as at:
        began = now()
        assert await at.keep_creating(200, 10) == {(200, None): 200}
        assert 200 / 120 <= now() - began <= 200 / 90


@in_virtual_time
async def test_sixteen_wait_for_a_slow_openrouter_together() -> None:
    """With an OpenRouter that takes 67 turns sixteen in flight never meet in their transactions."""
    async with crowd(upstream_pace=0.1) as at:
        assert await at.keep_creating(64, 16, "k-mode-delay3") == {(200, None): 64}
        assert at.sim.state()["pool"]["timedOut"] == 0


@in_virtual_time
async def test_clients_that_leave_or_are_cut_hold_nothing_for_ever() -> None:
    """Creates of closed clients, and creates cut for their silence, continue and release their connections."""
    async with crowd(cut_after=0.3, pool_wait=1.5) as at:
        tasks = [asyncio.create_task(at.create(number)) for number in range(12)]
        await at.stand_still(10)
        for task in tasks[:6]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(outcome, tuple) and outcome[0] == 500 for outcome in outcomes)
        await eventually(lambda: present(at.sim) == (0, 0))
        assert len(at.sim.state()["connections"]) == 4


@in_virtual_time
async def test_a_pool_of_none_is_no_limit() -> None:
    """With `pool` 0 a hundred creates at once are made, without turns."""
    async with crowd(pool=0, pool_step=60.0) as at:
        assert await at.create_all(100) == {(200, None): 100}


@in_virtual_time
async def test_it_stops_while_everything_waits() -> None:
    """A server that hangs can be stopped at once."""
    async with crowd() as at:
        creates = [asyncio.create_task(at.create(number)) for number in range(12)]
        await at.stand_still(10)
        began = now()
    outcomes = await asyncio.gather(*creates, return_exceptions=True)
    assert sum(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes) == 10
    assert now() - began < WAIT / 2
