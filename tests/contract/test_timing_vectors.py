"""The recorded answers of the cloud's rate limiter, and those about races, slow upstreams and lost connections."""

import asyncio
import json
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tests.contract.conftest import Entry, Reply, Scene, Stage

PREFIXES = ("cloud/", "concurrency/")
UNSAID = {
    "concurrency/race.5_parallel_deletes": "its 500s are a race inside the server; the simulator deletes in one step",
}

A = "77fa7aed-9288-401e-a4c9-3a9430be62a4"
PAR_0 = f"/api/v1/app-connections/open-router/connection-name/par-0?projectId={A}"
LOGIN = "/api/v1/auth/universal-auth/login"
READ_LIMIT = 60


async def cloud(stage: "Stage", _: "Entry") -> "Reply | None":
    """Set the scene of the cloud with its recorded limits and a connection to read."""
    await stage.open(mode="cloud", write_limit=200, read_limit=READ_LIMIT, login_limit=200)
    stage.plant("par-0", A)
    return None


def read(times: int, *, later: float = 0) -> "Scene":
    """Return the scene of so many reads, some seconds ago."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await cloud(stage, entry)
        for _number in range(times):
            await stage.act("GET", stage.translate(PAR_0))
        stage.now += later
        return None

    return scene


def created(times: int) -> "Scene":
    """Return the scene of so many refused creates, twelve seconds ago."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await cloud(stage, entry)
        for number in range(times):
            await stage.create(f"rl-{number}", "k-mode-401")
        stage.now += 12
        return None

    return scene


def logins(times: int) -> "Scene":
    """Return the scene of so many logins with an unknown client id."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await cloud(stage, entry)
        body = json.dumps({"clientId": "no-such-client", "clientSecret": "x"})
        for _number in range(times):
            await stage.call("POST", LOGIN, {"Content-Type": "application/json"}, body)
        return None

    return scene


async def other_address(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Send the request from another address than the one whose budget is spent."""
    await read(READ_LIMIT + 1)(stage, entry)
    headers = {"Authorization": f"Bearer {stage.token}", "X-Forwarded-For": "203.0.113.9"}
    return await stage.call("GET", stage.translate(PAR_0), headers)


async def other_route(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of a spent budget for reads by name, and the connections that the record lists."""
    await stage.open(mode="cloud", read_limit=READ_LIMIT)
    for connection in entry["response"]["body"]["appConnections"]:
        stage.plant(connection["name"], connection["projectId"], connection["description"])
    for _number in range(READ_LIMIT + 1):
        await stage.act("GET", stage.translate(PAR_0))
    return None


def patient(**options: Any) -> "Scene":
    """Return the scene of a server that answers in time or cuts the connection."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open(**options)
        return None

    return scene


async def cut_then_late(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Let the server cut the connection before OpenRouter answers: the row appears all the same."""
    await stage.open(cut_after=0.1)
    reply = await stage.send(entry)
    await stage.until(lambda: stage.names() == ["slow-35"])
    return reply


async def cut_for_good(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Let OpenRouter never answer: the connection is cut and no row appears."""
    await stage.open(cut_after=0.1)
    reply = await stage.send(entry)
    assert stage.names() == []
    return reply


def left(name: str, *, reset: bool = False, wait: bool = True) -> "Scene":
    """Return the scene of a client that closed its socket while OpenRouter was being asked."""

    async def scene(stage: "Stage", _entry: "Entry") -> "Reply | None":
        await stage.open()
        body = {"name": name, "method": "api-key", "credentials": {"apiKey": "k-mode-delay9"}, "projectId": A}
        text = json.dumps(stage.translate(body))
        request = (
            "POST /api/v1/app-connections/open-router HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {stage.token}\r\nContent-Length: {len(text)}\r\n\r\n{text}"
        )
        _reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(stage.sim.url).port)
        writer.write(request.encode())
        await stage.until(lambda: any(create["name"] for create in stage.sim.state()["creates"]))
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        assert stage.names() == []
        if wait:
            await stage.until(lambda: stage.names() == [name])
        return None

    return scene


async def race(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Send ten at once: one gets the name, nine the recorded answer."""
    await stage.open()
    replies = await asyncio.gather(*(stage.send(entry) for _ in range(10)))
    statuses = sorted(reply.status or 0 for reply in replies)
    assert statuses == [200] + [400] * 9
    assert len(stage.names()) == 1
    return next(reply for reply in replies if reply.status == 400)


async def patches(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Send five updates at once: all succeed and the last one stays."""
    await stage.open()
    stage.plant("pat-1", A, recorded=":connectionId")
    replies = await asyncio.gather(*(stage.send(entry) for _ in range(5)))
    assert [reply.status for reply in replies] == [200] * 5
    return replies[0]


SCENES: dict[str, "Scene"] = {
    "cloud/ratelimit.create.call201": created(200),
    "cloud/ratelimit.create.invalid_body_when_limited": created(200),
    "cloud/ratelimit.headers_on_403_token": read(READ_LIMIT),
    "cloud/ratelimit.login.call200": logins(199),
    "cloud/ratelimit.login.call201": logins(200),
    "cloud/ratelimit.read.call2": read(1),
    "cloud/ratelimit.read.call60": read(59, later=1),
    "cloud/ratelimit.read.call61": read(60, later=1),
    "cloud/ratelimit.read.call62": read(61, later=1),
    "cloud/ratelimit.read.noauth_when_limited": read(60),
    "cloud/ratelimit.read.other_ip": other_address,
    "cloud/ratelimit.read.other_route": other_route,
    "cloud/ratelimit.read.same_route_other_param": read(60, later=1),
    "cloud/ratelimit.status_route": read(60),
    "concurrency/create.upstream_delay28": patient(cut_after=30.0),
    "concurrency/create.upstream_delay35": cut_then_late,
    "concurrency/create.upstream_hang": cut_for_good,
    "concurrency/disconnect.client_closes_during_upstream_check": left("disc-fin"),
    "concurrency/disconnect.client_rst": left("disc-rst", reset=True),
    "concurrency/disconnect.lookup_right_after": left("disc-fin", wait=False),
    "concurrency/race.10_parallel_same_name": race,
    "concurrency/race.10_parallel_same_name_org_scope": race,
    "concurrency/race.5_parallel_patches": patches,
}


async def test_recorded_answer(entry: "Entry", stage: "Stage") -> None:
    """The simulator limits rates, cuts connections and settles races as the recorded server did."""
    await stage.check(entry, SCENES.get(entry["name"], cloud))


async def test_limited_answers_name_the_recorded_seconds(stage: "Stage") -> None:
    """Twelve seconds into a window of sixty, a limited create is told to wait forty-eight."""
    await created(200)(stage, {})
    reply = await stage.create("rl-201")
    assert reply.body["message"] == "Rate limit exceeded. Please try again in 48 seconds"
    assert (reply.headers["x-ratelimit-reset"], reply.headers["retry-after"]) == ("48", "48")


async def test_every_entry_is_played_or_excused() -> None:
    """Every scene and exception belongs to a recorded entry, and every entry to one of the three files."""
    recorded = {entry["name"] for entry in json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))}
    assert set(SCENES) | set(UNSAID) <= recorded
    assert {name.partition("/")[0] for name in recorded} == {"auth", "lockout", "cloud", "concurrency", "connections"}
