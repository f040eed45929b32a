"""The cloud's rate limiter: a fixed window for each client address and route, begun by its first request."""

from dataclasses import dataclass
from math import ceil

__all__ = ["Limiter", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the limiter says to one request; `reset` is whole seconds until the window ends."""

    allowed: bool
    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """Return the headers that the answer carries."""
        headers = {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.remaining),
            "x-ratelimit-reset": str(self.reset),
        }
        return headers if self.allowed else headers | {"retry-after": str(self.reset)}


@dataclass(slots=True)
class _Window:
    started: float
    used: int = 0


class Limiter:
    """Counts requests a window. Times are seconds of any steady clock, given with each call."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}

    def hit(self, *, address: str, route: str, limit: int, length: float, now: float) -> Verdict:
        """Count one request of this address to this route. A request over the limit does not extend the window."""
        key = (address, route)
        window = self._windows.get(key)
        if window is None or now >= window.started + length:
            window = self._windows[key] = _Window(now)
        window.used += 1
        return Verdict(
            allowed=window.used <= limit,
            limit=limit,
            remaining=max(0, limit - window.used),
            reset=max(1, ceil(round(window.started + length - now, 6))),
        )
