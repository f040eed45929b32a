"""The simulator's time: rate windows, lockout, replica lag, timestamps, cut connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from hypothesis import given, strategies as st

from provisioner.sandbox.simulator import Options, Simulator
from provisioner.sandbox.simulator.limits import Limiter
from tests.support import eventually

CONNECTIONS = "/api/v1/app-connections/open-router"
LOGIN = "/api/v1/auth/universal-auth/login"


class Desk:
    """A client with a token, and the simulator's clock in hand."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.now = 1_800_000_000.0
        self.session = session
        self.sim: Simulator
        self.token = ""

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
        """Send a request; return status, headers and body."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.session.request(method, self.sim.url + path, json=body, headers=headers) as answer:
            return answer.status, answer.headers, await answer.json()

    async def create(self, name: str, key: str = "k") -> tuple[int, Any, Any]:
        """Create a connection in the first project."""
        body = {"name": name, "method": "api-key", "credentials": {"apiKey": key}, "projectId": self.sim.projects[0]}
        return await self.call("POST", CONNECTIONS, body)

    async def find(self, name: str) -> tuple[int, Any, Any]:
        """Look up a connection by name."""
        return await self.call("GET", f"{CONNECTIONS}/connection-name/{name}?projectId={self.sim.projects[0]}")

    async def login(self, secret: str | None = None) -> tuple[int, str]:
        """Log in; return status and message."""
        body = {"clientId": self.sim.client_id, "clientSecret": secret or self.sim.client_secret}
        status, _, answer = await self.call("POST", LOGIN, body)
        return status, answer.get("message", "")


@asynccontextmanager
async def desk(**options: Any) -> AsyncIterator[Desk]:
    """Serve a simulator with a manual clock."""
    async with aiohttp.ClientSession() as session:
        found = Desk(session)
        chosen = Options(**{"upstream_pace": 0.01, **options})
        async with Simulator(chosen, clock=lambda: found.now) as found.sim:
            found.token = found.sim.token()
            yield found


async def test_a_window_starts_with_its_first_request() -> None:
    """The window ends its length after its first request, and the next one starts with the next request."""
    async with desk(write_limit=2, window=60.0) as at:
        assert (await at.create("a"))[1]["x-ratelimit-reset"] == "60"
        at.now += 59.5
        assert (await at.create("b"))[1]["x-ratelimit-reset"] == "1"
        status, headers, body = await at.create("c")
        assert (status, headers["retry-after"], headers["x-ratelimit-remaining"]) == (429, "1", "0")
        assert body["message"] == "Rate limit exceeded. Please try again in 1 seconds"
        at.now += 10.5
        status, headers, _ = await at.create("c")
        assert (status, headers["x-ratelimit-remaining"], headers["x-ratelimit-reset"]) == (200, "1", "60")


async def test_only_the_cloud_has_limits() -> None:
    """A self-hosted server neither limits nor sends the headers; the mode can change while it runs."""
    async with desk(mode="self-hosted", write_limit=1) as at:
        for name in ("a", "b"):
            status, headers, _ = await at.create(name)
            assert status == 200
            assert not any(header.lower().startswith("x-ratelimit") for header in headers)
        at.sim.configure(mode="cloud")
        assert [(await at.create(name))[0] for name in ("c", "d")] == [200, 429]


async def test_refusals_after_the_limiter_spend_budget_and_those_before_do_not() -> None:
    """A bad body counts; a bad token and maintenance do not."""
    async with desk(write_limit=2) as at:
        assert (await at.call("POST", CONNECTIONS, {}))[1]["x-ratelimit-remaining"] == "1"
        good, at.token = at.token, "garbage"
        assert "x-ratelimit-remaining" not in (await at.create("a"))[1]
        at.token = good
        at.sim.configure(maintenance=True)
        status, headers, body = await at.create("a")
        assert (status, body["error"], "x-ratelimit-remaining" in headers) == (500, "InternalServerError", False)
        at.sim.configure(maintenance=False)
        assert (await at.create("a"))[1]["x-ratelimit-remaining"] == "0"


async def test_maintenance_lets_reads_through() -> None:
    """Only writes are refused during maintenance."""
    async with desk() as at:
        at.sim.configure(maintenance=True)
        assert (await at.call("GET", CONNECTIONS))[0] == 200
        assert (await at.login())[0] == 500


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 10))
def test_no_window_lets_more_through_than_its_limit(gaps: list[float], limit: int) -> None:
    """Whenever requests come, a window passes at most its limit, and reports correctly what remains."""
    limiter, now, start, passed = Limiter(), 0.0, None, 0
    for gap in gaps:
        now += gap
        verdict = limiter.hit(address="a", route="r", limit=limit, length=60.0, now=now)
        if start is None or now >= start + 60.0:
            start, passed = now, 0
        passed += verdict.allowed
        assert passed <= limit
        assert verdict.remaining == limit - passed
        assert -1e-6 < verdict.reset - (start + 60.0 - now) < 1 + 1e-6


async def test_three_wrong_secrets_lock_the_client_id() -> None:
    """The right secret is refused for five minutes after three failures, and works again afterwards."""
    async with desk() as at:
        assert [(await at.login("wrong"))[1] for _ in range(3)] == ["Invalid credentials"] * 3
        locked = (401, "This identity auth method is temporarily locked, please try again later")
        assert await at.login() == locked
        at.now += 299
        assert await at.login() == locked
        at.now += 2
        assert (await at.login())[0] == 200
        assert at.sim.state()["logins"] == {"ok": 1, "refused": 3, "locked": 2}


async def test_failures_are_forgotten_after_half_a_minute() -> None:
    """Two failures, a pause, and two more do not lock; nor does a success in between."""
    async with desk() as at:
        for _ in range(2):
            await at.login("wrong")
            await at.login("wrong")
            at.now += 31
        assert (await at.login())[0] == 200
        await at.login("wrong")
        await at.login("wrong")
        assert (await at.login())[0] == 200
        await at.login("wrong")
        assert (await at.login())[0] == 200


async def test_unlocking_ends_a_lock() -> None:
    """The control route can end a lock before its time."""
    async with desk() as at:
        for _ in range(3):
            await at.login("wrong")
        at.sim.configure(unlock=True)
        assert (await at.login())[0] == 200


async def test_reads_lag_behind_and_the_name_is_taken_at_once() -> None:
    """A new connection is invisible to every read for the lag, while a second create of it is refused."""
    async with desk(replica_lag=5.0) as at:
        created = (await at.create("a"))[2]["appConnection"]
        by_id = f"{CONNECTIONS}/{created['id']}"
        assert (await at.find("a"))[0] == 404
        assert (await at.call("GET", by_id))[0] == 404
        assert (await at.call("GET", CONNECTIONS))[2] == {"appConnections": []}
        assert (await at.create("a"))[0] == 400
        at.now += 5.1
        assert (await at.find("a"))[0] == 200
        assert (await at.call("GET", by_id))[2]["appConnection"] == created
        assert len((await at.call("GET", CONNECTIONS))[2]["appConnections"]) == 1


async def test_the_servers_clock_shows_in_date_and_timestamps_only() -> None:
    """An offset moves `Date`, `createdAt` and `updatedAt`, and neither windows nor tokens."""
    async with desk(clock_offset=-3600.0, token_ttl=60) as at:
        assert (await at.login())[0] == 200
        _, headers, body = await at.create("a")
        assert parsedate_to_datetime(headers["Date"]).timestamp() == at.now - 3600
        assert body["appConnection"]["createdAt"] == "2027-01-15T07:00:00.000Z"
        at.now += 30
        status, _, body = await at.call("PATCH", f"{CONNECTIONS}/{body['appConnection']['id']}", {"description": "d"})
        assert (status, body["appConnection"]["updatedAt"]) == (200, "2027-01-15T07:00:30.000Z")


async def test_the_hash_changes_with_every_write_of_the_key_and_only_then() -> None:
    """Writing the same key again changes `credentialsHash`; another name or description does not."""
    async with desk() as at:
        first = (await at.create("a"))[2]["appConnection"]
        second = (await at.create("b"))[2]["appConnection"]
        path = f"{CONNECTIONS}/{first['id']}"
        renamed = (await at.call("PATCH", path, {"name": "c", "description": "d"}))[2]["appConnection"]
        rewritten = (await at.call("PATCH", path, {"credentials": {"apiKey": "k"}}))[2]["appConnection"]
        assert renamed["credentialsHash"] == first["credentialsHash"]
        hashes = {first["credentialsHash"], second["credentialsHash"], rewritten["credentialsHash"]}
        assert len(hashes) == 3
        assert (await at.call("PATCH", path, {"credentials": {"apiKey": "k-mode-401"}}))[0] == 401
        assert (await at.call("PATCH", path, {"name": "b"}))[0] == 400
        assert (await at.find("c"))[2]["appConnection"]["credentialsHash"] == rewritten["credentialsHash"]


async def test_a_hanging_server_cuts_the_connection_in_the_end() -> None:
    """During the outage `hang`, nothing is answered until the server cuts; nothing is done."""
    async with desk(cut_after=0.1) as at:
        at.sim.configure(outage="hang")
        start = asyncio.get_running_loop().time()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await at.create("a")
        assert asyncio.get_running_loop().time() - start > 0.09
        at.sim.configure(outage="none")
        assert (await at.create("a"))[0] == 200


async def test_closing_ends_what_still_waits() -> None:
    """A simulator that closes does not wait for an OpenRouter that never answers."""
    async with desk() as at, asyncio.timeout(5):

        async def close() -> None:
            await eventually(lambda: at.sim.world.waits)
            await at.sim.__aexit__(None, None, None)

        answers = await asyncio.gather(at.create("a", "k-mode-hang"), close(), return_exceptions=True)
    assert isinstance(answers[0], aiohttp.ClientConnectionError)


async def test_closing_leaves_no_late_work_behind() -> None:
    """Work that continues after its connection was cut ends with the simulator."""
    before = asyncio.all_tasks()
    async with desk(faults={"late-commit": 1.0}, late_by=60.0) as at:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await at.create("a")
    assert asyncio.all_tasks() == before
