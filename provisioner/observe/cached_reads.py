"""Looks at the database for however many want to know: seldom, shared, and none while nobody does."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from provisioner.core.errors import ProvisionerError

T = TypeVar("T")

EVERY: Final = 1.0  # seconds between two looks at the most frequent
SHARE: Final = 0.1  # of the time that may be spent on looking: a slow look is repeated more seldom


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look(Generic[T]):
    """What was seen last, if anything was; `trouble` is why the newest look saw nothing."""

    seen: T | None = None
    trouble: str = ""


class Gate:
    """Lets one look through at a time, and the next one a second later at the earliest."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.one_at_a_time = asyncio.Lock()
        self._next_at = float("-inf")

    async def turn(self) -> None:
        """Wait until the next look may begin, for whoever holds the lock."""
        await asyncio.sleep(max(0.0, self._next_at - self.monotonic()))
        self._next_at = self.monotonic() + EVERY


class Looks(Generic[T]):
    """One question to the database. An answer that takes longer than `timeout` seconds is given up."""

    def __init__(self, ask: Callable[[], Awaitable[T]], gate: Gate, *, timeout: float) -> None:
        self._ask = ask
        self._gate = gate
        self._timeout = timeout
        self._last: Look[T] = Look()
        self._asked_at = float("-inf")
        self._fresh_until = float("-inf")

    async def look(self) -> Look[T]:
        """Return what is seen now, or was a moment ago."""
        came_at = self._gate.monotonic()
        if came_at >= self._fresh_until:
            async with self._gate.one_at_a_time:
                # Whoever was before us in line may have asked the same, after we came.
                if self._asked_at <= came_at:
                    await self._gate.turn()
                    await self._renew()
        return self._last

    async def _renew(self) -> None:
        begins = self._asked_at = self._gate.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                self._last = Look(seen=await self._ask())
        except TimeoutError:
            self._last = Look(seen=self._last.seen, trouble=f"the database did not answer within {self._timeout:g} s")
        except ProvisionerError as error:
            self._last = Look(seen=self._last.seen, trouble=f"the database cannot be reached: {error}")
        ends = self._gate.monotonic()
        self._fresh_until = max(begins + EVERY, ends + (ends - begins) / SHARE)
