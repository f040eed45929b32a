"""The app-connection routes, from validation on, and the call to OpenRouter inside a create."""

import math
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from provisioner.sandbox.simulator import validation
from provisioner.sandbox.simulator.answers import OpenRouterRefusal, Refusal, internal, not_found
from provisioner.sandbox.simulator.clock import Clock, iso
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.mishaps import Mishaps
from provisioner.sandbox.simulator.model import APP, Connection, Store
from provisioner.sandbox.simulator.pool import Pool
from provisioner.sandbox.simulator.seeds import Seeds
from provisioner.sandbox.simulator.settings import Plant, Settings
from provisioner.sandbox.simulator.validation import UNDEFINED, Changes, NewConnection

__all__ = ["Connections", "Upstream"]

# What OpenRouter answers to keys that end so.
ENDING = re.compile(
    r"-mode-(inference|200|201|302|401|403|404|429|500|503|delay\d{1,4}|once429|once500|once503|hang|reset)\Z"
)
RETRY_DELAYS = (0.2, 0.4, 0.8)
JITTER = 0.2
OPENROUTER_SLOW = 5.0
RETRIED = frozenset({"500", "503", "reset", "down"})

# The column's length in characters, while the request is checked for its length in UTF-16.
DESCRIPTION_COLUMN = 255

Wait = Callable[[float], Awaitable[None]]


def _store_description(text: str | None, *, error: str) -> None:
    """Raise the 500 of a text that the database does not take: it is too long, or has a zero byte."""
    if text is not None and (len(text) > DESCRIPTION_COLUMN or "\0" in text):
        raise internal(error=error)


@dataclass(slots=True, kw_only=True)
class Upstream:
    """Validates keys. The end of a key chooses the answer while OpenRouter is well, see `ENDING`."""

    settings: Settings
    seeds: Seeds

    async def validate(self, api_key: str, *, fault: str | None, wait: Wait) -> None:
        """Return if the key is accepted, or raise the one refusal for everything else.

        `fault` is `429` or `down` for a fault that strikes just this call.
        """
        state = fault or self.state(api_key)
        if state.startswith("delay"):
            await self._wait(wait, float(state.removeprefix("delay")))
        elif state == "slow":
            await self._wait(wait, OPENROUTER_SLOW)
        elif state == "hang":
            await wait(math.inf)
        elif state in {"once500", "once503"}:
            await self._retry(wait, RETRY_DELAYS[0])
        elif state != "ok":
            if state in RETRIED:
                for delay in RETRY_DELAYS:
                    await self._retry(wait, delay)
            message = "Unable to validate connection: invalid API key or insufficient permissions"
            raise Refusal(401, "UnauthorizedError", message)

    async def describe(self, api_key: str, *, wait: Wait) -> dict[str, Any]:
        """What OpenRouter itself says of a key, or raise its refusal."""
        state = self.state(api_key)
        if state.startswith("delay"):
            await wait(float(state.removeprefix("delay")))
        elif state in {"hang", "reset", "down"}:
            await wait(math.inf)
        elif state in {"401", "404", "302"} or not api_key:
            raise OpenRouterRefusal(401, "User not found.")
        elif state.isdigit() and state != "201":
            raise OpenRouterRefusal(int(state), "OpenRouter is in trouble.")
        management = state != "inference"
        return {
            "data": {
                "label": f"{api_key[:12]}...",
                "is_management_key": management,
                "is_provisioning_key": management,
                "limit": None,
                "usage": 0,
                "expires_at": None,
            }
        }

    def state(self, api_key: str) -> str:
        """What OpenRouter does with a key."""
        if self.settings.open_router != "ok":
            return self.settings.open_router
        ending = ENDING.search(api_key)
        return ending[1] if ending and ending[1] != "200" else "ok"

    async def _retry(self, wait: Wait, delay: float) -> None:
        await self._wait(wait, delay * (1 + JITTER * self.seeds.jitter()))

    async def _wait(self, wait: Wait, seconds: float) -> None:
        await wait(seconds * self.settings.upstream_pace)


@dataclass(slots=True, kw_only=True)
class Connections:
    """Creates, reads, changes and deletes connections."""

    store: Store
    upstream: Upstream
    pool: Pool
    mishaps: Mishaps
    settings: Settings
    clock: Clock

    async def create(self, exchange: Exchange) -> dict[str, Any]:
        """POST: validate, authorize, ask OpenRouter, insert; a fault may come in between."""
        wanted = validation.create(exchange.body)
        self.store.authorize(wanted.project_id, "create-app-connections")
        await self.mishaps.delay(exchange)
        down = {"openrouter-429": "429", "openrouter-down": "down"}.get(exchange.fault or "")
        if down:
            self.mishaps.strike(exchange)
        await self.pool.turn(exchange)
        await self.upstream.validate(wanted.api_key, fault=down, wait=exchange.wait)
        await self.mishaps.before_commit(exchange)
        async with self.pool.transaction(exchange):
            connection = self._insert(wanted)
            if exchange.record is not None:
                exchange.record.committed = True
                exchange.record.connection_id = connection.id
        self.mishaps.after_commit(exchange)
        return self._shown(connection)

    def _insert(self, wanted: NewConnection) -> Connection:
        if wanted.project_id and not self.store.has_project(wanted.project_id):
            raise not_found(f"Project with ID '{wanted.project_id}' not found")  # deleted while OpenRouter was asked
        _store_description(wanted.description, error="Create")
        if wanted.project_id == "":
            # Every violation of a foreign key is taken for this one.
            raise Refusal(400, "BadRequest", "The selected GitHub App no longer exists. Please try again.")
        now = self.clock()
        return self.store.insert(
            name=wanted.name,
            description=wanted.description,
            project_id=wanted.project_id,
            api_key=wanted.api_key,
            created_at=self._timestamp(now),
            visible_at=now + self.settings.replica_lag,
        )

    def plant(self, plants: Iterable[Plant]) -> None:
        """Let connections of somebody else exist, visible at once; the names must be free."""
        now = self.clock()
        for plant in plants:
            self.store.insert(
                name=plant.name,
                description=plant.description,
                project_id=plant.project_id,
                api_key=plant.api_key,
                created_at=self._timestamp(now) if plant.created_at is None else iso(plant.created_at),
                visible_at=now,
                app=plant.app,
                planted=True,
            )

    async def list(self, exchange: Exchange) -> dict[str, Any]:
        """GET: the connections of one project, or of the whole organization, by name."""
        project_id = exchange.asked("projectId") or None
        self.store.authorize(project_id, "read-app-connections", missing="Project with {} not found")
        found = [
            connection
            for connection in self.store.inside(project_id)
            if connection.app == APP and self._visible(connection)
        ]
        found.sort(key=lambda connection: connection.name)
        return {
            "appConnections": [
                self._shown(connection)["appConnection"] | {"project": self.store.project(connection.project_id)}
                for connection in found
            ]
        }

    async def get(self, exchange: Exchange) -> dict[str, Any]:
        """GET by id."""
        return self._shown(self._by_id(exchange, "read-app-connections", visible=self._visible))

    async def get_by_name(self, exchange: Exchange) -> dict[str, Any]:
        """GET by exact name in one project, or among the organization-wide ones."""
        name = validation.connection_name(exchange.params["connectionName"])
        project_id = (exchange.asked("projectId") or "").strip(validation.JS_SPACE) or None
        if "\0" in name:
            raise internal(error="Find one")
        connection = self.store.named(name, project_id)
        if connection is None or not self._visible(connection):
            scope = "project" if project_id else "organization"
            raise not_found(f"Could not find App Connection with name {name} in {scope} scope.")
        self._check_app(connection, f"name {name}")
        self.store.authorize(connection.project_id, "read-app-connections")
        return self._shown(connection)

    async def patch(self, exchange: Exchange) -> dict[str, Any]:
        """PATCH: another name, description or key."""
        validation.connection_id(exchange.params["connectionId"])
        changes = validation.patch(exchange.body)
        self._by_id(exchange, "edit-app-connections")
        await self.mishaps.delay(exchange)
        if changes.api_key is UNDEFINED:
            await self.mishaps.before_commit(exchange)
            changed = self._change(self._by_id(exchange, "edit-app-connections"), changes)
        else:
            await self.pool.turn(exchange)
            down = {"openrouter-429": "429", "openrouter-down": "down"}.get(exchange.fault or "")
            if down:
                self.mishaps.strike(exchange)
            await self.upstream.validate(changes.api_key, fault=down, wait=exchange.wait)
            await self.mishaps.before_commit(exchange)
            async with self.pool.transaction(exchange):
                # It may have been deleted meanwhile.
                changed = self._change(self._by_id(exchange, "edit-app-connections"), changes)
        self.mishaps.after_commit(exchange)
        return changed

    def _change(self, connection: Connection, changes: Changes) -> dict[str, Any]:
        if changes.description is not UNDEFINED:
            _store_description(changes.description, error="Update by id")
        if changes.name is not UNDEFINED:
            self.store.rename(connection, changes.name)
        if changes.description is not UNDEFINED:
            connection.description = changes.description
        if changes.api_key is not UNDEFINED:
            self.store.rewrite(connection, changes.api_key)
        connection.updated_at = self._timestamp(self.clock())
        return self._shown(connection)

    async def delete(self, exchange: Exchange) -> dict[str, Any]:
        """DELETE."""
        self._by_id(exchange, "delete-app-connections")
        await self.mishaps.before_commit(exchange)
        connection = self._by_id(exchange, "delete-app-connections")
        if connection.used_by:
            message = "Cannot delete App Connection with existing connections. Remove them and try again."
            raise Refusal(400, "BadRequest", message)
        self.store.remove(connection)
        self.mishaps.after_commit(exchange)
        return self._shown(connection)

    def _by_id(
        self, exchange: Exchange, ability: str, *, visible: Callable[[Connection], bool] = lambda _: True
    ) -> Connection:
        identifier = validation.connection_id(exchange.params["connectionId"])
        connection = self.store.connections.get(identifier)
        if connection is None or not visible(connection):
            raise not_found(f"Could not find App Connection with ID {identifier}")
        self._check_app(connection, f"ID {identifier}")
        self.store.authorize(connection.project_id, ability)
        return connection

    def _check_app(self, connection: Connection, described: str) -> None:
        if connection.app != APP:
            message = f'App Connection with {described} is not for App "{APP}"'
            raise Refusal(400, "BadRequest", message)

    def _visible(self, connection: Connection) -> bool:
        return self.clock() >= connection.visible_at

    def _timestamp(self, now: float) -> str:
        return iso(now + self.settings.clock_offset)

    def _shown(self, connection: Connection) -> dict[str, Any]:
        return {"appConnection": connection.public(self.store.organization_id)}
