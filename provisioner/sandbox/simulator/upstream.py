"""The call to OpenRouter inside a create: what it answers, and how long Infisical keeps trying."""

import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from provisioner.sandbox.simulator.answers import Refusal
from provisioner.sandbox.simulator.seeds import Seeds
from provisioner.sandbox.simulator.settings import Settings

__all__ = ["Upstream"]

ENDING = re.compile(r"-mode-(200|201|302|401|403|404|429|500|503|delay\d{1,4}|once429|once500|once503|hang|reset)\Z")
RETRY_DELAYS = (0.2, 0.4, 0.8)
JITTER = 0.2
SLOW = 5.0
RETRIED = frozenset({"500", "503", "reset", "down"})

Wait = Callable[[float], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Upstream:
    """Validates keys. The end of a key chooses the answer while OpenRouter is well, see `ENDING`."""

    settings: Settings
    seeds: Seeds

    async def validate(self, api_key: str, *, fault: str | None, wait: Wait) -> None:
        """Return if the key is accepted, or raise the one refusal for everything else.

        `fault` is `429` or `down` for a fault that strikes just this call.
        """
        state = fault or self._state(api_key)
        if state.startswith("delay"):
            await self._wait(wait, float(state.removeprefix("delay")))
        elif state == "slow":
            await self._wait(wait, SLOW)
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

    def _state(self, api_key: str) -> str:
        if self.settings.open_router != "ok":
            return self.settings.open_router
        ending = ENDING.search(api_key)
        return ending[1] if ending and ending[1] != "200" else "ok"

    async def _retry(self, wait: Wait, delay: float) -> None:
        await self._wait(wait, delay * (1 + JITTER * self.seeds.jitter()))

    async def _wait(self, wait: Wait, seconds: float) -> None:
        await wait(seconds * self.settings.upstream_pace)
