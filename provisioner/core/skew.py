"""Measure the difference between Infisical's clock and ours. Pure.

The clock that matters is the one that writes `createdAt`, in Infisical's database. Every create with a plain answer
bounds it, because its connection was made between sending and receipt. `Date` headers come from another host's clock,
or from a cache; they are only an estimate until something has been made.
"""

from dataclasses import dataclass, field
from typing import Final

# `Date` has no fractions; a measurement uses the middle of its second.
HALF_SECOND: Final = 0.5
# `createdAt` has milliseconds and truncates the rest.
MILLISECOND: Final = 0.001
# A tolerance in seconds beside what was measured: workers know the database's clock about this well. Somebody who took
# a name half a second before us must not be mistaken for us.
CLOCK_SLACK: Final = 0.25
# The same for a worker that measured Infisical's clock and sent the create itself, all on one clock.
OWN_SLACK: Final = 0.02
# The tolerance in seconds before any `createdAt` is known. Hosts of one service that keep time hardly differ more, and
# it is less than the time between a lost create's late commit and the next create's.
CLOCK_TOLERANCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Infisical's clock minus ours, in seconds: between `low` and `high`."""

    low: float
    high: float

    def widened(self, seconds: float) -> "Bounds":
        """Return bounds that are wider by this many seconds on either side."""
        return Bounds(self.low - seconds, self.high + seconds)

    def meets(self, other: "Bounds") -> bool:
        """Whether both can be true."""
        return self.low <= other.high and other.low <= self.high

    def within(self, other: "Bounds") -> "Bounds":
        """Return the intersection."""
        return Bounds(max(self.low, other.low), min(self.high, other.high))


class Skew:
    """The difference of two clocks, from many bounds. `bounds` is None while nothing is known."""

    def __init__(self) -> None:
        self.bounds: Bounds | None = None
        self._rival: Bounds | None = None

    def note(self, measured: Bounds) -> None:
        """Add one measurement. One that contradicts all others is believed once another agrees with it."""
        if self.bounds is None or self.bounds.meets(measured):
            self.bounds, self._rival = measured if self.bounds is None else self.bounds.within(measured), None
        elif self._rival is not None and self._rival.meets(measured):  # the clock was set
            self.bounds, self._rival = self._rival.within(measured), None
        else:
            self._rival = measured

    @property
    def cautious(self) -> Bounds | None:
        """The bounds, widened by a contradicting measurement that is neither confirmed nor refuted yet."""
        if self.bounds is None or self._rival is None:
            return self.bounds
        return Bounds(min(self.bounds.low, self._rival.low), max(self.bounds.high, self._rival.high))


def dated(measured: float, elapsed: float) -> Bounds:
    """Return the bounds from one `Date` header, written during a call that took `elapsed` seconds."""
    return Bounds(measured - HALF_SECOND, measured + HALF_SECOND + elapsed)


@dataclass(slots=True)
class ServerClock:
    """What is known about one Infisical's clocks: from `createdAt`, and from `Date`."""

    made: Skew = field(default_factory=Skew)
    headers: Skew = field(default_factory=Skew)

    def note_made(self, created: float, *, sent: float, received: float) -> None:
        """Note that a call from `sent` to `received` made a connection at `created`; seconds since 1970."""
        self.made.note(Bounds(created - received, created + MILLISECOND - sent))

    def reading(self) -> "Reading":
        """Return what is known now."""
        return Reading(self.made.cautious, self.headers.cautious)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was known about Infisical's clocks at the time of a decision."""

    made: Bounds | None = None
    headers: Bounds | None = None

    def bounds(self, *, lost: bool) -> Bounds:
        """Return the tolerance for reading a `createdAt`.

        If the answer of a create was `lost`, mistaking its connection for somebody else's would lose it, so the
        tolerance is large until something is measured. If Infisical answered that the name was taken, it was nearly
        always taken before, so only the known uncertainty counts: clocks that may agree are assumed to agree.
        """
        if self.made is not None:
            return self.made.widened(CLOCK_SLACK if lost else OWN_SLACK)
        guess = self.headers or Bounds(0.0, 0.0)
        if lost:
            return guess.widened(CLOCK_TOLERANCE)
        if guess.low <= 0.0 <= guess.high:
            guess = Bounds(0.0, 0.0)
        return guess.widened(CLOCK_SLACK)
