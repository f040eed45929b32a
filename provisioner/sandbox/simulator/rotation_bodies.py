"""What the server checks in the body of a rotation, in zod's order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from provisioner.sandbox.simulator.validation import (
    UNDEFINED,
    Issue,
    bound,
    mismatch,
    read_description,
    read_name,
    read_object,
    refuse,
)

__all__ = ["NewRotation", "RotationChanges", "create", "patch"]

KEY_NAME_LENGTH = 100
RESETS = ("daily", "weekly", "monthly")


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationChanges:
    """A valid update; what is UNDEFINED stays as it is."""

    name: str
    description: str | None
    auto: bool
    interval: int
    rotate_at: dict[str, int]
    parameters: dict[str, Any]
    secret_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRotation(RotationChanges):
    """A valid create."""

    project_id: str
    connection_id: str
    environment: str
    path: str


def create(body: object) -> NewRotation:
    """Return the valid create that a body asks for, or raise the 422."""
    fields = read_object(body, 1)
    issues: list[Issue] = []
    found = NewRotation(
        name=read_name(fields.get("name", UNDEFINED), issues),
        description=read_description(fields.get("description"), issues),
        project_id=_text(fields, "projectId", issues),
        connection_id=_text(fields, "connectionId", issues),
        environment=_text(fields, "environment", issues),
        path=_text(fields, "secretPath", issues),
        auto=_boolean(fields.get("isAutoRotationEnabled", True), "isAutoRotationEnabled", issues),
        interval=_interval(fields.get("rotationInterval", UNDEFINED), issues),
        rotate_at=_rotate_at(fields.get("rotateAtUtc", UNDEFINED), issues),
        parameters=_parameters(fields.get("parameters", UNDEFINED), issues),
        secret_name=_mapping(fields.get("secretsMapping", UNDEFINED), issues),
    )
    refuse(issues)
    return found


def patch(body: object) -> RotationChanges:
    """Return the valid update that a body asks for, or raise the 422."""
    fields = read_object(body, 1)
    issues: list[Issue] = []

    def given(field: str, read: Callable[[Any], Any]) -> Any:
        return read(fields[field]) if field in fields else UNDEFINED

    changes = RotationChanges(
        name=given("name", lambda value: read_name(value, issues)),
        description=given("description", lambda value: read_description(value, issues)),
        auto=given("isAutoRotationEnabled", lambda value: _boolean(value, "isAutoRotationEnabled", issues)),
        interval=given("rotationInterval", lambda value: _interval(value, issues)),
        rotate_at=given("rotateAtUtc", lambda value: _rotate_at(value, issues)),
        parameters=given("parameters", lambda value: _parameters(value, issues)),
        secret_name=given("secretsMapping", lambda value: _mapping(value, issues)),
    )
    refuse(issues)
    return changes


def _text(fields: dict[str, Any], field: str, issues: list[Issue]) -> str:
    value = fields.get(field, UNDEFINED)
    if not isinstance(value, str):
        issues.append(mismatch("string", value, (field,)))
        return ""
    return value


def _boolean(value: object, field: str, issues: list[Issue]) -> bool:
    if not isinstance(value, bool):
        issues.append(mismatch("boolean", value, (field,)))
        return False
    return value


def _interval(value: object, issues: list[Issue]) -> int:
    path = ("rotationInterval",)
    try:
        days = int(value)  # type: ignore[call-overload]  # the server coerces whatever comes
    except (TypeError, ValueError):
        message = "Expected number, received nan"
        issues.append(
            {"code": "invalid_type", "expected": "number", "received": "nan", "path": list(path), "message": message}
        )
        return 0
    if days < 1:
        message = "Number must be greater than or equal to 1"
        issues.append(bound("too_small", 1, path, message) | {"type": "number"})
    return int(days)


def _rotate_at(value: object, issues: list[Issue]) -> dict[str, int]:
    if value is UNDEFINED:
        return {"hours": 0, "minutes": 0}
    if not isinstance(value, dict):
        issues.append(mismatch("object", value, ("rotateAtUtc",)))
        return {}
    for part, most in (("hours", 23), ("minutes", 59)):
        number = value.get(part, UNDEFINED)
        if isinstance(number, bool) or not isinstance(number, int | float):
            issues.append(mismatch("number", number, ("rotateAtUtc", part)))
        elif not 0 <= number <= most:
            message = f"Number must be less than or equal to {most}"
            issues.append(bound("too_big", most, ("rotateAtUtc", part), message) | {"type": "number"})
    return {part: value.get(part, 0) for part in ("hours", "minutes")}


def _parameters(value: object, issues: list[Issue]) -> dict[str, Any]:
    if not isinstance(value, dict):
        issues.append(mismatch("object", value, ("parameters",)))
        return {}
    key_name, limit = value.get("name", UNDEFINED), value.get("limit")
    if not isinstance(key_name, str):
        issues.append(mismatch("string", key_name, ("parameters", "name")))
    elif not key_name.strip():
        issues.append(bound("too_small", 1, ("parameters", "name"), "Key name required"))
    elif len(key_name) > KEY_NAME_LENGTH:
        message = f"String must contain at most {KEY_NAME_LENGTH} character(s)"
        issues.append(bound("too_big", KEY_NAME_LENGTH, ("parameters", "name"), message))
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
        issues.append(mismatch("number", limit, ("parameters", "limit")))
    elif limit is not None and limit <= 0:
        issues.append(
            bound("too_small", 0, ("parameters", "limit"), "Number must be greater than 0")
            | {"type": "number", "inclusive": False}
        )
    if (reset := value.get("limitReset")) is not None and reset not in RESETS:
        options = " | ".join(f"'{word}'" for word in RESETS)
        issues.append(
            {
                "received": reset,
                "code": "invalid_enum_value",
                "options": list(RESETS),
                "path": ["parameters", "limitReset"],
                "message": f"Invalid enum value. Expected {options}, received '{reset}'",
            }
        )
    if (byok := value.get("includeByokInLimit")) is not None and not isinstance(byok, bool):
        issues.append(mismatch("boolean", byok, ("parameters", "includeByokInLimit")))
    return {field: value[field] for field in ("name", "limit", "limitReset", "includeByokInLimit") if field in value}


def _mapping(value: object, issues: list[Issue]) -> str:
    if not isinstance(value, dict):
        issues.append(mismatch("object", value, ("secretsMapping",)))
        return ""
    path = ("secretsMapping", "apiKey")
    secret = value.get("apiKey", UNDEFINED)
    if not isinstance(secret, str):
        issues.append(mismatch("string", secret, path))
        return ""
    if not secret.strip():
        issues.append(bound("too_small", 1, path, "Secret name required"))
    if ":" in secret or "/" in secret:
        message = "Secret name cannot contain colon or forward slash."
        issues.append({"code": "custom", "message": message, "path": list(path)})
    return secret
