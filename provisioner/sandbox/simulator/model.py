"""The rows in the databases of the simulated Infisical and OpenRouter."""

import hashlib
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

__all__ = [
    "ABILITIES",
    "APP",
    "ENVIRONMENTS",
    "MADE",
    "PROJECT_TYPES",
    "UUID",
    "Connection",
    "CreateRecord",
    "End",
    "Grant",
    "Key",
    "MachineIdentity",
    "Place",
    "Revoked",
    "Rotation",
    "Secret",
    "Standing",
    "Token",
    "camel",
    "fingerprint",
    "public",
]

APP = "open-router"
PROJECT_TYPES = ("secret-manager", "cert-manager", "kms", "ssh", "secret-scanning", "pam", "ai")
ENVIRONMENTS = {"dev": "Development", "staging": "Staging", "prod": "Production"}
MADE = "2026-11-01T00:00:00.000Z"
"""The creation time of everything whose age does not matter."""
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)

VERBS = ("create", "read", "edit", "delete")
ABILITIES = frozenset(
    [f"{verb}-app-connections" for verb in VERBS] + [f"{verb}-secret-rotation" for verb in (*VERBS, "rotate")]
)
Grant = frozenset[str] | Literal["none", "foreign"]
"""What the identity may do in a place: abilities; `none` for a non-member; `foreign` in another organization."""

Standing = Literal["ok", "removed", "inactive", "untrusted-address"]
"""Whether the identity may use its tokens."""
Revoked = Literal["token", "auth method", "client secret", "identity tokens"]
"""What was revoked, in the words of the refusal."""
End = Revoked | Literal["open", "expired", "lapsed"]
"""How a token ended: it expired (by its own claims), lapsed (by the server's record), or was revoked."""

Place = tuple[str, str, str, str]
"""Project, environment, folder and name."""


def camel(name: str) -> str:
    """Return the JSON name of a Python name."""
    return re.sub(r"_([a-z])", lambda letter: letter[1].upper(), name)


def public(row: Any) -> dict[str, Any]:
    """Return a row as `/_simulator/state` shows it: without the fields that its `repr` hides."""
    return {camel(one.name): getattr(row, one.name) for one in fields(row) if one.repr}


def fingerprint(api_key: str) -> str:
    """Return what `/_simulator/state` shows instead of a key."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:12]


@dataclass(slots=True, kw_only=True)
class Connection:
    """One app connection. Only the key's fingerprint is kept, not the key."""

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
        """Return the fields that the API returns."""
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
    """One POST to a create route and its outcome; `status` None means that no answer was delivered."""

    order: int
    at: str
    req_id: str
    name: str | None = None
    project_id: str | None = None
    status: int | None = None
    connection_id: str | None = None
    fault: str | None = None
    committed: bool = False

    def note(self, body: object) -> None:
        """Record the name and the project in a body, whatever else is wrong with it."""
        if isinstance(body, dict):
            name, project_id = body.get("name"), body.get("projectId")
            self.name = name if isinstance(name, str) else None
            self.project_id = project_id if isinstance(project_id, str) else None


@dataclass(slots=True, kw_only=True)
class Key:
    """One ordinary API key at OpenRouter. It can spend money from its creation until it is revoked.

    `made_by` is the fingerprint of the management key that requested it. `rotation_id` is the rotation that has it;
    None if the create failed afterwards: nobody knows the key, and it remains.
    """

    hash: str
    name: str
    value: str = field(repr=False)
    made_by: str
    limit: float | None
    limit_reset: str | None
    include_byok: bool
    created_at: str
    rotation_id: str | None = None


@dataclass(slots=True, kw_only=True)
class Rotation:
    """One rotation; `keys` are its keys at OpenRouter, newest last."""

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

    @property
    def folder(self) -> tuple[str, str, str]:
        """Its folder."""
        return (self.project_id, self.environment, self.path)

    @property
    def place(self) -> Place:
        """Its unique place."""
        return (*self.folder, self.name)

    @property
    def secret(self) -> Place:
        """The place of the secret with its key."""
        return (*self.folder, self.secret_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret. `access` is what the identity may do with it: read, describe, or none."""

    name: str
    project_id: str
    environment: str
    path: str = "/"
    value: str | None = field(default=None, repr=False)
    access: str = "read"
    version: int = 1
    rotation_id: str | None = None

    @property
    def place(self) -> Place:
        """Its place."""
        return (self.project_id, self.environment, self.path, self.name)


@dataclass(slots=True, kw_only=True)
class Token:
    """The record of an access token; 0 in `ttl`, `max_ttl` and `uses_limit` means no limit."""

    id: str
    ttl: int
    max_ttl: int
    uses_limit: int
    created: float
    renewed: float
    uses: int = 0
    end: End = "open"


@dataclass(slots=True, kw_only=True)
class MachineIdentity:
    """The one machine identity: its client secret, and its lockout after failed attempts."""

    id: str
    client_id: str
    client_secret: str = field(repr=False)
    secret_made: float
    secret_uses: int = 0
    secret_revoked: bool = False
    standing: Standing = "ok"
    failures: int = 0
    last_failure: float = 0.0
    locked_until: float = 0.0

    def stand(self, standing: Standing) -> None:
        """Change whether it may use its tokens."""
        self.standing = standing

    def renew_secret(self, secret: str, now: float) -> None:
        """Replace the client secret; its lifetime and uses start over."""
        self.client_secret, self.secret_made, self.secret_uses, self.secret_revoked = secret, now, 0, False

    def unlock(self) -> None:
        """Forget failed attempts and end a lock."""
        self.failures, self.locked_until = 0, 0.0
