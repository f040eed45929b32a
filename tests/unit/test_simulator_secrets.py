"""The simulator's secrets: where they are, who may read them, and that only their own route shows them."""

from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from provisioner.sandbox.simulator import Options, Simulator
from provisioner.sandbox.simulator.options import SettingsError

VALUE = "sk-or-v1-nobody-may-see"
PATH = "/api/v4/secrets/KEY"
RAW = "/api/v3/secrets/raw/KEY"


def a_secret(simulator: Simulator, **changes: object) -> dict[str, object]:
    """A secret in the first project."""
    project = simulator.projects[0]
    return {"name": "KEY", "projectId": project, "environment": "prod", "path": "/a/", "value": VALUE, **changes}


async def read(
    simulator: Simulator, path: str = PATH, *, token: str | None = None, **query: str
) -> tuple[int, Any, Mapping[str, str]]:
    """Ask for the secret; status, body and headers of the answer."""
    asked = {"projectId": simulator.projects[0], "environment": "prod", "secretPath": "/a", **query}
    headers = {"Authorization": f"Bearer {token or simulator.token()}"}
    async with (
        aiohttp.ClientSession(simulator.url) as session,
        session.get(path, params=asked, headers=headers) as answer,
    ):
        return answer.status, await answer.json(), answer.headers


async def test_a_secret_is_told_by_both_routes_and_by_nothing_else() -> None:
    """Both routes return the value and count as reads; state and settings never show it."""
    async with Simulator(Options(projects=1, secret_limit=2)) as simulator:
        simulator.configure(secrets=[a_secret(simulator)])
        for path, name in ((PATH, "projectId"), (RAW, "workspaceId")):
            status, body, headers = await read(simulator, path, **{name: simulator.projects[0]})
            assert (status, body["secret"]["secretValue"]) == (200, VALUE)
            assert headers["x-ratelimit-remaining"] == "1"
        await read(simulator)
        assert (await read(simulator))[0] == 429
        assert VALUE not in repr(simulator.state())
        assert VALUE not in repr(simulator.world.settings.public())
        assert simulator.state()["secrets"] == [
            {
                "name": "KEY",
                "projectId": simulator.projects[0],
                "environment": "prod",
                "path": "/a",
                "access": "read",
                "version": 1,
                "rotationId": None,
            }
        ]


@pytest.mark.parametrize(
    ("changes", "query", "status", "said"),
    [
        ({"access": "none"}, {}, 403, "You are not allowed to describeSecret on secrets"),
        ({"access": "describe"}, {}, 403, "You do not have permission to view secret value on secret with name 'KEY'"),
        ({"name": "OTHER"}, {}, 404, "Secret with name 'KEY' not found"),
        ({"value": None}, {}, 404, "Folder with path '/a' in environment with slug 'prod' not found"),
        ({}, {"environment": "dev"}, 404, "Folder with path '/a' in environment with slug 'dev' not found"),
        ({}, {"secretPath": "/b"}, 404, "Folder with path '/b' in environment with slug 'prod' not found"),
        ({}, {"environment": ""}, 400, "Missing environment"),
    ],
)
async def test_refusals(changes: dict[str, object], query: dict[str, str], status: int, said: str) -> None:
    """Missing and forbidden secrets are refused in Infisical's words, without the value."""
    async with Simulator(Options(projects=1)) as simulator:
        simulator.configure(secrets=[a_secret(simulator), a_secret(simulator, **changes)][bool(changes) :])
        answer = await read(simulator, **query)
        assert (answer[0], answer[1]["message"]) == (status, said)
        assert VALUE not in repr(answer)


async def test_only_a_token_and_a_member_may_ask() -> None:
    """Without a token, or outside the project, nothing is revealed."""
    async with Simulator(Options(projects=1)) as simulator:
        simulator.configure(secrets=[a_secret(simulator)], permissions={simulator.projects[0]: "none"})
        assert (await read(simulator, token="x"))[0] == 403
        assert (await read(simulator))[1]["error"] == "ProjectMembershipNotFound"


async def test_secrets_are_there_from_the_start_or_not_at_all() -> None:
    """Options plant secrets too; one that is described badly is refused without showing its value."""
    async with Simulator(Options(projects=1)) as twin:
        secret = a_secret(twin)
    async with Simulator(Options(projects=1, secrets=[secret])) as simulator:
        assert (await read(simulator))[0] == 200
        for bad in ({"value": 5}, {"projectId": "x"}, {"access": "all"}, {"colour": "red"}):
            with pytest.raises(SettingsError) as caught:
                simulator.configure(secrets=[a_secret(simulator, **bad)])
            assert VALUE not in str(caught.value)
        with pytest.raises(SettingsError, match="there is no project"):
            simulator.configure(secrets=[a_secret(simulator, projectId="7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e")])
