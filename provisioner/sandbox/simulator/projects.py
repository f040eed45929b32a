"""The routes that read projects and the secrets in them."""

import re
from typing import Any, Final

from provisioner.sandbox.simulator.answers import Refusal, not_found
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import ENVIRONMENTS, MADE, Secret
from provisioner.sandbox.simulator.world import World

__all__ = ["get_project", "get_raw_secret", "get_secret", "list_projects"]

MISSING: Final = "Project with ID '{}' not found during bot lookup. Are you sure you are using the correct project ID?"
REFERENCE: Final = re.compile(r"\$\{([^}.]+)\}")


async def list_projects(exchange: Exchange) -> dict[str, Any]:
    """GET the projects that the identity is a member of, all or those of one type."""
    world, kind = exchange.world, exchange.asked("type")
    joined = [one for one in world.projects if world.granted(one) not in {"none", "foreign"}]
    projects = [_project(world, one) for one in joined]
    return {"projects": [project for project in projects if kind in {None, project["type"]}]}


async def get_project(exchange: Exchange) -> dict[str, Any]:
    """GET one project by its id."""
    project_id = exchange.params["projectId"]
    exchange.world.authorize(project_id, None)
    return {"project": _project(exchange.world, project_id)}


def _project(world: World, project_id: str) -> dict[str, Any]:
    environments = [
        {"name": name, "slug": short, "id": world.seeds.named_uuid(f"environment {project_id} {short}")}
        for short, name in ENVIRONMENTS.items()
    ]
    return {
        **world.project(project_id),
        "_id": project_id,
        "orgId": world.organization_id,
        "description": None,
        "defaultProduct": None,
        "autoCapitalization": False,
        "createdAt": MADE,
        "updatedAt": MADE,
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


async def get_secret(exchange: Exchange) -> dict[str, Any]:
    """GET a secret by its name; references to other secrets are resolved."""
    return _found(exchange, *exchange.needed("projectId"), expand=True)


async def get_raw_secret(exchange: Exchange) -> dict[str, Any]:
    """GET a secret by its name, on the route of older servers."""
    project_id = exchange.asked("workspaceId")
    if project_id is None:
        raise Refusal(400, "BadRequest", "You must provide projectSlug or workspaceId")
    return _found(exchange, project_id, expand=False)


def _found(exchange: Exchange, project_id: str, *, expand: bool) -> dict[str, Any]:
    world = exchange.world
    name, environment = exchange.params["secretName"], exchange.asked("environment")
    path = (exchange.asked("secretPath") or "/").rstrip("/") or "/"
    if environment is None:
        raise Refusal(400, "BadRequest", "Missing environment")
    world.authorize(project_id, None, missing=MISSING)
    if not any(place[:3] == (project_id, environment, path) for place in world.secrets):
        message = f"Folder with path '{path}' in environment with slug '{environment}' not found"
        raise Refusal(404, "GetSecretByName", message)
    secret = world.secrets.get((project_id, environment, path, name))
    if secret is None:
        raise not_found(f"Secret with name '{name}' not found")
    if secret.access == "none":
        raise Refusal(403, "PermissionDenied", "You are not allowed to describeSecret on secrets", details=[])
    shown = exchange.asked("viewSecretValue") != "false"
    if secret.access == "describe" and shown:
        message = f"You do not have permission to view secret value on secret with name '{name}'"
        raise Refusal(403, "ForbiddenReadSecretError", message)
    value = _expanded(world, secret) if expand else secret.value
    identifier = world.seeds.named_uuid(f"secret {project_id} {environment} {path} {name}")
    return {"secret": _shown(secret, identifier, value if shown else None)}


def _shown(secret: Secret, identifier: str, value: str | None) -> dict[str, Any]:
    return {
        "id": identifier,
        "_id": identifier,
        "workspace": secret.project_id,
        "environment": secret.environment,
        "version": secret.version,
        "type": "shared",
        "secretKey": secret.name,
        "secretValue": "<hidden-by-infisical>" if value is None else value,
        "secretComment": "",
        "secretReminderNote": None,
        "secretReminderRepeatDays": None,
        "skipMultilineEncoding": False,
        "createdAt": MADE,
        "updatedAt": MADE,
        "isRotatedSecret": secret.rotation_id is not None,
        "rotationId": secret.rotation_id,
        "secretValueHidden": value is None,
        "secretPath": secret.path,
        "tags": [],
        "secretMetadata": [],
    }


def _expanded(world: World, secret: Secret) -> str:
    """Replace `${NAME}` by the value of that secret in the same folder, one level deep."""

    def value(reference: re.Match[str]) -> str:
        other = world.secrets.get((secret.project_id, secret.environment, secret.path, reference[1]))
        return (other and other.value) or ""

    return REFERENCE.sub(value, secret.value or "")
