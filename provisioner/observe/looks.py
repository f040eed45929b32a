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
        self._lock = asyncio.Lock()
        self._next_at = float("-inf")

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            await asyncio.sleep(max(0.0, self._next_at - self.monotonic()))
        except BaseException:
            self._lock.release()
            raise
        self._next_at = self.monotonic() + EVERY

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class Looks(Generic[T]):
    """One question to the database. An answer that takes longer than `timeout` seconds is given up."""

    def __init__(self, ask: Callable[[], Awaitable[T]], gate: Gate, *, timeout: float) -> None:
        self._ask = ask
        self._gate = gate
        self._timeout = timeout
        self._last: Look[T] = Look()
        self._fresh_until = float("-inf")

    async def look(self) -> Look[T]:
        """Return what is seen now, or was a moment ago."""
        if not self._is_fresh():
            async with self._gate:
                if not self._is_fresh():  # whoever was before us in line may have asked the same
                    await self._renew()
        return self._last

    def _is_fresh(self) -> bool:
        return self._gate.monotonic() < self._fresh_until

    async def _renew(self) -> None:
        begins = self._gate.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                self._last = Look(seen=await self._ask())
        except TimeoutError:
            self._last = Look(seen=self._last.seen, trouble=f"the database gave no answer within {self._timeout:g} s")
        except ProvisionerError as error:
            self._last = Look(seen=self._last.seen, trouble=f"the database cannot be asked: {error}")
        ends = self._gate.monotonic()
        self._fresh_until = max(begins + EVERY, ends + (ends - begins) / SHARE)
