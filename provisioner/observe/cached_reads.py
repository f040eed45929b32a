"""Share database queries among any number of readers: rarely repeated, and never run while nobody asks."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from provisioner.core.errors import ProvisionerError

K = TypeVar("K")
T = TypeVar("T")

EVERY: Final = 1.0  # seconds between two runs at least
KEPT: Final = 32  # results of a query with an argument that are kept
SHARE: Final = 0.1  # of the time that may be spent on a query: a slow query is repeated less often


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedRead(Generic[T]):
    """The latest result, if any; `trouble` is why the latest run failed."""

    seen: T | None = None
    trouble: str = ""


class Gate:
    """Lets one query run at a time, and the next one at least `every` seconds later."""

    def __init__(self, *, monotonic: Callable[[], float], every: float = EVERY) -> None:
        self.monotonic = monotonic
        self._every = every
        self.one_at_a_time = asyncio.Lock()
        self._next_at = float("-inf")

    async def turn(self) -> None:
        """Wait until the next query may run; for the holder of the lock."""
        await asyncio.sleep(max(0.0, self._next_at - self.monotonic()))
        self._next_at = self.monotonic() + self._every


class CachedQuery(Generic[T]):
    """One database query, repeated after `fresh` seconds. A run longer than `timeout` is cancelled."""

    def __init__(self, ask: Callable[[], Awaitable[T]], gate: Gate, *, timeout: float, fresh: float = EVERY) -> None:
        self._ask = ask
        self._fresh = fresh
        self._gate = gate
        self._timeout = timeout
        self._last: CachedRead[T] = CachedRead()
        self._asked_at = float("-inf")
        self._fresh_until = float("-inf")

    async def read(self) -> CachedRead[T]:
        """Return a result that is new, or only slightly older."""
        came_at = self._gate.monotonic()
        if came_at >= self._fresh_until:
            async with self._gate.one_at_a_time:
                # An earlier caller may have run the same query after we called.
                if self._asked_at <= came_at:
                    await self._gate.turn()
                    await self._renew()
        return self._last

    async def _renew(self) -> None:
        begins = self._asked_at = self._gate.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                self._last = CachedRead(seen=await self._ask())
        except TimeoutError:
            self._last = CachedRead(
                seen=self._last.seen, trouble=f"the database did not answer within {self._timeout:g} s"
            )
        except ProvisionerError as error:
            self._last = CachedRead(seen=self._last.seen, trouble=f"the database cannot be reached: {error}")
        ends = self._gate.monotonic()
        self._fresh_until = max(begins + self._fresh, ends + (ends - begins) / SHARE)


class KeyedCachedQuery(Generic[K, T]):
    """A database query with an argument; the latest results are kept for a moment."""

    def __init__(self, ask: Callable[[K], Awaitable[T]], gate: Gate, *, timeout: float) -> None:
        self._ask = ask
        self._gate = gate
        self._timeout = timeout
        self._queries: OrderedDict[K, CachedQuery[T]] = OrderedDict()

    async def read(self, key: K) -> CachedRead[T]:
        """Return a result that is new, or only slightly older."""
        query = self._queries.get(key)
        if query is None:
            query = self._queries[key] = CachedQuery(lambda: self._ask(key), self._gate, timeout=self._timeout)
        self._queries.move_to_end(key)
        while len(self._queries) > KEPT:
            self._queries.popitem(last=False)
        return await query.read()
