"""The app-connection calls over real sockets: what each shows, and how often it is sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from provisioner.core.model import Connection, Observation, RateHeaders, Request, Result
from provisioner.core.ports import Connections
from provisioner.core.secret import Secret
from provisioner.infisical.auth import StaticToken, UniversalAuth
from provisioner.infisical.connections import READ_TRIES, InfisicalConnections
from provisioner.infisical.identity import Identity
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.sandbox.simulator import Options, Simulator
from tests.support import eventually

KEY = Secret("sk-or-v1-of-the-connections-test")
ROUTE = "/api/v1/app-connections/open-router"
CREATE = f"POST {ROUTE}"
LOGIN = "POST /api/v1/auth/universal-auth/login"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@dataclass(slots=True, kw_only=True)
class Rig:
    """Connections before a simulator: the worker's port, and what else they can do."""

    simulator: Simulator
    connections: Connections
    more: InfisicalConnections

    def request(self, project: int = 0, **changes: Any) -> Request:
        """A request for one of the simulator's projects."""
        fields = {"name": "openrouter", "description": "for the team", "credential": "default", **changes}
        return Request(id=7, **{"project_id": self.simulator.projects[project], **fields})

    def made(self) -> list[dict[str, Any]]:
        """The connections that the simulator has."""
        found: list[dict[str, Any]] = self.simulator.state()["connections"]
        return found

    def counts(self, route: str) -> dict[str, int]:
        """How many requests of a route ended how."""
        counts: dict[str, int] = self.simulator.state()["requests"].get(route, {})
        return counts

    def logins(self) -> dict[str, int]:
        """How many logins the simulator granted, refused, and refused because of the lock."""
        counts: dict[str, int] = self.simulator.state()["logins"]
        return counts


@asynccontextmanager
async def rig(
    *, marker: str = "", secret: str | None = None, patience: float = 5.0, **options: Any
) -> AsyncIterator[Rig]:
    """Connections that log in to a fresh simulator."""
    async with Simulator(Options(**{"projects": 3, "upstream_pace": 0.01, **options})) as simulator:
        routes = Routes(simulator.url)
        auth = UniversalAuth(client_id=simulator.client_id, client_secret=Secret(secret or simulator.client_secret))
        async with Transport(TransportOptions(base_url=simulator.url, timeout=patience)) as transport:
            identity = Identity(auth, transport, routes)
            connections = InfisicalConnections(transport, identity, routes, marker=marker, read_pause=0.001)
            yield Rig(simulator=simulator, connections=connections, more=connections)


def described(found: Connection) -> dict[str, Any]:
    """The essentials of a connection by the names that the simulator shows them by."""
    return {
        "id": found.id,
        "projectId": found.project_id,
        "name": found.name,
        "credentialsHash": found.credentials_hash,
        "description": found.description,
    }


def the(seen: Observation) -> Connection:
    """The connection of an observation that has one."""
    assert seen.connection is not None
    return seen.connection


async def test_create() -> None:
    """A create makes the requested connection, and returns its id, its hash, the limits and the clock."""
    async with rig() as now:
        seen = await now.connections.create(now.request(), KEY)
        assert (seen.result, seen.status, seen.metered) == (Result.CREATED, 200, True)
        made = now.made()[0]
        assert described(the(seen)).items() <= made.items()
        assert made["projectId"] == now.simulator.projects[0]
        assert made["description"] == "for the team"
        assert seen.rate == RateHeaders(limit=200, remaining=199, reset=60.0)
        assert seen.skew is not None
        assert abs(seen.skew) < 2
        assert seen.elapsed > 0


async def test_skew_is_measured() -> None:
    """A server whose clock is an hour ahead shows it."""
    async with rig(clock_offset=3600.0) as now:
        seen = await now.connections.create(now.request(), KEY)
        assert seen.skew == pytest.approx(3600, abs=2)


async def test_marker() -> None:
    """Where the target marks its descriptions, a create carries the request's mark."""
    async with rig(marker="here") as now:
        await now.connections.create(now.request(), KEY)
        assert now.made()[0]["description"] == "for the team [provisioner:here:7]"


async def test_a_taken_name_is_looked_up() -> None:
    """A second create finds the name taken, and the look-up finds its connection."""
    async with rig() as now:
        first = await now.connections.create(now.request(), KEY)
        assert (await now.connections.create(now.request(), KEY)).result is Result.NAME_TAKEN
        found = await now.connections.look_up(now.request())
        assert (found.result, the(found)) == (Result.FOUND, the(first))


async def test_names_of_other_apps() -> None:
    """A connection of another app is distinguished from ours."""
    async with rig() as now:
        now.simulator.configure(plant=[{"name": "openrouter", "projectId": now.simulator.projects[0], "app": "github"}])
        assert (await now.connections.create(now.request(), KEY)).result is Result.NAME_TAKEN
        assert (await now.connections.look_up(now.request())).result is Result.OTHER_APP


async def test_reading() -> None:
    """A missing connection is absent; an existing one is found by name, by id and in the project's list."""
    async with rig() as now:
        assert (await now.connections.look_up(now.request())).result is Result.ABSENT
        assert (await now.more.get(UNKNOWN_ID)).result is Result.ABSENT
        seen, listed = await now.more.list(now.simulator.projects[0])
        assert (seen.result, listed) == (Result.FOUND, ())
        ours = the(await now.connections.create(now.request(), KEY))
        await now.connections.create(now.request(1), KEY)
        assert the(await now.more.get(ours.id)) == ours
        seen, listed = await now.more.list(now.simulator.projects[0])
        assert (seen.result, listed) == (Result.FOUND, (ours,))


async def test_replace_and_remove() -> None:
    """Replacing sets the key and nothing else, so that the hash alone changes; removing deletes."""
    async with rig() as now:
        ours = the(await now.connections.create(now.request(), KEY))
        seen = await now.connections.replace(now.request(), ours, Secret("sk-or-v1-another"))
        assert seen.result is Result.UPDATED
        assert the(seen).credentials_hash != ours.credentials_hash
        assert (the(seen).id, the(seen).description) == (ours.id, ours.description)
        assert (await now.connections.remove(ours)).result is Result.REMOVED
        assert now.made() == []
        assert (await now.connections.remove(ours)).result is Result.ABSENT


async def test_refused_keys() -> None:
    """A key that OpenRouter refuses is reported as such, by create and by replace, without the key."""
    async with rig() as now:
        bad = Secret("sk-or-v1-bad-mode-401")
        ours = the(await now.connections.create(now.request(), KEY))
        for seen in (
            await now.connections.create(now.request(1), bad),
            await now.connections.replace(now.request(), ours, bad),
        ):
            assert (seen.result, seen.metered) == (Result.KEY_REFUSED, True)
            assert "management" in seen.message
            assert "bad-mode" not in seen.message
        assert now.logins()["ok"] == 1


async def test_projects() -> None:
    """A missing project and a missing permission are distinguished, each with its advice."""
    async with rig() as now:
        seen = await now.connections.create(now.request(project_id=UNKNOWN_ID), KEY)
        assert (seen.result, seen.metered) == (Result.PROJECT_MISSING, True)
        assert UNKNOWN_ID in seen.message
        project = now.simulator.projects[0]
        for grant, result, words in (
            (["read-app-connections"], Result.FORBIDDEN, "create-app-connections"),
            ("none", Result.NOT_IN_PROJECT, "not in project"),
            ("foreign", Result.FOREIGN_PROJECT, "another organization"),
        ):
            now.simulator.configure(permissions={project: grant})
            seen = await now.connections.create(now.request(), KEY)
            assert (seen.result, seen.metered) == (result, True)
            assert words in seen.message
            assert project in seen.message


async def test_input() -> None:
    """Input that Infisical refuses is reported with its issues."""
    async with rig() as now:
        seen = await now.connections.create(now.request(name="Not A Slug"), KEY)
        assert (seen.result, seen.metered) == (Result.INVALID, True)
        assert "name:" in seen.message


async def test_throttled() -> None:
    """Over the limit, the answer says how long nothing should be sent."""
    async with rig(write_limit=1) as now:
        await now.connections.create(now.request(), KEY)
        seen = await now.connections.create(now.request(1), KEY)
        assert (seen.result, seen.metered) == (Result.THROTTLED, True)
        assert seen.retry_after is not None
        assert 1 <= seen.retry_after <= 60
        assert seen.rate is not None
        assert seen.rate.remaining == 0


async def test_without_a_limiter() -> None:
    """A self-hosted Infisical has no limit headers on an answer that would have them in the cloud."""
    async with rig(mode="self-hosted") as now:
        seen = await now.connections.create(now.request(), KEY)
        assert (seen.result, seen.rate, seen.metered) == (Result.CREATED, None, True)


@pytest.mark.parametrize("end", ["expire_tokens", "lapse_tokens", "revoke_tokens"])
async def test_a_dead_token_is_replaced(end: str) -> None:
    """However a token ended, the create logs in once and is sent once more, and one connection is made."""
    async with rig() as now:
        await now.connections.create(now.request(1), KEY)
        now.simulator.configure(**{end: True})
        assert (await now.connections.create(now.request(), KEY)).result is Result.CREATED
        assert now.logins()["ok"] == 2
        assert sum(now.counts(CREATE).values()) == 3
        assert len(now.made()) == 2


async def test_no_storm_of_logins() -> None:
    """When fifty creates meet an expired token at once, one of them logs in and all succeed."""
    # Without the pool, which would stall with so many creates: this test counts logins.
    async with rig(latency=0.02, pool=0) as now:
        await now.connections.create(now.request(1), KEY)
        now.simulator.configure(expire_tokens=True)
        requests = [now.request(name=f"number-{number}") for number in range(50)]
        seen = await asyncio.gather(*(now.connections.create(request, KEY) for request in requests))
        assert {each.result for each in seen} == {Result.CREATED}
        assert now.logins() == {"ok": 2, "refused": 0, "locked": 0}
        assert len(now.made()) == 51


async def test_a_wrong_secret_is_sent_once() -> None:
    """With a wrong client secret, one login is sent whatever is queued, and nothing else."""
    async with rig(secret="wrong", latency=0.02) as now:
        calls = [now.connections.create(now.request(name=f"n-{number}"), KEY) for number in range(50)]
        calls += [now.connections.look_up(now.request()) for _ in range(10)]
        seen = await asyncio.gather(*calls)
        assert {each.result for each in seen} == {Result.TOKEN_TROUBLE}
        assert "client secret" in seen[0].message
        assert now.counts(LOGIN) == {"401": 1}
        assert now.counts(CREATE) == {}


async def test_tokens_with_few_uses() -> None:
    """Tokens that are valid for one call each are replaced as often as necessary."""
    async with rig(mode="self-hosted") as now:
        now.simulator.configure(token_uses=1)
        seen = [await now.connections.create(now.request(name=f"number-{number}"), KEY) for number in range(6)]
        assert {each.result for each in seen} == {Result.CREATED}
        assert now.logins()["ok"] == 6


@pytest.mark.parametrize(
    ("identity", "shown"), [("removed", Result.TOKEN_TROUBLE), ("untrusted-address", Result.MISCONFIGURED)]
)
async def test_an_identity_in_trouble(identity: str, shown: Result) -> None:
    """An identity that was removed or is not trusted is no request's fault, and causes no storm of logins."""
    async with rig() as now:
        await now.connections.create(now.request(), KEY)
        now.simulator.configure(identity=identity)
        seen = [await now.connections.create(now.request(1), KEY) for _ in range(20)]
        assert {each.result for each in seen} == {shown}
        assert now.logins()["ok"] <= 3


@pytest.mark.parametrize(
    "fault",
    ["cut-before-commit", "cut-after-commit", "error-before-commit", "error-after-commit", "html-502", "html-503"],
)
async def test_an_unknown_outcome_is_not_repeated(fault: str) -> None:
    """A create with an unknown outcome is sent once; a look-up then shows whether it worked."""
    async with rig(faults={fault: 1.0}) as now:
        seen = await now.connections.create(now.request(), KEY)
        assert (seen.result, seen.metered) == (Result.UNKNOWN, False)
        assert seen.message
        assert sum(now.counts(CREATE).values()) == 1
        found = await now.connections.look_up(now.request())
        assert found.result is (Result.FOUND if "after" in fault else Result.ABSENT)


async def test_a_create_without_an_answer() -> None:
    """A create without an answer in time has an unknown outcome, and is sent once."""
    async with rig(patience=0.3) as now:
        seen = await now.connections.create(now.request(), Secret("sk-or-v1-mode-hang"))
        assert seen.result is Result.UNKNOWN
        assert seen.elapsed >= 0.29
        assert len(now.simulator.state()["creates"]) == 1


async def test_nothing_sent() -> None:
    """When Infisical cannot be reached, a create is certain to have sent nothing, and a read is tried a few times."""
    async with rig() as now:
        await now.connections.create(now.request(), KEY)
        await now.simulator.__aexit__(None, None, None)
        request = now.request(1)
        # The look-up also finds the kept connection closed: a create on it would have an unknown outcome.
        assert (await now.connections.look_up(request)).result is Result.NOT_SENT
        assert (await now.connections.create(request, KEY)).result is Result.NOT_SENT


async def test_reads_are_repeated() -> None:
    """A read without an answer is retried a few times, and then reported as such."""
    async with rig() as now:
        await now.connections.create(now.request(), KEY)
        now.simulator.configure(outage="refuse")
        assert (await now.connections.look_up(now.request())).result is Result.UNKNOWN
        route = next(route for route in now.simulator.state()["requests"] if "connection-name" in route)
        assert now.counts(route) == {"503": READ_TRIES}

        async def mend() -> None:
            await eventually(lambda: now.counts(route)["503"] > READ_TRIES)
            now.simulator.configure(outage="none")

        now.more._read_pause = 0.2
        async with asyncio.TaskGroup() as group:
            group.create_task(mend())
            assert (await now.connections.look_up(now.request())).result is Result.FOUND


async def test_a_key_that_is_no_text() -> None:
    """A key that cannot be written as JSON is the credential's fault; nothing is sent."""
    async with rig() as now:
        seen = await now.connections.create(now.request(), Secret("sk-\udcff"))
        assert seen.result is Result.CREDENTIAL_UNREADABLE
        assert now.counts(CREATE) == {}


async def test_cancelling() -> None:
    """A cancelled create ends as cancelled."""
    async with rig() as now:
        call = asyncio.ensure_future(now.connections.create(now.request(), Secret("sk-or-v1-mode-hang")))
        await eventually(lambda: now.simulator.state()["creates"])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@dataclass(slots=True, kw_only=True)
class Scripted:
    """Connections to a server that answers by route as the test says, and records its requests."""

    connections: InfisicalConnections
    got: list[tuple[str, str, Any]]


@asynccontextmanager
async def scripted(answers: Mapping[str, tuple[int, dict[str, Any]]]) -> AsyncIterator[Scripted]:
    """Serve `answers`, by method."""
    got: list[tuple[str, str, Any]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        got.append((request.method, request.path_qs, json.loads(body) if body else request.headers.get("content-type")))
        status, answer = answers[request.method]
        return web.json_response(answer, status=status)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    routes = Routes(f"{url}/base/")
    try:
        async with Transport(TransportOptions(base_url=url)) as transport:
            identity = Identity(StaticToken(token=Secret("a-static-token")), transport, routes)
            yield Scripted(connections=InfisicalConnections(transport, identity, routes, read_pause=0.001), got=got)
    finally:
        await runner.cleanup()


def asking(description: str | None = None) -> Request:
    """A request for a scripted server."""
    return Request(id=7, project_id=UNKNOWN_ID, name="openrouter", description=description, credential="default")


SOMETHING_NEW = {"reqId": "req-1", "statusCode": 401, "error": "UnauthorizedError", "message": "Something new"}
FORBIDDEN = {"reqId": "req-1", "statusCode": 403, "error": "PermissionDenied", "message": "no"}
TOKEN_ERROR = {"reqId": "req-1", "statusCode": 403, "error": "TokenError", "message": "invalid signature"}


async def test_bodies() -> None:
    """Each call sends exactly the documented fields; without a body it names no content type."""
    connection = Connection(
        id=UNKNOWN_ID,
        project_id=UNKNOWN_ID,
        org_id=None,
        credentials_hash="x",
        name="openrouter",
        app="open-router",
        method="api-key",
        description=None,
        created_at=None,
    )
    answer = (500, {"error": "Create", "message": "Something went wrong"})
    async with scripted(dict.fromkeys(("POST", "PATCH", "DELETE"), answer)) as now:
        await now.connections.create(asking(), KEY)
        await now.connections.create(asking(" for the team "), KEY)
        await now.connections.replace(asking(), connection, KEY)
        await now.connections.remove(connection)
    credentials = {"apiKey": KEY.reveal()}
    bare = {"name": "openrouter", "method": "api-key", "credentials": credentials, "projectId": UNKNOWN_ID}
    path = f"/base{ROUTE}"
    assert now.got == [
        ("POST", path, bare),
        ("POST", path, {**bare, "description": "for the team"}),
        ("PATCH", f"{path}/{UNKNOWN_ID}", {"credentials": credentials}),
        ("DELETE", f"{path}/{UNKNOWN_ID}", None),
    ]


@pytest.mark.parametrize(
    ("probe", "shown"),
    [
        ((200, {"appConnection": {}}), Result.TOKEN_TROUBLE),
        ((403, FORBIDDEN), Result.KEY_REFUSED),
        (
            (404, {"reqId": "req-1", "error": "NotFound", "message": "Could not find App Connection"}),
            Result.KEY_REFUSED,
        ),
        ((403, TOKEN_ERROR), Result.TOKEN_TROUBLE),
        ((401, SOMETHING_NEW), Result.TOKEN_TROUBLE),
        ((500, {"error": "Find one", "message": "x"}), Result.TOKEN_TROUBLE),
    ],
)
async def test_an_unexplained_401_is_settled(probe: tuple[int, dict[str, Any]], shown: Result) -> None:
    """A 401 that may be about token or key is resolved by one cheap read, and nothing is repeated."""
    async with scripted({"POST": (401, SOMETHING_NEW), "GET": probe}) as now:
        seen = await now.connections.create(asking(), KEY)
    assert seen.result is shown
    assert [method for method, _, _ in now.got] == ["POST", "GET"]
    assert seen.message


async def test_an_unexplained_401_of_a_read() -> None:
    """A read sends no key, so a 401 can only be about the token: no other call settles it."""
    async with scripted({"GET": (401, SOMETHING_NEW)}) as now:
        assert (await now.connections.look_up(asking())).result is Result.TOKEN_TROUBLE
    assert len(now.got) == 1


async def test_long_lists() -> None:
    """A project with thousands of connections is listed whole."""
    one = {"id": UNKNOWN_ID, "projectId": UNKNOWN_ID, "credentialsHash": "x", "description": "x" * 250}
    async with scripted({"GET": (200, {"appConnections": [one] * 5000})}) as now:
        seen, connections = await now.connections.list(UNKNOWN_ID)
    assert (seen.result, len(connections)) == (Result.FOUND, 5000)
