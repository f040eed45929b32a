"""Interpret answers to calls about secret rotations. Pure. None of them contains a generated key."""

from dataclasses import replace
from typing import Any, Final, TypeVar

from provisioner.core.model import Action, Observation, Proof, Result
from provisioner.core.rotations import Rotation
from provisioner.infisical.answers import described, listed
from provisioner.infisical.parts import Expected, Reply, Unreadable, clean, is_uuid, moment_of, text_of
from provisioner.infisical.refusals import read_refusal

# Refusals before OpenRouter is asked for a key begin like this: they are about the row, and no key was made.
_REFUSED: Final[tuple[tuple[str, Result], ...]] = (
    ("plan restriction", Result.PLAN_RESTRICTED),
    ("Could not find folder", Result.FOLDER_MISSING),
    ("secrets already exist", Result.SECRET_EXISTS),
    ("Could not find App Connection", Result.CONNECTION_MISSING),
)
_SHOWS: Final = {Action.CREATE: Result.CREATED, Action.UPDATE: Result.UPDATED, Action.LOOK_UP: Result.FOUND}
_Number = TypeVar("_Number", int, float)
# A deletion that revokes keys does so first, and deletes nothing if OpenRouter refuses.
_NOT_ISSUED: Final = ("Failed to create OpenRouter API key", "Failed to delete OpenRouter API key")
# OpenRouter's refusals with these are permanent; everything else is temporary.
_OWN_FAULT: Final = tuple(f"status code {status}" for status in (400, 401, 402, 403, 404, 422))


def read_rotation(reply: Reply) -> Observation:
    """Interpret an answer to a call about a rotation, as `read_answer` does for connections."""
    if not reply.is_success:
        return _refined(reply.asked, read_refusal(reply))
    return described(reply, "secretRotation", lambda data: _about(reply, _rotation(data)))


def _about(reply: Reply, rotation: Rotation) -> Observation:
    """Interpret an answer that describes a rotation; raises `Unreadable` if it describes another one."""
    asked = reply.asked
    if not _is_asked_for(asked, rotation):
        if asked.action is not Action.LOOK_UP:
            raise Unreadable("it is about another rotation")
        message = "a look-up brought another rotation: check what stands in front of Infisical"
        return reply.shows(Result.MISCONFIGURED, message, metered=False)
    if asked.action is Action.REMOVE:
        return reply.shows(Result.REMOVED)
    proof = Proof.MADE if asked.action is Action.CREATE else Proof.NONE
    return reply.shows(_SHOWS[asked.action], connection=rotation, proof=proof)


def _is_asked_for(asked: Expected, rotation: Rotation) -> bool:
    """Whether a rotation is the one of the id, or of the project, folder and name, that was asked for."""
    if asked.connection_id is not None:
        return _lowered(rotation.id) == _lowered(asked.connection_id)
    environment, path = rotation.environment, rotation.secret_path
    elsewhere = asked.folder is not None and (
        (environment is not None and environment.lower() != asked.folder[0].lower())
        or (path is not None and path.rstrip("/") != asked.folder[1].rstrip("/"))
    )
    return not elsewhere and _lowered(rotation.name, rotation.project_id) == _lowered(asked.name, asked.project_id)


def _lowered(*texts: str | None) -> list[str]:
    return [(text or "").lower() for text in texts]


def read_rotations(reply: Reply) -> tuple[Observation, tuple[Rotation, ...]]:
    """Interpret the list of a project's rotations, as `read_list` does for connections."""
    seen, rotations = listed(reply, "secretRotations", _rotation)
    return (seen if reply.is_success else _refined(reply.asked, seen)), rotations


def _refined(asked: Expected, seen: Observation) -> Observation:
    """Refine a refusal for rotations; an answer that is not Infisical's own stays unchanged."""
    if asked.action is Action.CREATE and seen.proof is not Proof.REFUSED:
        return seen
    if any(words in seen.message for words in _NOT_ISSUED):
        own = any(status in seen.message for status in _OWN_FAULT)
        return replace(seen, result=Result.KEY_NOT_ISSUED if own else Result.MISCONFIGURED)
    for words, result in _REFUSED:
        if words in seen.message:
            return replace(seen, result=result)
    return seen


def _rotation(data: Any) -> Rotation:
    """Read a rotation as Infisical describes it. Raises `Unreadable` without its id."""
    if not isinstance(data, dict):
        raise Unreadable("it holds no rotation")
    id_, project_id, parameters = data.get("id"), data.get("projectId"), data.get("parameters")
    if not isinstance(id_, str) or not is_uuid(id_):
        raise Unreadable("the rotation has no id")
    connection_id = text_of(data.get("connectionId"))
    spending = parameters if isinstance(parameters, dict) else {}
    failed = data.get("rotationStatus") == "failed"
    return Rotation(
        id=id_,
        project_id=project_id if isinstance(project_id, str) else None,
        org_id=None,
        credentials_hash="",
        name=text_of(data.get("name")),
        app="open-router",
        method="rotation",
        description=text_of(data.get("description")) or None,
        created_at=moment_of(data.get("createdAt")),
        connection_id=connection_id if is_uuid(connection_id) else "",
        key_name=text_of(spending.get("name")),
        environment=_part(data.get("environment"), "slug"),
        secret_path=_part(data.get("folder"), "path"),
        secret_name=_part(data.get("secretsMapping"), "apiKey"),
        interval_days=_number(data.get("rotationInterval"), int),
        rotate_at=_turn(data.get("rotateAtUtc")),
        spend_limit=_number(spending.get("limit"), float),
        limit_reset=text_of(spending.get("limitReset")) or None,
        include_byok=byok if isinstance(byok := spending.get("includeByokInLimit"), bool) else None,
        automatic=data.get("isAutoRotationEnabled") is not False,
        failure=clean(text_of(data.get("lastRotationMessage")) or "Infisical does not say why") if failed else "",
    )


def _part(data: Any, field: str) -> str | None:
    """Return a text from a part of the description, if it is there."""
    return (text_of(data.get(field)) or None) if isinstance(data, dict) else None


def _number(value: Any, as_: type[_Number]) -> _Number | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else as_(value)


def _turn(data: Any) -> tuple[int, int] | None:
    parts = [_number(data.get(part), int) for part in ("hours", "minutes")] if isinstance(data, dict) else []
    hours, minutes = parts if None not in parts and parts else (None, None)
    return None if hours is None or minutes is None else (hours, minutes)
