"""Count what happened recently, per minute and per hour. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

MINUTES: Final = 180  # three hours
HOURS: Final = 168  # a week


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A minute or an hour: requests that succeeded and failed, and attempts that will be retried."""

    at: datetime
    succeeded: int = 0
    failed: int = 0
    retried: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return not (self.succeeded or self.failed or self.retried)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The last hours by minute and the last days by hour, without gaps; the last slot is still in progress."""

    minutes: tuple[Slot, ...] = ()
    hours: tuple[Slot, ...] = ()


def without_gaps(slots: Iterable[Slot], *, now: datetime, span: timedelta, number: int) -> tuple[Slot, ...]:
    """Return the last `number` slots up to now, with empty ones for those that are missing."""
    known = {slot.at: slot for slot in slots}
    last = now - timedelta(seconds=now.timestamp() % span.total_seconds())
    last = last.replace(microsecond=0)
    return tuple(known.get(at) or Slot(at=at) for at in (last - span * back for back in range(number - 1, -1, -1)))


def total(slots: Iterable[Slot]) -> Slot | None:
    """Add up all slots, starting at the first; None if there are none."""
    summed: Slot | None = None
    for slot in slots:
        summed = (
            slot
            if summed is None
            else replace(
                summed,
                succeeded=summed.succeeded + slot.succeeded,
                failed=summed.failed + slot.failed,
                retried=summed.retried + slot.retried,
            )
        )
    return summed
