"""The stages that a request meets, in Infisical's order: the first that fails answers."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from provisioner.sandbox.simulator import bodies, validation
from provisioner.sandbox.simulator.answers import (
    Answer,
    BadUrl,
    Cut,
    NoRoute,
    Page,
    Refusal,
    Stopping,
    internal,
    success,
)
from provisioner.sandbox.simulator.clock import iso
from provisioner.sandbox.simulator.exchange import Exchange, Waits
from provisioner.sandbox.simulator.faults import Faults
from provisioner.sandbox.simulator.routes import Match, Route, is_decodable, match
from provisioner.sandbox.simulator.tokens import LONGEST, Token
from provisioner.sandbox.simulator.world import World

__all__ = ["Pipeline"]

Action = Callable[[Exchange], Awaitable[Any]]
PAGES = {"html-502": (502, "502 Bad Gateway"), "html-503": (503, "503 Service Unavailable")}
NO_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class Pipeline:
    """Carries requests from their arrival to their answer."""

    def __init__(self, world: World) -> None:
        self.waits = Waits()
        self._world = world
        connections, rotations = world.connections, world.rotations
        self._faults = {
            "create": world.faults,
            "create_rotation": world.rotation_faults,
            **dict.fromkeys(("patch", "delete", "patch_rotation", "delete_rotation"), world.change_faults),
        }
        self._actions: dict[str, Action] = {
            "create": connections.create,
            "list": connections.list,
            "get": connections.get,
            "get_by_name": connections.get_by_name,
            "patch": connections.patch,
            "delete": connections.delete,
            "create_rotation": rotations.create,
            "list_rotations": rotations.listed,
            "get_rotation": rotations.get,
            "get_rotation_by_name": rotations.get_by_name,
            "patch_rotation": rotations.patch,
            "delete_rotation": rotations.delete,
            "rotate": rotations.rotate,
            "generated_credentials": rotations.credentials,
            "get_secret": world.secrets.get,
            "get_raw_secret": world.secrets.get_raw,
            "list_projects": self._list_projects,
            "get_project": self._get_project,
            "openrouter_key": self._openrouter_key,
            "status": self._status,
            "universal": self._universal,
            "by_jwt": self._by_jwt,
            "renew": self._renew,
            "revoke": self._revoke,
        }

    async def answer(self, request: web.BaseRequest) -> Answer | None:
        """Return what to send; None if the connection was cut."""
        world = self._world
        path, _, query = request.raw_path.partition("?")
        if not is_decodable(path):
            return BadUrl(path).answer("")
        found = match(request.method, path)
        if found and found.route.action == "get_secret" and world.settings.old_secrets:
            found = None  # a server from before that route
        request_id = world.seeds.request_id()
        exchange = Exchange(
            request=request,
            request_id=request_id,
            params=found.params if found else {},
            waits=self.waits,
            cut_after=world.settings.cut_after,
            query=query,
        )
        if found:
            exchange.record = world.arrive(found.route.action, request_id)
        answer: Answer | None
        try:
            answer = await self._pass(exchange, found)
        except Cut:
            answer = None
        except Refusal as refusal:
            answer = refusal.answer(request_id)
        if exchange.is_cut:
            answer = None
        if answer is not None and exchange.record is not None:
            exchange.record.status = answer.status
        pattern = found.route.pattern if found else f"{request.method} (no route)"
        world.count(pattern, str(answer.status) if answer else "cut")
        return answer

    async def _pass(self, exchange: Exchange, found: Match | None) -> Answer:
        await self._outage(exchange)
        if found is None:
            return self._no_route(exchange.request)
        # Everything that takes time comes before the stages, which then run without a pause: so the order in which
        # creates pass the limiter is also the order in which faults are drawn.
        raw = b"" if exchange.request.method in NO_BODY else await bodies.read(exchange.request)
        await exchange.wait(self._world.settings.latency)
        if found.route.budget is not None:
            await self._world.pool.read(exchange, error="Find one")
        self._admit(exchange, found.route, raw)
        try:
            body = await self._actions[found.route.action](exchange)
        except Refusal as refusal:
            refusal.headers = exchange.headers
            raise
        plain = success(body)
        return Answer(status=plain.status, body=plain.body, headers=exchange.headers)

    async def _outage(self, exchange: Exchange) -> None:
        match self._world.settings.outage:
            case "refuse":
                raise Page(*PAGES["html-503"])
            case "reset":
                exchange.reset()
                raise Cut
            case "stopping":
                raise Stopping
            case "hang":
                await exchange.wait(math.inf)

    def _no_route(self, request: web.BaseRequest) -> Answer:
        if request.method == "OPTIONS":
            if "Origin" in request.headers and "Access-Control-Request-Method" in request.headers:
                return Answer(status=204)
            return Answer(status=400, body=b"Invalid Preflight Request", content_type="text/plain")
        if (
            self._world.settings.mode == "self-hosted"
            and self._world.settings.web_interface
            and request.method == "GET"
            and not request.path.startswith("/api")
        ):
            # A self-hosted instance serves its web interface under every other path.
            raise Page(200, "Infisical")
        raise NoRoute(request.method, request.raw_path)

    def _admit(self, exchange: Exchange, route: Route, raw: bytes) -> None:
        faults = self._faults.get(route.action)
        fault = faults.peek() if faults else None
        if faults and fault in PAGES:
            self._strike(faults, exchange, fault)
            raise Page(*PAGES[fault])
        if self._world.settings.maintenance and exchange.request.method not in NO_BODY:
            raise internal()
        token = self._authenticate(exchange, route)
        if token is not None and faults and fault == "token-expired":
            self._strike(faults, exchange, fault)
            raise self._world.tokens.expire(token)
        if exchange.request.method not in NO_BODY:
            exchange.body = bodies.parse(raw, exchange.request)
            self._note(exchange)
        self._limit(exchange, route)
        if faults:
            exchange.fault = fault
            faults.advance()

    def _strike(self, faults: Faults, exchange: Exchange, fault: str) -> None:
        faults.strike(fault)
        faults.advance()
        if exchange.record is not None:
            exchange.record.fault = fault

    def _authenticate(self, exchange: Exchange, route: Route) -> Token | None:
        headers = exchange.request.headers
        if route.action == "openrouter_key":  # who is asked there is OpenRouter, and the bearer a key of its own
            return None
        if "X-Api-Key" in headers:
            message = "API key authentication is not supported anymore. Please switch to using machine identities."
            raise Refusal(400, "BadRequest", message)
        # Routes that need no token check one that comes nevertheless.
        if not route.authenticated and not headers.get("Authorization"):
            return None
        return self._world.tokens.authenticate(headers.get("Authorization"))

    def _note(self, exchange: Exchange) -> None:
        body, record = exchange.body, exchange.record
        if record is not None and isinstance(body, dict):
            name, project_id = body.get("name"), body.get("projectId")
            record.name = name if isinstance(name, str) else None
            record.project_id = project_id if isinstance(project_id, str) else None

    def _limit(self, exchange: Exchange, route: Route) -> None:
        world = self._world
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

    async def _status(self, _: Exchange) -> dict[str, Any]:
        return {
            "date": iso(self._world.clock() + self._world.settings.clock_offset),
            "message": "Ok",
            "emailConfigured": True,
            "inviteOnlySignup": True,
            "redisConfigured": True,
            "secretScanningConfigured": False,
            "auditLogStorageDisabled": False,
            "maxIdentityAccessTokenTTL": LONGEST,
        }

    async def _universal(self, exchange: Exchange) -> dict[str, Any]:
        client_id, secret = validation.strings(exchange.body, ("clientId", "clientSecret"))
        return self._world.logins.universal(client_id, secret, validation.organization_slug(exchange.body))

    async def _by_jwt(self, exchange: Exchange) -> dict[str, Any]:
        identity_id, token = validation.strings(exchange.body, ("identityId", "jwt"))
        method = exchange.request.path.split("/")[4]
        return self._world.logins.by_jwt(method, identity_id, token, validation.organization_slug(exchange.body))

    async def _openrouter_key(self, exchange: Exchange) -> dict[str, Any]:
        key = exchange.request.headers.get("Authorization", "").removeprefix("Bearer ")
        return await self._world.connections.upstream.describe(key, wait=exchange.wait)

    async def _list_projects(self, exchange: Exchange) -> dict[str, Any]:
        kind = exchange.asked("type")
        projects = [self._world.store.details(project) for project in self._world.store.joined()]
        return {"projects": [project for project in projects if kind in {None, project["type"]}]}

    async def _get_project(self, exchange: Exchange) -> dict[str, Any]:
        project_id = exchange.params["projectId"]
        self._world.store.authorize_member(project_id)
        return {"project": self._world.store.details(project_id)}

    async def _renew(self, exchange: Exchange) -> dict[str, Any]:
        return self._world.logins.renew(*validation.strings(exchange.body, ("accessToken",)))

    async def _revoke(self, exchange: Exchange) -> dict[str, Any]:
        return self._world.logins.revoke(*validation.strings(exchange.body, ("accessToken",)))
