"""Where in line a worker claims next: what was tried before goes first, and gets at most every other claim. Pure.

In each rank requests that were tried before stand before all others: their turns are below nought. Were they always
claimed first, a flood of them would keep everybody else waiting. So after some of them as many others are claimed, if
there are any.
"""

from dataclasses import dataclass, replace
from typing import Self

from provisioner.core.queue_values import FRONT, Claims, QueuePosition


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRange:
    """A part of the line: from a place on, all, or only what was tried before and has the rank of that place."""

    start: QueuePosition
    retried_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCursor:
    """What a worker knows of a line: nothing that was never tried stands before `mark`.

    `retried` is the foremost place of what was tried before, if that stands before the mark. So many others are `owed`
    a claim before that.
    """

    mark: QueuePosition = FRONT
    retried: QueuePosition | None = None
    owed: int = 0

    def hint(self, place: QueuePosition) -> Self:
        """There is something at that place."""
        if place == FRONT or place.turn >= 0:
            return replace(self, mark=min(self.mark, place))
        first = place if self.retried is None else min(self.retried, place)
        earlier = place.rank < self.mark.rank  # then there may be others, too
        return replace(self, retried=first, mark=_untried(place) if earlier else self.mark)

    def part(self) -> ClaimRange:
        """Which part to claim from now."""
        if self.retried is None or self.owed or self.retried > self.mark:
            return ClaimRange(start=self.mark)
        return ClaimRange(start=self.retried, retried_only=True)

    def after(self, part: ClaimRange, brought: Claims, *, limit: int) -> Self:
        """What is known once a part was claimed from, of which at most `limit` were asked for."""
        claimed, last = len(brought.claims), brought.last
        short = claimed < limit
        if part.retried_only:
            return replace(
                self, retried=None if short or last is None or last.turn >= 0 else last, owed=brought.retried
            )
        owed = 0 if short else max(0, self.owed + 2 * brought.retried - claimed)
        if last is not None and last.turn < 0:
            return replace(self, mark=_untried(last), retried=None if short else last, owed=owed)
        passed = self.retried is not None and last is not None and part.start <= self.retried <= last
        return replace(self, mark=last or self.mark, retried=None if passed else self.retried, owed=owed)


def _untried(place: QueuePosition) -> QueuePosition:
    """Where in the rank of this place those begin that were never tried."""
    return QueuePosition(place.rank, 0)
