"""The simulator's time: seconds since 1970 that never jump, how Infisical writes them, and how to wait for events."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = ["Clock", "Events", "iso", "steady_clock"]

Clock = Callable[[], float]


def steady_clock() -> Clock:
    """Return a clock that starts at the real time and then follows the monotonic one."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


def iso(moment: float) -> str:
    """Return ISO 8601 in UTC with milliseconds and `Z`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(slots=True)
class Events:
    """Wakes those who wait for something to happen in the server."""

    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    async def wait(self) -> None:
        """Wait for the next one."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def happened(self) -> None:
        """Wake them all."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
