"""The server's limits: the cloud's rate limiter, and the database connections."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from provisioner.sandbox.simulator.answers import internal

if TYPE_CHECKING:
    from provisioner.sandbox.simulator.exchange import Exchange
    from provisioner.sandbox.simulator.world import World

__all__ = ["Limiter", "Pool", "Verdict"]

# How many transactions get both connections before any other begins.
AHEAD = 2
# Waits that began fewer than this many turns after one that times out end with it.
TOGETHER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The limiter's verdict on one request; `reset` is the number of seconds until the window ends."""

    allowed: bool
    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        headers = {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.remaining),
            "x-ratelimit-reset": str(self.reset),
        }
        return headers if self.allowed else headers | {"retry-after": str(self.reset)}


@dataclass(slots=True)
class _Window:
    started: float
    used: int = 0


class Limiter:
    """A fixed window for each client address and route, which starts with its first request.

    Times are seconds of any steady clock, passed to each call.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}

    def hit(self, *, address: str, route: str, limit: int, length: float, now: float) -> Verdict:
        """Count one request from this address to this route. A request over the limit does not extend the window."""
        key = (address, route)
        window = self._windows.get(key)
        if window is None or now >= window.started + length:
            window = self._windows[key] = _Window(now)
        window.used += 1
        return Verdict(
            allowed=window.used <= limit,
            limit=limit,
            remaining=max(0, limit - window.used),
            reset=max(1, ceil(round(window.started + length - now, 6))),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    count: int
    since: float
    turn: int
    served: asyncio.Future[bool]


@dataclass(slots=True, kw_only=True)
class Pool:
    """The server's database connections and its one thread: the reason why too many creates at once stop a real server.

    Connections are handed out in order of arrival; without a size they are unlimited. A create holds one for its
    transaction and takes a second one inside it, to encrypt. Once every connection is held by a transaction that waits
    for its second, nothing moves until the waiting ends in errors, for everybody.

    The figures are those of a recorded server with ten connections: eleven creates at once finish immediately; twelve
    hang for a minute, and eight of them fail. They follow from three rules. The thread takes turns in order of arrival,
    one before a create calls OpenRouter and one inside its transaction. The first two transactions have their second
    connection before the others begin. A wait that times out also ends those that began in the same few turns: the
    rollback that would have helped them comes too late.
    """

    world: "World"
    used: int = 0
    most_waiting: int = 0
    timed_out: int = 0
    _inside: int = 0
    _turns: int = 0
    _busy_until: float = 0.0
    _queue: deque[_Waiting] = field(default_factory=deque)
    _alarm: asyncio.TimerHandle | None = None

    def refill(self) -> None:
        """Hand out the connections that a larger size adds."""
        self._give(0)

    def public(self) -> dict[str, int]:
        """Return what GET /_simulator/state shows: the present, the longest queue, and the waits that timed out."""
        return {
            "used": self.used,
            "waiting": len(self._queue),
            "mostWaiting": self.most_waiting,
            "timedOut": self.timed_out,
        }

    async def turn(self, exchange: "Exchange") -> None:
        """Wait for a turn of the thread."""
        if not self.world.settings.pool:
            return
        now = asyncio.get_running_loop().time()
        self._busy_until = max(now, self._busy_until) + self.world.settings.pool_step
        await exchange.wait(self._busy_until - now)
        self._turns += 1

    async def read(self, exchange: "Exchange", *, error: str) -> None:
        """Take a connection for one statement; if none is free in time, raise a 500 with that name."""
        await self._take(exchange, 1, error)
        self._give(1)

    @asynccontextmanager
    async def transaction(self, exchange: "Exchange") -> AsyncIterator[None]:
        """Hold one connection, encrypt with a second one, and run the block; then release both."""
        if not self.world.settings.pool:
            yield
            return
        self._inside += 1
        held = 0
        try:
            first = 2 if self._inside <= AHEAD and self.world.settings.pool > AHEAD else 1
            await self._take(exchange, first, "InternalServerError")
            held = first
            await self.turn(exchange)
            if held == 1:
                await self._take(exchange, 1, "Find by id")
                held = 2
            yield
        finally:
            self._inside -= 1
            self._give(held)

    async def _take(self, exchange: "Exchange", count: int, error: str) -> None:
        size = self.world.settings.pool
        if not size or (not self._queue and self.used + count <= size):
            self.used += count
            return
        loop = asyncio.get_running_loop()
        waiting = _Waiting(count, loop.time(), self._turns, loop.create_future())
        self._queue.append(waiting)
        self.most_waiting = max(self.most_waiting, len(self._queue))
        self._set_alarm()
        try:
            served = await exchange.until(waiting.served)
        except asyncio.CancelledError:
            self._leave(waiting)
            raise
        if not served:
            raise internal(error=error)

    def _leave(self, waiting: _Waiting) -> None:
        if waiting in self._queue:
            self._queue.remove(waiting)
        elif waiting.served.done() and not waiting.served.cancelled() and waiting.served.result():
            self._give(waiting.count)

    def _give(self, count: int) -> None:
        self.used -= count
        size = self.world.settings.pool
        while self._queue and (not size or self.used + self._queue[0].count <= size):
            waiting = self._queue.popleft()
            if not waiting.served.done():
                self.used += waiting.count
                waiting.served.set_result(True)

    def _set_alarm(self) -> None:
        if self._queue and self._alarm is None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(self._queue[0].since + self.world.settings.pool_wait, self._end_waits)

    def _end_waits(self) -> None:
        self._alarm = None
        now = asyncio.get_running_loop().time()
        # Half a millisecond, because a timer may fire slightly early.
        if self._queue and self._queue[0].since + self.world.settings.pool_wait <= now + 0.0005:
            last = self._queue[0].turn + TOGETHER
            while self._queue and self._queue[0].turn < last:
                waiting = self._queue.popleft()
                if not waiting.served.done():
                    self.timed_out += 1
                    waiting.served.set_result(False)
        self._set_alarm()
