"""Build the addresses and bodies of the calls.

Pure. Bodies contain exactly the documented fields: Infisical silently drops others, and a misspelt `projectId` would
create a connection for the whole organization.
"""

from typing import Final
from urllib.parse import quote

import orjson
from yarl import URL

from provisioner.core.description import describe
from provisioner.core.doubt import METHOD
from provisioner.core.model import Request
from provisioner.core.secret import Secret, SecretLocation

API: Final = "api/v1"
SECRETS: Final = "api/v4/secrets"
OLD_SECRETS: Final = "api/v3/secrets/raw"
APP_PATH: Final = "app-connections/open-router"
ROTATIONS: Final = "api/v2/secret-rotations/open-router-api-key"


class Routes:
    """The addresses below one base URL, which may have a path of its own."""

    def __init__(self, base_url: str) -> None:
        base = URL(base_url)
        if base.scheme not in {"http", "https"} or not base.host:
            raise ValueError(f"not the URL of a server: {base_url!r}")
        self._base = base
        self._api = base / API
        self.connections: Final = self._api / APP_PATH
        self.rotations: Final = base / ROTATIONS
        self.revoke: Final = self._api / "auth/token/revoke"

    def login(self, method: str) -> URL:
        """Return the login address of a method."""
        return self._api / "auth" / method / "login"

    def listing(self, project_id: str | None) -> URL:
        """Return the list of a project's connections, or (None) the organization's."""
        return self.connections.with_query({"projectId": project_id} if project_id else {})

    def projects(self, kind: str | None) -> URL:
        """Return the list of the identity's projects, of one type or of any."""
        return (self._api / "projects").with_query({"includeRoles": "false"} | ({"type": kind} if kind else {}))

    def project(self, project_id: str) -> URL:
        """Return the address of one project."""
        return self._api / "projects" / project_id

    def by_name(self, name: str, project_id: str) -> URL:
        """Return the address of a connection by its name in a project."""
        return (self.connections / "connection-name" / name).with_query({"projectId": project_id})

    def rotation_by_name(self, name: str, project_id: str, environment: str, path: str) -> URL:
        """Return the address of a rotation by its name in a folder."""
        query = {"projectId": project_id, "environment": environment, "secretPath": path}
        return (self.rotations / "rotation-name" / name).with_query(query)

    def secret(self, place: SecretLocation, *, old: bool = False) -> URL:
        """Return the address of a secret's value; `old` for servers without the present route."""
        # Joined by hand, because a name may contain a slash, and yarl treats `.` and `..` as steps.
        root = self._base / (OLD_SECRETS if old else SECRETS)
        query = {
            "workspaceId" if old else "projectId": place.project,
            "environment": place.environment,
            "secretPath": place.path,
            "expandSecretReferences": "true",
            "include_imports": "true",
        }
        return URL(f"{root}/{quote(place.name, safe='')}", encoded=True).with_query(query)

    def by_id(self, connection_id: str) -> URL:
        """Return the address of a connection."""
        return self.connections / connection_id


def create_body(request: Request, key: Secret, *, marker: str) -> bytes:
    """Return the body of a create. Raises `TypeError` for invalid Unicode."""
    body = {
        "name": request.name,
        "method": METHOD,
        "credentials": {"apiKey": key.reveal()},
        "projectId": request.project_id,
    }
    if description := describe(request.id, request.description, marker=marker):
        body["description"] = description
    return orjson.dumps(body)


def update_body(request: Request, key: Secret | None, *, marker: str) -> bytes:
    """Return the body of a PATCH with exactly what was edited. Raises `TypeError` for invalid Unicode."""
    edits = request.edits
    body: dict[str, object] = {}
    if edits.name:
        body["name"] = request.name
    if edits.description:
        body["description"] = describe(request.id, request.description, marker=marker)
    if key is not None:
        body["credentials"] = {"apiKey": key.reveal()}
    return orjson.dumps(body)


def replace_body(request: Request, key: Secret) -> bytes:
    """Return the body of a PATCH that takes over an existing connection. Raises `TypeError` for invalid Unicode.

    It includes the request's description, if any, without a marker: only connections that we made carry one.
    """
    body: dict[str, object] = {"credentials": {"apiKey": key.reveal()}}
    if request.description is not None:
        body["description"] = describe(request.id, request.description, marker="")
    return orjson.dumps(body)
