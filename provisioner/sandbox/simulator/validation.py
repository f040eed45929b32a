"""What the server checks in a request, and the 422 issues it lists: the shapes of zod, in zod's order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from provisioner.sandbox.simulator.answers import Refusal

__all__ = [
    "JS_SPACE",
    "UNDEFINED",
    "Changes",
    "NewConnection",
    "connection_id",
    "connection_name",
    "create",
    "mismatch",
    "organization_slug",
    "patch",
    "refuse",
    "single",
    "strings",
]

UNDEFINED: Any = type("Undefined", (), {"__repr__": lambda _: "UNDEFINED"})()
"""Stands for a field that is not there, which is not the same as null."""

Issue = dict[str, Any]
Path = tuple[str, ...]

# What String.prototype.trim removes, which is not quite what str.strip() does.
JS_SPACE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005"
    "\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
SLUG = re.compile(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)?\Z")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)
NAME_LENGTH = 64
NOT_SUPPORTED = "Not supported for OpenRouter Connections"
DESCRIPTION_LENGTH = 256
KINDS: dict[type, str] = {
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
    """A valid create. `project_id` None means organization-wide; the empty string is what a client really sent."""

    name: str
    api_key: str
    description: str | None
    project_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A valid update; what is UNDEFINED stays as it is."""

    name: str
    description: str | None
    api_key: str


def refuse(issues: list[Issue]) -> None:
    """Raise the 422 if there is anything to complain about."""
    if issues:
        raise Refusal(422, "ValidationFailure", issues)


def mismatch(expected: str, value: object, path: Path) -> Issue:
    """Return the issue of a value of the wrong type."""
    received = KINDS[type(value)]
    message = "Required" if value is UNDEFINED else f"Expected {expected}, received {received}"
    return {"code": "invalid_type", "expected": expected, "received": received, "path": list(path), "message": message}


def length_in_utf16(text: str) -> int:
    """Return what JavaScript calls the length."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def bound(code: str, limit: int, path: Path, message: str) -> Issue:
    """Return the issue of a text that is too short or too long."""
    return {
        "code": code,
        ("minimum" if code == "too_small" else "maximum"): limit,
        "type": "string",
        "inclusive": True,
        "exact": False,
        "message": message,
        "path": list(path),
    }


def read_name(value: object, issues: list[Issue]) -> str:
    """Return the name of what is to be made, noting what is wrong with it."""
    if not isinstance(value, str):
        issues.append(mismatch("string", value, ("name",)))
        return ""
    name = value.strip(JS_SPACE)
    if not name:
        issues.append(bound("too_small", 1, ("name",), "name field must be at least 1 lowercase character"))
    if length_in_utf16(name) > NAME_LENGTH:
        issues.append(bound("too_big", NAME_LENGTH, ("name",), "name field must be at most 64 lowercase characters"))
    if not SLUG.match(name):
        message = "name field can only contain lowercase letters, numbers, and hyphens"
        issues.append({"code": "custom", "message": message, "path": ["name"]})
    return name


def read_description(value: object, issues: list[Issue]) -> str | None:
    """Return the description, noting what is wrong with it."""
    if value is None:
        return None
    if not isinstance(value, str):
        issues.append(mismatch("string", value, ("description",)))
        return None
    text = value.strip(JS_SPACE)
    if length_in_utf16(text) > DESCRIPTION_LENGTH:
        message = f"Description cannot exceed {DESCRIPTION_LENGTH} characters"
        issues.append(bound("too_big", DESCRIPTION_LENGTH, ("description",), message))
    return text


def _api_key(credentials: object, issues: list[Issue]) -> str:
    if not isinstance(credentials, dict):
        issues.append(mismatch("object", credentials, ("credentials",)))
        return ""
    path = ("credentials", "apiKey")
    value = credentials.get("apiKey", UNDEFINED)
    if not isinstance(value, str):
        issues.append(mismatch("string", value, path))
        return ""
    key = value.strip(JS_SPACE)
    if not key:
        issues.append(bound("too_small", 1, path, "API Key required"))
    return key


def _unsupported(body: dict[str, Any], issues: list[Issue]) -> None:
    _false("isPlatformManagedCredentials", body, issues)
    _nothing("gatewayId", body, issues)
    _nothing("gatewayPoolId", body, issues)
    _false("isAutoRotationEnabled", body, issues)
    _nothing("rotation", body, issues)


def _false(field: str, body: dict[str, Any], issues: list[Issue]) -> None:
    value = body.get(field, False)
    if value is not False:
        issues.append(
            {
                "received": value,
                "code": "invalid_literal",
                "expected": False,
                "path": [field],
                "message": NOT_SUPPORTED,
            }
        )


def _nothing(field: str, body: dict[str, Any], issues: list[Issue]) -> None:
    value = body.get(field)
    if value is not None:
        union = [
            {"issues": [mismatch(expected, value, (field,)) | {"message": NOT_SUPPORTED}], "name": "ZodError"}
            for expected in ("undefined", "null")
        ]
        issues.append({"code": "invalid_union", "unionErrors": union, "path": [field], "message": "Invalid input"})


def read_object(body: object, times: int = 2) -> dict[str, Any]:
    """Return the fields of a body, or raise the 422, in which a schema complains so many times."""
    # The schema of a connection is an intersection of two objects, and each of them complains.
    if not isinstance(body, dict):
        refuse([mismatch("object", body, ())] * times)
    return cast("dict[str, Any]", body)


def create(body: object) -> NewConnection:
    """Return the valid create that a body asks for, or raise the 422."""
    fields = read_object(body)
    issues: list[Issue] = []
    api_key = ""
    if fields.get("method") == "api-key":
        api_key = _api_key(fields.get("credentials", UNDEFINED), issues)
    else:
        message = "Invalid discriminator value. Expected 'api-key'"
        issues.append(
            {"code": "invalid_union_discriminator", "options": ["api-key"], "path": ["method"], "message": message}
        )
    name = read_name(fields.get("name", UNDEFINED), issues)
    description = read_description(fields.get("description"), issues)
    project_id = fields.get("projectId", UNDEFINED)
    if project_id is UNDEFINED:
        project_id = None
    elif not isinstance(project_id, str):
        issues.append(mismatch("string", project_id, ("projectId",)))
    _unsupported(fields, issues)
    refuse(issues)
    return NewConnection(name=name, api_key=api_key, description=description, project_id=project_id)


def patch(body: object) -> Changes:
    """Return the valid update that a body asks for, or raise the 422."""
    fields = read_object(body)
    issues: list[Issue] = []
    api_key = _api_key(fields["credentials"], issues) if "credentials" in fields else UNDEFINED
    name = read_name(fields["name"], issues) if "name" in fields else UNDEFINED
    description = read_description(fields["description"], issues) if "description" in fields else UNDEFINED
    _unsupported(fields, issues)
    refuse(issues)
    return Changes(name=name, description=description, api_key=api_key)


def strings(body: object, names: Iterable[str]) -> list[str]:
    """Return these required texts of a body, or raise the 422."""
    if not isinstance(body, dict):
        refuse([mismatch("object", body, ())])
    fields = cast("dict[str, Any]", body)
    values = [(name, fields.get(name, UNDEFINED)) for name in names]
    refuse([mismatch("string", value, (name,)) for name, value in values if not isinstance(value, str)])
    return [value for _, value in values]


def organization_slug(body: object) -> str | None:
    """Return the organization that a login names, or raise the 422."""
    slug = body.get("organizationSlug", UNDEFINED) if isinstance(body, dict) else UNDEFINED
    path = ("organizationSlug",)
    if slug is UNDEFINED:
        return None
    if not isinstance(slug, str):
        refuse([mismatch("string", slug, path)])
    elif not slug:
        refuse([bound("too_small", 1, path, "Slug field must be at least 1 lowercase character")])
    return cast("str", slug)


def single(name: str, values: list[str]) -> str | None:
    """Return what a query says about one thing, or raise the 422 where it says it twice."""
    if len(values) > 1:
        refuse([mismatch("string", values, (name,))])
    return values[0] if values else None


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
        refuse([bound("too_small", 1, ("connectionName",), "Connection name required")])
    return name
