"""The simulator's rotations: what they leave at OpenRouter and in secrets, and how and in which order they fail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from provisioner.sandbox.simulator import Options, Simulator
from provisioner.sandbox.simulator.chance import ROTATION_FAULTS
from tests.support import eventually

NOW = datetime(2026, 11, 28, 8, 16, tzinfo=UTC).timestamp()
CONNECTIONS = "/api/v1/app-connections/open-router"
ROTATIONS = "/api/v2/secret-rotations/open-router-api-key"
NOWHERE = "00000000-0000-4000-8000-000000000000"


class Client:
    """A client of a simulator with one project and one connection in it."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim, self.session, self.token = sim, session, sim.token()
        self.project = sim.projects[0]
        sim.configure(plant=[{"name": "openrouter", "projectId": self.project, "apiKey": "management"}])
        self.connection = sim.state()["connections"][0]["id"]

    async def call(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int | None, Any]:
        """Send a request; return status and body, or None and the error."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with self.session.request(method, path, json=body, params=query, headers=headers) as answer:
                json = answer.content_type == "application/json"
                return answer.status, await answer.json() if json else await answer.text()
        except aiohttp.ClientConnectionError as error:
            return None, error

    async def create(self, **changes: Any) -> tuple[int | None, Any]:
        """Create a rotation."""
        body = {
            "name": "openrouter",
            "projectId": self.project,
            "connectionId": self.connection,
            "environment": "prod",
            "secretPath": "/",
            "rotationInterval": 30,
            "parameters": {"name": "a key", "limit": 10},
            "secretsMapping": {"apiKey": "KEY"},
        }
        return await self.call("POST", ROTATIONS, body | changes)

    @property
    def left(self) -> tuple[int, int, int]:
        """How many rotations, keys and secrets there are."""
        state = self.sim.state()
        return len(state["rotations"]), len(state["keys"]), len(state["secrets"])


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Client]:
    """Serve a simulator with a fast OpenRouter and a stopped clock."""
    chosen = Options(**{"mode": "self-hosted", "upstream_pace": 0.01, "late_by": 0.05, "projects": 2, **options})
    async with Simulator(chosen, clock=lambda: NOW) as sim, aiohttp.ClientSession(sim.url) as session:
        yield Client(sim, session)


async def test_a_rotation_is_a_key_and_a_secret() -> None:
    """A create makes one key with the connection's own key, and a secret; the next rotation keeps two keys at most."""
    async with serving() as client:
        status, body = await client.create()
        assert status == 200
        rotation = body["secretRotation"]
        assert rotation["nextRotationAt"] == "2026-12-29T00:00:00.000Z"
        state = client.sim.state()
        key, secret = state["keys"][0], state["secrets"][0]
        assert (key["name"], key["limit"], key["rotationId"]) == ("a key", 10, rotation["id"])
        assert key["madeBy"] == state["connections"][0]["keyFingerprint"]
        assert (secret["name"], secret["rotationId"]) == ("KEY", rotation["id"])
        for _ in range(3):
            assert (await client.call("POST", f"{ROTATIONS}/{rotation['id']}/rotate-secrets", {}))[0] == 200
        assert client.left == (1, 2, 1)
        assert "generated-" not in repr(client.sim.state())


@pytest.mark.parametrize(
    ("settings", "changes", "status", "said"),
    [
        ({"planRestricted": True}, {"environment": "none"}, 400, "due to plan restriction"),
        ({}, {"projectId": NOWHERE}, 404, f"Project with ID '{NOWHERE}' not found"),
        ({}, {"environment": "none", "connectionId": NOWHERE}, 400, "Could not find folder with path"),
        ({}, {"secretPath": "/a", "connectionId": NOWHERE}, 400, 'Could not find folder with path "/a"'),
        ({}, {"connectionId": NOWHERE}, 404, "Could not find App Connection with ID"),
        ({}, {"name": "taken", "secretsMapping": {"apiKey": "TAKEN"}}, 400, 'with the name "taken" already exists'),
        ({}, {"secretsMapping": {"apiKey": "TAKEN"}}, 400, "The following secrets already exist"),
        ({"openRouter": "down"}, {}, 400, "Failed to create OpenRouter API key"),
    ],
)
async def test_refusals_make_no_key(settings: dict[str, Any], changes: dict[str, Any], status: int, said: str) -> None:
    """Each is given in the server's order, before a key is made."""
    async with serving() as client:
        assert (await client.create(name="taken", secretsMapping={"apiKey": "TAKEN"}))[0] == 200
        before = client.left
        client.sim.configure(**settings)
        answer, body = await client.create(**changes)
        assert answer == status
        assert said in body["message"]
        assert client.left == before


async def test_a_folder_that_was_made_takes_a_rotation() -> None:
    """Names and secrets are unique in their folder, not in the project."""
    async with serving() as client:
        client.sim.configure(folders=[{"projectId": client.project, "environment": "prod", "path": "/a/b"}])
        assert (await client.create())[0] == 200
        assert (await client.create(secretPath="/a/b/"))[0] == 200
        query = {"projectId": client.project, "environment": "prod"}
        found = await client.call("GET", f"{ROTATIONS}/rotation-name/openrouter", **query, secretPath="/a/b")
        assert found[1]["secretRotation"]["folder"]["path"] == "/a/b"
        assert (await client.call("GET", f"{ROTATIONS}/rotation-name/other", **query, secretPath="/"))[0] == 404
        assert (await client.call("GET", f"{ROTATIONS}/rotation-name/other", **query, secretPath="/c"))[0] == 400
        listed = (await client.call("GET", ROTATIONS, projectId=client.project))[1]["secretRotations"]
        assert len(listed) == 2


@pytest.mark.parametrize(
    ("fault", "status", "left"),
    [
        ("cut-before-commit", None, (0, 0, 0)),
        ("cut-after-commit", None, (1, 1, 1)),
        ("error-before-commit", 500, (0, 0, 0)),
        ("error-after-commit", 500, (1, 1, 1)),
        ("html-502", 502, (0, 0, 0)),
        ("html-503", 503, (0, 0, 0)),
        ("slow", 200, (1, 1, 1)),
        ("token-expired", 403, (0, 0, 0)),
        ("late-commit", None, (1, 1, 1)),
        ("key-refused", 400, (0, 0, 0)),
        ("key-then-error", 500, (0, 1, 0)),
        ("key-then-cut", None, (0, 1, 0)),
    ],
)
async def test_faults_leave_what_they_say(fault: str, status: int | None, left: tuple[int, int, int]) -> None:
    """Each fault of a rotation's create strikes, and leaves rotations, keys and secrets as its description says."""
    async with serving(rotation_faults={fault: 1.0}) as client:
        assert (await client.create())[0] == status
        await eventually(lambda: client.left == left)
        state = client.sim.state()
        assert state["rotationFaults"] == {fault: 1}
        assert state["faults"] == {}
        assert (state["rotationCreates"][0]["status"], state["creates"]) == (status, [])


def test_every_fault_has_its_case() -> None:
    """No fault of a rotation is without a test."""
    mark = test_faults_leave_what_they_say.pytestmark[0]  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(ROTATION_FAULTS)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({}, (0, 1, 1)),
        ({"deleteSecrets": "true"}, (0, 1, 0)),
        ({"deleteSecrets": "true", "revokeGeneratedCredentials": "true"}, (0, 0, 0)),
    ],
)
async def test_deleting_leaves_what_was_not_named(query: dict[str, str], left: tuple[int, int, int]) -> None:
    """Secret and keys stay unless the query says otherwise; a connection in use cannot be deleted before that."""
    async with serving() as client:
        rotation = (await client.create())[1]["secretRotation"]
        refused = await client.call("DELETE", f"{CONNECTIONS}/{client.connection}")
        assert refused[0] == 400
        assert refused[1]["message"].startswith("Cannot delete App Connection with existing connections.")
        assert (await client.call("DELETE", f"{ROTATIONS}/{rotation['id']}", **query))[0] == 200
        assert client.left == left
        assert (await client.call("DELETE", f"{ROTATIONS}/{rotation['id']}"))[0] == 404
        assert (await client.call("DELETE", f"{CONNECTIONS}/{client.connection}"))[0] == 200


async def test_what_a_patch_changes() -> None:
    """Name, description and secret change at once; names that are taken are refused."""
    async with serving() as client:
        rotation = (await client.create())[1]["secretRotation"]
        assert (await client.create(name="taken", secretsMapping={"apiKey": "TAKEN"}))[0] == 200
        path = f"{ROTATIONS}/{rotation['id']}"
        assert (await client.call("PATCH", path, {"name": "taken"}))[0] == 400
        assert (await client.call("PATCH", path, {"secretsMapping": {"apiKey": "TAKEN"}}))[0] == 400
        changes = {"name": "new", "description": "d", "secretsMapping": {"apiKey": "NEW"}, "rotationInterval": 7}
        changed = (await client.call("PATCH", path, changes))[1]["secretRotation"]
        assert changed | changes == changed
        assert {secret["name"] for secret in client.sim.state()["secrets"]} == {"NEW", "TAKEN"}


@pytest.mark.parametrize(
    ("settings", "changes", "status", "said"),
    [
        ({"planRestricted": True}, {"name": "UPPER"}, 422, ""),
        ({"planRestricted": True}, {"name": "taken"}, 400, "Failed to update secret rotation due to plan restriction"),
        ({}, {"name": "taken", "secretsMapping": {"apiKey": "TAKEN"}}, 400, "The following secrets already exist"),
        ({}, {"name": "taken", "secretsMapping": {"apiKey": "NEW"}}, 400, 'with the name "taken" already exists'),
    ],
)
async def test_a_refused_patch_changes_nothing(
    settings: dict[str, Any], changes: dict[str, Any], status: int, said: str
) -> None:
    """Content, plan, secret, name: in the server's order, and nothing of it is done halfway."""
    async with serving() as client:
        rotation = (await client.create())[1]["secretRotation"]
        assert (await client.create(name="taken", secretsMapping={"apiKey": "TAKEN"}))[0] == 200
        before = client.sim.state()
        client.sim.configure(**settings)
        answer, body = await client.call("PATCH", f"{ROTATIONS}/{rotation['id']}", changes)
        assert (answer, said in str(body["message"])) == (status, True)
        after = client.sim.state()
        assert [after[kept] for kept in ("rotations", "secrets", "keys")] == [
            before[kept] for kept in ("rotations", "secrets", "keys")
        ]


@pytest.mark.parametrize(
    ("fault", "status", "done"),
    [
        ("cut-before-commit", None, False),
        ("error-before-commit", 500, False),
        ("cut-after-commit", None, True),
        ("error-after-commit", 500, True),
        ("late-commit", None, True),
        ("html-502", 502, False),
    ],
)
async def test_a_lost_change_is_carried_out_or_not(fault: str, status: int | None, done: bool) -> None:
    """PATCH and DELETE meet the faults of changes, before and after their effect."""
    async with serving() as client:
        rotation = (await client.create())[1]["secretRotation"]
        path = f"{ROTATIONS}/{rotation['id']}"
        client.sim.configure(changeFaults={fault: 1.0})
        assert (await client.call("PATCH", path, {"description": "new"}))[0] == status
        if done:
            await eventually(lambda: client.sim.state()["rotations"][0]["description"] == "new")
        else:
            assert client.sim.state()["rotations"][0]["description"] is None
        await client.call("DELETE", path, revokeGeneratedCredentials="true")  # the client itself may repeat that
        if done:
            await eventually(lambda: client.left == (0, 0, 1))
        else:
            assert client.left == (1, 1, 1)
        assert client.sim.state()["changeFaults"][fault] >= 2


async def test_a_turn_that_fails_is_told_by_the_rotation() -> None:
    """The key stays, and the description says that the last turn failed and why, until one succeeds."""
    async with serving() as client:
        rotation = (await client.create())[1]["secretRotation"]
        path = f"{ROTATIONS}/{rotation['id']}"
        client.sim.configure(openRouter="down")
        assert (await client.call("POST", f"{path}/rotate-secrets", {}))[0] == 400
        told = (await client.call("GET", path))[1]["secretRotation"]
        assert (told["rotationStatus"], "OpenRouter" in told["lastRotationMessage"]) == ("failed", True)
        client.sim.configure(openRouter="ok")
        assert (await client.call("POST", f"{path}/rotate-secrets", {}))[0] == 200
        told = (await client.call("GET", path))[1]["secretRotation"]
        assert (told["rotationStatus"], told["lastRotationMessage"]) == ("success", None)
