"""Tell the time on the database's clock, as precisely as this process knows it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

# How much a host's monotonic clock and the database's may drift apart per second: more than any working clock does.
DRIFT: Final = 1e-4


class DatabaseClock:
    """The database's clock, derived from our monotonic one, so that all workers agree on the present.

    The wall clock is used only until the database's time is known: it may be set at any moment, and the times of a
    create must not jump with it.
    """

    def __init__(self, *, wall: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._theirs = wall()
        self._epoch = self._theirs.timestamp()
        self._ours = monotonic()
        self._error = float("inf")

    def now(self) -> datetime:
        """Return the present on the database's clock."""
        return self.at(self._monotonic())

    def epoch(self) -> float:
        """Return the present on the database's clock, in seconds since 1970."""
        return self._epoch + self._monotonic() - self._ours

    def at(self, monotonic: float) -> datetime:
        """Return what the database's clock showed at a monotonic time."""
        return self._theirs + timedelta(seconds=monotonic - self._ours)

    def monotonic(self) -> float:
        """Return the seconds of a clock that never jumps."""
        return self._monotonic()

    def set_by(self, theirs: datetime, *, took: float = 0.0) -> None:
        """Correct this clock by the database's time, which was read in a call of `took` seconds.

        The answer may be that old. A late one, because this process or the network stalled, adds nothing to what is
        known already, unless it contradicts that: then the database's clock was set, or another host has taken over.
        """
        ours, error = self._monotonic(), took / 2
        theirs += timedelta(seconds=error)
        known = self._error + DRIFT * (ours - self._ours)
        if error <= known or abs((theirs - self.at(ours)).total_seconds()) > error + known:
            self._theirs, self._ours, self._error = theirs, ours, error
            self._epoch = theirs.timestamp()
