"""The cause of trouble is found with few creates, and nothing else suffers. Real workers, a simulated Infisical."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

BAD = "sk-or-v1-bad-mode-401"
SHOWN = "SELECT coalesce(bool_or(reason LIKE $1 || '%' AND since <= now()), false) FROM provisioner.target_incidents"
WORKS = "SELECT count(*) = 0 FROM provisioner.target_incidents"
HELD = "SELECT count(*) FROM provisioner.waiting WHERE quarantine = 'credential:bad'"
QUICK = {
    "PROVISIONER_CREDENTIALS__BAD__VALUE": BAD,
    "PROVISIONER_RETRY__BASE": "0.2",
    "PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": "8",
}


def selfhosted(**changes: object) -> Options:
    """An Infisical without a limiter, twenty milliseconds away."""
    return Options(**{"mode": "self-hosted", "latency": 0.02, "projects": 300, **changes})  # type: ignore[arg-type]


def events(logged: list[dict[str, object]], name: str) -> list[dict[str, object]]:
    """The entries of one event."""
    return [entry for entry in logged if entry["event"] == name]


def arrived(fleet: Fleet) -> int:
    """Calls of any kind that came as far as the simulator."""
    return sum(sum(outcomes.values()) for outcomes in fleet.simulator.world.requests.values())


def spent(fleet: Fleet, name: str) -> int:
    """The creates sent for connections of this name."""
    return sum(record.name == name for record in fleet.simulator.world.creates)


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_bad_key_costs_few_creates_and_the_good_ones_no_time(
    database: Database, logged: list[dict[str, object]], workers: int
) -> None:
    """Of 100 requests with a bad key three find it out and fail, the others wait; 100 good ones are done at once."""
    async with Fleet(database.url, selfhosted(), workers=workers, settings=QUICK) as fleet:
        await fleet.insert(100, name="bad", credential="bad")
        await fleet.insert(100, name="good")
        began = time.monotonic()
        await fleet.start()
        await fleet.done("name = 'good'", within=10)
        beside_the_bad = time.monotonic() - began
        assert await fleet.states("name = 'good'") == {"succeeded": 100}
        await fleet.comes_to({"failed": 3, "pending": 97}, "name = 'bad'")
        await fleet.until(HELD, 97)
        assert spent(fleet, "bad") <= 10
        assert spent(fleet, "good") == 100
        began = time.monotonic()
        await fleet.insert(100, name="alone")
        await fleet.done("name = 'alone'", within=10)
        # Compared with a run without them; the start and the first try of each key are additional.
        assert beside_the_bad <= 3 * (time.monotonic() - began) + 2
        assert fleet.simulator.state()["logins"]["refused"] == 0
        assert fleet.simulator.state()["logins"]["ok"] == workers
        assert len(events(logged, "credential_quarantined")) == 1
        codes = await fleet.session.fetch(
            "SELECT DISTINCT error_code FROM provisioner.connection_requests WHERE status = 'failed'"
        )
        assert [row["error_code"] for row in codes] == ["credential_refused"]
        assert BAD not in repr(logged)
        shown = await fleet.session.fetchrow("SELECT * FROM provisioner.quarantined_credentials")
        assert shown is not None
        assert (shown["credential"], shown["requests"]) == ("bad", 97)
        assert "OpenRouter does not accept the key" in shown["reason"]


async def test_another_key_releases_what_waits(
    database: Database, logged: list[dict[str, object]], tmp_path: Path
) -> None:
    """When a refused key's file changes, everything that waited for it continues, without a restart."""
    file = tmp_path / "key"
    file.write_text(BAD)
    settings = {**QUICK, "PROVISIONER_CREDENTIALS__BAD__FILE": str(file)}
    del settings["PROVISIONER_CREDENTIALS__BAD__VALUE"]
    async with Fleet(database.url, selfhosted(projects=40), settings=settings) as fleet:
        await fleet.insert(40, name="bad", credential="bad")
        await fleet.start()
        await fleet.until(HELD, 37)
        file.write_text("sk-or-v1-mended")
        await fleet.done()
        assert (await fleet.states())["succeeded"] >= 37
        assert events(logged, "credential_released")
        shown = "SELECT count(*) = 0 FROM provisioner.quarantined_credentials"
        await eventually(lambda: fleet.session.fetchval(shown))


async def test_another_credential_releases_its_request(database: Database) -> None:
    """A request whose credential is edited continues alone; the others keep waiting."""
    async with Fleet(database.url, selfhosted(projects=20), settings=QUICK) as fleet:
        await fleet.insert(20, name="bad", credential="bad")
        await fleet.start()
        await fleet.until(HELD, 17)
        chosen = await fleet.session.fetchval("SELECT id FROM provisioner.waiting WHERE quarantine IS NOT NULL LIMIT 1")
        await fleet.session.execute(
            "UPDATE provisioner.connection_requests SET credential = 'default' WHERE id = $1", chosen
        )
        await fleet.done(f"id = {chosen}")
        assert await fleet.states(f"id = {chosen}") == {"succeeded": 1}
        await fleet.until(HELD, 16)


async def test_a_probe_finds_out_that_a_key_works_again(database: Database, logged: list[dict[str, object]]) -> None:
    """When OpenRouter accepts a quarantined key after all, one probe shows it, and everything continues."""
    async with Fleet(database.url, selfhosted(projects=20), settings=QUICK) as fleet:
        fleet.simulator.configure(open_router="401")
        await fleet.insert(20)
        await fleet.start()
        await eventually(lambda: events(logged, "credential_quarantined"))
        fleet.simulator.configure(open_router="ok")
        before = spent(fleet, "openrouter")
        await fleet.session.execute("UPDATE provisioner.credential_health SET probe_at = now()")
        await fleet.done()
        assert events(logged, "credential_released")
        assert before <= 10
        assert (await fleet.states())["succeeded"] >= 17


async def test_every_spelling_of_a_credential_hears_of_the_probe(database: Database) -> None:
    """Two spellings of one name, and two names with one key: when a probe is accepted, all of them continue."""
    spellings = ("DEFAULT", "default", "other", "Other")
    waits = "SELECT count(*) FROM provisioner.waiting WHERE quarantine IS NOT NULL"
    settings = {**QUICK, "PROVISIONER_CREDENTIALS__OTHER__VALUE": "sk-or-v1-good"}
    async with Fleet(database.url, selfhosted(projects=20), settings=settings) as fleet:

        async def all_wait(count: int) -> Any:
            return await fleet.session.fetchval(waits) == count

        fleet.simulator.configure(open_router="401")
        for spelling in spellings:
            await fleet.insert(20, name=f"first-{spelling.lower()}-{spelling.islower():d}", credential=spelling)
        await fleet.start()
        await eventually(lambda: all_wait(74))  # but for three of each name, which found it out
        for spelling in spellings:
            await fleet.insert(20, name=f"then-{spelling.lower()}-{spelling.islower():d}", credential=spelling)
        await eventually(lambda: all_wait(154))
        fleet.simulator.configure(open_router="ok")
        await fleet.session.execute("UPDATE provisioner.credential_health SET probe_at = now()")
        await fleet.done()
        assert (await fleet.states())["succeeded"] >= 154


@pytest.mark.parametrize("trouble", ["down", "401"])
async def test_openrouter_in_trouble_fails_nobody(
    database: Database, logged: list[dict[str, object]], trouble: str
) -> None:
    """While OpenRouter refuses all keys, only a probe is sent and nothing fails; then work continues."""
    options = selfhosted()
    async with Fleet(database.url, options, workers=2, settings=QUICK) as fleet:
        await fleet.insert(150)
        fleet.simulator.configure(latency=0.1)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 40)
        fleet.simulator.configure(open_router=trouble)
        await eventually(lambda: len(events(logged, "breaker_opened")) >= 2)
        await eventually(lambda: fleet.session.fetchval(SHOWN, "OpenRouter is in trouble"))
        sent = spent(fleet, "openrouter")
        while_held = time.monotonic()
        await eventually(lambda: time.monotonic() - while_held > 1.5)
        assert spent(fleet, "openrouter") - sent <= 40  # calls in flight, and a few probes
        assert await fleet.session.fetchval("SELECT max(failures) FROM provisioner.attempt_state") == 0
        fleet.simulator.configure(open_router="ok")
        mended = time.monotonic()
        await fleet.done(within=20)
        assert time.monotonic() - mended < 10
        assert await fleet.states() == {"succeeded": 150}
        assert events(logged, "breaker_closed")
        assert not events(logged, "credential_quarantined")
        await eventually(lambda: fleet.session.fetchval(WORKS))


async def test_infisical_away_is_shown_and_fails_nobody(database: Database, logged: list[dict[str, object]]) -> None:
    """While nothing works, one create probes, the target's trouble is visible, and then everything continues."""
    async with Fleet(database.url, selfhosted(projects=100), settings=QUICK) as fleet:
        fleet.simulator.configure(latency=0.1)
        await fleet.insert(100)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 20)
        fleet.simulator.configure(outage="refuse")
        await eventually(lambda: fleet.session.fetchval(SHOWN, "the server answered 503"))
        # An answer that was in flight when the outage began may let calls through once more.
        assert 1 <= len(events(logged, "breaker_opened")) <= 3
        fleet.simulator.configure(outage="none")
        await fleet.done(within=20)
        assert await fleet.states() == {"succeeded": 100}
        await eventually(lambda: fleet.session.fetchval(WORKS))


@pytest.mark.soak
async def test_a_fleet_asks_a_dead_infisical_seldom(database: Database, logged: list[dict[str, object]]) -> None:
    """Eight workers that each probe for themselves send a dead Infisical a few calls a second, and no login."""
    seconds = 20.0
    async with Fleet(database.url, selfhosted(), workers=8, settings=QUICK) as fleet:
        fleet.simulator.configure(latency=0.1)
        await fleet.insert(300)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 40)
        fleet.simulator.configure(outage="refuse")
        # Calls in flight end, and the pauses between probes grow to their bound.
        held = time.monotonic()
        await eventually(lambda: len(events(logged, "breaker_opened")) >= 8)
        await eventually(lambda: time.monotonic() - held > 6)
        before, logins, began = arrived(fleet), fleet.simulator.state()["logins"], time.monotonic()
        await eventually(lambda: time.monotonic() - began > seconds, within=seconds + 5)
        # A probe is a create, or a look-up that is tried three times; none comes sooner than 5 s after another.
        asked = arrived(fleet) - before
        assert asked <= 8 * 3 * (seconds / 5 + 1)
        assert fleet.simulator.state()["logins"] == logins
        assert await fleet.session.fetchval("SELECT max(failures) FROM provisioner.attempt_state") == 0
        fleet.simulator.configure(outage="none")
        await fleet.done(within=20)
        assert await fleet.states() == {"succeeded": 300}


@pytest.mark.parametrize("change", ["revoke_tokens", "expire_tokens", "lapse_tokens"])
async def test_a_token_that_ends_costs_one_login_and_no_attempt(database: Database, change: str) -> None:
    """However the token ends in the middle of a run, there is one login more and every request succeeds at once."""
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        await fleet.insert(120)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 40)
        fleet.simulator.configure(**{change: True})
        await fleet.done()
        assert await fleet.states() == {"succeeded": 120}
        assert fleet.simulator.state()["logins"] == {"ok": 2, "refused": 0, "locked": 0}
        assert await fleet.session.fetchval("SELECT max(attempts) FROM provisioner.connection_requests") == 1


async def test_a_token_that_is_used_up_costs_one_login_each(database: Database) -> None:
    """Tokens of 25 uses do 150 creates with few more logins than it takes, and no attempt is spent."""
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        fleet.simulator.configure(token_uses=25)
        await fleet.insert(150)
        await fleet.start()
        await fleet.done()
        assert await fleet.states() == {"succeeded": 150}
        assert fleet.simulator.state()["logins"]["ok"] <= 8
        assert await fleet.session.fetchval("SELECT max(attempts) FROM provisioner.connection_requests") == 1


async def test_a_fresh_permission_is_waited_for(database: Database) -> None:
    """A permission that shows a moment after the first try costs the requests nothing but a little time."""
    async with Fleet(database.url, selfhosted(projects=5), settings=QUICK) as fleet:
        fleet.simulator.configure(permissions={project: [] for project in fleet.simulator.projects})
        await fleet.insert(5)
        await fleet.start()
        await eventually(lambda: fleet.requests().get("403", 0) >= 5)
        allowed = ["create-app-connections", "read-app-connections"]
        fleet.simulator.configure(permissions=dict.fromkeys(fleet.simulator.projects, allowed))
        await fleet.done()
        assert await fleet.states() == {"succeeded": 5}


async def test_a_wrong_client_secret_is_tried_once_and_mended_without_a_restart(
    database: Database, logged: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One login whatever is queued; nothing fails; the log says what to fix, and a fixed file is enough."""
    file = tmp_path / "secret"
    file.write_text("wrong")
    given = {"INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": "", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET_FILE": str(file)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = {**QUICK, **given}
    async with Fleet(database.url, selfhosted(), settings=settings) as fleet:
        await fleet.insert(100)
        await fleet.start()
        await eventually(lambda: events(logged, "breaker_opened"))
        waited = time.monotonic()
        await eventually(lambda: time.monotonic() - waited > 1.5)
        assert fleet.simulator.state()["logins"] == {"ok": 0, "refused": 1, "locked": 0}
        assert "check the client id and the client secret" in str(events(logged, "login_refused")[0]["reason"])
        assert await fleet.states() == {"pending": 100}
        assert not fleet.requests()
        file.write_text(fleet.simulator.client_secret)
        await fleet.done(within=20)
        assert await fleet.states() == {"succeeded": 100}
        assert fleet.simulator.state()["logins"] == {"ok": 1, "refused": 1, "locked": 0}
        assert await fleet.session.fetchval("SELECT max(attempts) FROM provisioner.connection_requests") == 1


async def test_logins_keep_to_their_limit(database: Database) -> None:
    """Many workers that start at once share the limit of logins: none is refused, and all log in."""
    options = Options(projects=20, login_limit=4, window=2.0, write_limit=1000)
    async with Fleet(database.url, options, workers=6, settings=QUICK) as fleet:
        await fleet.start()
        logins = fleet.simulator.world.requests
        await fleet.insert(20)
        for number in range(1, 16):
            await fleet.insert(20, name=f"more-{number}")
        await fleet.done(within=20)
        counted = {
            status: n for route, counts in logins.items() if route.endswith("login") for status, n in counts.items()
        }
        assert set(counted) == {"200"}
        assert counted["200"] > 1
