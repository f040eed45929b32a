"""Decide where in line a worker claims next: retried requests go first, but get at most every other claim. Pure.

Within each rank, retried requests come before all others: their turns are negative. If they were always claimed first,
a flood of them would keep everything else waiting. So after some retried requests have been claimed, as many others are
claimed, if there are any.
"""

from dataclasses import dataclass, replace
from typing import Self

from provisioner.core.queue_values import FRONT, Claims, QueuePosition


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRange:
    """A part of the line: everything from a position on, or only the retried requests in that position's rank."""

    start: QueuePosition
    retried_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCursor:
    """What a worker knows about a line: no untried request comes before `mark`.

    `retried` is the first position of a retried request, if that is before the mark. `owed` other requests are to be
    claimed before that one.
    """

    mark: QueuePosition = FRONT
    retried: QueuePosition | None = None
    owed: int = 0

    def hint(self, place: QueuePosition) -> Self:
        """Note that a request is in line at this position."""
        if place == FRONT or place.turn >= 0:
            return replace(self, mark=min(self.mark, place))
        first = place if self.retried is None else min(self.retried, place)
        earlier = place.rank < self.mark.rank  # then there may be more of them
        return replace(self, retried=first, mark=_untried(place) if earlier else self.mark)

    def part(self) -> ClaimRange:
        """Return the part of the line to claim from next."""
        if self.retried is None or self.owed or self.retried > self.mark:
            return ClaimRange(start=self.mark)
        return ClaimRange(start=self.retried, retried_only=True)

    def after(self, part: ClaimRange, brought: Claims, *, limit: int) -> Self:
        """Update what is known after up to `limit` requests of a part were claimed."""
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
    """Return the position in this rank at which untried requests begin."""
    return QueuePosition(place.rank, 0)
