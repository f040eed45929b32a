"""A server that sends what a test tells it, byte by byte, and records what it receives."""

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from yarl import URL


@dataclass(slots=True)
class Received:
    """The requests that a server got: their heads, and on which connection."""

    heads: list[bytes] = field(default_factory=list)
    connections: int = 0


Handler = Callable[[bytes, StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[tuple[URL, Received]]:
    """A server that reads requests, records them and lets `handle` answer each, until that closes the connection."""
    received = Received()
    serving_now: set[asyncio.Task[None] | None] = set()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        received.connections += 1
        serving_now.add(asyncio.current_task())
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if b"content-length:" in line), 0)
                await reader.readexactly(length)
                received.heads.append(head)
                await handle(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"), received
    finally:
        server.close()
        tasks = [task for task in serving_now if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(answer: bytes, *, reset: bool = False, close: bool = False) -> Handler:
    """Answer with these bytes, then reset or close the connection."""

    async def handle(_: bytes, writer: StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if reset:
            link = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        if reset or close:
            writer.close()

    return handle


def free_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
