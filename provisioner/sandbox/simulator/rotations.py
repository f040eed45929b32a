"""The secret rotations: each makes a key at OpenRouter with a connection's management key and writes it into a secret.

The order of the checks is the server's, and so is what is missing: where anything fails after OpenRouter has made the
key, nothing takes the key back.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from provisioner.sandbox.simulator import rotation_bodies, validation
from provisioner.sandbox.simulator.answers import Refusal, internal, not_found
from provisioner.sandbox.simulator.clock import Clock, iso
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.mishaps import Mishaps
from provisioner.sandbox.simulator.model import APP, ENVIRONMENTS, Connection, Store
from provisioner.sandbox.simulator.openrouter import Key, KeyStore
from provisioner.sandbox.simulator.rotation_bodies import NewRotation, RotationChanges
from provisioner.sandbox.simulator.secrets import Secrets
from provisioner.sandbox.simulator.settings import Settings
from provisioner.sandbox.simulator.validation import UNDEFINED

__all__ = ["Rotations"]

KIND: Final = "open-router-api-key"
# What OpenRouter takes to make a key, in seconds: between the two checks of name and secret.
ISSUING: Final = 0.05
KEPT_KEYS: Final = 2
PLAN: Final = "Failed to {verb} secret rotation due to plan restriction. Upgrade plan to {verb} secret rotations."


@dataclass(slots=True, kw_only=True)
class Rotation:
    """One rotation; `keys` are those it has at OpenRouter, the newest last."""

    id: str
    name: str
    description: str | None
    project_id: str
    environment: str
    path: str
    connection: Connection
    parameters: dict[str, Any]
    secret_name: str
    auto: bool
    interval: int
    rotate_at: dict[str, int]
    created_at: float
    updated_at: float
    rotated_at: float
    visible_at: float
    active: int = 0
    failure: str | None = None
    keys: list[Key] = field(default_factory=list)
    planted: bool = False

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What no other rotation shares."""
        return (self.project_id, self.environment, self.path, self.name)


@dataclass(slots=True, kw_only=True)
class Rotations:
    """Creates, reads, changes, rotates and deletes rotations."""

    store: Store
    secrets: Secrets
    keys: KeyStore
    mishaps: Mishaps
    settings: Settings
    clock: Clock
    _by_id: dict[str, Rotation] = field(default_factory=dict)
    _places: dict[tuple[str, str, str, str], Rotation] = field(default_factory=dict)

    async def create(self, exchange: Exchange) -> dict[str, Any]:
        """POST: validate, check in the server's order, make the key, then check again and insert."""
        wanted = rotation_bodies.create(exchange.body)
        connection = self._checked(wanted)
        await self.mishaps.delay(exchange)
        await self.mishaps.before_commit(exchange)
        key = await self._issue(exchange, connection, wanted.parameters)
        match exchange.fault:
            case "key-then-error":
                self.mishaps.strike(exchange)
                raise internal(error="Create")
            case "key-then-cut":
                self.mishaps.cut(exchange)
        self._refuse_taken(wanted)
        rotation = self._insert(wanted, connection, key)
        if exchange.record is not None:
            exchange.record.committed = True
            exchange.record.connection_id = rotation.id
        self.mishaps.after_commit(exchange)
        return self._shown(rotation)

    def _checked(self, wanted: NewRotation) -> Connection:
        """Return the connection to use, if nothing stands in the way."""
        self._check_plan("create")
        self._authorize(wanted.project_id, "create")
        self._folder(wanted.project_id, wanted.environment, wanted.path)
        connection = self.store.connections.get(wanted.connection_id.lower())
        if connection is None:
            raise not_found(f"Could not find App Connection with ID {wanted.connection_id}")
        if connection.app != APP:
            message = f'App Connection with ID {wanted.connection_id} is not for App "{APP}"'
            raise Refusal(400, "BadRequest", message)
        if connection.project_id not in {None, wanted.project_id}:
            message = f"You are not allowed to connect to App Connection with ID {wanted.connection_id}"
            raise Refusal(403, "PermissionDenied", message, details=[])
        self._refuse_taken(wanted)
        return connection

    def _check_plan(self, verb: str) -> None:
        if self.settings.plan_restricted:
            raise Refusal(400, "BadRequest", PLAN.format(verb=verb))

    def _refuse_taken(self, wanted: NewRotation) -> None:
        place = (wanted.project_id, wanted.environment, folder_path(wanted.path))
        if (*place, wanted.name) in self._places:
            raise name_taken(wanted.name, wanted.path)
        if self.secrets.has(*place, wanted.secret_name):
            raise secret_taken(wanted.secret_name, wanted.path)

    async def _issue(self, exchange: Exchange, connection: Connection, parameters: dict[str, Any]) -> Key:
        """Let OpenRouter make a key, or raise the refusal of one that it does not make."""
        await exchange.wait(ISSUING * self.settings.upstream_pace)
        refused = exchange.fault == "key-refused"
        if refused:
            self.mishaps.strike(exchange)
        if refused or self.settings.open_router not in {"ok", "slow"}:
            message = "Failed to create OpenRouter API key: Request failed with status code 402"
            raise Refusal(400, "BadRequest", message)
        return self.keys.issue(made_by=connection.fingerprint, parameters=parameters, at=self._stamp(self.clock()))

    def _insert(self, wanted: NewRotation, connection: Connection, key: Key) -> Rotation:
        now = self.clock()
        rotation = Rotation(
            id=self.store.seeds.uuid(),
            name=wanted.name,
            description=wanted.description,
            project_id=wanted.project_id,
            environment=wanted.environment,
            path=folder_path(wanted.path),
            connection=connection,
            parameters=wanted.parameters,
            secret_name=wanted.secret_name,
            auto=wanted.auto,
            interval=wanted.interval,
            rotate_at=wanted.rotate_at,
            created_at=now,
            updated_at=now,
            rotated_at=now,
            visible_at=now + self.settings.replica_lag,
        )
        self._by_id[rotation.id] = self._places[rotation.place] = rotation
        connection.used_by.add(rotation.id)
        self._give(rotation, key)
        return rotation

    def _give(self, rotation: Rotation, key: Key) -> None:
        """Let a rotation have a key, and its secret with it."""
        key.rotation_id = rotation.id
        rotation.keys.append(key)
        self.secrets.rotate(
            (rotation.project_id, rotation.environment, rotation.path, rotation.secret_name), key.value, rotation.id
        )

    async def listed(self, exchange: Exchange) -> dict[str, Any]:
        """GET: the rotations of one project, by name."""
        project_id = exchange.asked("projectId")
        if project_id is None:
            validation.refuse([validation.mismatch("string", UNDEFINED, ("projectId",))])
        self._authorize(str(project_id), "read")
        found = [one for one in self._by_id.values() if one.project_id == project_id and self._visible(one)]
        found.sort(key=lambda rotation: rotation.name)
        return {"secretRotations": [self._shown(rotation)["secretRotation"] for rotation in found]}

    async def get(self, exchange: Exchange) -> dict[str, Any]:
        """GET by id."""
        rotation = self._asked(exchange, "read")
        if not self._visible(rotation):
            raise missing(f'ID "{rotation.id}"')
        return self._shown(rotation)

    async def get_by_name(self, exchange: Exchange) -> dict[str, Any]:
        """GET by name in one folder."""
        asked = [exchange.asked(name) for name in ("projectId", "environment", "secretPath")]
        absent = [
            name for name, value in zip(("projectId", "environment", "secretPath"), asked, strict=True) if not value
        ]
        validation.refuse([validation.mismatch("string", UNDEFINED, (name,)) for name in absent])
        project_id, environment, path = map(str, asked)
        self._folder(project_id, environment, path)
        name = exchange.params["rotationName"]
        rotation = self._places.get((project_id, environment, folder_path(path), name))
        if rotation is None or not self._visible(rotation):
            raise missing(f'name "{name}"')
        self._authorize(project_id, "read")
        return self._shown(rotation)

    async def credentials(self, exchange: Exchange) -> dict[str, Any]:
        """GET the keys themselves; what calls this reads secrets, and the counts of requests tell."""
        rotation = self._asked(exchange, "read")
        return {
            "generatedCredentials": [{"apiKey": key.value, "keyHash": key.hash} for key in rotation.keys],
            "activeIndex": rotation.active,
            "rotationId": rotation.id,
            "type": KIND,
        }

    async def rotate(self, exchange: Exchange) -> dict[str, Any]:
        """POST: make the next key now; the one before stays until the next turn."""
        rotation = self._asked(exchange, "rotate")
        try:
            key = await self._issue(exchange, rotation.connection, rotation.parameters)
        except Refusal as refusal:
            rotation.failure = str(refusal.message)
            raise
        rotation.failure = None
        while len(rotation.keys) >= KEPT_KEYS:
            self.keys.revoke(rotation.keys.pop(0).hash)
        rotation.active = 1 - rotation.active
        rotation.rotated_at = rotation.updated_at = self.clock()
        self._give(rotation, key)
        return self._shown(rotation)

    async def patch(self, exchange: Exchange) -> dict[str, Any]:
        """PATCH: another name, description, schedule or secret at once; other parameters for the next key."""
        changes = rotation_bodies.patch(exchange.body)
        self._check_plan("update")
        self._asked(exchange, "edit")
        await self.mishaps.delay(exchange)
        await self.mishaps.before_commit(exchange, error="Update by id")
        rotation = self._asked(exchange, "edit")  # it may have been deleted meanwhile
        self._rename(rotation, changes)
        for attribute in ("description", "auto", "interval", "rotate_at", "parameters"):
            value = getattr(changes, attribute)
            if value is not UNDEFINED:
                setattr(rotation, attribute, value)
        rotation.updated_at = self.clock()
        self.mishaps.after_commit(exchange)
        return self._shown(rotation)

    def _rename(self, rotation: Rotation, changes: RotationChanges) -> None:
        """Let it have another secret and another name, or raise what is in the way: the secret's, then the name's."""
        folder = (rotation.project_id, rotation.environment, rotation.path)
        renamed = changes.name is not UNDEFINED and changes.name != rotation.name
        moved = changes.secret_name is not UNDEFINED and changes.secret_name != rotation.secret_name
        if moved and self.secrets.has(*folder, changes.secret_name):
            raise secret_taken(changes.secret_name, rotation.path)
        if renamed and (*folder, changes.name) in self._places:
            raise name_taken(changes.name, rotation.path)
        if renamed:
            del self._places[rotation.place]
            rotation.name = changes.name
            self._places[rotation.place] = rotation
        if moved:
            self.secrets.release((*folder, rotation.secret_name), delete=True)
            rotation.secret_name = changes.secret_name
            self.secrets.rotate((*folder, rotation.secret_name), rotation.keys[-1].value, rotation.id)

    async def delete(self, exchange: Exchange) -> dict[str, Any]:
        """DELETE: the rotation, and its secret and keys where the query says so."""
        self._check_plan("delete")
        self._asked(exchange, "delete")
        await self.mishaps.before_commit(exchange, error="Delete by id")
        rotation = self._asked(exchange, "delete")
        revoking = exchange.asked("revokeGeneratedCredentials") == "true"
        if revoking and self.settings.open_router not in {"ok", "slow"}:
            message = "Failed to delete OpenRouter API key: Request failed with status code 503"
            raise Refusal(400, "BadRequest", message)  # the keys go first, and nothing else without them
        place = (rotation.project_id, rotation.environment, rotation.path, rotation.secret_name)
        self.secrets.release(place, delete=exchange.asked("deleteSecrets") == "true")
        for key in rotation.keys:
            if revoking:
                self.keys.revoke(key.hash)
            key.rotation_id = None
        shown = self._shown(rotation)
        self._forget(rotation)
        self.mishaps.after_commit(exchange)
        return shown

    def remove_projects(self, projects: list[str]) -> None:
        """Delete the rotations of these projects; their keys stay."""
        for rotation in [one for one in self._by_id.values() if one.project_id in projects]:
            self._forget(rotation)

    def _forget(self, rotation: Rotation) -> None:
        del self._by_id[rotation.id]
        del self._places[rotation.place]
        rotation.connection.used_by.discard(rotation.id)

    def public(self) -> list[dict[str, Any]]:
        """Return them as `/_simulator/state` shows them."""
        return [
            self._shown(one)["secretRotation"] | {"planted": one.planted, "keys": [key.hash for key in one.keys]}
            for one in self._by_id.values()
        ]

    def _asked(self, exchange: Exchange, verb: str) -> Rotation:
        identifier = validation.connection_id(exchange.params["rotationId"], field="rotationId")
        rotation = self._by_id.get(identifier)
        if rotation is None:
            raise missing(f'ID "{identifier}"')
        self._authorize(rotation.project_id, verb)
        return rotation

    def _authorize(self, project_id: str, verb: str) -> None:
        self.store.authorize(project_id, f"{verb}-secret-rotation")

    def _folder(self, project_id: str, environment: str, path: str) -> None:
        inside = folder_path(path)
        if environment in ENVIRONMENTS and (inside == "/" or self.secrets.has_folder(project_id, environment, inside)):
            return
        where = f'path "{path}" in environment "{environment}" for project with ID "{project_id}"'
        raise Refusal(400, "BadRequest", f"Could not find folder with {where}")

    def _visible(self, rotation: Rotation) -> bool:
        return self.clock() >= rotation.visible_at

    def _stamp(self, moment: float) -> str:
        return iso(moment + self.settings.clock_offset)

    def _shown(self, one: Rotation) -> dict[str, Any]:
        folder = self.store.seeds.named_uuid(f"folder {one.project_id} {one.environment} {one.path}")
        environment = self.store.seeds.named_uuid(f"environment {one.project_id} {one.environment}")
        rotated = self._stamp(one.rotated_at)
        return {
            "secretRotation": {
                "id": one.id,
                "name": one.name,
                "description": one.description,
                "isAutoRotationEnabled": one.auto,
                "activeIndex": one.active,
                "folderId": folder,
                "connectionId": one.connection.id,
                "createdAt": self._stamp(one.created_at),
                "updatedAt": self._stamp(one.updated_at),
                "rotationInterval": one.interval,
                "rotationStatus": "failed" if one.failure else "success",
                "lastRotationAttemptedAt": rotated,
                "lastRotatedAt": rotated,
                "lastRotationJobId": None,
                "nextRotationAt": self._stamp(next_turn(one)) if one.auto else None,
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
        }


def folder_path(path: str) -> str:
    """Return a path as the server compares it."""
    return path.rstrip("/") or "/"


def next_turn(one: Rotation) -> float:
    """Return when a rotation makes its next key: at its time of day, once its interval of days is over."""
    due = datetime.fromtimestamp(one.rotated_at, UTC) + timedelta(days=one.interval)
    turn = due.replace(hour=int(one.rotate_at["hours"]), minute=int(one.rotate_at["minutes"]), second=0, microsecond=0)
    return (turn if turn >= due else turn + timedelta(days=1)).timestamp()


def name_taken(name: str, path: str) -> Refusal:
    """Return the 400 of a name that another rotation of the folder has."""
    message = f'A Secret Rotation with the name "{name}" already exists at the secret path "{path}"'
    return Refusal(400, "BadRequest", message)


def secret_taken(name: str, path: str) -> Refusal:
    """Return the 400 of a secret that is there already."""
    return Refusal(400, "BadRequest", f'The following secrets already exist at the path "{path}": {name}')


def missing(described: str) -> Refusal:
    """Return the 404 of a rotation that is not there."""
    return not_found(f"Could not find OpenRouter API Key Rotation with {described}")
