"""The server's database connections and its one thread: what makes too many creates at once stop a real server.

A create holds one connection for its transaction and takes a second one inside it, to encrypt. Once every connection is
held by a transaction that waits for its second, nothing moves until the waiting ends in errors, for everybody.

The figures are those of a recorded server with ten connections: eleven creates at once are done in no time, twelve
stand still for a minute and eight of them fail. They come from three rules. The thread takes turns, first come first
served, one before a create asks OpenRouter and one inside its transaction. The first two transactions inside have their
second connection before the others begin. A wait that ends takes with it those that began in the same few turns: the
rollback that would have helped them comes too late.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from provisioner.sandbox.simulator.answers import internal
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.settings import Settings

__all__ = ["Pool"]

# How many transactions have both connections before any other begins.
AHEAD = 2
# Waits that began less than this many turns after one that ends, end with it.
TOGETHER = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    count: int
    since: float
    turn: int
    served: asyncio.Future[bool]


@dataclass(slots=True, kw_only=True)
class Pool:
    """Hands out connections, first come first served. With `settings.pool` 0 there is no end of anything."""

    settings: Settings
    used: int = 0
    most_waiting: int = 0
    timed_out: int = 0
    _inside: int = 0
    _turns: int = 0
    _busy_until: float = 0.0
    _queue: deque[_Waiting] = field(default_factory=deque)
    _alarm: asyncio.TimerHandle | None = None

    def resize(self, size: int) -> None:
        """Let there be so many connections from now on."""
        self.settings.pool = size
        self._give(0)

    def public(self) -> dict[str, int]:
        """Return what GET /_simulator/state tells of it: the present, the longest queue, waits that were in vain."""
        return {
            "used": self.used,
            "waiting": len(self._queue),
            "mostWaiting": self.most_waiting,
            "timedOut": self.timed_out,
        }

    async def turn(self, exchange: Exchange) -> None:
        """Wait for the thread and let it work."""
        if not self.settings.pool:
            return
        now = asyncio.get_running_loop().time()
        self._busy_until = max(now, self._busy_until) + self.settings.pool_step
        await exchange.wait(self._busy_until - now)
        self._turns += 1

    async def read(self, exchange: Exchange, *, error: str) -> None:
        """Take a connection for one statement; raise the 500 of that name if none comes free in time."""
        await self._take(exchange, 1, error)
        self._give(1)

    @asynccontextmanager
    async def transaction(self, exchange: Exchange) -> AsyncIterator[None]:
        """Hold one connection, encrypt with a second one, and run the block; then both are free again."""
        if not self.settings.pool:
            yield
            return
        self._inside += 1
        held = 0
        try:
            first = 2 if self._inside <= AHEAD and self.settings.pool > AHEAD else 1
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

    async def _take(self, exchange: Exchange, count: int, error: str) -> None:
        size = self.settings.pool
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
        while self._queue and (not self.settings.pool or self.used + self._queue[0].count <= self.settings.pool):
            waiting = self._queue.popleft()
            if not waiting.served.done():
                self.used += waiting.count
                waiting.served.set_result(True)

    def _set_alarm(self) -> None:
        if self._queue and self._alarm is None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(self._queue[0].since + self.settings.pool_wait, self._end_waits)

    def _end_waits(self) -> None:
        self._alarm = None
        now = asyncio.get_running_loop().time()
        # Half a millisecond: a timer may fire a little early.
        if self._queue and self._queue[0].since + self.settings.pool_wait <= now + 0.0005:
            last = self._queue[0].turn + TOGETHER
            while self._queue and self._queue[0].turn < last:
                waiting = self._queue.popleft()
                if not waiting.served.done():
                    self.timed_out += 1
                    waiting.served.set_result(False)
        self._set_alarm()
