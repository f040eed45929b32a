"""Make the secret-rotation calls of one target.

They are authorised and sent like the calls about connections. The generated keys are never read.
"""

from typing import Any

import orjson

from provisioner.core.description import describe
from provisioner.core.model import Action, Connection, Observation, Proof, Request, Result
from provisioner.core.rotations import AUTOMATIC, SPENDING, Rotation, RotationRequest
from provisioner.core.secret import Secret
from provisioner.infisical.connections import Call, Found, InfisicalConnections
from provisioner.infisical.parts import Expected
from provisioner.infisical.rotation_answers import read_rotation


class InfisicalRotations(InfisicalConnections):
    """The calls about OpenRouter rotations of one target."""

    async def create(self, request: Request, key: Secret) -> Observation:  # noqa: ARG002 - the connection has the key
        """Create the rotation. At most one create passes Infisical's token check; after that it is never repeated."""
        assert isinstance(request, RotationRequest)  # noqa: S101 - only rotations are in this line
        if not request.connection_id:
            message = "its connection is not recorded any more"
            return Observation(result=Result.CONNECTION_MISSING, proof=Proof.UNSENT, message=message)
        asked = Expected(Action.CREATE, request.project_id, request.name, folder=request.folder)
        body = create_body(request, marker=self._marker)
        return (await self._authorised(Call(asked, "POST", self._routes.rotations, body, read=read_rotation)))[0]

    async def look_up(self, request: Request) -> Observation:
        """Find the rotation with the request's name in its folder."""
        assert isinstance(request, RotationRequest)  # noqa: S101 - only rotations are in this line
        url = self._routes.rotation_by_name(request.name, request.project_id, request.environment, request.secret_path)
        asked = Expected(Action.LOOK_UP, request.project_id, request.name, folder=request.folder)
        return (await self._patiently(Call(asked, "GET", url, read=read_rotation)))[0]

    async def get(self, connection_id: str) -> Observation:
        """Find a rotation by its id: `FOUND`, `ABSENT`, or what prevented the answer."""
        asked = Expected(Action.LOOK_UP, connection_id=connection_id)
        url = self._routes.rotations / connection_id
        return (await self._patiently(Call(asked, "GET", url, read=read_rotation)))[0]

    async def update(self, request: Request, connection: Connection, key: Secret | None) -> Observation:  # noqa: ARG002 - as above
        """Send what was edited of a request, and nothing else."""
        assert isinstance(request, RotationRequest)  # noqa: S101 - only rotations are in this line
        asked = Expected(Action.UPDATE, request.project_id, request.name, connection.id)
        body = update_body(request, marker=self._marker)
        return (
            await self._authorised(
                Call(asked, "PATCH", self._routes.rotations / connection.id, body, read=read_rotation)
            )
        )[0]

    async def list(self, project_id: str | None) -> Found:
        """Return all rotations of a project: `FOUND` with them, or what prevented it. Only projects have lists."""
        assert project_id  # noqa: S101 - see above
        return await self._rotations(project_id)

    async def remove(self, connection: Connection) -> Observation:
        """Delete a rotation; its secret and its keys only if that was requested."""
        url = self._routes.rotations / connection.id
        if isinstance(connection, Rotation):
            chosen = {"deleteSecrets": connection.with_secrets, "revokeGeneratedCredentials": connection.revoke_keys}
            url = url.with_query({name: "true" for name, wanted in chosen.items() if wanted})
        asked = Expected(Action.REMOVE, connection.project_id, connection_id=connection.id)
        return (await self._authorised(Call(asked, "DELETE", url, read=read_rotation)))[0]


def create_body(request: RotationRequest, *, marker: str) -> bytes:
    """Return the body of a rotation's create."""
    body: dict[str, Any] = {
        "name": request.name,
        "projectId": request.project_id,
        "connectionId": request.connection_id,
        "environment": request.environment,
        "secretPath": request.secret_path,
        "isAutoRotationEnabled": True,
        "rotationInterval": request.interval_days,
        "rotateAtUtc": _time_of_day(request.rotate_at),
        "parameters": _parameters(request, request.marked_key_name),
        "secretsMapping": {"apiKey": request.secret_name},
    }
    if description := describe(request.id, request.description, marker=marker):
        body["description"] = description
    return orjson.dumps(body)


def update_body(request: RotationRequest, *, marker: str) -> bytes:
    """Return the body of a PATCH with exactly what was edited; parameters are always replaced as a whole.

    The key's name does not change, because it tells which create made the rotation.
    """
    edited = request.edited
    body: dict[str, Any] = {}
    if "name" in edited:
        body["name"] = request.name
    if "description" in edited:
        body["description"] = describe(request.id, request.description, marker=marker)
    if "interval_days" in edited:
        body["rotationInterval"] = request.interval_days
    if "rotate_at" in edited:
        body["rotateAtUtc"] = _time_of_day(request.rotate_at)
    if "secret_name" in edited:
        body["secretsMapping"] = {"apiKey": request.secret_name}
    if edited & SPENDING:
        body["parameters"] = _parameters(request, request.key_issued or request.marked_key_name)
    if AUTOMATIC in edited:
        body["isAutoRotationEnabled"] = True
    return orjson.dumps(body)


def _parameters(request: RotationRequest, key_name: str) -> dict[str, Any]:
    optional = {
        "limit": request.spend_limit,
        "limitReset": request.limit_reset,
        "includeByokInLimit": request.include_byok,
    }
    return {"name": key_name, **{field: value for field, value in optional.items() if value is not None}}


def _time_of_day(rotate_at: tuple[int, int]) -> dict[str, int]:
    hours, minutes = rotate_at
    return {"hours": hours, "minutes": minutes}
