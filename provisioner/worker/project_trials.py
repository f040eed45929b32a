"""Few creates at first in projects in which nobody has created: the first one tells whether the identity may.

One create at a time leaves for each such project. Over all of them there are as many as have passed, and one at first:
so the pace doubles with every answer, and a thousand projects without the identity cost one create a worker.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from provisioner.core.ports import Clock

# Seconds that a create waits at most for those before it: they take a second, and a server that is slow is no reason
# to stand still.
PATIENCE: Final = 10.0
# Seconds without such creates after which it begins with one again: what is asked for next may be another kind.
IDLE: Final = 5.0


class ProjectTrials:
    """Which creates are under way in projects that nobody knows; of one worker and target."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._passed = 0  # lately, and what refusals left of it
        self._under_way: dict[str, int] = {}  # the request that is tried, by project
        self._ended = asyncio.Event()
        self._ended_at = float("-inf")

    async def enter(self, project: str, request: int, *, is_known: Callable[[], bool]) -> None:
        """Wait for the turn of a request, as long as its project is not known."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not is_known() and (project in self._under_way or len(self._under_way) >= self._room()):
                    await self._ended.wait()
        if not is_known():
            self._under_way.setdefault(project, request)

    def leave(self, project: str, request: int, *, passed: bool | None = None) -> None:
        """A request is not tried any more: it `passed`, it was refused, or (None) nothing was learned."""
        if self._under_way.get(project) != request:
            return
        del self._under_way[project]
        self._ended_at = self._clock.monotonic()
        if passed is not None:
            self._passed = self._passed + 1 if passed else self._passed // 2
        self._ended.set()
        self._ended = asyncio.Event()

    def _room(self) -> int:
        """How many may be under way."""
        if not self._under_way and self._clock.monotonic() - self._ended_at > IDLE:
            self._passed = 0
        return max(1, self._passed)
