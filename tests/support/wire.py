"""PostgreSQL's wire protocol with a will of its own: a server that says what a test wants, in front of a real one.

It speaks as servers, poolers and proxies do: an ErrorResponse of any SQLSTATE and severity, in the beginning of a
session, to one that waits, or instead of the answer to a statement.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

Severity = Literal["ERROR", "FATAL", "PANIC"]

HOST: Final = "127.0.0.1"
SSL_REQUEST: Final = 80877103
CANCEL_REQUEST: Final = 80877102
READY: Final = b"Z\0\0\0\x05"


def error_response(sqlstate: str, severity: Severity, said: str) -> bytes:
    """A server's error message."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": said}
    body = b"".join(name.encode() + value.encode() + b"\0" for name, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!i", len(body) + 4) + body


@dataclass(slots=True, eq=False)
class Strike:
    """One error, at a moment: `word` is in the statement that meets it; none is the beginning of a session."""

    sqlstate: str
    severity: Severity = "ERROR"
    word: bytes | None = None
    said: str = "planted by the test"
    struck: asyncio.Event = field(default_factory=asyncio.Event)

    def message(self) -> bytes:
        """The message in its wire format."""
        return error_response(self.sqlstate, self.severity, self.said)


@dataclass(slots=True, eq=False)
class _Session:
    """One client's session, and what its statements are called."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    statements: dict[bytes, bytes] = field(default_factory=dict)
    status: bytes = b"I"
    refusing: bool = False  # everything up to the next Sync belongs to a statement that was refused


class Relay:
    """Stands in front of the server at `port`, in the event loop of the test, until the end of the block."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, url: str) -> str:
        """The same database, by this way."""
        parts = urlsplit(url)
        port = self._listener.sockets[0].getsockname()[1] if self._listener else 0
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{port}"))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            return  # the block ends; asyncio would print what nobody wants to know
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until it has gone."""
        raise NotImplementedError

    @staticmethod
    async def _both(up: Coroutine[Any, Any, None], down: Coroutine[Any, Any, None]) -> None:
        """Carry in both directions, until one of them has ended."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(up), group.create_task(down)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()


class ScriptedServer(Relay):
    """A server that says what it is told to."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._sessions: set[_Session] = set()
        self._strike: Strike | None = None
        self.stubborn = False
        self.begun: list[bytes] = []  # what sessions said in the beginning

    def plan(self, strike: Strike | None, *, stubborn: bool = False) -> None:
        """The next session at that moment gets the error; with `stubborn` every session, until the next plan."""
        self._strike, self.stubborn = strike, stubborn

    def interrupt(self, strike: Strike) -> None:
        """Send the error to every session, whatever it is doing, and end it."""
        for session in tuple(self._sessions):
            session.client.write(strike.message())
            session.client.close()
            session.server.close()
        strike.struck.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!ii", head)
            rest = await reader.readexactly(length - 8)
            if code != SSL_REQUEST:
                break
            writer.write(b"N")
        if code != CANCEL_REQUEST:
            self.begun.append(rest)
            if (strike := self._met(None)) is not None:
                writer.write(strike.message())
                await writer.drain()
                return
        server_reader, server = await asyncio.open_connection(HOST, self._target)
        server.write(head + rest)
        session = _Session(writer, server)
        self._sessions.add(session)
        try:
            await self._both(self._upwards(session, reader), self._downwards(session, server_reader))
        finally:
            self._sessions.discard(session)
            server.close()

    def _met(self, statement: bytes | None) -> Strike | None:
        strike = self._strike
        if strike is None or (statement is None) != (strike.word is None):
            return None
        if strike.word is not None and strike.word not in (statement or b""):
            return None
        if not self.stubborn:
            self._strike = None
        strike.struck.set()
        return strike

    async def _upwards(self, session: _Session, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
                if not await self._refuses(session, head[:1], body):
                    session.server.write(head + body)
                    await session.server.drain()

    async def _refuses(self, session: _Session, kind: bytes, body: bytes) -> bool:
        """Whether a message of the client's goes no further."""
        if session.refusing:
            if kind == b"S":  # the refused statement's last message
                session.refusing = False
                self._ready(session)
            return True
        text: bytes | None = None
        if kind == b"Q":
            text = body
        elif kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            session.statements[name] = text
        elif kind == b"B":
            text = session.statements.get(body.split(b"\0", 2)[1])
        if text is None or (strike := self._met(text)) is None:
            return False
        session.client.write(strike.message())
        if strike.severity != "ERROR":
            await session.client.drain()
            session.client.close()
            session.server.close()
        elif kind == b"Q":
            self._ready(session)
        else:
            session.refusing = True
        return True

    @staticmethod
    def _ready(session: _Session) -> None:
        session.client.write(READY + (b"E" if session.status in {b"T", b"E"} else b"I"))

    @staticmethod
    async def _downwards(session: _Session, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
                if head[:1] == b"Z":
                    session.status = body
                session.client.write(head + body)
                await session.client.drain()
