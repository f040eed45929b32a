"""The server's checks of a request, and the issues of its 422: the shapes of zod, in zod's order."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from provisioner.sandbox.simulator.answers import Refusal
from provisioner.sandbox.simulator.model import UUID

__all__ = [
    "JS_SPACE",
    "UNDEFINED",
    "Changes",
    "NewConnection",
    "NewRotation",
    "RotationChanges",
    "connection_id",
    "connection_name",
    "create",
    "create_rotation",
    "mismatch",
    "organization_slug",
    "patch",
    "patch_rotation",
    "refuse",
    "strings",
]

UNDEFINED: Any = type("Undefined", (), {"__repr__": lambda _: "UNDEFINED"})()
"""A field that is missing, which is different from null."""

Issue = dict[str, Any]
Path = tuple[str, ...]

# The characters that String.prototype.trim removes; str.strip() removes others.
JS_SPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005"
    "\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
SLUG: Final = re.compile(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)?\Z")
NAME_LENGTH: Final = 64
DESCRIPTION_LENGTH: Final = 256
KEY_NAME_LENGTH: Final = 100
RESETS: Final = ("daily", "weekly", "monthly")
NOT_SUPPORTED: Final = "Not supported for OpenRouter Connections"
KINDS: Final[dict[type, str]] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
    type(UNDEFINED): "undefined",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConnection:
    """A valid create. `project_id` None means organization-wide; an empty string is what the client sent."""

    name: str
    api_key: str
    description: str | None
    project_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A valid update; fields that are UNDEFINED do not change."""

    name: str
    description: str | None
    api_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationChanges:
    """A valid update; fields that are UNDEFINED do not change."""

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


def refuse(issues: list[Issue]) -> None:
    """Raise the 422 if there are any issues."""
    if issues:
        raise Refusal(422, "ValidationFailure", issues)


def mismatch(expected: str, value: object, path: Path) -> Issue:
    """Return the issue for a value of the wrong type."""
    received = KINDS[type(value)]
    message = "Required" if value is UNDEFINED else f"Expected {expected}, received {received}"
    return {"code": "invalid_type", "expected": expected, "received": received, "path": list(path), "message": message}


class _Issues(list[Issue]):
    """The issues found in a body so far."""

    def is_a(self, expected: str, value: object, *path: str) -> bool:
        """Tell whether a value has this type; if not, add an issue."""
        if KINDS[type(value)] != expected:
            self.append(mismatch(expected, value, path))
        return KINDS[type(value)] == expected

    def text(self, fields: dict[str, Any], field: str) -> str:
        """Return a required text."""
        value = fields.get(field, UNDEFINED)
        return value if self.is_a("string", value, field) else ""

    def bound(self, code: str, limit: int, message: str, *path: str, **more: object) -> None:
        """Add an issue for a text or a number that is `too_small` or `too_big`."""
        edge = {"code": code, ("minimum" if code == "too_small" else "maximum"): limit, "type": "string"}
        self.append(edge | {"inclusive": True, "exact": False, "message": message, "path": list(path)} | more)

    def custom(self, message: str, *path: str) -> None:
        """Add an issue for one of Infisical's own rules."""
        self.append({"code": "custom", "message": message, "path": list(path)})


def _object(body: object, times: int) -> dict[str, Any]:
    """Return the fields of a body, or raise the 422 with so many issues."""
    if not isinstance(body, dict):
        refuse([mismatch("object", body, ())] * times)
    return cast("dict[str, Any]", body)


def length_in_utf16(text: str) -> int:
    """Return the length as JavaScript counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


# Shared by connections and rotations.


def _name(value: object, issues: _Issues) -> str:
    if not issues.is_a("string", value, "name"):
        return ""
    name = cast("str", value).strip(JS_SPACE)
    if not name:
        issues.bound("too_small", 1, "name field must be at least 1 lowercase character", "name")
    if length_in_utf16(name) > NAME_LENGTH:
        issues.bound("too_big", NAME_LENGTH, "name field must be at most 64 lowercase characters", "name")
    if not SLUG.match(name):
        issues.custom("name field can only contain lowercase letters, numbers, and hyphens", "name")
    return name


def _description(value: object, issues: _Issues) -> str | None:
    if value is None or not issues.is_a("string", value, "description"):
        return None
    text = cast("str", value).strip(JS_SPACE)
    if length_in_utf16(text) > DESCRIPTION_LENGTH:
        message = f"Description cannot exceed {DESCRIPTION_LENGTH} characters"
        issues.bound("too_big", DESCRIPTION_LENGTH, message, "description")
    return text


def _inner(value: Any, issues: _Issues, field: str) -> str | None:
    """Return the text `apiKey` of an object, with issues for both."""
    if not issues.is_a("object", value, field):
        return None
    text = value.get("apiKey", UNDEFINED)
    return text if issues.is_a("string", text, field, "apiKey") else None


# Connections. Their schema is an intersection of two objects, and each reports its issues.


def create(body: object) -> NewConnection:
    """Return the create in a body, or raise the 422."""
    fields, issues = _object(body, 2), _Issues()
    api_key = ""
    if fields.get("method") == "api-key":
        api_key = _api_key(fields.get("credentials", UNDEFINED), issues)
    else:
        message = "Invalid discriminator value. Expected 'api-key'"
        issues.append(
            {"code": "invalid_union_discriminator", "options": ["api-key"], "path": ["method"], "message": message}
        )
    name = _name(fields.get("name", UNDEFINED), issues)
    description = _description(fields.get("description"), issues)
    project_id = issues.text(fields, "projectId") if "projectId" in fields else None
    _check_unsupported(fields, issues)
    refuse(issues)
    return NewConnection(name=name, api_key=api_key, description=description, project_id=project_id)


def patch(body: object) -> Changes:
    """Return the update in a body, or raise the 422."""
    fields, issues = _object(body, 2), _Issues()
    api_key = _api_key(fields["credentials"], issues) if "credentials" in fields else UNDEFINED
    name = _name(fields["name"], issues) if "name" in fields else UNDEFINED
    description = _description(fields["description"], issues) if "description" in fields else UNDEFINED
    _check_unsupported(fields, issues)
    refuse(issues)
    return Changes(name=name, description=description, api_key=api_key)


def _api_key(credentials: object, issues: _Issues) -> str:
    given = _inner(credentials, issues, "credentials")
    key = (given or "").strip(JS_SPACE)
    if given is not None and not key:
        issues.bound("too_small", 1, "API Key required", "credentials", "apiKey")
    return key


def _check_unsupported(body: dict[str, Any], issues: _Issues) -> None:
    for field, may_be in (
        ("isPlatformManagedCredentials", False),
        ("gatewayId", None),
        ("gatewayPoolId", None),
        ("isAutoRotationEnabled", False),
        ("rotation", None),
    ):
        value = body.get(field, may_be)
        if value is may_be:
            continue
        if may_be is False:
            issue = {"received": value, "code": "invalid_literal", "expected": False, "message": NOT_SUPPORTED}
        else:
            union = [
                {"issues": [mismatch(expected, value, (field,)) | {"message": NOT_SUPPORTED}], "name": "ZodError"}
                for expected in ("undefined", "null")
            ]
            issue = {"code": "invalid_union", "unionErrors": union, "message": "Invalid input"}
        issues.append(issue | {"path": [field]})


# Rotations.


def create_rotation(body: object) -> NewRotation:
    """Return the create in a body, or raise the 422."""
    fields, issues = _object(body, 1), _Issues()
    found = NewRotation(
        name=_name(fields.get("name", UNDEFINED), issues),
        description=_description(fields.get("description"), issues),
        project_id=issues.text(fields, "projectId"),
        connection_id=issues.text(fields, "connectionId"),
        environment=issues.text(fields, "environment"),
        path=issues.text(fields, "secretPath"),
        auto=_auto(fields.get("isAutoRotationEnabled", True), issues),
        interval=_interval(fields.get("rotationInterval", UNDEFINED), issues),
        rotate_at=_rotate_at(fields.get("rotateAtUtc", {"hours": 0, "minutes": 0}), issues),
        parameters=_parameters(fields.get("parameters", UNDEFINED), issues),
        secret_name=_secret_name(fields.get("secretsMapping", UNDEFINED), issues),
    )
    refuse(issues)
    return found


def patch_rotation(body: object) -> RotationChanges:
    """Return the update in a body, or raise the 422."""
    fields, issues = _object(body, 1), _Issues()

    def given(field: str, read: Callable[[Any, _Issues], Any]) -> Any:
        return read(fields[field], issues) if field in fields else UNDEFINED

    changes = RotationChanges(
        name=given("name", _name),
        description=given("description", _description),
        auto=given("isAutoRotationEnabled", _auto),
        interval=given("rotationInterval", _interval),
        rotate_at=given("rotateAtUtc", _rotate_at),
        parameters=given("parameters", _parameters),
        secret_name=given("secretsMapping", _secret_name),
    )
    refuse(issues)
    return changes


def _auto(value: object, issues: _Issues) -> bool:
    return issues.is_a("boolean", value, "isAutoRotationEnabled") and bool(value)


def _interval(value: object, issues: _Issues) -> int:
    path = ("rotationInterval",)
    try:
        days = int(value)  # type: ignore[call-overload]  # the server coerces any value
    except (TypeError, ValueError):
        issue = {"code": "invalid_type", "expected": "number", "received": "nan", "path": list(path)}
        issues.append(issue | {"message": "Expected number, received nan"})
        return 0
    if days < 1:
        issues.bound("too_small", 1, "Number must be greater than or equal to 1", *path, type="number")
    return int(days)


def _rotate_at(value: Any, issues: _Issues) -> dict[str, int]:
    if not issues.is_a("object", value, "rotateAtUtc"):
        return {}
    for part, most in (("hours", 23), ("minutes", 59)):
        number = value.get(part, UNDEFINED)
        if issues.is_a("number", number, "rotateAtUtc", part) and not 0 <= number <= most:
            issues.bound(
                "too_big", most, f"Number must be less than or equal to {most}", "rotateAtUtc", part, type="number"
            )
    return {part: value.get(part, 0) for part in ("hours", "minutes")}


def _parameters(value: Any, issues: _Issues) -> dict[str, Any]:
    if not issues.is_a("object", value, "parameters"):
        return {}
    key_name, limit, reset = value.get("name", UNDEFINED), value.get("limit"), value.get("limitReset")
    if issues.is_a("string", key_name, "parameters", "name"):
        if not key_name.strip():
            issues.bound("too_small", 1, "Key name required", "parameters", "name")
        elif len(key_name) > KEY_NAME_LENGTH:
            message = f"String must contain at most {KEY_NAME_LENGTH} character(s)"
            issues.bound("too_big", KEY_NAME_LENGTH, message, "parameters", "name")
    if limit is not None and issues.is_a("number", limit, "parameters", "limit") and limit <= 0:
        issues.bound(
            "too_small", 0, "Number must be greater than 0", "parameters", "limit", type="number", inclusive=False
        )
    if reset is not None and reset not in RESETS:
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
    if (byok := value.get("includeByokInLimit")) is not None:
        issues.is_a("boolean", byok, "parameters", "includeByokInLimit")
    return {field: value[field] for field in ("name", "limit", "limitReset", "includeByokInLimit") if field in value}


def _secret_name(mapping: object, issues: _Issues) -> str:
    name = _inner(mapping, issues, "secretsMapping")
    if name is not None and not name.strip():
        issues.bound("too_small", 1, "Secret name required", "secretsMapping", "apiKey")
    if name is not None and (":" in name or "/" in name):
        issues.custom("Secret name cannot contain colon or forward slash.", "secretsMapping", "apiKey")
    return name or ""


# Logins, queries and paths.


def strings(body: object, names: Iterable[str]) -> list[str]:
    """Return these required texts of a body, or raise the 422."""
    fields, issues = _object(body, 1), _Issues()
    found = [issues.text(fields, name) for name in names]
    refuse(issues)
    return found


def organization_slug(body: object) -> str | None:
    """Return the organization that a login names, or raise the 422."""
    slug = body.get("organizationSlug", UNDEFINED) if isinstance(body, dict) else UNDEFINED
    if slug is UNDEFINED:
        return None
    issues = _Issues()
    if issues.is_a("string", slug, "organizationSlug") and not slug:
        issues.bound("too_small", 1, "Slug field must be at least 1 lowercase character", "organizationSlug")
    refuse(issues)
    return cast("str", slug)


def connection_id(value: str, field: str = "connectionId") -> str:
    """Return the id of a path, or raise the 422."""
    if not UUID.match(value):
        issue = {"validation": "uuid", "code": "invalid_string", "message": "Invalid uuid", "path": [field]}
        refuse([issue])
    return value.lower()


def connection_name(value: str) -> str:
    """Return the name of a path, or raise the 422."""
    name = value.strip(JS_SPACE)
    if not name:
        issues = _Issues()
        issues.bound("too_small", 1, "Connection name required", "connectionName")
        refuse(issues)
    return name
