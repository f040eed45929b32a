"""Keys that change, are kept in Infisical, or are sealed and refused. Real workers, a simulated Infisical."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.core.secret import Secret
from provisioner.credentials.sealing import SealingPair, add_to_file
from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.postgres import Database

BAD = "sk-or-v1-bad-mode-401"
GOOD = "sk-or-v1-planted-and-good"
SECRET = "GET /api/v4/secrets/{secretName}"
RAW_SECRET = "GET /api/v3/secrets/raw/{secretName}"
QUICK = {"PROVISIONER_RETRY__BASE": "0.2", "PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": "8"}


def selfhosted(**changes: object) -> Options:
    """An Infisical without a limiter, twenty milliseconds away."""
    return Options(**{"mode": "self-hosted", "latency": 0.02, "projects": 100, **changes})  # type: ignore[arg-type]


def kept_in(fleet: Fleet, **more: str) -> dict[str, str]:
    """The settings of a credential `vaulted` in the simulator's first project."""
    secret = {"PROJECT": fleet.simulator.projects[0], "ENVIRONMENT": "prod", "PATH": "/open", "SECRET": "KEY", **more}
    return {f"PROVISIONER_CREDENTIALS__VAULTED__{name}": value for name, value in secret.items()}


def plant(fleet: Fleet, value: str | None, **more: str) -> None:
    """Put the secret there, or take it away."""
    place = {"name": "KEY", "projectId": fleet.simulator.projects[0], "environment": "prod", "path": "/open"}
    fleet.simulator.configure(secrets=[{**place, "value": value, **more}])


async def errors(fleet: Fleet) -> set[tuple[str, str]]:
    """The codes and messages of what failed."""
    found = await fleet.session.fetch(
        "SELECT DISTINCT error_code, error_message FROM provisioner.connection_requests WHERE status = 'failed'"
    )
    return {(row["error_code"], row["error_message"]) for row in found}


async def failed(fleet: Fleet, count: int) -> Any:
    """Whether this many requests have failed."""
    return (await fleet.states()).get("failed") == count


async def spared(fleet: Fleet) -> bool:
    """Whether everything succeeded with one create each."""
    most = await fleet.session.fetchval("SELECT max(attempts) FROM provisioner.connection_requests")
    return set(await fleet.states()) == {"succeeded"} and most == 1


async def test_a_key_in_infisical_is_read_once_for_all(database: Database, logged: list[dict[str, object]]) -> None:
    """Two hundred requests with a credential that is a secret in Infisical cost one read; nothing shows its value."""
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        plant(fleet, f"  {GOOD}\n")
        for number in range(2):
            await fleet.insert(100, name=f"c-{number}", credential="vaulted")
        await fleet.start(**kept_in(fleet))
        await fleet.done()
        assert await spared(fleet)
        assert fleet.requests(SECRET) == {"200": 1}
        state = fleet.simulator.state()
        assert GOOD not in repr(state)
        assert GOOD not in repr(logged)
        fingerprints = {each["keyFingerprint"] for each in state["connections"]}
        plain = await fleet.session.fetchval("SELECT count(*) FROM provisioner.connection_requests")
        assert (len(fingerprints), plain) == (1, 200)


async def test_an_older_infisical_is_asked_by_its_own_route(database: Database) -> None:
    """A server without the present route is asked by the old one, and from then on by that alone."""
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        fleet.simulator.configure(old_secrets=True)
        plant(fleet, GOOD)
        await fleet.insert(3, credential="vaulted")
        await fleet.start(**kept_in(fleet, CACHE="0.01"))
        await fleet.done()
        assert await spared(fleet)
        assert set(fleet.requests(RAW_SECRET)) == {"200"}
        assert fleet.simulator.world.requests["GET (no route)"] == {"404": 1}


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ("none", "give it a role there that allows to read the value"),
        ("describe", "do not have permission to view secret value"),
        ("gone", "there is no such secret"),
    ],
)
async def test_a_secret_that_may_not_be_read_fails_its_requests(
    database: Database, monkeypatch: pytest.MonkeyPatch, access: str, said: str
) -> None:
    """403 and 404 are `credential_unreadable`; the message says where the secret should be, others are not touched."""
    monkeypatch.setattr("provisioner.credentials.fetched.PAUSE", 3600.0)  # it is read once, however long all this takes
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        if access == "gone":
            plant(fleet, GOOD, name="OTHER")
        else:
            plant(fleet, GOOD, access=access)
        await fleet.insert(100, name="bad", credential="vaulted")
        await fleet.insert(10, name="good")
        await fleet.start(**kept_in(fleet))
        await fleet.done()
        assert await fleet.states("name = 'good'") == {"succeeded": 10}
        assert await fleet.states("name = 'bad'") == {"failed": 100}
        ((code, message),) = await errors(fleet)
        assert code == "credential_unreadable"
        place = f"secret KEY in project {fleet.simulator.projects[0]}, environment prod, path /open"
        assert place in message
        assert said in message
        assert GOOD not in message
        assert sum(fleet.requests(SECRET).values()) == 1


async def test_a_secret_that_cannot_be_reached_keeps_its_requests_waiting(database: Database) -> None:
    """Over the read limit requests wait and lose nothing, others continue, and in the end all succeed."""
    options = Options(projects=40, write_limit=1000, secret_limit=1, window=2.0)
    async with Fleet(database.url, options, settings=QUICK) as fleet:
        plant(fleet, GOOD)
        world = fleet.simulator.world
        world.limiter.hit(address="127.0.0.1", route=SECRET, limit=1, length=2.0, now=world.clock())
        await fleet.insert(40, name="waits", credential="vaulted")
        await fleet.insert(40, name="goes-on")
        await fleet.start(**kept_in(fleet))
        await eventually(lambda: fleet.requests(SECRET).get("429"))
        await fleet.done()
        assert await spared(fleet)
        assert fleet.requests(SECRET) == {"429": 1, "200": 1}


async def test_an_outage_while_a_key_is_fetched_fails_nobody(database: Database) -> None:
    """With a revoked token and a server that resets, the key is fetched when possible, with no attempt lost."""
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        plant(fleet, GOOD)
        await fleet.start(**kept_in(fleet))
        await fleet.insert(5)
        await fleet.done()
        fleet.simulator.configure(outage="reset")
        await fleet.insert(50, name="later", credential="vaulted")
        away = "SELECT count(*) FROM provisioner.attempts WHERE error_message LIKE 'credential vaulted (secret KEY%'"
        await eventually(lambda: fleet.session.fetchval(away))
        fleet.simulator.configure(outage="none", revoke_tokens=True)
        await fleet.done(within=20)
        assert await spared(fleet)


async def test_a_replaced_secret_is_read_again_before_its_key_is_blamed(
    database: Database, logged: list[dict[str, object]]
) -> None:
    """When the key in Infisical was replaced and the old one is refused, the new one is used, without blame."""
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        plant(fleet, BAD)
        await fleet.start(**kept_in(fleet))
        fleet.simulator.configure(latency=0.3)
        await fleet.insert(40, credential="vaulted")
        await eventually(lambda: fleet.requests(SECRET))
        await eventually(lambda: fleet.simulator.world.creates)
        plant(fleet, GOOD)
        await fleet.done()
        assert set(await fleet.states()) == {"succeeded"}
        assert await fleet.session.fetchval(
            "SELECT count(*) = 0 FROM provisioner.attempts WHERE error_code IS NOT NULL"
        )
        assert not [entry for entry in logged if entry["event"] == "credential_quarantined"]


async def test_a_mended_secret_releases_what_waits_for_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for a refused key in Infisical continue when it changes, long before they are due."""
    monkeypatch.setattr("provisioner.credentials.fetched.RECHECK", 0.5)
    async with Fleet(database.url, selfhosted(), settings=QUICK) as fleet:
        plant(fleet, BAD)
        await fleet.insert(40, credential="vaulted")
        await fleet.start(**kept_in(fleet, CACHE="86400"))
        held = "SELECT count(*) = 37 FROM provisioner.waiting WHERE quarantine = 'credential:vaulted'"
        await eventually(lambda: fleet.session.fetchval(held))
        await eventually(lambda: failed(fleet, 3))  # no request is left whose refusal would read the secret again
        plant(fleet, GOOD)
        await fleet.done()
        assert await fleet.states() == {"succeeded": 37, "failed": 3}


def written(path: Path, text: str) -> None:
    """Write a file anew, in place."""
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    """Rename another file into its place, as Vault's agent does."""
    other = path.with_name(".new")
    other.write_text(text)
    other.replace(path)


def swapped(path: Path, text: str) -> None:
    """Point a link of directories elsewhere, as Kubernetes does: the file itself is a link through it."""
    there = path.parent / f"..{time.monotonic_ns()}"
    there.mkdir()
    (there / path.name).write_text(text)
    link = path.parent / "..data_tmp"
    link.symlink_to(there.name)
    link.replace(path.parent / "..data")
    if not path.is_symlink():
        path.symlink_to(f"..data/{path.name}")


@pytest.mark.parametrize("replace", [written, renamed, swapped])
async def test_a_replaced_file_releases_what_waits_for_its_key(
    database: Database, tmp_path: Path, replace: Callable[[Path, str], None]
) -> None:
    """However a refused key's file is replaced, everything that waited for it continues, without a restart."""
    file = tmp_path / "key"
    replace(file, BAD)
    settings = {**QUICK, "PROVISIONER_CREDENTIALS__BAD__FILE": str(file)}
    async with Fleet(database.url, selfhosted(), settings=settings) as fleet:
        await fleet.insert(40, credential="bad")
        await fleet.start()
        held = "SELECT count(*) = 37 FROM provisioner.waiting WHERE quarantine = 'credential:bad'"
        await eventually(lambda: fleet.session.fetchval(held))
        replace(file, GOOD)
        await fleet.done()
        assert (await fleet.states())["succeeded"] >= 37


async def test_a_refused_sealed_key_is_held_and_its_row_can_be_given_another(
    database: Database, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    """Requests that share a refused sealed key wait after a few creates; a row with another key continues."""
    pair, file = SealingPair.generate(), tmp_path / "sealing.keys"
    add_to_file(file, pair)
    settings = {**QUICK, "PROVISIONER_SEALING__KEY_FILE": str(file), "PROVISIONER_RETRY__BASE": "5"}

    async with Fleet(database.url, selfhosted(), settings=settings) as fleet:

        def sealed(project: str, key: str) -> str:
            return pair.key.seal(Secret(key), project_id=project, name="openrouter")

        ids = [
            (
                await fleet.session.fetch(
                    "INSERT INTO provisioner.connection_requests (project_id, credential) VALUES ($1, $2) RETURNING id",
                    project,
                    sealed(project, BAD),
                )
            )[0]["id"]
            for project in fleet.simulator.projects[:30]
        ]
        await fleet.insert(30, name="good")
        await fleet.start()
        await fleet.done("name = 'good'")
        await eventually(lambda: [entry for entry in logged if entry["event"] == "credential_quarantined"])
        told = next(entry for entry in logged if entry["event"] == "credential_quarantined")
        assert str(told["credential"]).startswith("sealed-")
        waiting: Any = (
            "SELECT id FROM provisioner.waiting WHERE quarantine LIKE 'credential:sealed-%' ORDER BY id LIMIT 1"
        )
        chosen = await eventually(lambda: fleet.session.fetchval(waiting))
        project = fleet.simulator.projects[ids.index(chosen)]
        await fleet.session.execute(
            "UPDATE provisioner.connection_requests SET credential = $1 WHERE id = $2", sealed(project, GOOD), chosen
        )
        await fleet.done(f"id = {chosen}")
        assert await fleet.states(f"id = {chosen}") == {"succeeded": 1}
        assert BAD not in repr(logged)
