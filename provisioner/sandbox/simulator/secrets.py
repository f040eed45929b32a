"""Secrets of projects: planted ones that credentials can be kept in, and those that rotations write."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provisioner.sandbox.simulator import checks
from provisioner.sandbox.simulator.answers import Refusal, not_found
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import Store
from provisioner.sandbox.simulator.validation import UNDEFINED, mismatch, refuse

__all__ = ["PlantedSecret", "Secrets", "planted_secret"]

Access = str
ACCESS = ("read", "describe", "none")
MADE = "2026-11-01T00:00:00.000Z"
MISSING = "Project with ID '{}' not found during bot lookup. Are you sure you are using the correct project ID?"
REFERENCE = re.compile(r"\$\{([^}.]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedSecret:
    """A secret that is to exist, or with `value` None no longer. `access` is what the identity may do with it."""

    name: str
    project_id: str
    environment: str
    path: str = "/"
    value: str | None = field(default=None, repr=False)
    access: Access = "read"
    version: int = 1
    rotation_id: str | None = None


FIELDS: dict[str, Callable[[object], Any]] = {
    "name": checks.text,
    "projectId": checks.uuid,
    "environment": checks.text,
    "path": checks.text,
    "value": checks.optional(checks.any_text),
    "access": checks.choice(*ACCESS),
}


def planted_secret(given: Mapping[str, object]) -> PlantedSecret:
    """Return the secret that was described, or raise `ValueError`."""
    for name in given:
        if name not in FIELDS:
            raise ValueError(f"{name} is unknown; known are {', '.join(FIELDS)}")
    for required in ("name", "projectId", "environment"):
        if required not in given:
            raise ValueError(f"each secret needs {required}")
    read = {name: check(given[name]) for name, check in FIELDS.items() if name in given}
    read["project_id"] = read.pop("projectId")
    return _normal(PlantedSecret(**read))


def _normal(secret: PlantedSecret) -> PlantedSecret:
    return replace(secret, path=secret.path.rstrip("/") or "/")


@dataclass(slots=True, kw_only=True)
class Secrets:
    """The secrets of all projects."""

    store: Store
    _kept: dict[tuple[str, str, str, str], PlantedSecret] = field(default_factory=dict)
    _folders: set[tuple[str, str, str]] = field(default_factory=set)

    def plant(self, secrets: list[PlantedSecret]) -> None:
        """Let these secrets exist, change, or be gone."""
        for secret in secrets:
            place = (secret.project_id, secret.environment, secret.path, secret.name)
            if secret.value is None:
                self._kept.pop(place, None)
            else:
                self._kept[place] = secret

    def has(self, project_id: str, environment: str, path: str, name: str) -> bool:
        """Tell whether there is such a secret."""
        return (project_id, environment, path, name) in self._kept

    def has_folder(self, project_id: str, environment: str, path: str) -> bool:
        """Tell whether a folder is there: one that was planted, or that holds a secret, itself or further down."""
        return any(
            place[:2] == (project_id, environment) and f"{place[2]}/".startswith(f"{path}/")
            for place in (*self._folders, *self._kept)
        )

    def add_folders(self, folders: Iterable[tuple[str, str, str]]) -> None:
        """Make these folders exist."""
        self._folders.update(folders)

    def rotate(self, place: tuple[str, str, str, str], value: str, rotation_id: str) -> None:
        """Write the key that a rotation made into its secret."""
        project_id, environment, path, name = place
        before = self._kept.get(place)
        self._kept[place] = PlantedSecret(
            name=name,
            project_id=project_id,
            environment=environment,
            path=path,
            value=value,
            version=before.version + 1 if before else 1,
            rotation_id=rotation_id,
        )

    def release(self, place: tuple[str, str, str, str], *, delete: bool) -> None:
        """Let a rotation's secret be gone, or an ordinary one from now on."""
        secret = self._kept.pop(place, None)
        if secret is not None and not delete:
            self._kept[place] = replace(secret, rotation_id=None)

    def public(self) -> list[dict[str, str | None]]:
        """Return where secrets are; never what is in them."""
        return [
            {
                "name": one.name,
                "projectId": one.project_id,
                "environment": one.environment,
                "path": one.path,
                "access": one.access,
                "rotationId": one.rotation_id,
            }
            for one in self._kept.values()
        ]

    async def get(self, exchange: Exchange) -> dict[str, Any]:
        """GET a secret by its name, in the present form of the route: references to other secrets are resolved."""
        project_id = exchange.asked("projectId")
        if project_id is None:
            refuse([mismatch("string", UNDEFINED, ("projectId",))])
        return self._found(exchange, str(project_id), expand=True)

    async def get_raw(self, exchange: Exchange) -> dict[str, Any]:
        """GET a secret by its name, in the form of older servers."""
        project_id = exchange.asked("workspaceId")
        if project_id is None:
            raise Refusal(400, "BadRequest", "You must provide projectSlug or workspaceId")
        return self._found(exchange, project_id, expand=False)

    def _found(self, exchange: Exchange, project_id: str, *, expand: bool) -> dict[str, Any]:
        name, environment = exchange.params["secretName"], exchange.asked("environment")
        path = (exchange.asked("secretPath") or "/").rstrip("/") or "/"
        if environment is None:
            raise Refusal(400, "BadRequest", "Missing environment")
        self.store.authorize_member(project_id, missing=MISSING)
        if not any(place[:3] == (project_id, environment, path) for place in self._kept):
            message = f"Folder with path '{path}' in environment with slug '{environment}' not found"
            raise Refusal(404, "GetSecretByName", message)
        secret = self._kept.get((project_id, environment, path, name))
        if secret is None:
            raise not_found(f"Secret with name '{name}' not found")
        if secret.access == "none":
            raise Refusal(403, "PermissionDenied", "You are not allowed to describeSecret on secrets", details=[])
        shown = exchange.asked("viewSecretValue") != "false"
        if secret.access == "describe" and shown:
            message = f"You do not have permission to view secret value on secret with name '{name}'"
            raise Refusal(403, "ForbiddenReadSecretError", message)
        identifier = self.store.seeds.named_uuid(f"secret {project_id} {environment} {path} {name}")
        value = self._expanded(secret) if expand else secret.value
        return {
            "secret": {
                "id": identifier,
                "_id": identifier,
                "workspace": project_id,
                "environment": environment,
                "version": secret.version,
                "type": "shared",
                "secretKey": name,
                "secretValue": value if shown else "<hidden-by-infisical>",
                "secretComment": "",
                "secretReminderNote": None,
                "secretReminderRepeatDays": None,
                "skipMultilineEncoding": False,
                "createdAt": MADE,
                "updatedAt": MADE,
                "isRotatedSecret": secret.rotation_id is not None,
                "rotationId": secret.rotation_id,
                "secretValueHidden": not shown,
                "secretPath": path,
                "tags": [],
                "secretMetadata": [],
            }
        }

    def _expanded(self, secret: PlantedSecret) -> str:
        """Put in the values of other secrets of the same folder for `${NAME}`, one level deep."""

        def value(reference: re.Match[str]) -> str:
            other = self._kept.get((secret.project_id, secret.environment, secret.path, reference[1]))
            return (other and other.value) or ""

        return REFERENCE.sub(value, secret.value or "")
