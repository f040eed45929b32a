"""The routes, and the checks before them in Infisical's order: the first that fails answers the request."""

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import unquote, unquote_to_bytes

from aiohttp import web

from provisioner.sandbox.simulator import connections, identity, openrouter, projects, rotations
from provisioner.sandbox.simulator.answers import (
    Answer,
    BadUrl,
    Cut,
    NoRoute,
    Page,
    Refusal,
    Stopping,
    answer_of,
    internal,
)
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import Token
from provisioner.sandbox.simulator.world import World

__all__ = ["answer", "match"]

PAGES: Final = {"html-502": (502, "502 Bad Gateway"), "html-503": (503, "503 Service Unavailable")}
NO_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# A percent sign without two hexadecimal digits.
BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


async def _status(exchange: Exchange) -> dict[str, Any]:
    return {
        "date": exchange.world.stamp(),
        "message": "Ok",
        "emailConfigured": True,
        "inviteOnlySignup": True,
        "redisConfigured": True,
        "secretScanningConfigured": False,
        "auditLogStorageDisabled": False,
        "maxIdentityAccessTokenTTL": identity.LONGEST,
    }


Action = Callable[[Exchange], Awaitable[Any]]
Budget = Literal["write_limit", "read_limit", "login_limit", "secret_limit"]
FaultsOf = Literal["faults", "rotation_faults", "change_faults"]
CreatesOf = Literal["creates", "rotation_creates"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route; without `budget` it is exempt from the rate limiter, which counts by pattern.

    `faults` and `creates` name the world's faults that may strike it, and its list of creates.
    """

    action: Action
    method: str
    path: str
    budget: Budget | None
    authenticated: bool = True
    faults: FaultsOf | None = None
    creates: CreatesOf | None = None

    @property
    def pattern(self) -> str:
        """Its name for the limiter and the counts."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Match:
    """A route with the parameters of one URL."""

    route: Route
    params: Mapping[str, str] = field(default_factory=dict)


CONNECTIONS: Final = "/api/v1/app-connections/open-router"
ROTATIONS: Final = "/api/v2/secret-rotations/open-router-api-key"
PROJECTS: Final = "/api/v1/projects"


def _create(action: Action, path: str, faults: FaultsOf, creates: CreatesOf) -> Route:
    return Route(action, "POST", path, "write_limit", faults=faults, creates=creates)


def _read(action: Action, path: str, budget: Budget = "read_limit") -> Route:
    return Route(action, "GET", path, budget)


def _change(action: Action, method: str, path: str) -> Route:
    return Route(action, method, path, "write_limit", faults="change_faults")


def _open(action: Action, method: str, path: str, budget: Budget | None = "login_limit") -> Route:
    return Route(action, method, path, budget, authenticated=False)


ROUTES: Final = (
    _create(connections.create, CONNECTIONS, "faults", "creates"),
    _read(connections.list_all, CONNECTIONS),
    _read(connections.get_by_name, f"{CONNECTIONS}/connection-name/{{connectionName}}"),
    _read(connections.get, f"{CONNECTIONS}/{{connectionId}}"),
    _change(connections.patch, "PATCH", f"{CONNECTIONS}/{{connectionId}}"),
    _change(connections.delete, "DELETE", f"{CONNECTIONS}/{{connectionId}}"),
    _create(rotations.create, ROTATIONS, "rotation_faults", "rotation_creates"),
    _read(rotations.list_all, ROTATIONS),
    _read(rotations.get_by_name, f"{ROTATIONS}/rotation-name/{{rotationName}}"),
    _read(rotations.get, f"{ROTATIONS}/{{rotationId}}"),
    _change(rotations.patch, "PATCH", f"{ROTATIONS}/{{rotationId}}"),
    _change(rotations.delete, "DELETE", f"{ROTATIONS}/{{rotationId}}"),
    Route(rotations.rotate, "POST", f"{ROTATIONS}/{{rotationId}}/rotate-secrets", "write_limit"),
    _read(rotations.credentials, f"{ROTATIONS}/{{rotationId}}/generated-credentials"),
    _read(projects.list_projects, PROJECTS),
    _read(projects.get_project, f"{PROJECTS}/{{projectId}}"),
    _read(projects.get_secret, "/api/v4/secrets/{secretName}", "secret_limit"),
    _read(projects.get_raw_secret, "/api/v3/secrets/raw/{secretName}", "secret_limit"),
    _open(identity.universal, "POST", "/api/v1/auth/universal-auth/login"),
    *(_open(identity.by_jwt, "POST", f"/api/v1/auth/{method}/login") for method in identity.METHODS),
    _open(identity.renew, "POST", "/api/v1/auth/token/renew"),
    _open(identity.revoke, "POST", "/api/v1/auth/token/revoke"),
    _open(_status, "GET", "/api/status", None),
    _open(openrouter.describe, "GET", "/openrouter/api/v1/key", None),
)
FIXED: Final = {(route.method, route.path): route for route in ROUTES if "{" not in route.path}
# The router accepts up to a hundred characters for an id or a name, except for secrets and projects.
PARAMETERS: Final = {"secretName": "[^/]+", "projectId": "[^/]+"}


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", lambda it: f"(?P<{it[1]}>{PARAMETERS.get(it[1], '[^/]{0,100}')})", path))


PATTERNS: Final = [(route, _compiled(route.path)) for route in ROUTES if "{" in route.path]


def match(method: str, path: str) -> Match | None:
    """Return the route of a path without its query, or None. A trailing slash does not matter."""
    path = path.removesuffix("/")
    method = "GET" if method == "HEAD" else method
    if route := FIXED.get((method, path)):
        return Match(route)
    for route, pattern in PATTERNS:
        if route.method == method and (found := pattern.fullmatch(path)):
            return Match(route, {name: unquote(value) for name, value in found.groupdict().items()})
    return None


def _is_decodable(path: str) -> bool:
    """Tell whether the router can decode the path."""
    if BROKEN.search(path):
        return False
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


async def answer(world: World, request: web.BaseRequest) -> Answer | None:
    """Return what to send; None if the connection was cut."""
    path, _, query = request.raw_path.partition("?")
    if not _is_decodable(path):
        return BadUrl(path).answer("")
    found = match(request.method, path)
    if found and found.route.action is projects.get_secret and world.settings.old_secrets:
        found = None  # a server that is older than the route
    route = found.route if found else None
    exchange = Exchange(
        world=world,
        request=request,
        request_id=world.seeds.request_id(),
        params=found.params if found else {},
        query=query,
        faults=getattr(world, route.faults) if route and route.faults else None,
    )
    if route and route.creates:
        exchange.record = world.arrive(getattr(world, route.creates), exchange.request_id)
    sent: Answer | None
    try:
        sent = await _pass(exchange, route)
    except Cut:
        sent = None
    except Refusal as refusal:
        sent = refusal.answer(exchange.request_id)
    if exchange.is_cut:
        sent = None
    if sent is not None and exchange.record is not None:
        exchange.record.status = sent.status
    world.count(route.pattern if route else f"{request.method} (no route)", str(sent.status) if sent else "cut")
    return sent


async def _pass(exchange: Exchange, route: Route | None) -> Answer:
    world = exchange.world
    await _meet_outage(exchange)
    if route is None:
        return _no_route(exchange)
    # Everything that takes time comes first. The checks then run without a pause, so creates draw their faults in
    # the order in which they pass the limiter.
    raw = b"" if exchange.request.method in NO_BODY else await exchange.read()
    await exchange.wait(world.settings.latency)
    if route.budget is not None:
        await world.pool.read(exchange, error="Find one")
    _admit(exchange, route, raw)
    try:
        body = await route.action(exchange)
    except Refusal as refusal:
        refusal.headers = exchange.headers
        raise
    return answer_of(body, headers=exchange.headers)


async def _meet_outage(exchange: Exchange) -> None:
    match exchange.world.settings.outage:
        case "refuse":
            raise Page(*PAGES["html-503"])
        case "reset":
            exchange.reset()
        case "stopping":
            raise Stopping
        case "hang":
            await exchange.wait(math.inf)


def _no_route(exchange: Exchange) -> Answer:
    request, settings = exchange.request, exchange.world.settings
    if request.method == "OPTIONS":
        if "Origin" in request.headers and "Access-Control-Request-Method" in request.headers:
            return Answer(status=204)
        return Answer(status=400, body=b"Invalid Preflight Request", content_type="text/plain")
    outside = request.method == "GET" and not request.path.startswith("/api")
    if settings.mode == "self-hosted" and settings.web_interface and outside:
        # A self-hosted instance serves its web interface under all other paths.
        raise Page(200, "Infisical")
    raise NoRoute(request.method, request.raw_path)


def _admit(exchange: Exchange, route: Route, raw: bytes) -> None:
    world, faults = exchange.world, exchange.faults
    fault = faults.peek() if faults else None

    def meet() -> None:
        """End this request with the fault that was drawn."""
        exchange.fault = fault
        exchange.strike()
        if faults:
            faults.advance()

    if fault in PAGES:
        meet()
        raise Page(*PAGES[fault])
    if world.settings.maintenance and exchange.request.method not in NO_BODY:
        raise internal()
    token = _authenticate(exchange, route)
    if token is not None and fault == "token-expired":
        meet()
        token.end = "expired"
        raise identity.expired()
    if exchange.request.method not in NO_BODY:
        exchange.parse(raw)
    _limit(exchange, route)
    exchange.fault = fault
    if faults:
        faults.advance()


def _authenticate(exchange: Exchange, route: Route) -> Token | None:
    headers = exchange.request.headers
    if route.action is openrouter.describe:  # this call goes to OpenRouter, and the bearer is one of its keys
        return None
    if "X-Api-Key" in headers:
        message = "API key authentication is not supported anymore. Please switch to using machine identities."
        raise Refusal(400, "BadRequest", message)
    # Routes that need no token still check one that is sent.
    if not route.authenticated and not headers.get("Authorization"):
        return None
    return identity.authenticate(exchange.world, headers.get("Authorization"))


def _limit(exchange: Exchange, route: Route) -> None:
    world = exchange.world
    if route.budget is None or world.settings.mode != "cloud":
        return
    verdict = world.limiter.hit(
        address=exchange.address,
        route=route.pattern,
        limit=getattr(world.settings, route.budget),
        length=world.settings.window,
        now=world.clock(),
    )
    exchange.headers = verdict.headers()
    if not verdict.allowed:
        message = f"Rate limit exceeded. Please try again in {verdict.reset} seconds"
        raise Refusal(429, "RateLimitExceeded", message, headers=exchange.headers)
