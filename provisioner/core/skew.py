"""How far apart are two clocks, when all that the other side tells is a whole second? Pure.

One `Date` header bounds the difference to a second and the time that its call took: it was written between the sending
and the receipt. Many bound it to a few hundredths, for each has to agree with all the others.
"""

from dataclasses import dataclass
from typing import Final

# `Date` has no fractions; a measurement takes the middle of its second.
HALF_SECOND: Final = 0.5
# Seconds that are allowed for beside the error of what was measured: Infisical's tables may be on another host than
# what answers, and our database's clock is known to a quarter. While nothing is measured, the whole tolerance.
CLOCK_SLACK: Final = 0.5
CLOCK_TOLERANCE: Final = 2.0


@dataclass(slots=True)
class Skew:
    """Another clock minus ours, in seconds: somewhere from `low` to `high`, anywhere while nothing is known."""

    low: float = float("-inf")
    high: float = float("inf")

    def note(self, measured: float, elapsed: float) -> None:
        """Take in one measurement, made at the end of a call that took `elapsed` seconds."""
        low, high = measured - HALF_SECOND, measured + HALF_SECOND + elapsed
        if low > self.high or high < self.low:  # a clock was set: what was known is known of it no more
            self.low, self.high = low, high
        else:
            self.low, self.high = max(self.low, low), min(self.high, high)

    @property
    def middle(self) -> float:
        """The best guess; 0 while nothing is known."""
        return (self.low + self.high) / 2 if self.is_known else 0.0

    @property
    def error(self) -> float | None:
        """Seconds by which the guess may be wrong, to either side; None while nothing is known."""
        return (self.high - self.low) / 2 if self.is_known else None

    @property
    def tolerance(self) -> float:
        """Seconds by which a time of the other clock may be off when it is read with the best guess."""
        error = self.error
        return CLOCK_TOLERANCE if error is None else CLOCK_SLACK + error

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self.high < float("inf")
