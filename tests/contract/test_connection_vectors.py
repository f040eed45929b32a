"""The recorded answers of the app-connection routes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.contract.conftest import Entry, Reply, Scene, Stage

PREFIXES = ("connections/",)
UNSAID = {
    "connections/get.if_none_match": "no entity tags: nothing that this project sends asks for them",
}

A = "77fa7aed-9288-401e-a4c9-3a9430be62a4"
B = "77fa7aed-9288-401e-a4c9-3a9430be62a0"
ORGANIZATION = "180870b7-f464-4740-8ffe-9d11c9245ea7"
IN_A = "2a16836b-60e8-42c1-a07f-8819c3fd2a57"
IN_B = "1b8d0741-fbca-4058-9abb-5602d12a8d64"
LP_1 = f"/api/v1/app-connections/open-router/connection-name/lp-1?projectId={A}"


def empty(**options: Any) -> "Scene":
    """Return the scene of a server without connections."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open(**options)
        return None

    return scene


def granted(grants: dict[str, Any], *, lp_1: bool = False) -> "Scene":
    """Return the scene of an identity with these rights, among the usual connections."""

    async def scene(stage: "Stage", entry: "Entry") -> "Reply | None":
        await peopled(stage, entry)
        if lp_1:
            stage.plant("lp-1", A)
        stage.grant(grants)
        return None

    return scene


async def peopled(stage: "Stage", _: "Entry") -> "Reply | None":
    """Set the scene of connections named conn-a in two projects and organization-wide."""
    await stage.open()
    stage.plant("conn-a", A, "first", IN_A)
    stage.plant("conn-a", B, None, IN_B)
    stage.plant("conn-a", None)
    return None


async def listed(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of exactly the connections that the recorded list shows."""
    await stage.open()
    for connection in entry["response"]["body"]["appConnections"]:
        stage.plant(connection["name"], connection["projectId"], connection["description"])
    return None


def single(name: str, description: str | None) -> "Scene":
    """Return the scene of one connection as earlier updates left it."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        stage.plant(name, A, description, IN_A)
        return None

    return scene


async def deleted(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Set the scene of a connection that is gone."""
    await peopled(stage, entry)
    assert (await stage.act("DELETE", stage.translate(f"/api/v1/app-connections/open-router/{IN_A}"))).status == 200
    return None


async def named_in_project(stage: "Stage", _: "Entry") -> "Reply | None":
    """Set the scene of the name conn-a taken in one project only."""
    await stage.open()
    assert (await stage.create("conn-a")).status == 200
    return None


async def named_in_organization(stage: "Stage", _: "Entry") -> "Reply | None":
    """Set the scene of the name conn-org taken organization-wide."""
    await stage.open()
    assert (await stage.create("conn-org", project=None)).status == 200
    return None


def used(times: int) -> "Scene":
    """Return the scene of a token for three uses, so many of which were tried."""

    async def scene(stage: "Stage", _: "Entry") -> "Reply | None":
        await stage.open()
        stage.plant("lp-1", A)
        stage.sim.configure(tokenUses=3)
        await stage.login()
        for _number in range(times):
            await stage.act("GET", stage.translate(LP_1))
        return None

    return scene


async def expired(stage: "Stage", _: "Entry") -> "Reply | None":
    """Set the scene of a token that has passed its five seconds."""
    await stage.open(token_ttl=5)
    await stage.login()
    stage.now += 6
    return None


async def expires_meanwhile(stage: "Stage", entry: "Entry") -> "Reply | None":
    """Let the token expire while OpenRouter is asked."""
    import asyncio

    await stage.open(token_ttl=5)
    await stage.login()
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(stage.send(entry))
        await stage.until(lambda: any(create["name"] for create in stage.sim.state()["creates"]))
        stage.now += 6
    assert (await stage.act()).status == 403
    return answer.result()


LEAST: dict[str, Any] = {ORGANIZATION: [], B: "none"}
SCENES: dict[str, "Scene"] = {
    "create.duplicate_org_scope": named_in_organization,
    "create.duplicate_same_project": named_in_project,
    "create.same_name_org_scope": named_in_project,
    "create.same_name_other_project": named_in_project,
    "create.no_access_org": granted({ORGANIZATION: []}),
    "create.no_access_project": granted({ORGANIZATION: [], A: "none"}),
    "create.viewer_project": granted({A: []}),
    "delete.again": deleted,
    "delete.denied": granted({A: ["read-app-connections"]}),
    "delete.ok": single("conn-b", "third"),
    "get.after_delete": deleted,
    "get.by_id_not_member": granted({B: "none"}),
    "get.by_id_viewer": granted({A: []}),
    "get.by_name_not_member": granted({B: "none"}),
    "leastpriv.create_org": granted(LEAST),
    "leastpriv.create_other_project": granted(LEAST),
    "leastpriv.create_project": granted(LEAST),
    "leastpriv.get_by_name": granted(LEAST, lp_1=True),
    "leastpriv.list_org": granted(LEAST),
    "leastpriv.list_project": listed,
    "list.not_member": granted({B: "none"}),
    "list.org": listed,
    "list.org_denied": granted({ORGANIZATION: []}),
    "list.project": listed,
    "numuses3.after_parallel": used(8),
    "numuses3.call1": used(0),
    "numuses3.call2": used(1),
    "numuses3.call4": used(3),
    "numuses3.call5": used(4),
    "patch.empty": single("conn-b", "second"),
    "patch.name": single("conn-a", "second"),
    "patch.project_id_ignored": single("conn-b", "second"),
    "token_expired_create": expired,
    "token_expired_then_get": expired,
    "token_expires_during_create": expires_meanwhile,
}


async def test_recorded_answer(entry: "Entry", stage: "Stage") -> None:
    """The simulator answers a request about connections as the recorded server did."""
    name = entry["name"].removeprefix("connections/")
    default = empty() if name.startswith("create.") else peopled
    await stage.check(entry, SCENES.get(name, default))


async def test_every_scene_is_played() -> None:
    """Every scene and every exception belongs to a recorded entry, so none is left over by mistake."""
    import json
    from pathlib import Path

    recorded = {entry["name"] for entry in json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))}
    assert {f"connections/{name}" for name in SCENES} | set(UNSAID) <= recorded
    assert {name for name in recorded if name.startswith(PREFIXES)} >= set(UNSAID)
