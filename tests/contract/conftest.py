"""The stage on which recorded requests are repeated against a simulator of their own, over real sockets."""

import io
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from provisioner.sandbox.simulator import Options, Simulator
from tests.contract.corrections import SUPERSEDED, corrected
from tests.support import eventually

Entry = dict[str, Any]
Scene = Callable[["Stage", Entry], Awaitable["Reply | None"]]


def recorded(file: str = "vectors.json") -> list[Entry]:
    """Return the recorded entries of a file; the older ones as later records correct them."""
    entries: list[Entry] = json.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    return [corrected(entry) for entry in entries] if file == "vectors.json" else entries


CONNECTIONS = "/api/v1/app-connections/open-router"
PROJECT_A = "77fa7aed-9288-401e-a4c9-3a9430be62a4"
PROJECT_B = "77fa7aed-9288-401e-a4c9-3a9430be62a0"
ORGANIZATION = "180870b7-f464-4740-8ffe-9d11c9245ea7"
CLIENTS = (
    "3f6135db-f237-421d-af66-a8f4e80d443b",
    "dd10b16a-d567-4a25-8acd-0f5b709018a8",
    "2db5dbba-1e45-4a71-ae7e-3c6faaa7cbef",
)
PACE = 0.01
RATE_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after")
VOLATILE = {"reqId", "id", "_id", "createdAt", "updatedAt", "credentialsHash", "accessToken", "date", "slug"} | {
    *("folderId", "keyHash", "lastRotationAttemptedAt", "lastRotatedAt", "nextRotationAt")
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each entry of a module's `PREFIXES`, less its `UNSAID`, a test of its own; `FILE` may name another file."""
    if "entry" in metafunc.fixturenames:
        module = metafunc.module
        entries = [
            entry
            for entry in recorded(getattr(module, "FILE", "vectors.json"))
            if entry["name"].startswith(module.PREFIXES) and entry["name"] not in module.UNSAID | SUPERSEDED
        ]
        metafunc.parametrize("entry", entries, ids=[entry["name"] for entry in entries])


@dataclass(slots=True)
class Reply:
    """What came back; `status` None means that the connection ended without an answer."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(slots=True)
class Stage:
    """One simulator with its clock, its client, and the ids that stand for the recorded ones."""

    stack: AsyncExitStack
    sim: Simulator = field(init=False)
    client: aiohttp.ClientSession = field(init=False)
    now: float = field(default_factory=lambda: float(int(time.time())))
    token: str = ""
    ids: dict[str, str] = field(default_factory=dict)

    async def open(self, **options: Any) -> None:
        """Start the simulator; self-hosted and with a hasty OpenRouter unless told otherwise."""
        chosen = Options(**{"mode": "self-hosted", "upstream_pace": PACE, **options})
        self.sim = await self.stack.enter_async_context(Simulator(chosen, clock=lambda: self.now))
        self.client = await self.stack.enter_async_context(aiohttp.ClientSession())
        self.token = self.sim.token()
        self.ids = {PROJECT_A: self.sim.projects[0], PROJECT_B: self.sim.projects[1]}
        self.ids |= {ORGANIZATION: self.sim.organization_id} | dict.fromkeys(CLIENTS, self.sim.client_id)

    def plant(
        self, name: str, project: str | None, description: str | None = None, recorded: str | None = None
    ) -> None:
        """Let a connection exist; `recorded` is the id that stands for it in the entries."""
        place = self.ids[project] if project else None
        self.sim.configure(plant=[{"name": name, "projectId": place, "description": description}])
        if recorded:
            self.ids[recorded] = self.sim.state()["connections"][-1]["id"]

    def grant(self, grants: Mapping[str, Any]) -> None:
        """Say what the identity may do where; places by their recorded ids."""
        self.sim.configure(permissions={self.ids[place]: grant for place, grant in grants.items()})

    async def login(self) -> Any:
        """Log in and act with that token from now on."""
        body = {"clientId": self.sim.client_id, "clientSecret": self.sim.client_secret}
        async with self.client.post(f"{self.sim.url}/api/v1/auth/universal-auth/login", json=body) as answer:
            granted = await answer.json()
        self.token = granted.get("accessToken", "")
        return granted

    def translate(self, part: Any) -> Any:
        """Replace recorded ids and placeholders by those of this stage."""
        text = json.dumps(part)
        secrets = {"<wrong-client-secret>": "wrong", "<client-secret>": self.sim.client_secret}
        secrets |= {"<token>": self.token, "<jwt>": self.token, "<unknown>": "no-such-client"}
        for recorded, live in (self.ids | secrets).items():
            text = text.replace(recorded, live)
        return json.loads(text)

    async def send(self, entry: Entry) -> Reply:
        """Repeat the recorded request."""
        request = self.translate(entry["request"])
        body = request["body"]
        if isinstance(body, str) and body.startswith("<1048"):
            body = json.dumps({"name": "a" * 1024 * 1024})
        data = body if body is None or isinstance(body, str) else json.dumps(body)
        return await self.call(request["method"], request["path"], request["headers"], data)

    async def call(self, method: str, path: str, headers: Mapping[str, str], data: str | None = None) -> Reply:
        """Send one request just so."""
        url = URL(self.sim.url + path, encoded=True)
        raw = io.BytesIO(data.encode()) if data is not None else None
        try:
            async with self.client.request(
                method, url, headers=headers, data=raw, skip_auto_headers=("Content-Type",)
            ) as answer:
                text = await answer.text()
                is_json = "json" in answer.headers.get("Content-Type", "")
                return Reply(answer.status, answer.headers, json.loads(text) if text and is_json else text)
        except aiohttp.ClientConnectionError:
            return Reply(None)

    async def act(self, method: str = "GET", path: str = CONNECTIONS, body: Any = None) -> Reply:
        """Send a request of our own with the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return await self.call(method, path, headers, None if body is None else json.dumps(body))

    async def create(self, name: str, key: str = "k", project: str | None = PROJECT_A) -> Reply:
        """Create a connection of our own."""
        body: dict[str, Any] = {"name": name, "method": "api-key", "credentials": {"apiKey": key}}
        if project:
            body["projectId"] = self.ids[project]
        return await self.act("POST", CONNECTIONS, body)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        await eventually(condition)

    def names(self) -> list[str]:
        """Return the names of all connections."""
        return [connection["name"] for connection in self.sim.state()["connections"]]

    async def check(self, entry: Entry, scene: Scene) -> None:
        """Set the scene, repeat the request, and compare the answer with the recorded one."""
        reply = await scene(self, entry) or await self.send(entry)
        expected = self.translate(entry["response"])
        assert reply.status == expected["status"], reply
        if reply.status is None:
            return
        for header in RATE_HEADERS:
            assert (header in reply.headers) == (header in expected["headers"]), header
        for header in RATE_HEADERS[:2]:
            assert reply.headers.get(header) == expected["headers"].get(header), header
        assert reply.headers.get("content-type") == expected["headers"].get(
            "content-type", reply.headers["content-type"]
        )
        assert (expected["headers"].get("connection") == "close") == (reply.headers.get("connection") == "close")
        assert reply.headers.get("keep-alive") == expected["headers"].get("keep-alive")
        if expected["body"] is None:
            assert reply.body == ""
        elif expected["body"] != "<any>":
            assert normal(reply.body) == normal(expected["body"])


def normal(value: Any) -> Any:
    """Return an answer without what differs from run to run."""
    if isinstance(value, list):
        return [normal(item) for item in value]
    if not isinstance(value, dict):
        return re.sub(r"\d+ seconds", "N seconds", value) if isinstance(value, str) else value
    cleaned = {key: "*" if key in VOLATILE else normal(item) for key, item in value.items()}
    return cleaned | {"name": "*"} if "slug" in cleaned else cleaned


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Return a stage on which nothing has been opened yet."""
    async with AsyncExitStack() as stack:
        yield Stage(stack)
