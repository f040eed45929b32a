"""The app-connection routes, from validation on."""

from collections.abc import Callable
from typing import Any, Final

from provisioner.sandbox.simulator import openrouter, validation
from provisioner.sandbox.simulator.answers import Refusal, internal, not_found
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import APP, Connection
from provisioner.sandbox.simulator.validation import UNDEFINED, Changes, NewConnection
from provisioner.sandbox.simulator.world import World

__all__ = ["check_app", "create", "delete", "get", "get_by_name", "list_all", "patch"]

# The column counts characters; the check of the request counts UTF-16 units.
DESCRIPTION_COLUMN: Final = 255


async def create(exchange: Exchange) -> dict[str, Any]:
    """POST: validate, authorize, ask OpenRouter, insert; a fault may strike in between."""
    world = exchange.world
    wanted = validation.create(exchange.body)
    world.authorize(wanted.project_id, "create-app-connections")
    await exchange.delay()
    await world.pool.turn(exchange)
    await openrouter.validate(exchange, wanted.api_key)
    await exchange.before_commit()
    async with world.pool.transaction(exchange):
        connection = _insert(world, wanted)
    exchange.after_commit(connection.id)
    return _shown(world, connection)


def _insert(world: World, wanted: NewConnection) -> Connection:
    if wanted.project_id and not world.has_project(wanted.project_id):
        raise not_found(f"Project with ID '{wanted.project_id}' not found")  # deleted during the call to OpenRouter
    _check_description(wanted.description, error="Create")
    if wanted.project_id == "":
        # The server reports every violation of a foreign key like this.
        raise Refusal(400, "BadRequest", "The selected GitHub App no longer exists. Please try again.")
    return world.insert(
        name=wanted.name, description=wanted.description, project_id=wanted.project_id, api_key=wanted.api_key
    )


def _check_description(text: str | None, *, error: str) -> None:
    """Raise the 500 for a text that the database refuses: it is too long, or contains a zero byte."""
    if text is not None and (len(text) > DESCRIPTION_COLUMN or "\0" in text):
        raise internal(error=error)


async def list_all(exchange: Exchange) -> dict[str, Any]:
    """GET: the connections of one project, or of the whole organization, by name."""
    world = exchange.world
    project_id = exchange.asked("projectId") or None
    world.authorize(project_id, "read-app-connections", missing="Project with {} not found")
    found = [one for one in world.inside(project_id) if one.app == APP and _is_visible(world, one)]
    found.sort(key=lambda connection: connection.name)
    return {
        "appConnections": [
            one.public(world.organization_id) | {"project": one.project_id and world.project(one.project_id)}
            for one in found
        ]
    }


async def get(exchange: Exchange) -> dict[str, Any]:
    """GET by id."""
    world = exchange.world
    return _shown(world, _by_id(exchange, "read-app-connections", visible=lambda one: _is_visible(world, one)))


async def get_by_name(exchange: Exchange) -> dict[str, Any]:
    """GET by exact name in one project, or among the organization-wide ones."""
    world = exchange.world
    name = validation.connection_name(exchange.params["connectionName"])
    project_id = (exchange.asked("projectId") or "").strip(validation.JS_SPACE) or None
    if "\0" in name:
        raise internal(error="Find one")
    connection = world.named(name, project_id)
    if connection is None or not _is_visible(world, connection):
        scope = "project" if project_id else "organization"
        raise not_found(f"Could not find App Connection with name {name} in {scope} scope.")
    check_app(connection, f"name {name}")
    world.authorize(connection.project_id, "read-app-connections")
    return _shown(world, connection)


async def patch(exchange: Exchange) -> dict[str, Any]:
    """PATCH: validate, authorize, ask OpenRouter if the key changes, update."""
    world = exchange.world
    validation.connection_id(exchange.params["connectionId"])
    changes = validation.patch(exchange.body)
    _by_id(exchange, "edit-app-connections")
    await exchange.delay()
    if changes.api_key is UNDEFINED:
        await exchange.before_commit()
        connection = _change(exchange, changes)
    else:
        await world.pool.turn(exchange)
        await openrouter.validate(exchange, changes.api_key)
        await exchange.before_commit()
        async with world.pool.transaction(exchange):
            connection = _change(exchange, changes)
    exchange.after_commit()
    return _shown(world, connection)


def _change(exchange: Exchange, changes: Changes) -> Connection:
    world = exchange.world
    connection = _by_id(exchange, "edit-app-connections")  # it may have been deleted meanwhile
    if changes.description is not UNDEFINED:
        _check_description(changes.description, error="Update by id")
    if changes.name is not UNDEFINED:
        world.rename(connection, changes.name)
    if changes.description is not UNDEFINED:
        connection.description = changes.description
    if changes.api_key is not UNDEFINED:
        world.rewrite(connection, changes.api_key)
    connection.updated_at = world.stamp()
    return connection


async def delete(exchange: Exchange) -> dict[str, Any]:
    """DELETE."""
    world = exchange.world
    _by_id(exchange, "delete-app-connections")
    await exchange.before_commit()
    connection = _by_id(exchange, "delete-app-connections")
    if connection.used_by:
        message = "Cannot delete App Connection with existing connections. Remove them and try again."
        raise Refusal(400, "BadRequest", message)
    world.remove(connection)
    exchange.after_commit()
    return _shown(world, connection)


def _by_id(exchange: Exchange, ability: str, *, visible: Callable[[Connection], bool] = lambda _: True) -> Connection:
    identifier = validation.connection_id(exchange.params["connectionId"])
    connection = exchange.world.connections.get(identifier)
    if connection is None or not visible(connection):
        raise not_found(f"Could not find App Connection with ID {identifier}")
    check_app(connection, f"ID {identifier}")
    exchange.world.authorize(connection.project_id, ability)
    return connection


def check_app(connection: Connection, described: str) -> None:
    """Refuse a connection to anything other than OpenRouter."""
    if connection.app != APP:
        raise Refusal(400, "BadRequest", f'App Connection with {described} is not for App "{APP}"')


def _is_visible(world: World, connection: Connection) -> bool:
    return world.clock() >= connection.visible_at


def _shown(world: World, connection: Connection) -> dict[str, Any]:
    return {"appConnection": connection.public(world.organization_id)}
