"""The routes under /_simulator: for tests and the curious. They need no token and touch no limiter."""

from typing import Any

import orjson
from aiohttp import web

from provisioner.sandbox.simulator.answers import Answer, success
from provisioner.sandbox.simulator.settings import SettingsError
from provisioner.sandbox.simulator.world import World

__all__ = ["PREFIX", "answer"]

PREFIX = "/_simulator/"


async def answer(world: World, request: web.BaseRequest) -> Answer:
    """Return the answer to a request under `PREFIX`."""
    match request.method, request.path:
        case "GET", "/_simulator/state":
            return success(world.state())
        case "POST", "/_simulator/settings":
            return _change(world, await request.read())
    return _problem(404, {"message": "There are GET /_simulator/state and POST /_simulator/settings"})


def _change(world: World, raw: bytes) -> Answer:
    try:
        changes = orjson.loads(raw)
    except ValueError:
        changes = None
    if not isinstance(changes, dict):
        return _problem(400, {"message": "the body must be a JSON object"})
    try:
        world.change(changes)
    except SettingsError as error:
        return _problem(400, {"message": str(error), "field": error.field})
    return success({"settings": world.settings.public()})


def _problem(status: int, body: dict[str, Any]) -> Answer:
    return Answer(status=status, body=orjson.dumps(body))
