"""A connection between workers and PostgreSQL that can be cut, can swallow data, and can stop at a statement."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.support.wire import HOST, Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

When = Literal["asked", "answered"]
CHUNK = 2**16
# SSLRequest, GSSENCRequest: the client begins anew after the answer.
_WISHES = {code.to_bytes(4, "big") for code in (80877103, 80877104)}


@dataclass(slots=True, eq=False)
class Trap:
    """Waits for a statement: `sprung` when it has come, and then holds that connection still until `release`.

    `asked`: the statement has not reached the server. `answered`: it has been executed, and its answer is held back.
    """

    word: bytes
    when: When
    sprung: asyncio.Event = field(default_factory=asyncio.Event)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let everything through."""
        self.freed.set()


@dataclass(slots=True, eq=False)
class _Wire:
    """One connection through the proxy, and how near to the trap it is."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallows: bool = False
    executing: bool = False
    statements: dict[bytes, bytes] = field(default_factory=dict)
    begun: bool = False
    rest: bytes = b""

    def statements_in(self, chunk: bytes) -> Iterator[bytes]:
        """The texts of the statements that a chunk has carried out; one may hold several messages, or a part of one.

        A simple query is carried out at once; a prepared one is named first (Parse), then carried out (Bind).
        """
        self.rest += chunk
        while len(self.rest) >= (start := int(self.begun)) + 4:
            kind = self.rest[:start]
            end = start + int.from_bytes(self.rest[start : start + 4], "big")
            if len(self.rest) < end:
                return
            body, self.rest = self.rest[start + 4 : end], self.rest[end:]
            match kind:
                case b"":  # the first message has no type: a request for encryption, or the start
                    self.begun = body[:4] not in _WISHES
                case b"Q":
                    yield body
                case b"P":
                    name, query = body.split(b"\0", 2)[:2]
                    self.statements[name] = query
                case b"B":
                    yield self.statements.get(body.split(b"\0", 2)[1], b"")


class Proxy(Relay):
    """Carries TCP from a port of its own to the server's."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._wires: set[_Wire] = set()
        self._hole = False
        self._refuses = False
        self._trap: Trap | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut(refuse=True)
        await super().__aexit__(kind, error, traceback)

    def cut(self, *, refuse: bool = False) -> None:
        """Break every connection; with `refuse`, new ones too, until `mend`."""
        self._refuses = refuse
        for wire in tuple(self._wires):
            wire.client.transport.abort()
            wire.server.transport.abort()

    def redirect(self, port: int) -> None:
        """Break every connection, and carry newcomers to another server."""
        self._target = port
        self.cut()

    def swallow(self) -> None:
        """Carry nothing any more, and say nothing about it: neither for those that are connected nor for newcomers."""
        self._hole = True
        for wire in self._wires:
            wire.swallows = True

    def mend(self) -> None:
        """Accept connections again. Swallowed ones stay so, as behind a router that forgot a connection."""
        self._hole = self._refuses = False

    def trap(self, word: bytes, when: When) -> Trap:
        """Lie in wait for the next statement that has this in its text."""
        self._trap = Trap(word, when)
        return self._trap

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._carry(reader, writer)
        finally:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            return
        try:
            server_reader, server = await asyncio.open_connection(HOST, self._target)
        except OSError:
            return
        wire = _Wire(writer, server, swallows=self._hole)
        self._wires.add(wire)
        try:
            await self._both(
                self._pump(wire, reader, server, self._upwards),
                self._pump(wire, server_reader, writer, self._downwards),
            )
        finally:
            self._wires.discard(wire)
            server.transport.abort()

    async def _pump(self, wire: _Wire, source: asyncio.StreamReader, sink: asyncio.StreamWriter, look: _Look) -> None:
        with suppress(ConnectionError):
            while chunk := await source.read(CHUNK):
                await look(wire, chunk)
                if not wire.swallows:
                    sink.write(chunk)
                    await sink.drain()
        # A client behind a black hole does not learn that the server has closed the connection.
        if wire.swallows and sink is wire.client:
            await asyncio.Event().wait()

    async def _upwards(self, wire: _Wire, chunk: bytes) -> None:
        for text in wire.statements_in(chunk):
            trap = self._trap
            if trap is not None and trap.word in text:
                wire.executing = trap.when == "answered"
                if trap.when == "asked":
                    await self._spring(trap)

    async def _downwards(self, wire: _Wire, _chunk: bytes) -> None:
        if self._trap is not None and wire.executing:
            wire.executing = False
            await self._spring(self._trap)

    async def _spring(self, trap: Trap) -> None:
        self._trap = None
        trap.sprung.set()
        await trap.freed.wait()


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    _Look = Callable[[_Wire, bytes], Awaitable[None]]
