"""Stands between the network and the web server: few connections, and none that takes its time.

One connection carries one request. It has to be complete within seconds and answered within seconds; only a stream may
last. When there are too many connections, the one that has kept us waiting longest is cut: so nobody can keep the
probes out by holding connections open.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

MOST: Final = 64  # connections
HEADER_TIME: Final = 5.0  # seconds for a request to arrive
ANSWER_TIME: Final = 15.0  # seconds until it is answered and the answer is taken
_AT_ONCE: Final = struct.pack("ii", 1, 0)


class ConnectionLimits:
    """Makes a `LimitedConnection` for each connection; `protocol` makes the web server's own end of it."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], *, header_time: float = HEADER_TIME) -> None:
        self.protocol = protocol
        self.header_time = header_time
        # In the order in which they came.
        self.peers: dict[LimitedConnection, None] = {}

    def __call__(self) -> "LimitedConnection":
        """Make the protocol for a new connection."""
        return LimitedConnection(self)

    def admit(self, peer: "LimitedConnection") -> bool:
        """Let a connection in if there is room, or if somebody who keeps us waiting can go."""
        if len(self.peers) >= MOST:
            idle = next((other for other in self.peers if not other.has_asked), None)
            if idle is None:
                return False
            idle.cut()
        self.peers[peer] = None
        return True


class LimitedConnection(asyncio.Protocol):
    """One connection: what arrives goes on to the web server, and the time for it runs."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.has_asked = False
        self.is_gone = False

    def asked(self, *, lasts: bool = False) -> None:
        """A whole request has arrived. From now on the time for its answer runs, unless it is a stream that lasts."""
        self.has_asked = True
        self._run_out(None if lasts else ANSWER_TIME)

    def cut(self) -> None:
        """Close the connection at once, and forget it, and what it has not taken yet."""
        self._limits.peers.pop(self, None)
        if self._transport is not None:
            # Otherwise the system would go on for minutes to offer what is in its buffers.
            with suppress(OSError):  # it may have gone by itself
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand a new connection on, if it is let in."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._limits.admit(self):
            self._transport.abort()
            return
        self._inner = self._limits.protocol()
        self._inner.connection_made(transport)
        self._run_out(self._limits.header_time)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the connection is gone."""
        self.is_gone = True
        self._run_out(None)
        self._limits.peers.pop(self, None)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand on what has arrived."""
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Say that nothing more will arrive."""
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        """Say that the other side does not keep up."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Say that the other side has caught up."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _run_out(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.cut)
