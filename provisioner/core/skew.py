"""How far apart are Infisical's clock and ours? Pure.

What counts is the clock that `createdAt` is told by, the one of Infisical's database. Every create that was plainly
answered bounds it: its connection was made between the sending and the receipt. `Date` headers are told by another
host's clock, or a cache's; they are a guess for as long as nothing was made yet.
"""

from dataclasses import dataclass, field
from typing import Final

# `Date` has no fractions; a measurement takes the middle of its second.
HALF_SECOND: Final = 0.5
# `createdAt` has milliseconds, and leaves the rest of them out.
MILLISECOND: Final = 0.001
# Seconds that are allowed for beside what was measured: as well as workers know the database's clock. Somebody who took
# a name half a second before us must not be taken for us.
CLOCK_SLACK: Final = 0.25
# The same for a worker that has measured Infisical's clock and sent the create itself, on one and the same clock.
OWN_SLACK: Final = 0.02
# While no answer has told a `createdAt`, seconds: hosts of one service that all keep time are hardly further apart, and
# it is less than what lies between a lost create's late commit and the next one's.
CLOCK_TOLERANCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Infisical's clock minus ours, in seconds: somewhere from `low` to `high`."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The best guess."""
        return (self.low + self.high) / 2

    def widened(self, seconds: float) -> "Bounds":
        """The same, less certain by so many seconds to either side."""
        return Bounds(self.low - seconds, self.high + seconds)

    def meets(self, other: "Bounds") -> bool:
        """Whether both can be true."""
        return self.low <= other.high and other.low <= self.high

    def within(self, other: "Bounds") -> "Bounds":
        """What both allow."""
        return Bounds(max(self.low, other.low), min(self.high, other.high))


class Skew:
    """The difference of two clocks, from many bounds. `bounds` is None while nothing is known."""

    def __init__(self) -> None:
        self.bounds: Bounds | None = None
        self._rival: Bounds | None = None

    def note(self, measured: Bounds) -> None:
        """Take in one measurement. One that contradicts all others is believed once another agrees with it."""
        if self.bounds is None or self.bounds.meets(measured):
            self.bounds, self._rival = measured if self.bounds is None else self.bounds.within(measured), None
        elif self._rival is not None and self._rival.meets(measured):  # a clock was set
            self.bounds, self._rival = self._rival.within(measured), None
        else:
            self._rival = measured

    @property
    def cautious(self) -> Bounds | None:
        """The bounds, with room for a measurement that contradicts them and is neither confirmed nor refuted yet."""
        if self.bounds is None or self._rival is None:
            return self.bounds
        return Bounds(min(self.bounds.low, self._rival.low), max(self.bounds.high, self._rival.high))


def dated(measured: float, elapsed: float) -> Bounds:
    """What one `Date` header tells: it was written between the sending and the receipt of a call of `elapsed` s."""
    return Bounds(measured - HALF_SECOND, measured + HALF_SECOND + elapsed)


@dataclass(slots=True)
class ServerClock:
    """What is known of one Infisical's clocks: by `createdAt`, and by `Date`."""

    made: Skew = field(default_factory=Skew)
    headers: Skew = field(default_factory=Skew)

    def note_made(self, created: float, *, sent: float, received: float) -> None:
        """A connection was made at `created` by a call that lasted from `sent` to `received`; seconds since 1970."""
        self.made.note(Bounds(created - received, created + MILLISECOND - sent))

    def reading(self) -> "Reading":
        """What is known now."""
        return Reading(self.made.cautious, self.headers.cautious)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was known of Infisical's clocks at the time of a decision."""

    made: Bounds | None = None
    headers: Bounds | None = None

    def bounds(self, *, lost: bool) -> Bounds:
        """What to allow for when a `createdAt` is read.

        Where the answer of a create was `lost`, calling its connection a stranger's would lose it: much is allowed for
        while nothing is measured. Where Infisical answered that the name was taken, it was nearly always taken before,
        and only what is known of the clocks is allowed for: clocks that may agree are taken to agree.
        """
        if self.made is not None:
            return self.made.widened(CLOCK_SLACK if lost else OWN_SLACK)
        guess = self.headers or Bounds(0.0, 0.0)
        if lost:
            return guess.widened(CLOCK_TOLERANCE)
        if guess.low <= 0.0 <= guess.high:
            guess = Bounds(0.0, 0.0)
        return guess.widened(CLOCK_SLACK)
