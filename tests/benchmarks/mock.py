"""An API that is as fast as Python allows: a raw protocol that answers every create with a fresh connection.

It checks nothing, so it is no simulator; it counts. It runs in a process of its own, says in one line of JSON where it
listens, and ends when its standard input does. `POST /reset?latency=S&limit=N` forgets what was counted and sets how
long an answer takes and, unless N is 0, the permits a minute that the answers' headers tell. `GET /stats` tells the
counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import orjson
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

CREATE = b"POST /api/v1/app-connections/open-router "
ORGANIZATION = str(UUID(int=0xA))
WINDOW = 60.0


@dataclass(slots=True)
class Counts:
    """What came in since the last reset; times in seconds since 1970."""

    latency: float = 0.0
    limit: int = 0
    creates: int = 0
    duplicates: int = 0
    first: float | None = None
    last: float | None = None
    names: set[tuple[str, str]] = field(default_factory=set)

    def tell(self) -> bytes:
        """The counts as JSON."""
        told = ("creates", "duplicates", "first", "last", "latency", "limit")
        return orjson.dumps({name: getattr(self, name) for name in told})


class Mock:
    """What all connections share."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._random = Random(time.time_ns())  # noqa: S311 - ids, no secrets

    def create(self, body: bytes) -> bytes:
        """Make a connection; the head and body of the answer."""
        asked = orjson.loads(body)
        counts, now = self.counts, time.time()
        counts.first = counts.first or now
        counts.last = now
        counts.creates += 1
        key = (asked["projectId"], asked["name"])
        counts.duplicates += key in counts.names
        counts.names.add(key)
        identity = str(UUID(int=self._random.getrandbits(128), version=4))
        made_at = f"{datetime.fromtimestamp(now, UTC).isoformat(timespec='milliseconds')[:-6]}Z"
        made = {
            "id": identity,
            "name": asked["name"],
            "description": asked.get("description"),
            "version": 1,
            "orgId": ORGANIZATION,
            "createdAt": made_at,
            "updatedAt": made_at,
            "app": "open-router",
            "method": "api-key",
            "credentials": {},
            "isPlatformManagedCredentials": False,
            "gatewayId": None,
            "projectId": asked["projectId"],
            "credentialsHash": hashlib.sha256(identity.encode()).hexdigest(),
        }
        return answer(orjson.dumps({"appConnection": made}), self._limits(now))

    def _limits(self, now: float) -> bytes:
        counts = self.counts
        if not counts.limit:
            return b""
        used = (counts.creates - 1) % counts.limit + 1
        left = WINDOW - (now - (counts.first or now)) % WINDOW
        told = f"limit: {counts.limit}", f"remaining: {counts.limit - used}", f"reset: {int(left) + 1}"
        return "".join(f"x-ratelimit-{one}\r\n" for one in told).encode()

    def control(self, line: bytes) -> bytes:
        """Answer `/reset` and `/stats`."""
        target = urlsplit(line.split(b" ", 2)[1].decode())
        if target.path == "/reset":
            said = parse_qs(target.query)
            self.counts = Counts(latency=float(said.get("latency", ["0"])[0]), limit=int(said.get("limit", ["0"])[0]))
        elif target.path != "/stats":
            return answer(b'{"message":"no such route","error":"NotFound"}', status=b"404 Not Found")
        return answer(self.counts.tell())


def answer(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    """A whole HTTP answer."""
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json; charset=utf-8\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, headers, len(body)) + body


def body_length(head: bytes) -> int:
    """What `Content-Length` says; 0 if it is not there."""
    at = head.lower().find(b"\r\ncontent-length:")
    return 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])


class Exchange(asyncio.Protocol):
    """One client's connection: requests one after the other, kept alive."""

    def __init__(self, mock: Mock, later: Callable[..., object]) -> None:
        self._mock = mock
        self._later = later
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one in deed, not by name

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            whole = end + 4 + body_length(self._buffer[: end + 2])
            if len(self._buffer) < whole:
                return
            request, self._buffer = self._buffer[:whole], self._buffer[whole:]
            if request.startswith(CREATE):
                said, latency = self._mock.create(request[end + 4 :]), self._mock.counts.latency
            else:
                said, latency = self._mock.control(request[:end]), 0.0
            if latency:
                self._later(latency, self._write, said)
            else:
                self._write(said)

    def _write(self, said: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(said)


async def serve() -> None:
    """Listen until standard input ends."""
    loop = asyncio.get_running_loop()
    mock = Mock()
    server = await loop.create_server(lambda: Exchange(mock, loop.call_later), "127.0.0.1", 0)
    sys.stdout.write(f'{{"port": {server.sockets[0].getsockname()[1]}}}\n')
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
