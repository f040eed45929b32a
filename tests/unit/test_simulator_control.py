"""The simulator's control routes, its Python face, and the answers that settings bring about."""

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from provisioner.sandbox.simulator import Options, Simulator
from provisioner.sandbox.simulator.app import PortTaken
from provisioner.sandbox.simulator.options import SettingsError

CONNECTIONS = "/api/v1/app-connections/open-router"
NOWHERE = "00000000-0000-4000-8000-000000000000"


class Desk:
    """A client with a token."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session
        self.token = sim.token()

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send a request; return status and body."""
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        async with self.session.request(method, self.sim.url + path, json=body, headers=sent) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else await answer.text()

    async def create(self, name: str = "a", key: str = "k", **fields: Any) -> tuple[int, Any]:
        """Create a connection in the first project."""
        body = {"name": name, "method": "api-key", "credentials": {"apiKey": key}, "projectId": self.sim.projects[0]}
        return await self.call("POST", CONNECTIONS, body | fields)

    async def change(self, **settings: Any) -> tuple[int, Any]:
        """Change settings over HTTP, without a token."""
        async with self.session.post(f"{self.sim.url}/_simulator/settings", json=settings) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def desk(**options: Any) -> AsyncIterator[Desk]:
    """Serve a simulator with a hasty OpenRouter."""
    chosen = Options(**{"upstream_pace": 0.01, **options})
    async with Simulator(chosen) as sim, aiohttp.ClientSession() as session:
        yield Desk(sim, session)


async def test_the_state_tells_what_happened_and_no_key() -> None:
    """The state lists connections, creates in order and counts; keys appear only by fingerprint."""
    async with desk() as at:
        await at.create("a", " sk-or-v1-very-secret ")
        await at.create("Bad Name", "sk-or-v1-very-secret")
        await at.call("GET", "/api/v1/nope")
        status, state = await at.call("GET", "/_simulator/state")
        assert (status, state) == (200, at.sim.state())
        assert "very-secret" not in str(state)
        [connection] = state["connections"]
        assert connection["keyFingerprint"] == hashlib.sha256(b"sk-or-v1-very-secret").hexdigest()[:12]
        assert (connection["name"], connection["planted"]) == ("a", False)
        seen = [
            (create["order"], create["name"], create["projectId"], create["status"], create["committed"])
            for create in state["creates"]
        ]
        project = at.sim.projects[0]
        assert seen == [(1, "a", project, 200, True), (2, "Bad Name", project, 422, False)]
        assert state["creates"][0]["connectionId"] == connection["id"]
        assert state["requests"] == {f"POST {CONNECTIONS}": {"200": 1, "422": 1}, "GET (no route)": {"404": 1}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mode": "onprem"}, "mode"),
        ({"writeLimit": 0}, "writeLimit"),
        ({"writeLimit": 1.5}, "writeLimit"),
        ({"readLimit": True}, "readLimit"),
        ({"loginLimit": "many"}, "loginLimit"),
        ({"window": 0}, "window"),
        ({"latency": -1}, "latency"),
        ({"tokenTtl": -1}, "tokenTtl"),
        ({"faults": {"fire": 0.5}}, "faults"),
        ({"faults": {"slow": 2}}, "faults"),
        ({"faults": []}, "faults"),
        ({"seed": None}, "seed"),
        ({"cutAfter": 0}, "cutAfter"),
        ({"replicaLag": "5"}, "replicaLag"),
        ({"clockOffset": None}, "clockOffset"),
        ({"maintenance": 1}, "maintenance"),
        ({"outage": "total"}, "outage"),
        ({"openRouter": "418"}, "openRouter"),
        ({"revokeTokens": "yes"}, "revokeTokens"),
        ({"clientSecret": ""}, "clientSecret"),
        ({"addProjects": ["x"]}, "addProjects"),
        ({"addProjects": NOWHERE}, "addProjects"),
        ({"permissions": {NOWHERE: []}}, "permissions"),
        ({"permissions": {"x": []}}, "permissions"),
        ({"permissions": []}, "permissions"),
        ({"plant": [{"name": "a"}]}, "plant"),
        ({"plant": [{"name": "a", "projectId": NOWHERE}]}, "plant"),
        ({"plant": [{"name": "a", "projectId": None, "colour": 1}]}, "plant.colour"),
        ({"plant": [{"name": "a", "projectId": None, "createdAt": "noon"}]}, "plant.createdAt"),
        ({"plant": [{"name": "a", "projectId": None, "createdAt": "2026-01-01T00:00:00"}]}, "plant.createdAt"),
        ({"plant": [{"name": "a", "projectId": None}] * 2}, "plant"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_bad_setting_is_named_and_changes_nothing(changes: dict[str, Any], field: str) -> None:
    """An invalid value answers 400 with the field's name, and the valid ones beside it are not applied."""
    async with desk() as at:
        status, body = await at.change(**({"upstreamPace": 0.5} | changes))
        assert (status, body["field"]) == (400, field)
        assert body["message"].startswith(f"{field}: ")
        assert at.sim.world.settings.upstream_pace == 0.01
        assert at.sim.state()["connections"] == []
        with pytest.raises(SettingsError, match=f"^{field}: "):
            at.sim.configure(**changes)


async def test_an_ability_that_does_not_exist_is_refused() -> None:
    """A mistyped ability is an error that lists the right ones."""
    async with desk() as at:
        status, body = await at.change(permissions={at.sim.projects[0]: ["create"]})
        assert status == 400
        assert "create-app-connections" in body["message"]


@pytest.mark.parametrize("raw", ["", "[]", "{", "null"])
async def test_settings_must_be_an_object(raw: str) -> None:
    """Anything but a JSON object is refused."""
    async with desk() as at, at.session.post(f"{at.sim.url}/_simulator/settings", data=raw) as answer:
        assert answer.status == 400


async def test_unknown_control_routes_are_told() -> None:
    """A mistyped control route answers 404 with the right ones."""
    async with desk() as at:
        status, body = await at.call("GET", "/_simulator/stat")
        assert (status, "/_simulator/state" in body["message"]) == (404, True)


async def test_settings_answer_with_what_holds_now() -> None:
    """The answer to a change is the settings, without the secret; Python names work in Python."""
    async with desk() as at:
        at.sim.configure(write_limit=3)
        status, body = await at.change(openRouter="429", clientSecret="another")
        assert status == 200
        assert (body["settings"]["writeLimit"], body["settings"]["openRouter"]) == (3, "429")
        assert "another" not in str(body)
        assert at.sim.client_secret == "another"


async def test_planted_connections_block_their_name_whatever_their_app() -> None:
    """A connection of another app takes the name; it is not listed, but the look-up identifies its app."""
    async with desk() as at:
        project = at.sim.projects[0]
        planted = {"name": "a", "projectId": project, "app": "github", "createdAt": "2020-01-02T03:04:05+00:00"}
        assert (await at.change(plant=[planted]))[0] == 200
        assert (await at.create("a"))[0] == 400
        assert (await at.call("GET", f"{CONNECTIONS}?projectId={project}"))[1] == {"appConnections": []}
        status, body = await at.call("GET", f"{CONNECTIONS}/connection-name/a?projectId={project}")
        assert (status, body["message"]) == (400, 'App Connection with name a is not for App "open-router"')
        [connection] = at.sim.state()["connections"]
        assert (connection["planted"], connection["createdAt"]) == (True, "2020-01-02T03:04:05.000Z")


@pytest.mark.parametrize(
    ("state", "seconds"), [("401", 0.0), ("403", 0.0), ("429", 0.0), ("500", 0.14), ("down", 0.14)]
)
async def test_openrouters_troubles_all_look_like_a_bad_key(state: str, seconds: float) -> None:
    """Any trouble at OpenRouter leads to the same 401; only the delays of retries distinguish an outage."""
    async with desk(upstream_pace=0.1) as at:
        at.sim.configure(openRouter=state)
        start = asyncio.get_running_loop().time()
        status, body = await at.create("a")
        took = asyncio.get_running_loop().time() - start
        assert (status, body["message"].partition(":")[0]) == (401, "Unable to validate connection")
        assert took >= seconds
        at.sim.configure(openRouter="slow", upstreamPace=0.01)
        assert (await at.create("a"))[0] == 200


@pytest.mark.parametrize("outage", ["reset", "refuse"])
async def test_outages_stop_everything(outage: str) -> None:
    """During an outage even the status route fails, and the control routes do not."""
    async with desk() as at:
        assert (await at.change(outage=outage))[0] == 200
        try:
            status, body = await at.call("GET", "/api/status")
        except (aiohttp.ClientConnectionError, ConnectionResetError):
            assert outage == "reset"
        else:
            assert (status, body[:6], outage) == (503, "<html>", "refuse")
        assert (await at.change(outage="none"))[0] == 200
        assert (await at.call("GET", "/api/status"))[0] == 200


async def test_tokens_end_in_different_ways() -> None:
    """Revoked, expired and lapsed tokens, a removed identity and an untrusted address all answer differently."""
    async with desk() as at:
        for settings, status, error in (
            ({"identity": "removed"}, 401, "Identity is not a member of the organization"),
            ({"identity": "inactive"}, 401, "Identity organization membership is inactive"),
            ({"identity": "untrusted-address"}, 403, "ForbiddenError"),
            (
                {"identity": "ok", "lapseTokens": True},
                401,
                "Identity access token exceeded max age, please re-authenticate",
            ),
            ({"expireTokens": True}, 403, "TokenError"),
            ({"revokeTokens": True}, 401, "Failed to authorize: token has been revoked"),
            ({"revokeTokens": "auth method"}, 401, "Failed to authorize: auth method has been revoked"),
            ({"revokeTokens": "client secret"}, 401, "Failed to authorize: client secret has been revoked"),
            ({"revokeTokens": "identity tokens"}, 401, "Failed to authorize: identity tokens have been revoked"),
        ):
            at.token = at.sim.token()
            at.sim.configure(**settings)
            seen, body = await at.call("GET", CONNECTIONS)
            assert (seen, error in {body["error"], body["message"]}) == (status, True), body
        at.token = at.sim.token()
        assert (await at.call("GET", CONNECTIONS))[0] == 200
        assert (await at.call("GET", CONNECTIONS, headers={"X-Api-Key": "k"}))[0] == 400


async def test_logins_of_other_issuers() -> None:
    """A token of three parts logs the identity in unless it has expired; another identity is refused."""
    async with desk() as at:
        payload = urlsafe_b64encode(b'{"exp": 1}').decode().rstrip("=")
        for method in ("kubernetes-auth", "oidc-auth", "jwt-auth"):
            statuses = []
            for identity, token in (
                (at.sim.identity_id, "h.p.s"),
                (at.sim.identity_id, "h.p"),
                (at.sim.identity_id, f"h.{payload}.s"),
                (NOWHERE, "h.p.s"),
            ):
                answer = await at.call("POST", f"/api/v1/auth/{method}/login", {"identityId": identity, "jwt": token})
                statuses.append(answer[0])
                at.token = answer[1].get("accessToken", at.token)
            assert statuses == [200, 401, 401, 404]
            assert (await at.call("GET", CONNECTIONS))[0] == 200


async def test_projects_of_others_and_new_ones() -> None:
    """Unknown projects are missing until added; a foreign one is reported as such; any project can be allowed."""
    async with desk(projects=1) as at:
        assert (await at.create(projectId=NOWHERE))[0] == 404
        at.sim.configure(addProjects=[NOWHERE])
        assert (await at.create(projectId=NOWHERE))[0] == 200
        at.sim.configure(permissions={NOWHERE: "foreign"})
        status, body = await at.create("b", projectId=NOWHERE)
        assert (status, body["message"]) == (403, "This project does not belong to your selected organization.")
        at.sim.configure(permissions={at.sim.organization_id: "none"})
        assert "You are not a member of this organization" in (await at.create("c"))[1]["message"]
    async with desk(projects=0, any_project=True) as at:
        create = {"name": "a", "method": "api-key", "credentials": {"apiKey": "k"}}
        assert (await at.call("POST", CONNECTIONS, create | {"projectId": NOWHERE}))[0] == 200
        assert (await at.call("POST", CONNECTIONS, create | {"projectId": "nope"}))[0] == 404


async def test_a_wrong_base_url_of_a_self_hosted_server_answers_with_a_page() -> None:
    """Outside /api a self-hosted server serves its web interface; the cloud does not."""
    async with desk(mode="self-hosted") as at:
        status, body = await at.call("GET", "/infisical/api/v1/app-connections/open-router")
        assert (status, body[:6]) == (200, "<html>")
        at.sim.configure(mode="cloud")
        assert (await at.call("GET", "/infisical"))[0] == 404


async def test_a_taken_port_is_told() -> None:
    """A second simulator on the same port says so instead of starting."""
    async with desk() as at:
        port = int(at.sim.url.rpartition(":")[2])
        with pytest.raises(PortTaken, match=f"port {port} is in use"):
            await Simulator(Options(port=port)).__aenter__()


@pytest.mark.parametrize("options", [{"window": 0.0}, {"faults": {"fire": 1.0}}, {"mode": "moon"}, {"projects": -1}])
def test_options_are_held_to_the_rules_of_settings(options: dict[str, Any]) -> None:
    """A simulator cannot start with values that could not be set later."""
    with pytest.raises(SettingsError, match=f"^{next(iter(options))}: "):
        Simulator(Options(**options))


async def test_whatever_can_change_can_be_so_from_the_start() -> None:
    """Maintenance, an outage or faults of changes are options as well, and the settings tell what holds now."""
    options = Options(projects=1, maintenance=True, change_faults={"html-502": 1.0}, organization_slug="acme")
    async with Simulator(options) as sim:
        told = sim.world.settings.public()
        assert (told["maintenance"], told["changeFaults"], told["seed"]) == (True, {"html-502": 1.0}, 0)
        assert not {"secrets", "clientSecret", "projects"} & told.keys()
        login = {"clientId": sim.client_id, "clientSecret": sim.client_secret, "organizationSlug": "acme"}
        async with aiohttp.ClientSession(sim.url) as session:
            statuses = []
            for changes in ({}, {"maintenance": False}, {"organizationSlug": ""}):
                sim.configure(**changes)
                async with session.post("/api/v1/auth/universal-auth/login", json=login) as answer:
                    statuses.append(answer.status)
            async with session.patch(f"{CONNECTIONS}/{NOWHERE}", json={}) as answer:
                statuses.append(answer.status)
        assert statuses == [500, 200, 404, 502]
        assert sim.state()["changeFaults"] == {"html-502": 1}


async def test_a_test_waits_for_what_happens_in_the_server() -> None:
    """`until` returns as soon as something holds, and gives up after its time."""
    async with Simulator(Options(mode="self-hosted")) as sim, aiohttp.ClientSession(sim.url) as session:
        status = sim.world.requests
        waiting = asyncio.create_task(sim.until(lambda: status.get("GET /api/status", {}).get("200") == 2))
        for number in range(2):
            assert not waiting.done(), number
            async with session.get("/api/status") as answer:
                assert answer.status == 200
        await waiting
        with pytest.raises(TimeoutError):
            await sim.until(lambda: False, within=0.01)
