"""The present on the database's clock, as well as this process knows it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

# How far apart a host's monotonic clock and the database's may drift in a second: more than any clock that works.
DRIFT: Final = 1e-4


class DatabaseClock:
    """The database's clock, read off our monotonic one: so all workers mean the same when they say now.

    The wall's clock is looked at only until the database has said what time it is: it may be set at any moment, and a
    create's times must not move with it.
    """

    def __init__(self, *, wall: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._theirs = wall()
        self._epoch = self._theirs.timestamp()
        self._ours = monotonic()
        self._error = float("inf")

    def now(self) -> datetime:
        """The present on the database's clock."""
        return self.at(self._monotonic())

    def epoch(self) -> float:
        """The present on the database's clock, in seconds since 1970."""
        return self._epoch + self._monotonic() - self._ours

    def at(self, monotonic: float) -> datetime:
        """What the database's clock showed at a monotonic time."""
        return self._theirs + timedelta(seconds=monotonic - self._ours)

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return self._monotonic()

    def set_by(self, theirs: datetime, *, took: float = 0.0) -> None:
        """Correct this clock: the database has said what time it is.

        The answer may be as old as the `took` seconds that its call lasted: one that was late, because this process or
        the network stood still, says less than what is known already. It is believed all the same where it contradicts
        that: the database's clock was set, or another host's took its place.
        """
        ours, error = self._monotonic(), took / 2
        theirs += timedelta(seconds=error)
        known = self._error + DRIFT * (ours - self._ours)
        if error <= known or abs((theirs - self.at(ours)).total_seconds()) > error + known:
            self._theirs, self._ours, self._error = theirs, ours, error
            self._epoch = theirs.timestamp()
