"""All the state of one simulated Infisical, and the rules that keep its parts consistent. No network here."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from provisioner.sandbox.simulator.answers import Refusal, not_found, permission_denied
from provisioner.sandbox.simulator.chance import Faults, Seeds
from provisioner.sandbox.simulator.limits import Limiter, Pool
from provisioner.sandbox.simulator.model import (
    ABILITIES,
    APP,
    Connection,
    CreateRecord,
    End,
    Grant,
    Key,
    MachineIdentity,
    Place,
    Rotation,
    Secret,
    Token,
    fingerprint,
)
from provisioner.sandbox.simulator.options import Options

__all__ = ["Clock", "World", "iso", "steady_clock"]

Clock = Callable[[], float]
UNKNOWN_PROJECT: Final = "Project with ID '{}' not found"


def steady_clock() -> Clock:
    """Return a clock that starts at the real time and then follows the monotonic clock."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


def iso(moment: float) -> str:
    """Return ISO 8601 in UTC with milliseconds and `Z`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class World:
    """The state behind the routes. A name is unique within its project, across all apps."""

    def __init__(self, options: Options, clock: Clock) -> None:
        self.settings = options
        self.clock = clock
        self.seeds = seeds = Seeds(options.seed)
        self.organization_id = seeds.named_uuid("organization")
        self.identity = MachineIdentity(
            id=seeds.named_uuid("identity"),
            client_id=options.client_id or seeds.named_uuid("client id"),
            client_secret=options.client_secret or seeds.named_secret("client secret"),
            secret_made=clock(),
        )
        self.signing_key = seeds.named_secret("signing key").encode()
        self.tokens: dict[str, Token] = {}
        self.logins = {"ok": 0, "refused": 0, "locked": 0}
        self.projects: dict[str, dict[str, str]] = {}
        self._grants: dict[str, Grant] = {}
        self._grants_before: dict[str, tuple[Grant, float]] = {}
        self.connections: dict[str, Connection] = {}
        self._names: dict[tuple[str, str | None], Connection] = {}
        self._inside: dict[str | None, dict[str, Connection]] = {}
        self.rotations: dict[str, Rotation] = {}
        self.places: dict[Place, Rotation] = {}
        self.secrets: dict[Place, Secret] = {}
        self.folders: set[tuple[str, str, str]] = set()
        self.keys: dict[str, Key] = {}
        self._issued = 0
        self.creates: list[CreateRecord] = []
        self.rotation_creates: list[CreateRecord] = []
        self.requests: dict[str, dict[str, int]] = {}
        self.faults = Faults(options.seed, {})
        self.rotation_faults = Faults(options.seed, {}, "rotation faults")
        self.change_faults = Faults(options.seed, {}, "change faults")
        self.limiter = Limiter()
        self.pool = Pool(world=self)
        self.waits: set[asyncio.Task[Any]] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self.add_projects(seeds.named_uuid(f"project {number}") for number in range(1, options.projects + 1))

    def stamp(self, moment: float | None = None) -> str:
        """Format a moment, by default now, as the server's clock shows it."""
        return iso((self.clock() if moment is None else moment) + self.settings.clock_offset)

    # Events in the server, for those who wait for them.

    async def happening(self) -> None:
        """Wait until something happens in the server."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def happened(self) -> None:
        """Wake everybody who waits for something to happen."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def arrive(self, creates: list[CreateRecord], request_id: str) -> CreateRecord:
        """Record that a create arrived, for a connection or for a rotation."""
        record = CreateRecord(order=len(creates) + 1, at=iso(self.clock()), req_id=request_id)
        creates.append(record)
        self.happened()
        return record

    def count(self, pattern: str, outcome: str) -> None:
        """Count one request to a route by its outcome: a status, or `cut`."""
        outcomes = self.requests.setdefault(pattern, {})
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.happened()

    # Projects, and the identity's permissions in them.

    def add_projects(self, projects: Iterable[str]) -> None:
        """Add these projects."""
        for project in projects:
            number = len(self.projects) + 1
            self.projects.setdefault(project, {**_called(number), "id": project})

    def call_projects(self, called: Mapping[str, Mapping[str, str]]) -> None:
        """Set the name, slug or type of projects; missing projects are added."""
        self.add_projects(called)
        for project, given in called.items():
            self.projects[project].update(given)

    def remove_projects(self, projects: Iterable[str]) -> None:
        """Delete these projects and everything in them; the keys of their rotations remain."""
        for project in projects:
            self.projects.pop(project, None)
            for rotation in [one for one in self.rotations.values() if one.project_id == project]:
                self.remove_rotation(rotation)
            for connection in list(self.inside(project)):
                self.remove(connection)

    def has_project(self, project_id: str) -> bool:
        """Tell whether the project exists."""
        return project_id in self.projects or (self.settings.any_project and _is_uuid(project_id))

    def project(self, project_id: str) -> dict[str, str]:
        """Return a project in the form that the list of connections uses."""
        return self.projects.get(project_id) or {**_called(0), "id": project_id}

    def grant(self, grants: Mapping[str, Grant]) -> None:
        """Change what the identity may do; unless it joins a project, the change takes effect after `role_lag`."""
        lag = self.settings.role_lag
        for place, grant in grants.items():
            before = self.granted(place)
            if lag and before != "none":
                self._grants_before[place] = (before, self.clock() + lag)
            self._grants[place] = grant

    def granted(self, place: str) -> Grant:
        """Return what the server currently lets the identity do there."""
        before, until = self._grants_before.get(place, ("none", 0.0))
        return before if self.clock() < until else self._grants.get(place, ABILITIES)

    def authorize(self, project_id: str | None, ability: str | None, *, missing: str = UNKNOWN_PROJECT) -> None:
        """Refuse an identity that lacks this ability or is not a member there. No project means the organization."""
        organization = self.granted(self.organization_id)
        if organization == "none":
            raise Refusal(403, "ForbiddenError", _no_member("organization", self.organization_id))
        if not project_id:
            if ability is not None and ability not in organization:
                raise permission_denied(ability.partition("-")[0])
            return
        if not self.has_project(project_id):
            raise not_found(missing.format(project_id))
        grant = self.granted(project_id)
        if grant == "foreign":
            raise Refusal(403, "ForbiddenError", "This project does not belong to your selected organization.")
        if grant == "none":
            raise Refusal(403, "ProjectMembershipNotFound", _no_member("project", project_id))
        if ability is not None and ability not in grant:
            raise permission_denied(ability)

    # Connections.

    def insert(
        self,
        *,
        name: str,
        project_id: str | None,
        description: str | None = None,
        api_key: str = "sk-or-v1-planted",
        created_at: float | None = None,
        app: str = APP,
        planted: bool = False,
    ) -> Connection:
        """Add a connection, or refuse a duplicate name."""
        if (name, project_id) in self._names:
            raise _duplicate(name)
        now = self.clock()
        stamp = self.stamp(now) if created_at is None else iso(created_at)
        connection = Connection(
            id=self.seeds.uuid(),
            name=name,
            description=description,
            project_id=project_id,
            created_at=stamp,
            updated_at=stamp,
            credentials_hash=self.seeds.ciphertext_hash(),
            fingerprint=fingerprint(api_key),
            visible_at=now if planted else now + self.settings.replica_lag,
            app=app,
            planted=planted,
        )
        self.connections[connection.id] = self._names[name, project_id] = connection
        self._inside.setdefault(project_id, {})[connection.id] = connection
        self.happened()
        return connection

    def rename(self, connection: Connection, name: str) -> None:
        """Rename a connection, or refuse a duplicate name."""
        if self._names.get((name, connection.project_id), connection) is not connection:
            raise _duplicate(name)
        del self._names[connection.name, connection.project_id]
        connection.name = name
        self._names[name, connection.project_id] = connection

    def rewrite(self, connection: Connection, api_key: str) -> None:
        """Store a key. Even the same key is encrypted anew, so the hash changes."""
        connection.fingerprint = fingerprint(api_key)
        connection.credentials_hash = self.seeds.ciphertext_hash()

    def remove(self, connection: Connection) -> None:
        """Delete a connection."""
        del self.connections[connection.id]
        del self._names[connection.name, connection.project_id]
        del self._inside[connection.project_id][connection.id]

    def inside(self, project_id: str | None) -> Iterable[Connection]:
        """Return the connections of a project; None means the whole organization, including its projects."""
        return (self.connections if project_id is None else self._inside.get(project_id, {})).values()

    def named(self, name: str, project_id: str | None) -> Connection | None:
        """Return the connection with this name in exactly this project; None means organization-wide."""
        return self._names.get((name, project_id))

    # Rotations, their keys, and the secrets that they write.

    def add_rotation(self, rotation: Rotation, key: Key) -> None:
        """Add a rotation with its first key."""
        self.rotations[rotation.id] = self.places[rotation.place] = rotation
        rotation.connection.used_by.add(rotation.id)
        self.give(rotation, key)

    def remove_rotation(self, rotation: Rotation) -> None:
        """Delete a rotation; its secret and its keys remain."""
        del self.rotations[rotation.id]
        del self.places[rotation.place]
        rotation.connection.used_by.discard(rotation.id)

    def issue(self, *, made_by: str, parameters: Mapping[str, Any]) -> Key:
        """Issue a key at OpenRouter, where names need not be unique."""
        self._issued += 1
        key = Key(
            hash=self.seeds.named_secret(f"key {self._issued}"),
            name=parameters["name"],
            value=f"sk-or-v1-generated-{self._issued}",
            made_by=made_by,
            limit=parameters.get("limit"),
            limit_reset=parameters.get("limitReset"),
            include_byok=bool(parameters.get("includeByokInLimit", False)),
            created_at=self.stamp(),
        )
        self.keys[key.hash] = key
        return key

    def give(self, rotation: Rotation, key: Key) -> None:
        """Give a key to a rotation and write it into the rotation's secret."""
        key.rotation_id = rotation.id
        rotation.keys.append(key)
        self.write_secret(rotation)

    def plant_secrets(self, secrets: Iterable[Secret]) -> None:
        """Add or replace these secrets; a secret without a value is removed."""
        for secret in secrets:
            if secret.value is None:
                self.secrets.pop(secret.place, None)
            else:
                self.secrets[secret.place] = secret

    def add_folders(self, folders: Iterable[Mapping[str, str]]) -> None:
        """Add these folders."""
        self.folders.update((folder["project_id"], folder["environment"], folder["path"]) for folder in folders)

    def write_secret(self, rotation: Rotation) -> None:
        """Write a rotation's newest key into its secret."""
        project_id, environment, path, name = rotation.secret
        before = self.secrets.get(rotation.secret)
        self.secrets[rotation.secret] = Secret(
            name=name,
            project_id=project_id,
            environment=environment,
            path=path,
            value=rotation.keys[-1].value,
            version=before.version + 1 if before else 1,
            rotation_id=rotation.id,
        )

    def release_secret(self, place: Place, *, delete: bool) -> None:
        """Delete a rotation's secret, or turn it into an ordinary one."""
        secret = self.secrets.pop(place, None)
        if secret is not None and not delete:
            self.secrets[place] = replace(secret, rotation_id=None)

    def has_folder(self, project_id: str, environment: str, path: str) -> bool:
        """Tell whether a folder exists: it was added, or there is a secret in it or below it."""
        return any(
            place[:2] == (project_id, environment) and f"{place[2]}/".startswith(f"{path}/")
            for place in (*self.folders, *self.secrets)
        )

    def end_tokens(self, end: End | None) -> None:
        """End every existing token in this way; None ends nothing."""
        for token in self.tokens.values():
            token.end = end or token.end


def _called(number: int) -> dict[str, str]:
    return {"name": f"project {number}", "type": "secret-manager", "slug": f"project-{number}"}


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _duplicate(name: str) -> Refusal:
    return Refusal(400, "BadRequest", f'An App Connection with the name "{name}" already exists')


def _no_member(kind: str, identifier: str) -> str:
    return (
        f"You are not a member of this {kind} with ID {identifier}. Please assign this identity to the {kind} "
        "with the appropriate permissions, then try again."
    )
