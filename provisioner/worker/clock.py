"""The present on the database's clock, as well as this process knows it."""

from collections.abc import Callable
from datetime import datetime, timedelta


class DatabaseClock:
    """Our own clock, corrected by what the database last said: so all workers mean the same when they say now."""

    def __init__(self, *, wall: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The present on the database's clock."""
        return self._wall() + self._ahead

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return self._monotonic()

    def set_by(self, theirs: datetime) -> None:
        """Correct this clock: the database has just said what time it is."""
        self._ahead = theirs - self._wall()
