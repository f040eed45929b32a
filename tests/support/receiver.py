"""A receiver of notices with a scripted behaviour: accepts, fails, redirects, hangs, hangs up."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import ssl

Manner = Literal["accept", "fail", "redirect", "hang", "reset", "garble"]

ANSWERS = {
    "accept": b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "fail": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "garble": b"no HTTP at all\r\n\r\n",
}


@dataclass(slots=True)
class Got:
    """One call, as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        """Its contents."""
        content: dict[str, Any] = json.loads(self.body)
        return content


@dataclass(slots=True)
class Receiver:
    """Listens from the beginning of a block to its end. `got` has every call, whatever was answered."""

    manner: Manner = "accept"
    tls: ssl.SSLContext | None = None
    got: list[Got] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._released.set()
        if self._server is not None:
            self._server.close()

    @property
    def url(self) -> str:
        """Where it is."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"{'https' if self.tls else 'http'}://localhost:{port}/hook/planted"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.got.append(Got(head[0].split()[1], headers, body))
            if self.manner == "hang":
                await self._released.wait()
            elif self.manner == "reset":
                writer.transport.abort()
            else:
                writer.write(ANSWERS[self.manner])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
