"""The answers recorded from a real server in July 2026. Where they contradict the older records, these are right."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from provisioner.sandbox.simulator.pipeline import match
from tests.contract.conftest import recorded
from tests.contract.test_auth_vectors import HS256, altered, failed, forged, logged_in, revoked
from tests.support import eventually

if TYPE_CHECKING:
    from tests.contract.conftest import Entry, Reply, Scene, Stage

FILE = "vectors-2026.json"
PREFIXES = ("",)
ADMINISTRATION = "administration of identities and members, which somebody else does; settings stand for it"
UNSAID = {
    "identity.create": ADMINISTRATION,
    "identity.details": "nothing here asks who it is",
    "project.add_identity": ADMINISTRATION,
    "project.identities": ADMINISTRATION,
    "project.permissions": "a route for people; machine identities are refused",
    "grant.add": ADMINISTRATION,
    "grant.remove": ADMINISTRATION,
    "ua.client_secret.revoke": ADMINISTRATION,
    "lockout.clear": ADMINISTRATION,
    "org.workspaces": "an older route of the same content as that for projects",
    "appconn.options": "the list of all apps, which nothing here asks for",
    "secret.create": "secrets are planted; no route here writes one",
}

P = "7b853052-69ec-4068-af38-e28d50acf87a"
Q = "002220c3-fcd0-4466-ae04-3c29ee0d7eaa"
OF_SECRETS = "af644068-da16-4708-98e5-3464006fe185"
DELETED = "8cdb5d3e-9018-4015-a3c2-4e23849627a1"
ORGANIZATION = "fc901c12-006e-48a8-9d99-1e77380cb869"
BASE = "e4d1e0f0-4e36-46c2-a68c-58f797fa1d22"
SECRETS = {"PKEY": "sk-or-v1-a", "EMPTY": "", "MULTI": "a\nb", "REF": "${PKEY}"}
# A hundred seconds of the server in less than half a second.
HASTE = 0.004


async def opened(stage: "Stage", entry: "Entry", **options: Any) -> None:
    """Open the stage with the ids and limits that the entry was recorded with."""
    limits = entry["response"]["headers"] or {}
    if "x-ratelimit-limit" in limits or entry["name"].startswith("cloud."):
        limit = int(limits.get("x-ratelimit-limit", 90))
        options |= {"mode": "cloud", "write_limit": limit, "read_limit": limit, "login_limit": limit}
    await stage.open(**options)
    stage.sim.configure(web_interface=False)
    projects = stage.sim.projects
    stage.ids = {P: projects[0], Q: projects[1], OF_SECRETS: projects[2], DELETED: projects[3]}
    stage.ids |= {project.upper(): live.upper() for project, live in stage.ids.items()}
    stage.ids |= {ORGANIZATION: stage.sim.organization_id}
    body = entry["request"]["body"]
    given = json.loads(body) if isinstance(body, str) and body.startswith('{"client') else body
    if isinstance(given, dict) and len(str(given.get("clientSecret"))) == 64:
        stage.ids |= {given["clientId"].strip(): stage.sim.client_id, given["clientSecret"]: stage.sim.client_secret}


async def usual(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of one connection, and of a window of which as much is used as was."""
    await opened(stage, entry)
    stage.plant("base-1a0796fd0e", P, "d", BASE)
    headers = entry["response"]["headers"]
    if "x-ratelimit-limit" in headers:
        used = int(headers["x-ratelimit-limit"]) - int(headers["x-ratelimit-remaining"])
        for _number in range(used - (entry["response"]["status"] != 429)):
            await stage.send(entry)
    return None


def described(description: str | None, name: str = "base-1a0796fd0e") -> "Scene":
    """Return the scene of a connection as earlier updates left it."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await opened(stage, entry)
        stage.plant(name, P, description, BASE)
        return None

    return scene


async def solo(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of a project with one connection."""
    await opened(stage, entry)
    stage.plant("solo", Q, "d")
    return None


def granted(grants: dict[str, Any]) -> "Scene":
    """Return the scene of an identity with these rights."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await opened(stage, entry)
        stage.grant(grants)
        await usual_window(stage, entry)
        return None

    return scene


async def usual_window(stage: "Stage", entry: "Entry") -> None:
    """Use as much of the window as was used."""
    headers = entry["response"]["headers"]
    for _number in range(int(headers.get("x-ratelimit-limit", 1)) - int(headers.get("x-ratelimit-remaining", 0)) - 1):
        await stage.send(entry)


async def member_of_all(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of exactly as many projects as the record lists."""
    await opened(stage, entry, projects=max(4, len(entry["response"]["body"]["projects"])))
    await usual_window(stage, entry)
    return None


async def member_of_none(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of an identity that is in no project."""
    await opened(stage, entry)
    stage.sim.configure(permissions=dict.fromkeys(stage.sim.projects, "none"))
    await usual_window(stage, entry)
    return None


def token(scene: "Scene") -> "Scene":
    """Return a scene for tokens with the ids of this file."""

    async def adapted(stage: "Stage", entry: "Entry") -> "Reply | None":
        reply = await scene(stage, entry)
        projects = stage.sim.projects
        stage.ids |= {P: projects[0], Q: projects[1]}
        body = entry["request"]["body"]
        if isinstance(body, dict) and "clientSecret" in body:
            stage.ids |= {body["clientId"]: stage.sim.client_id}
            if body["clientSecret"] != "wrongwrong":
                stage.ids |= {body["clientSecret"]: stage.sim.client_secret}
        return reply

    return adapted


def with_secrets(grants: dict[str, Any] | None = None) -> "Scene":
    """Return the scene of a project with secrets."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await opened(stage, entry)
        place = {"projectId": stage.ids[OF_SECRETS], "environment": "prod"}
        stage.sim.configure(secrets=[{**place, "name": name, "value": value} for name, value in SECRETS.items()])
        stage.grant(grants or {})
        return None

    return scene


async def removed(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of an identity that was deleted."""
    await opened(stage, entry)
    stage.sim.configure(identity="removed")
    return None


async def deleted_meanwhile(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Delete the project while OpenRouter is asked."""
    await opened(stage, entry, upstream_pace=0.1)
    sent = asyncio.create_task(stage.send(entry))
    await eventually(lambda: any(create["name"] for create in stage.sim.state()["creates"]))
    stage.sim.configure(removeProjects=[stage.ids[DELETED]])
    return await sent


async def slow(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of a server whose hundred seconds pass quickly."""
    await opened(stage, entry, upstream_pace=HASTE, cut_after=100 * HASTE)
    return None


async def late(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Let a create be cut at 100 s whose OpenRouter answers at 110 s, and wait for its row."""
    await slow(stage, entry)
    name = "e-e99fad5a19"
    assert (await stage.create(name, "k-mode-delay110", P)).status is None
    await eventually(lambda: stage.names() == [name])
    return None


async def crowded(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Send 64 creates at once, and the request when they stand still."""
    await opened(stage, entry, pool_step=0.001, pool_wait=1.0)
    creates = [asyncio.create_task(stage.create(f"n-{number}", project=P)) for number in range(64)]
    await eventually(lambda: stage.sim.state()["pool"]["waiting"] > 20)
    reply = await stage.send(entry)
    made = await asyncio.gather(*creates)
    assert sum(create.status == 500 for create in made) > 40
    return reply


CONNECTION = "3c432ef0-bb35-4319-b79f-688005de82ce"
ROTATION = "0eaa95a2-0bb5-4fc2-a5c4-c71707a2b1bd"


def rotated(*steps: str) -> "Scene":
    """Return the scene of a connection for rotations, after these recorded calls."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await opened(stage, entry)
        stage.plant("rot-3aa3c9", P, recorded=CONNECTION)
        entries = {one["name"]: one for one in recorded(FILE)}
        for step in steps:
            reply = await stage.send(entries[step])
            assert reply.status == 200, reply
            stage.ids[ROTATION] = reply.body["secretRotation"]["id"]
            stage.now += 1
        await fresh_window(stage)
        await usual_window(stage, entry)
        return None

    return scene


async def fresh_window(stage: "Stage") -> None:
    """Let the limiter's windows end."""
    stage.now += 61


async def viewer(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of an identity that may look at connections and nothing else."""
    await rotated()(stage, entry)
    stage.grant({P: ["read-app-connections"]})
    return None


SCENES: dict[str, "Scene"] = {
    "auth.expired": token(forged(HS256, {"exp": 1})),
    "auth.no_type": token(forged(HS256, {"authTokenType": None})),
    "auth.noclaims": token(forged(HS256, {"identityId": None, "identityAccessTokenId": None})),
    "auth.uses_limit1.call3": token(logged_in(tokenUses=1, calls=2)),
    "cloud.create.badtoken": token(altered(lambda _: "garbage")),
    "cmp.auth.jwtlike": token(forged(HS256, {}, key="another key")),
    "cmp.auth.tampered": token(altered(lambda text: text[:-4] + text[-4:].swapcase())),
    "cmp.list.Q": solo,
    "cmp.list.one": solo,
    "cmp.patch.name": described(None),
    "cmp.patch.nameclash": described(None, "renamed-x1"),
    "cmp.patch.empty": described(None),
    "cmp.patch.method": described(None),
    "cmp.perm.none.create": granted({P: "none"}),
    "cmp.perm.none.list": granted({P: "none"}),
    "cmp.perm.none.badkey": granted({P: "none"}),
    "cmp.perm.view.create": granted({P: ["read-app-connections"]}),
    "cmp.perm.org.list": granted({ORGANIZATION: []}),
    "cmp.renew.ok": token(logged_in()),
    "cmp.renew.again": token(logged_in()),
    "cmp.revoke.thenuse": token(revoked),
    "cmp.revoke.own_header": token(revoked),
    "create.project_deleted_meanwhile": deleted_meanwhile,
    "create.upstream_delay60": slow,
    "create.upstream_delay110": slow,
    "create.upstream_hang": slow,
    "create.upstream_delay110.lookup_later": late,
    "deadlock.login_meanwhile": crowded,
    "lockout.2": token(failed(1)),
    "lockout.3": token(failed(2)),
    "lockout.5": token(failed(4)),
    "lockout.right_secret": token(failed(3)),
    "login.identity_deleted": removed,
    "rotation.create": rotated(),
    "rotation.byname": rotated("rotation.create"),
    "rotation.credentials": rotated("rotation.create"),
    "rotation.create.dup_secret": rotated("rotation.create"),
    "rotation.rotate": rotated("rotation.create"),
    "rotation.patch": rotated("rotation.create", "rotation.rotate"),
    "rotation.secret.read": rotated("rotation.create", "rotation.rotate"),
    "rotation.delete": rotated("rotation.create", "rotation.rotate", "rotation.patch"),
    **{f"rotation.create.{flaw}": rotated() for flaw in ("noconn", "badname", "badenv", "badsecretname", "interval0")},
    "rotation.create.missing": rotated(),
    "rotation.create.viewer": viewer,
    "project.get.notmember": granted({P: "none"}),
    "projects.list.type": member_of_all,
    "projects.list.notmember": member_of_none,
    "cmp.secret.v4.notmember": with_secrets({OF_SECRETS: "none"}),
    "cmp.secret.v4.notmember_missing": with_secrets({OF_SECRETS: "none"}),
}


async def test_recorded_answer(entry: "Entry", stage: "Stage") -> None:
    """The simulator answers as the real server did."""
    default = with_secrets() if entry["name"].startswith("cmp.secret.") else usual
    await stage.check(entry, SCENES.get(entry["name"], default))


async def test_every_scene_is_played_and_every_exception_has_no_route() -> None:
    """Scenes and exceptions belong to recorded entries, and what is excepted is no route of the simulator."""
    entries = {entry["name"]: entry for entry in recorded(FILE)}
    assert set(SCENES) | set(UNSAID) <= set(entries)
    served = {
        name
        for name in UNSAID
        if match(entries[name]["request"]["method"], entries[name]["request"]["path"].partition("?")[0])
    }
    assert not served
