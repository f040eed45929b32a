"""Keys are checked by OpenRouter before creates are spent on them; if that is impossible, nothing waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from provisioner.core.key_check import KeyKind
from provisioner.core.secret import Secret
from provisioner.infisical.openrouter import OpenRouter
from provisioner.sandbox.simulator import Options, Simulator
from tests.support import eventually
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

ASKED = "GET /openrouter/api/v1/key"
WAITING = "SELECT count(*) FROM provisioner.waiting WHERE quarantine = 'credential:team'"
OPTIONS = Options(mode="self-hosted", projects=20)
FILE = "PROVISIONER_CREDENTIALS__TEAM__FILE"


def asking(fleet: Fleet) -> dict[str, str]:
    """The setting that has OpenRouter asked: at the simulated one."""
    return {"PROVISIONER_OPENROUTER__URL": f"{fleet.simulator.url}/openrouter/api/v1"}


def _quarantines(logged: list[dict[str, object]]) -> list[dict[str, object]]:
    return [entry for entry in logged if entry["event"] == "credential_quarantined"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [("sk-or-v1-ordinary-mode-inference", "inference key"), ("sk-or-v1-gone-mode-401", "does not know this key")],
)
async def test_a_wrong_key_costs_no_create(
    database: Database, logged: list[dict[str, object]], tmp_path: Path, key: str, reason: str
) -> None:
    """One check quarantines the key: no create is sent, no request fails, and the right key releases them."""
    file = tmp_path / "key"
    file.write_text(key)
    async with Fleet(database.url, OPTIONS, workers=2, settings={FILE: str(file)}) as fleet:
        await fleet.insert(20, credential="team")
        await fleet.start(**asking(fleet))
        await fleet.until(WAITING, 20)
        await eventually(lambda: _quarantines(logged))
        assert len(_quarantines(logged)) == 1
        assert fleet.simulator.world.creates == []
        assert await fleet.states() == {"pending": 20}
        assert reason in str(await fleet.session.fetchval("SELECT reason FROM provisioner.quarantined_credentials"))
        assert sum(fleet.simulator.world.requests[ASKED].values()) <= 2
        file.write_text("sk-or-v1-the-right-one")
        await fleet.done()
        assert await fleet.states() == {"succeeded": 20}
        kept = await fleet.session.fetch("SELECT fingerprint, verdict FROM provisioner.key_verdicts")
        assert "management" in {row["verdict"] for row in kept}
    assert "mode-" not in str([dict(row) for row in kept])
    assert key not in str(logged)
    # After that a worker that still had the wrong key may have reported it once more.
    assert len(_quarantines(logged)) in {1, 2}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api/v1", "{}/nowhere"])
async def test_an_openrouter_that_says_nothing_keeps_nobody(database: Database, url: str) -> None:
    """If OpenRouter cannot be reached, or something else answers, the requests continue without a check."""
    async with Fleet(database.url, OPTIONS) as fleet:
        await fleet.insert(20)
        await fleet.start(PROVISIONER_OPENROUTER__URL=url.format(fleet.simulator.url))
        await fleet.done()
        assert await fleet.states() == {"succeeded": 20}
        assert await fleet.session.fetchval("SELECT count(*) FROM provisioner.key_verdicts") == 0


async def test_a_good_key_is_asked_about_once(database: Database) -> None:
    """Three workers, one question: the answer is kept for all."""
    async with Fleet(database.url, OPTIONS) as fleet:
        for number in range(3):
            await fleet.insert(20, name=f"n-{number}")
            await fleet.start(1, **asking(fleet))
            await fleet.done()
        assert fleet.simulator.world.requests[ASKED] == {"200": 1}


async def test_a_loopback_infisical_is_not_told_on(database: Database) -> None:
    """By default no key for an Infisical on this machine is shown to OpenRouter."""
    async with Fleet(database.url, OPTIONS) as fleet:
        await fleet.insert(1)
        await fleet.start()
        await fleet.done()
        assert await fleet.session.fetchval("SELECT count(*) FROM provisioner.key_verdicts") == 0
        assert ASKED not in fleet.simulator.world.requests


@pytest.mark.parametrize(
    ("key", "verdict"),
    [
        ("sk-or-v1-x", KeyKind.MANAGEMENT),
        ("sk-or-v1-x-mode-inference", KeyKind.INFERENCE),
        ("sk-or-v1-x-mode-401", KeyKind.NO_KEY),
        ("sk-or-v1-x-mode-429", KeyKind.UNKNOWN),
        ("sk-or-v1-x-mode-500", KeyKind.UNKNOWN),
        ("sk-or-v1-\n-x", KeyKind.UNKNOWN),
    ],
)
async def test_what_is_said_of_keys(key: str, verdict: KeyKind) -> None:
    """The simulated OpenRouter says of a key what its ending chooses."""
    async with Simulator(OPTIONS) as simulator:
        assert await OpenRouter(f"{simulator.url}/openrouter/api/v1").ask(Secret(key)) is verdict


async def test_no_redirect_is_followed() -> None:
    """The bearer goes to the address that is set and to no other."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        where = f"http://127.0.0.1:{port}/elsewhere"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await OpenRouter(f"http://127.0.0.1:{port}").ask(Secret("sk-or-v1-x")) is KeyKind.UNKNOWN
    assert len(heard) == 1
