"""Each login method, from the settings to the connection and the end of the token."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.core.model import Result
from provisioner.core.pacing import Budget
from provisioner.core.secret import Secret
from provisioner.infisical.metered_logins import MeteredLogins
from provisioner.infisical.transport import NotSent, Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.keyring import open_vault
from provisioner.postgres.permits import SharedPermits
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.simulator import Options, Simulator
from provisioner.targets import open_lines
from provisioner.worker.clock import DatabaseClock
from tests.support.builders import a_request
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.postgres import Database

JWT = "eyJhbGciOiJub25lIn0.e30.c2ln"
REVOKE = "POST /api/v1/auth/token/revoke"
NOBODY = {"INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": "", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": ""}
KINDS = ["universal", "universal, by slug", "token", "token in a file", "kubernetes", "oidc", "oidc in a file"]


def settings(kind: str, simulator: Simulator, kept: Path) -> dict[str, str]:
    """The environment of a worker with this login; `kept` is a file for its secret."""
    slug = {"PROVISIONER_TARGETS__DEFAULT__ORGANIZATION_SLUG": "simulated"}
    who = {**NOBODY, "INFISICAL_MACHINE_IDENTITY_ID": simulator.identity_id}
    token = simulator.token()
    if kind.endswith("in a file") or kind == "kubernetes":
        kept.write_text(f"{token if kind.startswith('token') else JWT}\n")
    return {
        "universal": {},
        "universal, by slug": slug,
        "token": {**NOBODY, "INFISICAL_TOKEN": token},
        "token in a file": {**NOBODY, "INFISICAL_TOKEN_FILE": str(kept)},
        "kubernetes": {**who, "INFISICAL_KUBERNETES_SERVICE_ACCOUNT_TOKEN_PATH": str(kept)},
        "oidc": {**who, **slug, "INFISICAL_AUTH_JWT": JWT},
        "oidc in a file": {**who, **slug, "INFISICAL_AUTH_JWT_FILE": str(kept)},
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_identity_makes_connections_and_ends_its_own_token(
    database: Database, tmp_path: Path, kind: str
) -> None:
    """Whatever the identity is, requests succeed; a token that was logged in for is ended, a given one lives on."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=5)) as fleet:
        simulator = fleet.simulator
        more = settings(kind, simulator, tmp_path / "kept")
        simulator.configure(organization_slug="simulated")
        await fleet.insert(5)
        await fleet.start(**more)
        await fleet.done()
        assert await fleet.states() == {"succeeded": 5}
        routes = simulator.world.requests
        paths = {route.rpartition("/auth/")[2] for route in routes if route.endswith("login")}
        given = kind.startswith("token")
        assert paths == (set() if given else {f"{kind.partition(',')[0].partition(' ')[0]}-auth/login"})
        await fleet.stop()
        assert routes.get(REVOKE) == (None if given else {"200": 1})


@pytest.mark.parametrize("kind", ["universal, by slug", "oidc"])
async def test_the_organization_is_named_at_the_login(database: Database, tmp_path: Path, kind: str) -> None:
    """An identity that is not in the organization that the settings name is refused, and no create is sent."""
    async with Fleet(database.url, Options(projects=1)) as fleet:
        simulator = fleet.simulator
        simulator.configure(organization_slug="another")
        seen = await created(fleet, settings(kind, simulator, tmp_path / "kept"))
        assert seen is Result.TOKEN_TROUBLE
        assert simulator.state()["logins"]["refused"] == 1
        assert simulator.state()["creates"] == []


async def test_the_token_is_ended_however_the_work_ends(database: Database) -> None:
    """Even after an error no token is left that lives for a month."""
    async with Fleet(database.url, Options(projects=1)) as fleet:
        with suppress(ZeroDivisionError):
            await created(fleet, {}, fail=True)
        assert fleet.simulator.state()["requests"][REVOKE] == {"200": 1}


async def created(fleet: Fleet, settings: Mapping[str, str], *, fail: bool = False) -> Any:
    """The result of one create with these settings."""
    chosen, pool = fleet.settings(**settings), Pool(fleet.url)
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    try:
        async with open_lines(chosen, "default", pool, clock, open_vault(chosen)) as lines:
            request = a_request(project_id=fleet.simulator.projects[0])
            seen = await lines.access.connections.create(request, Secret("sk-or-v1-good"))
            if fail:
                raise ZeroDivisionError
            return seen.result
    finally:
        await pool.close()


async def test_an_infisical_that_cannot_be_reached_is_told_within_seconds(database: Database) -> None:
    """A login that was never sent gives its permit back: the next try does not wait for an answer to it."""
    pool = Pool(database.url)
    permits = SharedPermits(
        pool,
        DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic),
        target="default",
        kind="login",
        start=Budget(),
    )
    async with Transport(TransportOptions(base_url="http://127.0.0.1:1")) as transport:
        for _ in range(2):
            with pytest.raises(NotSent):
                await MeteredLogins(transport, permits).send("POST", Routes("http://127.0.0.1:1").login("any"), {})
            again = await permits.acquire(1)
            assert again.permits == 1
            permits.give_back(1)
            await permits.share()
    await pool.close()
