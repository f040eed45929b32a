"""Limit creates in projects whose permissions are unknown, until the first creates have shown them.

Each such project has one create in flight. Over all of them, one create may be in flight at first, and then as many as
have passed. So the pace doubles with every round of answers, and a thousand projects without the identity cost one
create per worker.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from provisioner.core.ports import Clock

# Seconds that a create waits at most for those before it. They usually take one second; if the server is slow, creating
# goes on anyway.
PATIENCE: Final = 10.0
# After this many seconds without such creates the limit is one again: the next projects may be of another kind.
IDLE: Final = 5.0


class ProjectTrials:
    """The creates in flight in unknown projects, for one worker and target."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._passed = 0  # recently; refusals reduce it
        self._under_way: dict[str, int] = {}  # the request being tried, by project
        self._ended = asyncio.Event()
        self._ended_at = float("-inf")

    async def enter(self, project: str, request: int, *, is_known: Callable[[], bool]) -> None:
        """Wait for a request's turn, as long as its project is unknown."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not is_known() and (project in self._under_way or len(self._under_way) >= self._room()):
                    await self._ended.wait()
        if not is_known():
            self._under_way.setdefault(project, request)

    def leave(self, project: str, request: int, *, passed: bool | None = None) -> None:
        """Note the end of a request's trial: it `passed`, was refused, or (None) showed nothing."""
        if self._under_way.get(project) != request:
            return
        del self._under_way[project]
        self._ended_at = self._clock.monotonic()
        if passed is not None:
            self._passed = self._passed + 1 if passed else self._passed // 2
        self._ended.set()
        self._ended = asyncio.Event()

    def _room(self) -> int:
        """Return how many creates may be in flight."""
        if not self._under_way and self._clock.monotonic() - self._ended_at > IDLE:
            self._passed = 0
        return max(1, self._passed)
