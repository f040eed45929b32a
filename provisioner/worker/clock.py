"""The present on the database's clock, as well as this process knows it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

# What the database says within so many seconds sets the clock: well within the tolerance that decisions allow for.
LATE: Final = 0.5


class DatabaseClock:
    """Our own clock, corrected by what the database last said: so all workers mean the same when they say now."""

    def __init__(self, *, wall: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead = timedelta()
        self._took = float("inf")

    def now(self) -> datetime:
        """The present on the database's clock."""
        return self._wall() + self._ahead

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return self._monotonic()

    def set_by(self, theirs: datetime, *, took: float = 0.0) -> None:
        """Correct this clock: the database has said what time it is.

        The answer may be as old as the `took` seconds that its call lasted: one that was late, because this process or
        the network stood still, says less than what is known already, unless that was later still.
        """
        if took <= LATE or took < self._took:
            self._ahead = theirs + timedelta(seconds=took / 2) - self._wall()
            self._took = took
