"""What the simulated Infisical remembers: projects, roles, connections, and every create in order."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from provisioner.sandbox.simulator.answers import Refusal, not_found, permission_denied
from provisioner.sandbox.simulator.clock import Clock, Events
from provisioner.sandbox.simulator.seeds import Seeds

__all__ = ["ABILITIES", "APP", "ENVIRONMENTS", "PROJECT_TYPES", "Connection", "CreateRecord", "Grant", "Store"]

PROJECT_TYPES = ("secret-manager", "cert-manager", "kms", "ssh", "secret-scanning", "pam", "ai")
APP = "open-router"
VERBS = ("create", "read", "edit", "delete")
ABILITIES = frozenset(
    [f"{verb}-app-connections" for verb in VERBS] + [f"{verb}-secret-rotation" for verb in (*VERBS, "rotate")]
)
ENVIRONMENTS = {"dev": "Development", "staging": "Staging", "prod": "Production"}

Grant = frozenset[str] | Literal["none", "foreign"]
"""What the identity may do somewhere: abilities; or it is no member; or the project is another organization's."""


@dataclass(slots=True, kw_only=True)
class Connection:
    """One app connection. The key itself is not kept, only its fingerprint."""

    id: str
    name: str
    description: str | None
    project_id: str | None
    created_at: str
    updated_at: str
    credentials_hash: str
    fingerprint: str
    visible_at: float
    app: str = APP
    planted: bool = False
    used_by: set[str] = field(default_factory=set)

    def public(self, organization_id: str) -> dict[str, Any]:
        """Return the fields that the API shows."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "version": 2,
            "orgId": organization_id,
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
            "isPlatformManagedCredentials": False,
            "gatewayId": None,
            "projectId": self.project_id,
            "isAutoRotationEnabled": False,
            "gatewayPoolId": None,
            "credentialsHash": self.credentials_hash,
            "app": self.app,
            "method": "api-key",
            "credentials": {},
        }


@dataclass(slots=True, kw_only=True)
class CreateRecord:
    """One POST to the create route, as it arrived and as it ended; `status` None means that no answer was delivered."""

    order: int
    at: str
    request_id: str
    name: str | None = None
    project_id: str | None = None
    status: int | None = None
    connection_id: str | None = None
    fault: str | None = None
    committed: bool = False

    def public(self) -> dict[str, Any]:
        """Return it as `/_simulator/state` shows it."""
        return {
            "order": self.order,
            "at": self.at,
            "name": self.name,
            "projectId": self.project_id,
            "status": self.status,
            "reqId": self.request_id,
            "connectionId": self.connection_id,
            "fault": self.fault,
            "committed": self.committed,
        }


def fingerprint(api_key: str) -> str:
    """Return what `/_simulator/state` shows instead of a key."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:12]


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


@dataclass(slots=True, kw_only=True)
class Store:
    """The database. Names are unique for (name, project, organization) over all apps."""

    seeds: Seeds
    organization_id: str
    projects: list[str]
    any_project: bool
    clock: Clock
    events: Events = field(default_factory=Events)
    _grants: dict[str, Grant] = field(default_factory=dict)
    _before: dict[str, tuple[Grant, float]] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    creates: list[CreateRecord] = field(default_factory=list)
    _names: dict[tuple[str, str | None], Connection] = field(default_factory=dict)
    _by_project: dict[str | None, dict[str, Connection]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _called: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers.update({project: number for number, project in enumerate(self.projects, 1)})

    def add_projects(self, projects: Iterable[str]) -> None:
        """Make these projects exist."""
        for project in projects:
            if project not in self._numbers:
                self.projects.append(project)
                self._numbers[project] = len(self.projects)

    def call_projects(self, called: Mapping[str, Mapping[str, str]]) -> None:
        """Give projects a name, a slug, a type; those that are not there yet are made."""
        self.add_projects(called)
        for project, given in called.items():
            self._called[project] = {**self._called.get(project, {}), **given}

    def remove_projects(self, projects: Iterable[str]) -> None:
        """Delete these projects with all that is in them."""
        for project in projects:
            if self._numbers.pop(project, None):
                self.projects.remove(project)
            for connection in list(self.inside(project)):
                self.remove(connection)

    def joined(self) -> list[str]:
        """Return the projects that the identity is a member of."""
        return [project for project in self.projects if self.granted(project) not in {"none", "foreign"}]

    def has_project(self, project_id: str) -> bool:
        """Tell whether there is such a project."""
        return project_id in self._numbers or (self.any_project and _is_uuid(project_id))

    def grant(self, grants: Mapping[str, Grant], *, now: float, lag: float) -> None:
        """Let the identity be allowed this; unless it only joins, what held before still holds for `lag`."""
        for place, grant in grants.items():
            before = self.granted(place)
            if lag and before != "none":
                self._before[place] = (before, now + lag)
            self._grants[place] = grant

    def granted(self, place: str) -> Grant:
        """Return what the server believes that the identity may do there."""
        before, until = self._before.get(place, ("none", 0.0))
        return before if self.clock() < until else self._grants.get(place, ABILITIES)

    def authorize_member(self, project_id: str, *, missing: str = "Project with ID '{}' not found") -> None:
        """Raise the refusal of an identity that is not in the project at all."""
        self.authorize(project_id, None, missing=missing)

    def authorize(
        self, project_id: str | None, ability: str | None, *, missing: str = "Project with ID '{}' not found"
    ) -> None:
        """Raise the refusal of an identity that lacks this ability there; no project means the organization."""
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

    def insert(
        self,
        *,
        name: str,
        description: str | None,
        project_id: str | None,
        api_key: str,
        created_at: str,
        visible_at: float,
        app: str = APP,
        planted: bool = False,
    ) -> Connection:
        """Add a connection, or raise the refusal of a duplicate."""
        if (name, project_id) in self._names:
            raise _duplicate(name)
        connection = Connection(
            id=self.seeds.uuid(),
            name=name,
            description=description,
            project_id=project_id,
            created_at=created_at,
            updated_at=created_at,
            credentials_hash=self.seeds.ciphertext_hash(),
            fingerprint=fingerprint(api_key),
            visible_at=visible_at,
            app=app,
            planted=planted,
        )
        self.connections[connection.id] = self._names[name, project_id] = connection
        self._by_project.setdefault(project_id, {})[connection.id] = connection
        self.events.happened()
        return connection

    def rename(self, connection: Connection, name: str) -> None:
        """Give a connection another name, or raise the refusal of a duplicate."""
        if self._names.get((name, connection.project_id), connection) is not connection:
            raise _duplicate(name)
        del self._names[connection.name, connection.project_id]
        connection.name = name
        self._names[name, connection.project_id] = connection

    def rewrite(self, connection: Connection, api_key: str) -> None:
        """Store another key: a fresh encryption even of the same key, so another hash."""
        connection.fingerprint = fingerprint(api_key)
        connection.credentials_hash = self.seeds.ciphertext_hash()

    def remove(self, connection: Connection) -> None:
        """Delete a connection."""
        del self.connections[connection.id]
        del self._names[connection.name, connection.project_id]
        del self._by_project[connection.project_id][connection.id]

    def inside(self, project_id: str | None) -> Iterable[Connection]:
        """Return the connections of a project; None is the whole organization, projects included."""
        return (self.connections if project_id is None else self._by_project.get(project_id, {})).values()

    def named(self, name: str, project_id: str | None) -> Connection | None:
        """Return the connection of this name in exactly this project, or organization-wide."""
        return self._names.get((name, project_id))

    def details(self, project_id: str) -> dict[str, Any]:
        """Return a project as the routes for projects show it."""
        environments = [
            {"name": name, "slug": short, "id": self.seeds.named_uuid(f"environment {project_id} {short}")}
            for short, name in ENVIRONMENTS.items()
        ]
        made = "2026-11-01T00:00:00.000Z"
        return {
            **(self.project(project_id) or {}),
            "_id": project_id,
            "orgId": self.organization_id,
            "description": None,
            "defaultProduct": None,
            "autoCapitalization": False,
            "createdAt": made,
            "updatedAt": made,
            "version": 3,
            "upgradeStatus": None,
            "pitVersionLimit": 10,
            "kmsCertificateKeyId": None,
            "auditLogsRetentionDays": None,
            "hasDeleteProtection": False,
            "secretSharing": True,
            "showSnapshotsLegacy": False,
            "secretDetectionIgnoreValues": None,
            "enforceEncryptedSecretManagerSecretMetadata": None,
            "environments": environments,
            "deletedEnvironments": [],
        }

    def project(self, project_id: str | None) -> dict[str, Any] | None:
        """Return a project as the list of connections shows it."""
        if project_id is None:
            return None
        number = self._numbers.get(project_id, 0)
        return {
            "name": f"project {number}",
            "id": project_id,
            "type": "secret-manager",
            "slug": f"project-{number}",
            **self._called.get(project_id, {}),
        }


def _duplicate(name: str) -> Refusal:
    return Refusal(400, "BadRequest", f'An App Connection with the name "{name}" already exists')


def _no_member(kind: str, identifier: str) -> str:
    return (
        f"You are not a member of this {kind} with ID {identifier}. Please assign this identity to the {kind} "
        "with the appropriate permissions, then try again."
    )
