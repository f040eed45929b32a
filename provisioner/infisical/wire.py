"""Write what Infisical is sent: the addresses and bodies of the app-connection calls.

Pure. Bodies hold exactly the documented fields: Infisical drops others without a word, and a misspelt `projectId`
would make a connection for the whole organization.
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
    """The addresses below one base URL; the base may have a path of its own."""

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
        """Where a machine identity logs in with this method."""
        return self._api / "auth" / method / "login"

    def listing(self, project_id: str | None) -> URL:
        """The list of a project's connections, or with None of the organization's."""
        return self.connections.with_query({"projectId": project_id} if project_id else {})

    def projects(self, kind: str | None) -> URL:
        """The projects that the identity is a member of, of one type or of any."""
        return (self._api / "projects").with_query({"includeRoles": "false"} | ({"type": kind} if kind else {}))

    def project(self, project_id: str) -> URL:
        """One project."""
        return self._api / "projects" / project_id

    def by_name(self, name: str, project_id: str) -> URL:
        """The connection of that name in a project."""
        return (self.connections / "connection-name" / name).with_query({"projectId": project_id})

    def rotation_by_name(self, name: str, project_id: str, environment: str, path: str) -> URL:
        """The rotation of that name in a folder."""
        query = {"projectId": project_id, "environment": environment, "secretPath": path}
        return (self.rotations / "rotation-name" / name).with_query(query)

    def secret(self, place: SecretLocation, *, old: bool = False) -> URL:
        """A secret's value; `old` for servers that lack the present route."""
        # Joined by hand, for a name may hold a slash, and yarl takes `.` and `..` for steps.
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
        """One connection."""
        return self.connections / connection_id


def create_body(request: Request, key: Secret, *, marker: str) -> bytes:
    """The body of a create; raises `TypeError` for text that is no Unicode."""
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
    """The body of a PATCH with what was edited and nothing else; raises `TypeError` for text that is no Unicode."""
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
    """The body of a PATCH that takes an existing connection over; raises `TypeError` for text that is no Unicode.

    It has the request's description where there is one, without a mark: that is only on what we have made.
    """
    body: dict[str, object] = {"credentials": {"apiKey": key.reveal()}}
    if request.description is not None:
        body["description"] = describe(request.id, request.description, marker="")
    return orjson.dumps(body)
