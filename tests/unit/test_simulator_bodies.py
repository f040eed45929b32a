"""The simulator's treatment of bodies, whatever they contain."""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given, settings, strategies as st

from provisioner.sandbox.simulator import Options, Simulator, validation
from provisioner.sandbox.simulator.answers import Refusal
from tests.support import eventually

CONNECTIONS = "/api/v1/app-connections/open-router"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["a", "b", " c ", "D", "", "e-f", "x" * 65]) | values,
    "method": st.just("api-key") | values,
    "credentials": st.fixed_dictionaries({"apiKey": st.sampled_from(["k", "", "k-mode-401", " "]) | values}) | values,
    "description": values,
    "projectId": st.sampled_from(["<project>", "", "nope"]) | values,
    "isPlatformManagedCredentials": st.booleans() | values,
    "isAutoRotationEnabled": st.booleans() | values,
    "gatewayId": values,
    "rotation": values,
    "colour": values,
}
bodies = st.fixed_dictionaries({}, optional=fields) | values


class Loud(logging.Handler):
    """Collects logged warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record.getMessage())


async def create_all(wanted: list[Any]) -> list[tuple[int, Any]]:
    """Send these bodies one after the other to one server."""
    seen = []
    async with Simulator(Options(mode="self-hosted", upstream_pace=0)) as sim, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {sim.token()}", "Content-Type": "application/json"}
        for body in wanted:
            raw = json.dumps(body).replace("<project>", sim.projects[0])
            async with session.post(sim.url + CONNECTIONS, data=raw, headers=headers) as answer:
                seen.append((answer.status, await answer.json()))
    return seen


@settings(max_examples=60)
@given(st.lists(bodies, min_size=1, max_size=20))
def test_no_body_breaks_the_server(wanted: list[Any]) -> None:
    """Any JSON gets an answer that the API has; the only 5xx is that of the database, and nothing is logged."""
    loud = Loud()
    logging.getLogger("aiohttp").addHandler(loud)
    try:
        seen = asyncio.run(create_all(wanted))
    finally:
        logging.getLogger("aiohttp").removeHandler(loud)
    assert loud.records == []
    for body, (status, answer) in zip(wanted, seen, strict=True):
        if status == 200:
            connection = answer["appConnection"]
            assert NAME.match(connection["name"])
            assert connection["name"] == body["name"].strip(validation.JS_SPACE)
        else:
            assert (status, answer["error"]) in {
                (400, "BadRequest"),
                (401, "UnauthorizedError"),
                (404, "NotFound"),
                (422, "ValidationFailure"),
                (500, "Create"),
            }
        if status == 500:
            assert body["projectId"] == "" or "\0" in body["description"]


@given(bodies)
def test_issues_are_complete_and_show_no_key(body: Any) -> None:
    """Each issue has a code, a message and a path; the value of a key is never repeated."""
    if isinstance(body, dict) and isinstance(body.get("credentials"), dict):
        body["credentials"]["apiKey"] = ["planted-key"]
    for check in (validation.create, validation.patch):
        issues = issues_of(check, body)
        assert all(issue["code"] and issue["message"] for issue in issues)
        assert all(isinstance(issue["path"], list) for issue in issues)
        assert "planted-key" not in str(issues)


def issues_of(check: Callable[[Any], object], body: Any) -> list[dict[str, Any]]:
    """Return the issues of a body; a body without issues has none."""
    try:
        check(body)
    except Refusal as refusal:
        return cast("list[dict[str, Any]]", refusal.message)
    return []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rotationInterval": "30"}, []),
        ({"rotationInterval": "soon"}, [("invalid_type", "rotationInterval")]),
        ({"rotationInterval": 0}, [("too_small", "rotationInterval")]),
        ({"isAutoRotationEnabled": 1}, [("invalid_type", "isAutoRotationEnabled")]),
        ({"rotateAtUtc": []}, [("invalid_type", "rotateAtUtc")]),
        (
            {"rotateAtUtc": {"hours": 24, "minutes": True}},
            [("too_big", "rotateAtUtc.hours"), ("invalid_type", "rotateAtUtc.minutes")],
        ),
        ({"parameters": None}, [("invalid_type", "parameters")]),
        ({"parameters": {"name": " "}}, [("too_small", "parameters.name")]),
        ({"parameters": {"name": "k" * 101}}, [("too_big", "parameters.name")]),
        ({"parameters": {"name": "k", "limit": 0}}, [("too_small", "parameters.limit")]),
        (
            {"parameters": {"limit": True, "limitReset": "yearly", "includeByokInLimit": 0}},
            [
                ("invalid_type", "parameters.name"),
                ("invalid_type", "parameters.limit"),
                ("invalid_enum_value", "parameters.limitReset"),
                ("invalid_type", "parameters.includeByokInLimit"),
            ],
        ),
        ({"secretsMapping": "KEY"}, [("invalid_type", "secretsMapping")]),
        ({"secretsMapping": {}}, [("invalid_type", "secretsMapping.apiKey")]),
        ({"secretsMapping": {"apiKey": " "}}, [("too_small", "secretsMapping.apiKey")]),
        ({"secretsMapping": {"apiKey": "a:b"}}, [("custom", "secretsMapping.apiKey")]),
    ],
)
def test_each_mistake_in_a_rotation_is_an_issue(changes: dict[str, Any], found: list[tuple[str, str]]) -> None:
    """A create and an update of a rotation report the same issues, each with its code and its path."""
    good = {
        "name": "a",
        "projectId": "p",
        "connectionId": "c",
        "environment": "prod",
        "secretPath": "/",
        "rotationInterval": 30,
        "parameters": {"name": "k"},
        "secretsMapping": {"apiKey": "KEY"},
    }
    for check in (validation.create_rotation, validation.patch_rotation):
        issues = issues_of(check, good | changes)
        assert [(issue["code"], ".".join(issue["path"])) for issue in issues] == found


@pytest.mark.parametrize(
    ("text", "length"), [("d" * 256, 256), ("\N{GRINNING FACE}" * 128, 256), ("\ufeff\u00a0x\u2003\n", 1)]
)
def test_texts_are_measured_and_trimmed_as_javascript_does(text: str, length: int) -> None:
    """Length counts UTF-16 units after trimming, and what JavaScript calls white space is trimmed."""
    body = {"name": "a", "method": "api-key", "credentials": {"apiKey": "k"}, "description": text}
    description = validation.create(body).description
    assert description is not None
    assert validation.length_in_utf16(description) == length
    with pytest.raises(Refusal):
        validation.create(body | {"description": text.strip() + "\N{GRINNING FACE}" * 128 + "d"})


@pytest.mark.parametrize(
    ("content_type", "raw", "status"),
    [
        ("application/json", b"{", 500),
        ("application/json", b"\xff", 500),
        ("application/json", b"", 500),
        ("application/xml", b"<a/>", 500),
        (None, b"{}", 500),
        (None, b"", 422),
        ("text/plain", b"{}", 422),
        ("application/x-www-form-urlencoded", b"name=a&method=api-key", 422),
    ],
)
async def test_unreadable_bodies_are_one_and_the_same_500(content_type: str | None, raw: bytes, status: int) -> None:
    """A body that cannot be parsed is a 500 without details; others are validated."""
    async with Simulator() as sim, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {sim.token()}"} | ({"Content-Type": content_type} if content_type else {})
        url = sim.url + CONNECTIONS
        async with session.post(url, data=raw or None, headers=headers, skip_auto_headers=["Content-Type"]) as answer:
            assert answer.status == status
            # An unreadable body is refused before the limiter counts.
            assert ("x-ratelimit-limit" in answer.headers) == (status == 422)


async def test_a_delete_that_announces_json_of_no_length_is_refused() -> None:
    """The body parser wants the JSON that a DELETE announces together with a length; without the type it does not."""
    async with Simulator() as sim, aiohttp.ClientSession() as session:
        sim.configure(plant=[{"name": "a", "projectId": sim.projects[0]}])
        url = f"{sim.url}{CONNECTIONS}/{sim.state()['connections'][0]['id']}"
        token = {"Authorization": f"Bearer {sim.token()}"}
        announced = token | {"Content-Type": "application/json", "Content-Length": "0"}
        async with session.delete(url, headers=announced) as answer:
            assert answer.status == 500
        async with session.delete(url, headers=token) as answer:
            assert answer.status == 200


async def test_a_client_that_leaves_within_its_body_leaves_no_trace() -> None:
    """Half a body and a closed socket create nothing and break nothing."""
    async with Simulator() as sim:
        _, writer = await asyncio.open_connection("127.0.0.1", int(sim.url.rpartition(":")[2]))
        head = (
            f"POST {CONNECTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{"
        )
        writer.write(head.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: sim.state()["requests"] == {f"POST {CONNECTIONS}": {"cut": 1}})
        assert sim.state()["connections"] == []
