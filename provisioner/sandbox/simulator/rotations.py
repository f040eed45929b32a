"""The rotation routes: each rotation makes a key at OpenRouter with a management key, and writes it into a secret.

The order of the checks is the server's, and so is its omission: if anything fails after OpenRouter has made the key,
nothing revokes the key.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from provisioner.sandbox.simulator import openrouter, validation
from provisioner.sandbox.simulator.answers import Refusal, internal, not_found
from provisioner.sandbox.simulator.connections import check_app
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import APP, ENVIRONMENTS, Connection, Rotation
from provisioner.sandbox.simulator.validation import UNDEFINED, NewRotation, RotationChanges
from provisioner.sandbox.simulator.world import World

__all__ = ["create", "credentials", "delete", "get", "get_by_name", "list_all", "patch", "public", "rotate"]

KIND: Final = "open-router-api-key"
KEPT_KEYS: Final = 2
PLAN: Final = "Failed to {verb} secret rotation due to plan restriction. Upgrade plan to {verb} secret rotations."


async def create(exchange: Exchange) -> dict[str, Any]:
    """POST: validate, check in the server's order, make the key, then check again and insert."""
    world = exchange.world
    wanted = validation.create_rotation(exchange.body)
    connection = _checked(world, wanted)
    await exchange.delay()
    await exchange.before_commit()
    key = await openrouter.issue(exchange, connection, wanted.parameters)
    match exchange.fault:
        case "key-then-error":
            exchange.strike()
            raise internal(error="Create")
        case "key-then-cut":
            exchange.lose()
    _refuse_taken(world, wanted)
    now = world.clock()
    rotation = Rotation(
        id=world.seeds.uuid(),
        name=wanted.name,
        description=wanted.description,
        project_id=wanted.project_id,
        environment=wanted.environment,
        path=_folder_path(wanted.path),
        connection=connection,
        parameters=wanted.parameters,
        secret_name=wanted.secret_name,
        auto=wanted.auto,
        interval=wanted.interval,
        rotate_at=wanted.rotate_at,
        created_at=now,
        updated_at=now,
        rotated_at=now,
        visible_at=now + world.settings.replica_lag,
    )
    world.add_rotation(rotation, key)
    exchange.after_commit(rotation.id)
    return _shown(world, rotation)


def _checked(world: World, wanted: NewRotation) -> Connection:
    """Return the connection to use, unless a check fails."""
    _check_plan(world, "create")
    _authorize(world, wanted.project_id, "create")
    _check_folder(world, wanted.project_id, wanted.environment, wanted.path)
    connection = world.connections.get(wanted.connection_id.lower())
    if connection is None:
        raise not_found(f"Could not find App Connection with ID {wanted.connection_id}")
    check_app(connection, f"ID {wanted.connection_id}")
    if connection.project_id not in {None, wanted.project_id}:
        message = f"You are not allowed to connect to App Connection with ID {wanted.connection_id}"
        raise Refusal(403, "PermissionDenied", message, details=[])
    _refuse_taken(world, wanted)
    return connection


def _check_plan(world: World, verb: str) -> None:
    if world.settings.plan_restricted:
        raise Refusal(400, "BadRequest", PLAN.format(verb=verb))


def _refuse_taken(world: World, wanted: NewRotation) -> None:
    folder = (wanted.project_id, wanted.environment, _folder_path(wanted.path))
    if (*folder, wanted.name) in world.places:
        raise _name_taken(wanted.name, wanted.path)
    if (*folder, wanted.secret_name) in world.secrets:
        raise _secret_taken(wanted.secret_name, wanted.path)


async def list_all(exchange: Exchange) -> dict[str, Any]:
    """GET: the rotations of one project, by name."""
    world = exchange.world
    [project_id] = exchange.needed("projectId")
    _authorize(world, project_id, "read")
    found = [one for one in world.rotations.values() if one.project_id == project_id and _is_visible(world, one)]
    found.sort(key=lambda rotation: rotation.name)
    return {"secretRotations": [public(world, rotation) for rotation in found]}


async def get(exchange: Exchange) -> dict[str, Any]:
    """GET by id."""
    rotation = _by_id(exchange, "read")
    if not _is_visible(exchange.world, rotation):
        raise _missing(f'ID "{rotation.id}"')
    return _shown(exchange.world, rotation)


async def get_by_name(exchange: Exchange) -> dict[str, Any]:
    """GET by name in one folder."""
    world = exchange.world
    project_id, environment, path = exchange.needed("projectId", "environment", "secretPath")
    _check_folder(world, project_id, environment, path)
    name = exchange.params["rotationName"]
    rotation = world.places.get((project_id, environment, _folder_path(path), name))
    if rotation is None or not _is_visible(world, rotation):
        raise _missing(f'name "{name}"')
    _authorize(world, project_id, "read")
    return _shown(world, rotation)


async def credentials(exchange: Exchange) -> dict[str, Any]:
    """GET the keys themselves. Callers read secrets, and the request counts show it."""
    rotation = _by_id(exchange, "read")
    return {
        "generatedCredentials": [{"apiKey": key.value, "keyHash": key.hash} for key in rotation.keys],
        "activeIndex": rotation.active,
        "rotationId": rotation.id,
        "type": KIND,
    }


async def rotate(exchange: Exchange) -> dict[str, Any]:
    """POST: issue the next key now; the previous key remains valid until the rotation after this one."""
    world, rotation = exchange.world, _by_id(exchange, "rotate")
    try:
        key = await openrouter.issue(exchange, rotation.connection, rotation.parameters)
    except Refusal as refusal:
        rotation.failure = str(refusal.message)
        raise
    rotation.failure = None
    while len(rotation.keys) >= KEPT_KEYS:
        world.keys.pop(rotation.keys.pop(0).hash, None)
    rotation.active = 1 - rotation.active
    rotation.rotated_at = rotation.updated_at = world.clock()
    world.give(rotation, key)
    return _shown(world, rotation)


async def patch(exchange: Exchange) -> dict[str, Any]:
    """PATCH: a new name, description, schedule or secret takes effect at once, new parameters with the next key."""
    world = exchange.world
    changes = validation.patch_rotation(exchange.body)
    _check_plan(world, "update")
    _by_id(exchange, "edit")
    await exchange.delay()
    await exchange.before_commit(error="Update by id")
    rotation = _by_id(exchange, "edit")  # it may have been deleted meanwhile
    _rename(world, rotation, changes)
    for attribute in ("description", "auto", "interval", "rotate_at", "parameters"):
        value = getattr(changes, attribute)
        if value is not UNDEFINED:
            setattr(rotation, attribute, value)
    rotation.updated_at = world.clock()
    exchange.after_commit()
    return _shown(world, rotation)


def _rename(world: World, rotation: Rotation, changes: RotationChanges) -> None:
    """Change the secret and the name; if either is taken, refuse, the secret first."""
    renamed = changes.name is not UNDEFINED and changes.name != rotation.name
    moved = changes.secret_name is not UNDEFINED and changes.secret_name != rotation.secret_name
    if moved and (*rotation.folder, changes.secret_name) in world.secrets:
        raise _secret_taken(changes.secret_name, rotation.path)
    if renamed and (*rotation.folder, changes.name) in world.places:
        raise _name_taken(changes.name, rotation.path)
    if renamed:
        del world.places[rotation.place]
        rotation.name = changes.name
        world.places[rotation.place] = rotation
    if moved:
        world.release_secret(rotation.secret, delete=True)
        rotation.secret_name = changes.secret_name
        world.write_secret(rotation)


async def delete(exchange: Exchange) -> dict[str, Any]:
    """DELETE: the rotation, and its secret and keys if the query says so."""
    world = exchange.world
    _check_plan(world, "delete")
    _by_id(exchange, "delete")
    await exchange.before_commit(error="Delete by id")
    rotation = _by_id(exchange, "delete")
    revoking = exchange.asked("revokeGeneratedCredentials") == "true"
    if revoking and not openrouter.is_well(world):
        message = "Failed to delete OpenRouter API key: Request failed with status code 503"
        raise Refusal(400, "BadRequest", message)  # keys are revoked first, and nothing else happens if that fails
    world.release_secret(rotation.secret, delete=exchange.asked("deleteSecrets") == "true")
    for key in rotation.keys:
        if revoking:
            world.keys.pop(key.hash, None)
        key.rotation_id = None
    shown = _shown(world, rotation)
    world.remove_rotation(rotation)
    exchange.after_commit()
    return shown


def _by_id(exchange: Exchange, verb: str) -> Rotation:
    identifier = validation.connection_id(exchange.params["rotationId"], field="rotationId")
    rotation = exchange.world.rotations.get(identifier)
    if rotation is None:
        raise _missing(f'ID "{identifier}"')
    _authorize(exchange.world, rotation.project_id, verb)
    return rotation


def _authorize(world: World, project_id: str, verb: str) -> None:
    world.authorize(project_id, f"{verb}-secret-rotation")


def _check_folder(world: World, project_id: str, environment: str, path: str) -> None:
    inside = _folder_path(path)
    if environment in ENVIRONMENTS and (inside == "/" or world.has_folder(project_id, environment, inside)):
        return
    where = f'path "{path}" in environment "{environment}" for project with ID "{project_id}"'
    raise Refusal(400, "BadRequest", f"Could not find folder with {where}")


def _is_visible(world: World, rotation: Rotation) -> bool:
    return world.clock() >= rotation.visible_at


def _shown(world: World, one: Rotation) -> dict[str, Any]:
    return {"secretRotation": public(world, one)}


def public(world: World, one: Rotation) -> dict[str, Any]:
    """Return the fields that the API returns."""
    folder = world.seeds.named_uuid(f"folder {one.project_id} {one.environment} {one.path}")
    environment = world.seeds.named_uuid(f"environment {one.project_id} {one.environment}")
    rotated = world.stamp(one.rotated_at)
    return {
        "id": one.id,
        "name": one.name,
        "description": one.description,
        "isAutoRotationEnabled": one.auto,
        "activeIndex": one.active,
        "folderId": folder,
        "connectionId": one.connection.id,
        "createdAt": world.stamp(one.created_at),
        "updatedAt": world.stamp(one.updated_at),
        "rotationInterval": one.interval,
        "rotationStatus": "failed" if one.failure else "success",
        "lastRotationAttemptedAt": rotated,
        "lastRotatedAt": rotated,
        "lastRotationJobId": None,
        "nextRotationAt": world.stamp(_next_turn(one)) if one.auto else None,
        "isLastRotationManual": True,
        "connection": {"app": APP, "name": one.connection.name, "id": one.connection.id},
        "environment": {"slug": one.environment, "name": ENVIRONMENTS[one.environment], "id": environment},
        "projectId": one.project_id,
        "folder": {"id": folder, "path": one.path},
        "rotateAtUtc": one.rotate_at,
        "lastRotationMessage": one.failure,
        "type": KIND,
        "parameters": one.parameters,
        "secretsMapping": {"apiKey": one.secret_name},
    }


def _folder_path(path: str) -> str:
    """Return a path in the form that the server compares."""
    return path.rstrip("/") or "/"


def _next_turn(one: Rotation) -> float:
    """Return when a rotation issues its next key: at its time of day, after its interval in days."""
    due = datetime.fromtimestamp(one.rotated_at, UTC) + timedelta(days=one.interval)
    turn = due.replace(hour=int(one.rotate_at["hours"]), minute=int(one.rotate_at["minutes"]), second=0, microsecond=0)
    return (turn if turn >= due else turn + timedelta(days=1)).timestamp()


def _name_taken(name: str, path: str) -> Refusal:
    message = f'A Secret Rotation with the name "{name}" already exists at the secret path "{path}"'
    return Refusal(400, "BadRequest", message)


def _secret_taken(name: str, path: str) -> Refusal:
    return Refusal(400, "BadRequest", f'The following secrets already exist at the path "{path}": {name}')


def _missing(described: str) -> Refusal:
    return not_found(f"Could not find OpenRouter API Key Rotation with {described}")
