"""Secrets of projects: those that credentials can be kept in. They are planted; no route here writes one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provisioner.sandbox.simulator import checks
from provisioner.sandbox.simulator.answers import Refusal, not_found
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import Store

__all__ = ["PlantedSecret", "Secrets", "planted_secret"]

Access = str
ACCESS = ("read", "describe", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedSecret:
    """A secret that is to exist, or with `value` None no longer. `access` is what the identity may do with it."""

    name: str
    project_id: str
    environment: str
    path: str = "/"
    value: str | None = field(default=None, repr=False)
    access: Access = "read"


FIELDS: dict[str, Callable[[object], Any]] = {
    "name": checks.text,
    "projectId": checks.uuid,
    "environment": checks.text,
    "path": checks.text,
    "value": checks.optional(checks.text),
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

    def plant(self, secrets: list[PlantedSecret]) -> None:
        """Let these secrets exist, change, or be gone."""
        for secret in secrets:
            place = (secret.project_id, secret.environment, secret.path, secret.name)
            if secret.value is None:
                self._kept.pop(place, None)
            else:
                self._kept[place] = secret

    def public(self) -> list[dict[str, str]]:
        """Return where secrets are; never what is in them."""
        return [
            {
                "name": one.name,
                "projectId": one.project_id,
                "environment": one.environment,
                "path": one.path,
                "access": one.access,
            }
            for one in self._kept.values()
        ]

    async def get(self, exchange: Exchange) -> dict[str, Any]:
        """GET a secret by its name, in the present form of the route."""
        return self._found(exchange, exchange.asked("projectId"))

    async def get_raw(self, exchange: Exchange) -> dict[str, Any]:
        """GET a secret by its name, in the form of older servers."""
        return self._found(exchange, exchange.asked("workspaceId"))

    def _found(self, exchange: Exchange, project_id: str | None) -> dict[str, Any]:
        name, environment = exchange.params["secretName"], exchange.asked("environment")
        path = (exchange.asked("secretPath") or "/").rstrip("/") or "/"
        if project_id is None or environment is None:
            raise Refusal(400, "BadRequest", "Missing project id or environment")
        self.store.authorize_member(project_id)
        if not any(place[:3] == (project_id, environment, path) for place in self._kept):
            message = f"Folder with path '{path}' in environment with slug '{environment}' not found"
            raise Refusal(404, "GetSecretByName", message)
        secret = self._kept.get((project_id, environment, path, name))
        if secret is None:
            raise not_found(f"Secret with name '{name}' not found")
        if secret.access == "none":
            raise Refusal(403, "PermissionDenied", "You are not allowed to describeSecret on secrets", details=[])
        if secret.access == "describe":
            message = f"You do not have permission to view secret value on secret with name '{name}'"
            raise Refusal(403, "ForbiddenReadSecretError", message)
        return {
            "secret": {
                "id": self.store.seeds.named_uuid(f"secret {project_id} {environment} {path} {name}"),
                "workspace": project_id,
                "environment": environment,
                "version": 1,
                "type": "shared",
                "secretKey": name,
                "secretValue": secret.value,
                "secretComment": "",
                "secretValueHidden": False,
                "secretPath": path,
            }
        }
