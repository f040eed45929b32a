"""One request on its way through the server: what came, how long it may wait, and whether anybody still listens."""

import asyncio
import math
import socket
import struct
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qs

from aiohttp import web

from provisioner.sandbox.simulator.answers import Cut
from provisioner.sandbox.simulator.model import CreateRecord
from provisioner.sandbox.simulator.validation import single

__all__ = ["Exchange", "Waits"]

T = TypeVar("T")

# Closing with a linger time of zero sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


class Waits:
    """Every request that is waiting, so that none outlives the server."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    async def watch(self, awaitable: Awaitable[T]) -> T:
        """Wait for something."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._tasks.add(task)
        try:
            return await awaitable
        finally:
            self._tasks.discard(task)

    async def cancel(self) -> None:
        """End every wait, and the requests with them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and what becomes of it."""

    request: web.BaseRequest
    request_id: str
    params: Mapping[str, str]
    waits: Waits
    cut_after: float
    query: str = ""
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    record: CreateRecord | None = None
    fault: str | None = None
    is_cut: bool = False
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def address(self) -> str:
        """The client's address, as the load balancer tells it."""
        forwarded = self.request.headers.get("X-Forwarded-For")
        return forwarded.partition(",")[0].strip() if forwarded else self.request.remote or ""

    def asked(self, name: str) -> str | None:
        """What the query says about one thing, or the refusal of a query that says it twice."""
        return single(name, parse_qs(self.query).get(name, [])) if self.query else None

    async def wait(self, seconds: float) -> None:
        """Let time pass. When the request has gone unanswered for too long, its connection is cut; its work goes on."""
        if seconds <= 0:
            return
        if not self.is_cut:
            left = max(0.0, self.started + self.cut_after - asyncio.get_running_loop().time())
            await self.waits.watch(asyncio.sleep(min(seconds, left)))
            if seconds < left:
                return
            self.cut()
            seconds -= left
        if math.isinf(seconds):
            raise Cut
        await self.waits.watch(asyncio.sleep(seconds))

    async def until(self, future: asyncio.Future[T]) -> T:
        """Wait for a result, and have the connection cut on the way as `wait` does."""
        if not self.is_cut:
            left = max(0.0, self.started + self.cut_after - asyncio.get_running_loop().time())
            done, _ = await self.waits.watch(asyncio.wait((future,), timeout=left))
            if not done:
                self.cut()
        return await self.waits.watch(future)

    def cut(self) -> None:
        """Close the connection without an answer."""
        self.is_cut = True
        if self.request.transport is not None:
            self.request.transport.close()

    def reset(self) -> None:
        """Break the connection as a dead proxy would: the client sees a reset."""
        self.is_cut = True
        transport = self.request.transport
        if transport is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
