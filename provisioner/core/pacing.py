"""How fast may we go? Permits within a rate limit that is learned from the answers.

Infisical counts requests in fixed windows that begin with their first request (`infisical-api.md` §6). A `Budget` is
what all workers behind one address know together about one such window; these functions grant permits from it and
correct it by what the answers say. Pure: no clock, no I/O. Times are seconds since 1970 on the database's clock, for
all workers share that one.

The pace is what is left over the time that is left: so other users of the same address are allowed for without knowing
them, and the permits are spread over the window instead of hitting OpenRouter all at once.
"""

from dataclasses import dataclass, replace
from typing import Final

from provisioner.core.model import RateHeaders
from provisioner.core.ports import Grant

# One lot lasts about this long, seconds: so the database is asked a few times a second at most, whatever the rate.
LOT: Final = 0.25
# The last permits of a window are used this long before it ends, seconds: a request that arrives later counts in the
# next.
EDGE: Final = 0.25
# While nothing is known one request asks first; if it has no answer after so many seconds, another one may.
PROBE: Final = 10.0
# Asked again after so many seconds while somebody else's first request is under way.
PROBE_POLL: Final = 0.05
# A refusal that names no limit: the smallest that Infisical's plans have, permits a minute.
SMALLEST_LIMIT: Final = 90
DEFAULT_PERIOD: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is known of one limiter's present window.

    `metered` is whether there is a limiter at all, None while nobody knows. `permits` a window of `period` seconds.
    `granted` were handed out in this window, `answered` of these have come back, `used` is the server's count, others'
    included. `ends_at` is the earliest bound that the answers gave for the window's end. No permit before `next_at`.
    """

    metered: bool | None = None
    permits: int | None = None
    period: float = DEFAULT_PERIOD
    starts_at: float | None = None
    ends_at: float | None = None
    next_at: float = 0.0
    granted: int = 0
    answered: int = 0
    used: int = 0
    blocked_until: float = 0.0

    @property
    def left(self) -> int:
        """Permits that are neither used nor handed out."""
        on_their_way = max(0, self.granted - self.answered)
        return max(0, (self.permits or 0) - self.used - on_their_way)

    def end(self, now: float) -> float:
        """When the window ends, as far as is known; one that has not begun begins now."""
        if self.ends_at is not None:
            return self.ends_at
        return (now if self.starts_at is None else self.starts_at) + self.period


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one answer, received at `at`, said of the limiter.

    `throttled_for`: it was a refusal, for so many seconds.
    """

    at: float
    rate: RateHeaders | None
    throttled_for: float | None = None


def fixed(permits: int, period: float) -> Budget:
    """A budget whose limit the settings name."""
    return Budget(metered=True, permits=permits, period=period)


def grant(budget: Budget, wanted: int, now: float) -> tuple[Budget, Grant]:
    """Hand out up to `wanted` permits."""
    if budget.blocked_until > now:
        return budget, Grant(permits=0, wait=budget.blocked_until - now)
    if budget.metered is None:
        return _ask_first(budget, now)
    if not budget.metered:
        return budget, Grant(permits=wanted)
    budget = _roll(budget, now)
    if budget.left == 0:
        return budget, Grant(permits=0, wait=max(budget.end(now) - now, PROBE_POLL))
    if budget.next_at > now:
        return budget, Grant(permits=0, wait=budget.next_at - now)
    spacing = max(budget.end(now) - EDGE - now, 0.0) / budget.left
    lot = budget.left if spacing == 0 else max(1, int(LOT / spacing))
    permits = min(wanted, lot, budget.left)
    starts_at = now if budget.starts_at is None else budget.starts_at
    granted = replace(budget, starts_at=starts_at, granted=budget.granted + permits, next_at=now + permits * spacing)
    return granted, Grant(permits=permits)


def give_back(budget: Budget, permits: int) -> Budget:
    """Take back permits that were not used; the next may be had at once."""
    return replace(budget, granted=max(budget.answered, budget.granted - permits), next_at=0.0)


def learn(budget: Budget, lesson: Lesson) -> Budget:
    """Correct the budget by what one answer said."""
    if lesson.rate is not None:
        budget = _heed(budget, lesson.rate, lesson.at)
    elif budget.metered is None and lesson.throttled_for is None:
        # The answer passed the place where the limiter would be, and it says nothing: there is none.
        budget = replace(budget, metered=False, granted=0, starts_at=None)
    elif budget.metered:
        budget = replace(budget, answered=budget.answered + 1, used=max(budget.used, budget.answered + 1))
    if lesson.throttled_for is not None:
        budget = _block(budget, lesson.at + lesson.throttled_for)
    return budget


def _ask_first(budget: Budget, now: float) -> tuple[Budget, Grant]:
    if budget.next_at > now:
        return budget, Grant(permits=0, wait=PROBE_POLL)
    return replace(budget, granted=1, starts_at=now, next_at=now + PROBE), Grant(permits=1)


def _roll(budget: Budget, now: float) -> Budget:
    """Begin a new window if the old one is over.

    The new one begins with its first request, not when the old one ends.
    """
    if budget.starts_at is None or now < budget.end(now):
        return budget
    return replace(budget, starts_at=None, ends_at=None, next_at=0.0, granted=0, answered=0, used=0)


def _heed(budget: Budget, rate: RateHeaders, at: float) -> Budget:
    # `reset` is whole seconds rounded up: the window ends at `bound` or up to a second before.
    bound = at + rate.reset
    used = rate.limit - rate.remaining
    fresh = rate.remaining == rate.limit - 1
    period = max(rate.reset, 1.0) if fresh else max(budget.period, rate.reset)
    if budget.starts_at is not None and bound < budget.starts_at:
        return budget  # a late answer, of a window that is over
    if budget.ends_at is not None and bound > budget.ends_at + 1.5 and at > budget.ends_at - 1.5:
        # Another client, or a late request of ours, has begun the next window already.
        budget = replace(budget, starts_at=at, ends_at=None, granted=0, answered=0, used=0, next_at=0.0)
    ends_at = bound if budget.ends_at is None else min(budget.ends_at, bound)
    permits = rate.limit
    first = budget.metered is not True
    return replace(
        budget,
        metered=True,
        permits=permits,
        period=period,
        starts_at=at if budget.starts_at is None else budget.starts_at,
        ends_at=ends_at,
        answered=budget.answered + 1,
        used=max(budget.used, used),
        next_at=0.0 if first else budget.next_at,
    )


def _block(budget: Budget, until: float) -> Budget:
    return replace(
        budget,
        metered=True,
        permits=budget.permits or SMALLEST_LIMIT,
        blocked_until=max(budget.blocked_until, until),
        starts_at=None,
        ends_at=None,
        granted=0,
        answered=0,
        used=0,
        next_at=0.0,
    )
