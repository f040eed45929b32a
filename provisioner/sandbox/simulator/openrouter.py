"""OpenRouter as Infisical uses it: it validates, issues and revokes keys."""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from provisioner.sandbox.simulator.answers import OpenRouterRefusal, Refusal
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import Connection, Key
from provisioner.sandbox.simulator.world import World

__all__ = ["describe", "is_well", "issue", "validate"]

# Suffixes of keys that select OpenRouter's answer.
ENDING: Final = re.compile(
    r"-mode-(inference|200|201|302|401|403|404|429|500|503|delay\d{1,4}|once429|once500|once503|hang|reset)\Z"
)
RETRY_DELAYS: Final = (0.2, 0.4, 0.8)
JITTER: Final = 0.2
SLOW: Final = 5.0
RETRIED: Final = frozenset({"500", "503", "reset", "down"})
ISSUING: Final = 0.05
# The state of OpenRouter that a fault simulates for a single call.
FAULTS: Final = {"openrouter-429": "429", "openrouter-down": "down"}


async def validate(exchange: Exchange, api_key: str) -> None:
    """Return if the key is accepted; everything else is the same refusal."""
    fault = FAULTS.get(exchange.fault or "")
    if fault:
        exchange.strike()
    state = fault or _state(exchange.world, api_key)
    for seconds in _delays(exchange.world, state):
        await exchange.wait(seconds)
    if state not in {"ok", "slow", "once500", "once503"} and not state.startswith("delay"):
        message = "Unable to validate connection: invalid API key or insufficient permissions"
        raise Refusal(401, "UnauthorizedError", message)


def _delays(world: World, state: str) -> Iterator[float]:
    """Return what the call waits for: a slow answer, or the pauses between retries."""
    pace = world.settings.upstream_pace
    if state == "hang":
        yield math.inf
    elif state == "slow" or state.startswith("delay"):
        yield pace * (SLOW if state == "slow" else float(state.removeprefix("delay")))
    else:
        retries = RETRY_DELAYS[:1] if state.startswith("once") else RETRY_DELAYS if state in RETRIED else ()
        for delay in retries:
            yield pace * delay * (1 + JITTER * world.seeds.jitter())


async def describe(exchange: Exchange) -> dict[str, Any]:
    """GET what OpenRouter itself says about the bearer's key."""
    api_key = exchange.request.headers.get("Authorization", "").removeprefix("Bearer ")
    state = _state(exchange.world, api_key)
    if state.startswith("delay"):
        await exchange.wait(float(state.removeprefix("delay")))
    elif state in {"hang", "reset", "down"}:
        await exchange.wait(math.inf)
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


async def issue(exchange: Exchange, connection: Connection, parameters: dict[str, Any]) -> Key:
    """Issue a key at OpenRouter, or raise its refusal."""
    world = exchange.world
    await exchange.wait(ISSUING * world.settings.upstream_pace)
    refused = exchange.fault == "key-refused"
    if refused:
        exchange.strike()
    if refused or not is_well(world):
        message = "Failed to create OpenRouter API key: Request failed with status code 402"
        raise Refusal(400, "BadRequest", message)
    return world.issue(made_by=connection.fingerprint, parameters=parameters)


def is_well(world: World) -> bool:
    """Tell whether OpenRouter issues and revokes keys at the moment."""
    return world.settings.open_router in {"ok", "slow"}


def _state(world: World, api_key: str) -> str:
    """Return how OpenRouter reacts to a key."""
    if world.settings.open_router != "ok":
        return world.settings.open_router
    ending = ENDING.search(api_key)
    return ending[1] if ending and ending[1] != "200" else "ok"
