"""Observations of the real server that are in no record also hold for the simulator."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from yarl import URL

from provisioner.sandbox.simulator import Options, Simulator

CONNECTIONS = "/api/v1/app-connections/open-router"
LOGIN = "/api/v1/auth/universal-auth/login"
RENEW = "/api/v1/auth/token/renew"
REVOKE = "/api/v1/auth/token/revoke"
STATUS = "/api/status"


class Visitor:
    """A client that also sends invalid requests."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self._session = session
        self.token = sim.token()
        self.now = 1_800_000_000.0

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return status and body. Bodies of bytes are sent as JSON just as they are."""
        sent = {"Authorization": f"Bearer {self.token}"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        url = URL(self.sim.url + path, encoded=True)
        async with self._session.request(method, url, data=data, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] and text else text

    async def create(self, name: str = "a", **fields: Any) -> tuple[int, Any]:
        """Create a connection in the first project."""
        body = {"name": name, "method": "api-key", "credentials": {"apiKey": "k"}, "projectId": self.sim.projects[0]}
        return await self.call("POST", CONNECTIONS, body | fields)

    async def login(self, **fields: Any) -> tuple[int, Any]:
        """Log in, without a token."""
        body = {"clientId": self.sim.client_id, "clientSecret": self.sim.client_secret, **fields}
        return await self.call("POST", LOGIN, body, Authorization="")


@asynccontextmanager
async def visitor(**options: Any) -> AsyncIterator[Visitor]:
    """Serve a self-hosted simulator with a stopped clock."""
    chosen = Options(**{"mode": "self-hosted", "upstream_pace": 0.01, **options})
    made: list[Visitor] = []
    async with (
        Simulator(chosen, clock=lambda: made[0].now if made else 1_800_000_000.0) as sim,
        aiohttp.ClientSession() as session,
    ):
        made.append(Visitor(sim, session))
        yield made[0]


async def test_a_byte_order_mark_is_no_part_of_json() -> None:
    """A body that begins with a byte-order mark is parsed."""
    async with visitor() as at:
        body = {"name": "a", "method": "api-key", "credentials": {"apiKey": "k"}, "projectId": at.sim.projects[0]}
        assert (await at.call("POST", CONNECTIONS, b"\xef\xbb\xbf" + json.dumps(body).encode()))[0] == 200


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b'{"a": Infinity}', b'[{"__proto__": 1}]'])
async def test_what_is_no_json_ends_the_connection(text: bytes) -> None:
    """Empty and malformed JSON, and JSON that would change JavaScript's objects, is a 500 that closes."""
    async with visitor() as at, aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/json"}
        async with session.post(at.sim.url + LOGIN, data=text, headers=headers) as answer:
            assert (answer.status, answer.headers["Connection"]) == (500, "close")


async def test_a_header_that_no_route_needs_is_checked_all_the_same() -> None:
    """A bad `Authorization` is refused on routes that need none, an empty one is none, and `X-API-Key` is not taken."""
    async with visitor() as at:
        for method, path, body in (("GET", STATUS, None), ("POST", LOGIN, {}), ("POST", REVOKE, {})):
            status, answer = await at.call(method, path, body, Authorization="Bearer garbage")
            assert (status, answer["error"]) == (403, "TokenError")
            status, answer = await at.call(method, path, body, X_API_Key="k")
            assert (status, answer["message"].partition(".")[0]) == (
                400,
                "API key authentication is not supported anymore",
            )
        assert (await at.call("GET", STATUS, Authorization=""))[0] == 200
        assert (await at.call("GET", CONNECTIONS, Authorization=""))[1]["message"] == "Token missing"


async def test_renewing_gives_another_token_and_kills_none() -> None:
    """After a renewal both tokens hold; after a revocation one is dead, and revoking it again is 200."""
    async with visitor() as at:
        first = (await at.login())[1]["accessToken"]
        second = (await at.call("POST", RENEW, {"accessToken": first}, Authorization=""))[1]["accessToken"]
        assert first != second
        at.token = first
        for _ in range(2):
            assert (await at.call("POST", REVOKE, {"accessToken": second}, Authorization=""))[0] == 200
        assert (await at.call("GET", CONNECTIONS))[0] == 200
        at.token = second
        assert (await at.call("GET", CONNECTIONS))[1]["message"] == "Failed to authorize: token has been revoked"
        renewal = await at.call("POST", RENEW, {"accessToken": second}, Authorization="")
        assert (renewal[0], renewal[1]["message"]) == (401, "Cannot renew: token has been revoked")


async def test_a_time_to_live_of_nothing_is_ninety_days() -> None:
    """With a TTL of 0 a login announces 90 days without a maximum, and the token expires after them."""
    async with visitor(token_ttl=0) as at:
        granted = (await at.login())[1]
        assert (granted["expiresIn"], granted["accessTokenMaxTTL"]) == (7_776_000, 0)
        at.token = granted["accessToken"]
        at.now += 7_775_999
        assert (await at.call("GET", CONNECTIONS))[0] == 200
        at.now += 1
        assert (await at.call("GET", CONNECTIONS))[0] == 403


@pytest.mark.parametrize(
    ("slug", "status"), [("ours", 200), ("theirs", 404), ("", 422), (None, 422), (5, 422), ([], 422)]
)
async def test_the_organization_of_a_login(slug: object, status: int) -> None:
    """Only our own organization may be named; a wrong secret is reported before a wrong organization."""
    async with visitor() as at:
        at.sim.configure(organization_slug="ours")
        assert (await at.login(organizationSlug=slug))[0] == status
        expected = status if status == 422 else 401
        assert (await at.login(organizationSlug=slug, clientSecret="wrong"))[0] == expected


@pytest.mark.parametrize(("method", "kind"), [("kubernetes", "Kubernetes"), ("oidc", "OIDC"), ("jwt", "JWT")])
async def test_identities_of_other_issuers(method: str, kind: str) -> None:
    """An identity that is unknown is 404 and says which method it lacks; one that is no UUID is 500."""
    async with visitor() as at:
        path = f"/api/v1/auth/{method}-auth/login"
        unknown = {"identityId": "00000000-0000-4000-8000-000000000000", "jwt": "a.b.c"}
        status, answer = await at.call("POST", path, unknown, Authorization="")
        expected = f"{kind} auth method not found for identity, did you configure {kind} auth?"
        assert (status, answer["message"]) == (404, expected)
        status, answer = await at.call("POST", path, unknown | {"identityId": "x"}, Authorization="")
        assert (status, answer["error"]) == (500, "Find one")


async def test_descriptions_that_the_database_does_not_take() -> None:
    """256 characters and a zero byte are 500, named after the operation, and change nothing."""
    async with visitor() as at:
        for text in ("d" * 256, "a\0b"):
            status, answer = await at.create(description=text)
            assert (status, answer["error"]) == (500, "Create")
        identifier = (await at.create())[1]["appConnection"]["id"]
        for text in ("d" * 256, "a\0b"):
            status, answer = await at.call("PATCH", f"{CONNECTIONS}/{identifier}", {"name": "b", "description": text})
            assert (status, answer["error"]) == (500, "Update by id")
        [connection] = at.sim.state()["connections"]
        assert (connection["name"], connection["description"]) == ("a", None)


async def test_a_project_that_is_deleted_takes_its_connections_along() -> None:
    """A deleted project is unknown, and so is all that was in it."""
    async with visitor() as at:
        await at.create()
        project = at.sim.projects[0]
        at.sim.configure(removeProjects=[project])
        assert at.sim.state()["connections"] == []
        assert (await at.call("GET", f"{CONNECTIONS}?projectId={project}"))[0] == 404
        assert project not in at.sim.projects


async def test_only_servers_and_networks_in_trouble_are_asked_again() -> None:
    """OpenRouter's 429 is a 401 at once; its 5xx and a dead network are one after 1.4 s and more of retries."""
    async with visitor(upstream_pace=0.1) as at:
        for ending, least in (("429", 0.0), ("once429", 0.0), ("500", 0.14), ("503", 0.14), ("reset", 0.14)):
            began = asyncio.get_running_loop().time()
            status, _ = await at.create(credentials={"apiKey": f"k-mode-{ending}"})
            took = asyncio.get_running_loop().time() - began
            assert (status, took >= least) == (401, True), ending


async def test_changed_roles_show_late_and_joining_shows_at_once() -> None:
    """With `roleLag` 10, revoked permissions still hold for 10 s; a new member may begin at once."""
    async with visitor() as at:
        at.sim.configure(roleLag=10)
        project = at.sim.projects[0]
        for grant, at_once, later in (([], 200, 403), ("none", 403, 403), (["create-app-connections"], 200, 200)):
            at.sim.configure(permissions={project: grant})
            number = len(at.sim.state()["creates"])
            assert (await at.create(f"n{number}"))[0] == at_once
            at.now += 10
            assert (await at.create(f"m{number}"))[0] == later


async def test_a_server_on_its_way_out_answers_kept_connections() -> None:
    """With `outage` `stopping` every request is 503 `Service Unavailable`, and its connection is closed."""
    async with visitor() as at, aiohttp.ClientSession() as session:
        at.sim.configure(outage="stopping")
        async with session.get(at.sim.url + STATUS) as answer:
            body = await answer.json()
            assert (answer.status, answer.headers["Connection"]) == (503, "close")
            assert body == {"error": "Service Unavailable", "message": "Service Unavailable", "statusCode": 503}


async def test_projects_are_listed_to_their_members() -> None:
    """The list has the identity's projects; the route for one project distinguishes missing from foreign."""
    async with visitor(projects=3) as at:
        first, second, third = at.sim.projects
        at.sim.configure(permissions={second: "none"})
        listed = (await at.call("GET", "/api/v1/projects"))[1]["projects"]
        assert [project["id"] for project in listed] == [first, third]
        assert (await at.call("GET", "/api/v1/projects?type=kms"))[1] == {"projects": []}
        assert (await at.call("GET", f"/api/v1/projects/{first}"))[1]["project"] == listed[0]
        assert (await at.call("GET", f"/api/v1/projects/{second}"))[0] == 403


async def test_references_are_resolved_by_the_present_route_only() -> None:
    """`${NAME}` becomes the other secret's value in v4 and stays in v3; a hidden value is hidden in both."""
    async with visitor() as at:
        place = {"projectId": at.sim.projects[0], "environment": "prod"}
        secrets = {"KEY": "k", "REF": "<${KEY}${GONE}>"}
        at.sim.configure(secrets=[place | {"name": name, "value": value} for name, value in secrets.items()])
        present = f"/api/v4/secrets/REF?environment=prod&projectId={at.sim.projects[0]}"
        older = f"/api/v3/secrets/raw/REF?environment=prod&workspaceId={at.sim.projects[0]}"
        assert (await at.call("GET", present))[1]["secret"]["secretValue"] == "<k>"
        assert (await at.call("GET", older))[1]["secret"]["secretValue"] == "<${KEY}${GONE}>"
        for path in (present, older):
            secret = (await at.call("GET", f"{path}&viewSecretValue=false"))[1]["secret"]
            assert (secret["secretValue"], secret["secretValueHidden"]) == ("<hidden-by-infisical>", True)


async def test_preflights() -> None:
    """A preflight of a browser is let through; an OPTIONS that is none is refused."""
    async with visitor() as at:
        assert (await at.call("OPTIONS", CONNECTIONS))[0] == 400
        asked = {"Origin": "http://x", "Access_Control_Request_Method": "POST"}
        assert (await at.call("OPTIONS", CONNECTIONS, **asked))[0] == 204


@pytest.mark.parametrize("path", ["/%zz", f"{CONNECTIONS}/connection-name/%ff", "/api/%2"])
async def test_paths_that_cannot_be_decoded(path: str) -> None:
    """A broken percent sign, or invalid UTF-8, is 400 before anything else is checked."""
    async with visitor() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(at.sim.url).port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        assert text.startswith("HTTP/1.1 400 ")
        assert json.loads(text.partition("\r\n\r\n")[2]) == {
            "error": "Bad Request",
            "code": "FST_ERR_BAD_URL",
            "message": f"'{path}' is not a valid url component",
            "statusCode": 400,
        }


async def test_silence_is_cut_after_a_hundred_seconds() -> None:
    """The defaults are those of the recorded server."""
    assert (Options().cut_after, Options().pool, Options().pool_wait) == (100.0, 10, 60.0)
