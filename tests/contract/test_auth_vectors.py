"""The recorded answers about logins, tokens and lockouts."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.sandbox.simulator import identity

if TYPE_CHECKING:
    from tests.contract.conftest import Entry, Reply, Scene, Stage

PREFIXES = ("auth/", "lockout/")
UNSAID = {
    "auth/client_secret.revoke": "administration of identities is no part of the simulator; `clientSecret` replaces it",
    "auth/auth.token_after_secret_revoked": "recorded as a 403 of a route for administrators, which there is not",
}

# The token checks were recorded on routes of their own; they run before routing, so any authenticated route will do.
RECORDED_ON = ("/api/v1/workspace/", "/api/v1/identities/")
LIST = "/api/v1/app-connections/open-router?projectId=77fa7aed-9288-401e-a4c9-3a9430be62a4"


def logged_in(*, later: float = 0, calls: int = 0, **settings: Any) -> "Scene":
    """Return the scene of a token from a login under these settings, used some times, so many seconds later."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        stage.sim.configure(**settings)
        await stage.login()
        for _number in range(calls):
            await stage.act()
        stage.now += later
        return None

    return scene


async def fresh(stage: "Stage", _: "Entry") -> "Reply | None":
    """Set the scene of a token that holds."""
    await stage.open()
    return None


def forged(header: dict[str, Any], payload: dict[str, Any], *, key: str | None = None) -> "Scene":
    """Return the scene of a token put together by hand; without `key`, with the server's own."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        signing = key.encode() if key else stage.sim.world.signing_key
        real = identity.decode_unverified(stage.token) or {}
        signed = (
            f"{identity.encode(json.dumps(header).encode())}.{identity.encode(json.dumps(real | payload).encode())}"
        )
        signature = "" if header["alg"] == "none" else identity.signature(signing, signed)
        stage.token = f"{signed}.{signature}"
        return None

    return scene


def altered(change: Any) -> "Scene":
    """Return the scene of a good token changed afterwards."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        stage.token = change(stage.token)
        return None

    return scene


async def revoked(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of a token that was revoked."""
    await fresh(stage, entry)
    assert (await stage.act("POST", "/api/v1/auth/token/revoke", {"accessToken": stage.token})).status == 200
    return None


def renewed(*, status: int, **settings: Any) -> "Scene":
    """Return the scene of a token after an attempt to renew it that had this status."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await logged_in(later=1, **settings)(stage, entry)
        assert (await stage.act("POST", "/api/v1/auth/token/renew", {"accessToken": stage.token})).status == status
        return None

    return scene


async def lowercase(stage: "Stage", _: "Entry") -> "Reply | None":
    """Send the scheme in lower case, which the record does not show."""
    await stage.open()
    return await stage.call("GET", stage.translate(LIST), {"Authorization": f"bearer {stage.token}"})


def spent(*, secret_uses: int = 0, secret_ttl: int = 0, logins: int = 0) -> "Scene":
    """Return the scene of a client secret that may no longer be used."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        stage.sim.configure(secretUses=secret_uses, secretTtl=secret_ttl)
        for _number in range(logins):
            await stage.login()
        stage.now += 2
        return None

    return scene


def failed(times: int, *, later: float = 0) -> "Scene":
    """Return the scene of so many wrong secrets at once, so many seconds ago."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        body = json.dumps({"clientId": stage.sim.client_id, "clientSecret": "wrong"})
        headers = {"Content-Type": "application/json"}
        path = "/api/v1/auth/universal-auth/login"
        await asyncio.gather(*(stage.call("POST", path, headers, body) for _ in range(times)))
        stage.now += later
        return None

    return scene


HS256 = {"alg": "HS256", "typ": "JWT"}
SCENES: dict[str, "Scene"] = {
    "auth/auth.alg_none": forged({"alg": "none", "typ": "JWT"}, {}),
    "auth/auth.expired_ttl1": logged_in(tokenTtl=1, tokenMaxTtl=5, later=2.2),
    "auth/auth.expired_ttl1_again": logged_in(tokenTtl=1, tokenMaxTtl=5, later=2.2, calls=1),
    "auth/auth.jwt_expired": forged(HS256, {"exp": 1}),
    "auth/auth.jwt_like_garbage": altered(lambda token: token.rpartition(".")[0] + ".garbage"),
    "auth/auth.lowercase_scheme": lowercase,
    "auth/auth.numuses_limit2.call1": logged_in(tokenUses=2),
    "auth/auth.numuses_limit2.call2": logged_in(tokenUses=2, calls=1),
    "auth/auth.numuses_limit2.call3": logged_in(tokenUses=2, calls=2),
    "auth/auth.numuses_limit2.call4": logged_in(tokenUses=2, calls=3),
    "auth/auth.old_token_after_renew": renewed(status=200, tokenTtl=60, tokenMaxTtl=120),
    "auth/auth.revoked": revoked,
    "auth/auth.tampered_signature": altered(lambda token: token[:-4] + token[-4:].swapcase()),
    "auth/auth.valid_sig_no_type": forged(HS256, {"authTokenType": None}),
    "auth/auth.valid_sig_unknown_token_id": forged(
        HS256, {"identityAccessTokenId": "00000000-0000-4000-8000-000000000000"}
    ),
    "auth/auth.wrong_key": forged(HS256, {}, key="another key"),
    "auth/login.revoked_secret": spent(secret_uses=1, logins=2),
    "auth/login.secret_expired": spent(secret_ttl=1),
    "auth/login.secret_uses_exhausted_again": spent(secret_uses=1, logins=2),
    "auth/renew.expired": logged_in(tokenTtl=60, later=61),
    "auth/renew.ok": logged_in(tokenTtl=60, tokenMaxTtl=120, later=1),
    "auth/renew.revoked": revoked,
    "lockout/lockout.8_parallel_wrong": failed(7),
    "lockout/lockout.after_unlock": failed(3, later=301),
    "lockout/lockout.correct_secret_while_locked": failed(3),
    "lockout/lockout.wrong2": failed(1),
    "lockout/lockout.wrong3": failed(2),
    "lockout/lockout.wrong4": failed(3),
}


async def test_recorded_answer(entry: "Entry", stage: "Stage") -> None:
    """The simulator answers a login, or a request with this token, as the recorded server did."""
    if entry["request"]["path"].startswith(RECORDED_ON):
        entry = {**entry, "request": {**entry["request"], "path": LIST}}
    await stage.check(entry, SCENES.get(entry["name"], fresh))


async def test_every_scene_is_played() -> None:
    """Every scene and every exception belongs to a recorded entry, so none is left over by mistake."""
    recorded = {entry["name"] for entry in json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))}
    assert set(SCENES) | set(UNSAID) <= recorded
