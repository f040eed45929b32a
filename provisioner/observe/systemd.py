"""Notify systemd, if it started us: ready, stopping, still alive.

The protocol of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final

import structlog

log = structlog.stdlib.get_logger()

# While the worker waits for the database, it asks systemd for this many more seconds, repeatedly.
EXTENSION: Final = 30.0
LOOK: Final = 0.2


class Systemd:
    """The service manager, or none.

    `address` is its socket, and `watchdog` the seconds after which it expects a sign of life.
    """

    def __init__(self, address: str | None = None, *, watchdog: float | None = None) -> None:
        # An @ stands for the zero byte at the beginning of an abstract socket name.
        self._address = address.replace("@", "\0", 1) if address and address.startswith("@") else address
        self._watchdog = watchdog

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, pid: int) -> "Systemd":
        """Read the variables that systemd set for the process `pid`."""
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        microseconds = environment.get("WATCHDOG_USEC", "") if meant else ""
        watchdog = int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog=watchdog)

    def stopping(self) -> None:
        """Notify that the process is stopping."""
        self._notify("STOPPING=1")

    async def attend(self, *, absence: Callable[[], str], ailment: Callable[[], str]) -> None:
        """Notify when the worker is ready, and then that it is alive as long as nothing is wrong.

        Returns at once if there is no service manager, and when there is nothing left to notify.
        """
        if self._address is None:
            return
        while missing := absence():
            self._notify(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}\nSTATUS={missing}")
            await asyncio.sleep(LOOK)
        self._notify("READY=1\nSTATUS=working")
        while self._watchdog is not None:
            if not ailment():
                self._notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 3)

    def _notify(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.connect(self._address)
                sender.send(message.encode())
        except OSError as error:
            log.debug("systemd_not_told", error=str(error))
