"""Protect the web server: few connections, and none that is slow.

One connection carries one request, which must arrive and be answered within seconds; only a stream may last. If there
are too many connections, the one that has kept us waiting longest is closed, so that nobody can keep the probes out by
holding connections open.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

MOST: Final = 64  # connections
HEADER_TIME: Final = 5.0  # seconds for a request to arrive
ANSWER_TIME: Final = 15.0  # seconds until the answer is sent and received
_AT_ONCE: Final = struct.pack("ii", 1, 0)


class ConnectionLimits:
    """Makes a `LimitedConnection` for each connection; `protocol` makes the web server's side of it."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], *, header_time: float = HEADER_TIME) -> None:
        self.protocol = protocol
        self.header_time = header_time
        # In the order of their arrival.
        self.peers: dict[LimitedConnection, None] = {}

    def __call__(self) -> "LimitedConnection":
        """Make the protocol for a new connection."""
        return LimitedConnection(self)

    def admit(self, peer: "LimitedConnection") -> bool:
        """Admit a connection if there is room, or if a slow one can be closed."""
        if len(self.peers) >= MOST:
            idle = next((other for other in self.peers if not other.has_asked), None)
            if idle is None:
                return False
            idle.cut()
        self.peers[peer] = None
        return True


class LimitedConnection(asyncio.Protocol):
    """One connection: passes data to the web server, and enforces time limits."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.has_asked = False
        self.is_gone = False

    def asked(self, *, lasts: bool = False) -> None:
        """Note that a whole request has arrived: the time for the answer begins, unless it is a stream that lasts."""
        self.has_asked = True
        self._run_out(None if lasts else ANSWER_TIME)

    def cut(self) -> None:
        """Close the connection at once, and discard what it has not received yet."""
        self._limits.peers.pop(self, None)
        if self._transport is not None:
            # Otherwise the system would offer what is in its buffers for minutes.
            with suppress(OSError):  # it may have closed by itself
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass a new connection on, if it is admitted."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._limits.admit(self):
            self._transport.abort()
            return
        self._inner = self._limits.protocol()
        self._inner.connection_made(transport)
        self._run_out(self._limits.header_time)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is closed."""
        self.is_gone = True
        self._run_out(None)
        self._limits.peers.pop(self, None)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data on."""
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Note that no more data will arrive."""
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        """Note that the other side does not keep up."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Note that the other side has caught up."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _run_out(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.cut)
