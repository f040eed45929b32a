"""The simulator's time: seconds since 1970 that never jump, and how Infisical writes them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "iso", "steady_clock"]

Clock = Callable[[], float]


def steady_clock() -> Clock:
    """Return a clock that starts at the real time and then follows the monotonic one."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


def iso(moment: float) -> str:
    """Return ISO 8601 in UTC with milliseconds and `Z`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
