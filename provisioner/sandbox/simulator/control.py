"""The control port for tests and people: GET /_simulator/state and POST /_simulator/settings."""

from collections.abc import Callable, Mapping, Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

import orjson
from aiohttp import web

from provisioner.sandbox.simulator import rotations
from provisioner.sandbox.simulator.answers import Answer, answer_of
from provisioner.sandbox.simulator.model import public
from provisioner.sandbox.simulator.options import STARTED, SettingsError, check, snake
from provisioner.sandbox.simulator.world import World

__all__ = ["ROUTES", "answer", "begin", "change", "state"]

ROUTES: Final = "/_simulator/"
"""The prefix of the control routes, which need no token and have no rate limit."""


async def answer(world: World, request: web.BaseRequest) -> Answer:
    """Return the answer to a request under `ROUTES`."""
    match request.method, request.path:
        case "GET", "/_simulator/state":
            return answer_of(state(world))
        case "POST", "/_simulator/settings":
            return _changed(world, await request.read())
    return answer_of({"message": "There are GET /_simulator/state and POST /_simulator/settings"}, status=404)


def _changed(world: World, raw: bytes) -> Answer:
    try:
        changes = orjson.loads(raw)
    except ValueError:
        changes = None
    if not isinstance(changes, dict):
        return answer_of({"message": "the body must be a JSON object"}, status=400)
    try:
        change(world, changes)
    except SettingsError as error:
        return answer_of({"message": str(error), "field": error.field}, status=400)
    return answer_of({"settings": world.settings.public()})


def state(world: World) -> dict[str, Any]:
    """Return what GET /_simulator/state shows. Keys appear only as fingerprints."""
    return {
        "connections": [
            connection.public(world.organization_id)
            | {"keyFingerprint": connection.fingerprint, "planted": connection.planted}
            for connection in world.connections.values()
        ],
        "creates": [public(record) for record in world.creates],
        "requests": {pattern: dict(outcomes) for pattern, outcomes in world.requests.items()},
        "rotations": [
            rotations.public(world, one) | {"keys": [key.hash for key in one.keys]} for one in world.rotations.values()
        ],
        "rotationCreates": [public(record) for record in world.rotation_creates],
        "keys": [public(key) for key in world.keys.values()],
        "secrets": [public(secret) for secret in world.secrets.values()],
        "faults": dict(world.faults.struck),
        "rotationFaults": dict(world.rotation_faults.struck),
        "changeFaults": dict(world.change_faults.struck),
        "pool": world.pool.public(),
        "logins": dict(world.logins),
    }


def begin(world: World) -> None:
    """Apply the same checks to the initial options as to later changes. Raises `SettingsError`."""
    if world.settings.projects < 0:
        raise SettingsError("projects", f"must be at least 0, not {world.settings.projects!r}")
    change(world, {name: getattr(world.settings, snake(name)) for name in STARTED})


def change(world: World, changes: Mapping[str, Any]) -> None:
    """Change settings: all of them, or none if it raises `SettingsError`."""
    checked = check(changes)
    added = {*checked.get("addProjects", ()), *checked.get("projects", ())}
    for place in checked.get("permissions", ()):
        _check_place(world, "permissions", place, added | {world.organization_id})
    names = set()
    for plant in checked.get("plant", ()):
        _check_place(world, "plant", plant["project_id"], added | {None})
        name = (plant["name"], plant["project_id"])
        if name in names or world.named(*name):
            raise SettingsError("plant", f"there is a connection {name[0]!r} already in {name[1]}")
        names.add(name)
    for secret in checked.get("secrets", ()):
        _check_place(world, "secrets", secret.project_id, added)
    for field, value in checked.items():
        if field in STARTED and field != "secrets":
            world.settings = replace(world.settings, **{snake(field): value})
        if field in EFFECTS:
            EFFECTS[field](world, value)


def _check_place(world: World, field: str, place: str | None, others: AbstractSet[str | None]) -> None:
    if place not in others and not (place and world.has_project(place)):
        raise SettingsError(field, f"there is no project {place}; add it with addProjects")


def _reseed(world: World, seed: int) -> None:
    for faults in (world.faults, world.rotation_faults, world.change_faults):
        faults.reseed(seed)


def _plant(world: World, plants: list[dict[str, Any]]) -> None:
    for plant in plants:
        world.insert(**plant, planted=True)


def _unlock(world: World, yes: bool) -> None:
    if yes:
        world.identity.unlock()


EFFECTS: Final[dict[str, Callable[[World, Any], object]]] = {
    "faults": lambda world, shares: world.faults.share(shares),
    "rotationFaults": lambda world, shares: world.rotation_faults.share(shares),
    "changeFaults": lambda world, shares: world.change_faults.share(shares),
    "seed": _reseed,
    "pool": lambda world, _: world.pool.refill(),
    "identity": lambda world, standing: world.identity.stand(standing),
    "revokeTokens": World.end_tokens,
    "expireTokens": World.end_tokens,
    "lapseTokens": World.end_tokens,
    "unlock": _unlock,
    "clientSecret": lambda world, secret: world.identity.renew_secret(secret, world.clock()),
    "addProjects": World.add_projects,
    "projects": World.call_projects,
    "removeProjects": World.remove_projects,
    "permissions": World.grant,
    "plant": _plant,
    "secrets": World.plant_secrets,
    "folders": World.add_folders,
}
"""What a change does besides changing a setting."""
