"""Which routes there are, and which pattern a URL belongs to: the rate limiter counts by pattern."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, unquote_to_bytes

__all__ = ["Match", "Route", "is_decodable", "match"]

Budget = Literal["write_limit", "read_limit", "login_limit", "secret_limit"]

CONNECTIONS = "/api/v1/app-connections/open-router"
ROTATIONS = "/api/v2/secret-rotations/open-router-api-key"
AUTH = "/api/v1/auth"
SECRETS = "/api/v4/secrets"
RAW_SECRETS = "/api/v3/secrets/raw"
PROJECTS = "/api/v1/projects"
JWT_METHODS = ("kubernetes-auth", "oidc-auth", "jwt-auth")
MAX_PARAM = 100


@dataclass(frozen=True, slots=True)
class Route:
    """One route; without `budget` it is exempt from the limiter."""

    action: str
    pattern: str
    budget: Budget | None = "login_limit"
    authenticated: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A route with the parameters of one URL."""

    route: Route
    params: Mapping[str, str]


def _connection(action: str, method: str, suffix: str, budget: Budget) -> Route:
    return Route(action, f"{method} {CONNECTIONS}{suffix}", budget, authenticated=True)


def _rotation(action: str, method: str, suffix: str, budget: Budget) -> Route:
    return Route(action, f"{method} {ROTATIONS}{suffix}", budget, authenticated=True)


STATUS = Route("status", "GET /api/status", None)
OPENROUTER_KEY = "/openrouter/api/v1/key"
FIXED: dict[tuple[str, str], Route] = {
    ("POST", CONNECTIONS): _connection("create", "POST", "", "write_limit"),
    ("GET", CONNECTIONS): _connection("list", "GET", "", "read_limit"),
    ("POST", ROTATIONS): _rotation("create_rotation", "POST", "", "write_limit"),
    ("GET", ROTATIONS): _rotation("list_rotations", "GET", "", "read_limit"),
    ("GET", "/api/status"): STATUS,
    ("GET", OPENROUTER_KEY): Route("openrouter_key", f"GET {OPENROUTER_KEY}", None),
    ("GET", PROJECTS): Route("list_projects", f"GET {PROJECTS}", "read_limit", authenticated=True),
    ("POST", f"{AUTH}/universal-auth/login"): Route("universal", f"POST {AUTH}/universal-auth/login"),
    ("POST", f"{AUTH}/token/renew"): Route("renew", f"POST {AUTH}/token/renew"),
    ("POST", f"{AUTH}/token/revoke"): Route("revoke", f"POST {AUTH}/token/revoke"),
    **{("POST", f"{AUTH}/{name}/login"): Route("by_jwt", f"POST {AUTH}/{name}/login") for name in JWT_METHODS},
}
BY_NAME = _connection("get_by_name", "GET", "/connection-name/{connectionName}", "read_limit")
BY_ID: dict[str, Route] = {
    "GET": _connection("get", "GET", "/{connectionId}", "read_limit"),
    "PATCH": _connection("patch", "PATCH", "/{connectionId}", "write_limit"),
    "DELETE": _connection("delete", "DELETE", "/{connectionId}", "write_limit"),
}

ROTATION = "/{rotationId}"
# By method and by what comes behind an id.
ROTATION_ROUTES: dict[tuple[str, str], Route] = {
    ("GET", ""): _rotation("get_rotation", "GET", ROTATION, "read_limit"),
    ("PATCH", ""): _rotation("patch_rotation", "PATCH", ROTATION, "write_limit"),
    ("DELETE", ""): _rotation("delete_rotation", "DELETE", ROTATION, "write_limit"),
    ("POST", "rotate-secrets"): _rotation("rotate", "POST", f"{ROTATION}/rotate-secrets", "write_limit"),
    ("GET", "generated-credentials"): _rotation(
        "generated_credentials", "GET", f"{ROTATION}/generated-credentials", "read_limit"
    ),
}
ROTATION_BY_NAME = _rotation("get_rotation_by_name", "GET", "/rotation-name/{rotationName}", "read_limit")

SECRET = Route("get_secret", f"GET {SECRETS}/{{secretName}}", "secret_limit", authenticated=True)
RAW_SECRET = Route("get_raw_secret", f"GET {RAW_SECRETS}/{{secretName}}", "secret_limit", authenticated=True)
PROJECT = Route("get_project", f"GET {PROJECTS}/{{projectId}}", "read_limit", authenticated=True)
BY_PREFIX = ((SECRETS, SECRET, "secretName"), (RAW_SECRETS, RAW_SECRET, "secretName"), (PROJECTS, PROJECT, "projectId"))
# A percent sign without two hexadecimal digits.
BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_decodable(path: str) -> bool:
    """Tell whether the router can read the path at all."""
    if BROKEN.search(path):
        return False
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def match(method: str, path: str) -> Match | None:
    """Return the route of a path without its query, or None. A trailing slash does not matter."""
    path = path.removesuffix("/")
    if method == "HEAD":
        method = "GET"
    route = FIXED.get((method, path))
    if route is not None:
        return Match(route, {})
    for prefix, found, parameter in BY_PREFIX:
        if method == "GET" and path.startswith(f"{prefix}/"):
            name = path.removeprefix(f"{prefix}/")
            return Match(found, {parameter: unquote(name)}) if name and "/" not in name else None
    if path.startswith(f"{ROTATIONS}/"):
        return _match_rotation(method, path.removeprefix(f"{ROTATIONS}/"))
    return (
        _match_connection(method, path.removeprefix(f"{CONNECTIONS}/")) if path.startswith(f"{CONNECTIONS}/") else None
    )


def _match_connection(method: str, rest: str) -> Match | None:
    head, _, tail = rest.partition("/")
    if len(tail or head) > MAX_PARAM or "/" in tail:
        return None
    if tail:
        return (
            Match(BY_NAME, {"connectionName": unquote(tail)}) if (method, head) == ("GET", "connection-name") else None
        )
    by_id = BY_ID.get(method)
    return Match(by_id, {"connectionId": unquote(head)}) if by_id else None


def _match_rotation(method: str, rest: str) -> Match | None:
    head, _, tail = rest.partition("/")
    if len(head) > MAX_PARAM or len(tail) > MAX_PARAM or "/" in tail:
        return None
    if head == "rotation-name" and tail:
        return Match(ROTATION_BY_NAME, {"rotationName": unquote(tail)}) if method == "GET" else None
    route = ROTATION_ROUTES.get((method, tail))
    return Match(route, {"rotationId": unquote(head)}) if route else None
