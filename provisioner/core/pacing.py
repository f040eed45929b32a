"""Grant permits within a rate limit that is learned from the answers.

Infisical counts requests in fixed windows that begin with their first request (`infisical-api.md` §6). A `Budget` is
what all workers behind one address know about one such window. These functions grant permits from it, and correct it
after each answer. Pure: no clock, no I/O. Times are seconds since 1970 on the database's clock, which all workers
share.

The pace is the permits that are left, minus what other clients will need, divided by the time that is left. What the
server counted and we did not send was used by other clients, which are expected to continue. So permits are spread over
the window instead of hitting OpenRouter all at once, and other clients of the address are rarely refused.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from provisioner.core.model import RateHeaders

# One lot of permits lasts about this many seconds, so the database is asked only a few times a second at any rate.
LOT_SECONDS: Final = 0.25
# The last permits of a window are used this many seconds before it ends, because a request that arrives later counts in
# the next window.
WINDOW_MARGIN: Final = 0.25
# When an operator's limit applies, ask again after this many seconds at most: it may have been lifted.
ALLOWANCE_POLL: Final = 1.0
# While nothing is known, one request asks first. If it has no answer after this many seconds, another one may.
PROBE_TIMEOUT: Final = 10.0
# Seconds between two polls while another worker's first request is in flight.
PROBE_POLL: Final = 0.05
# After a refusal that names no limit, assume the smallest of Infisical's plans, in permits per minute.
SMALLEST_LIMIT: Final = 90
DEFAULT_PERIOD: Final = 60.0
# If no answer names the limit, it is searched upwards by this factor after each window without a refusal.
SEARCH_FACTOR: Final = 1.25
# Other clients' use is remembered for about this share of a window.
OTHERS_MEMORY: Final = 0.25
# Other clients are expected to use this many standard deviations more than they did recently.
OTHERS_DEVIATIONS: Final = 1.5
# This share of what is left is always ours: otherwise two polite clients could wait for each other for ever.
MIN_SHARE: Final = 0.25
# Calls that can wait leave this share of a window unused, for the calls that finish a create.
RESERVED_SHARE: Final = 0.5
# An answer to a request that was sent before this window began is about this window only if its window ends later than
# this share of a window after the beginning. Otherwise it is a late answer about the previous window.
LATE_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Permits that were granted. If there are none, ask again after `wait` seconds.

    After a spare permit, wait `wait` seconds before asking for the next one.
    """

    permits: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is known about one rate limiter's present window.

    `metered` says whether there is a limiter at all; None while that is unknown. `permits` are allowed per window of
    `period` seconds. The previous window ended at `ended_at`. `granted` permits were handed out in this window, and
    `answered` of these calls have been answered. `used` is the server's count, including other clients. `ends_at` is
    the earliest bound for the window's end that the answers gave. No permit is granted before `next_at`. `late` calls
    were in flight when the window began, and may count in it. Other clients certainly used `theirs` in this window, and
    recently `their_pace` a second, as of `seen_at`. `searching`: no answer names the limit, and `permits` is what has
    worked so far. `bare_since` is since when answers lack the headers that taught the limit: 0 while they have them,
    None if headers never taught it. `address` is the server's, from the settings. `slowed_until` delays permits because
    of an operator's limit. `configured`: the limit comes from the settings, not from answers.
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
    ended_at: float | None = None
    late: int = 0
    theirs: int = 0
    their_pace: float = 0.0
    seen_at: float = 0.0
    searching: bool = False
    bare_since: float | None = None
    address: str = ""
    slowed_until: float = 0.0
    configured: bool = False

    @property
    def left(self) -> int:
        """Permits that are neither used nor granted."""
        on_their_way = max(0, self.granted - self.answered)
        return max(0, (self.permits or 0) - self.used - on_their_way)

    def end(self, now: float) -> float:
        """When the window ends, as far as is known; a window that has not begun would begin now."""
        if self.ends_at is not None:
            return self.ends_at
        return (now if self.starts_at is None else self.starts_at) + self.period

    def ours(self, now: float) -> float:
        """Permits left for us if other clients continue as recently, or slightly faster."""
        memory, end = self.period * OTHERS_MEMORY, self.end(now)
        # What they did since the last answer, in this window, is not known yet.
        unseen = now - max(self.seen_at, end - self.period)
        faded = math.exp(-max(0.0, now - self.seen_at - memory) / memory)
        theirs = self.their_pace * faded * (max(0.0, unseen) + end - now)
        return max(self.left - theirs - OTHERS_DEVIATIONS * math.sqrt(theirs), self.left * MIN_SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterReply:
    """What one answer, received at `at`, said about the limiter.

    `throttled_for`: it was a refusal, for this many seconds. It arrived `elapsed` seconds after the request was sent.
    `lost`: there was no answer, or none that had passed the limiter.
    """

    at: float
    rate: RateHeaders | None
    throttled_for: float | None = None
    elapsed: float = 0.0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an operator allows while workers run: `permits` per `period` seconds, whatever the limiter allows."""

    permits: int
    period: float

    @property
    def rate(self) -> float:
        """Permits a second."""
        return self.permits / self.period

    @property
    def spacing(self) -> float:
        """Seconds from one permit to the next."""
        return self.period / self.permits

    @property
    def lot(self) -> int:
        """Permits that are granted at once."""
        return max(1, int(LOT_SECONDS / self.spacing))


def fixed(permits: int, period: float) -> Budget:
    """Return a budget whose limit comes from the settings."""
    return Budget(metered=True, permits=permits, period=period, configured=True)


def named(budget: Budget, permits: int, period: float) -> Budget:
    """Return the budget with a limit that a person set, if it has a different one."""
    if budget.metered and budget.configured and (budget.permits, budget.period) == (permits, period):
        return budget
    ends_at = budget.ends_at
    if budget.starts_at is not None and ends_at is not None:
        ends_at = min(ends_at, budget.starts_at + period)  # the present window cannot be longer than the new period
    return replace(budget, metered=True, permits=permits, period=period, ends_at=ends_at, configured=True)


def grant(
    budget: Budget, wanted: int, now: float, *, spare: bool = False, allowance: Allowance | None = None
) -> tuple[Budget, Grant]:
    """Grant up to `wanted` permits. A `spare` permit is for calls that can wait: one at a time, and delaying nobody."""
    if allowance is None or not wanted:
        return _grant_all(budget, wanted, now, spare=spare)
    # A delay caused by an earlier, slower allowance no longer applies.
    slowed = min(budget.slowed_until, now + allowance.lot * allowance.spacing)
    if slowed > now:
        return budget, Grant(permits=0, wait=min(slowed - now, ALLOWANCE_POLL))
    budget, granted = _grant_all(budget, min(wanted, allowance.lot), now, spare=spare)
    if not granted.permits:
        return budget, replace(granted, wait=min(granted.wait, ALLOWANCE_POLL))
    # A caller that comes slightly late loses nothing of the pace.
    slowed = max(slowed, now - LOT_SECONDS) + granted.permits * allowance.spacing
    return replace(budget, slowed_until=slowed), granted


def _grant_all(budget: Budget, wanted: int, now: float, *, spare: bool) -> tuple[Budget, Grant]:
    """Grant what the limiter allows."""
    if not wanted:
        return budget, Grant(permits=0)
    if budget.blocked_until > now:
        return budget, Grant(permits=0, wait=budget.blocked_until - now)
    if budget.metered is None:
        return _ask_first(budget, now)
    if not budget.metered:
        return budget, Grant(permits=wanted)
    budget = _roll(budget, now)
    return _grant_spare(budget, now) if spare else _grant(budget, wanted, now)


def _grant(budget: Budget, wanted: int, now: float) -> tuple[Budget, Grant]:
    """Grant permits of a window, at the pace that uses it up exactly."""
    if budget.left == 0:
        return budget, Grant(permits=0, wait=max(budget.end(now) - now, PROBE_POLL))
    if budget.next_at > now:
        return budget, Grant(permits=0, wait=budget.next_at - now)
    ours, time = budget.ours(now), budget.end(now) - now
    if ours < 1:
        return budget, Grant(permits=0, wait=min(LOT_SECONDS, time))
    spacing = max(time - WINDOW_MARGIN, 0.0) / ours
    lot = int(ours) if spacing == 0 else max(1, int(LOT_SECONDS / spacing))
    permits = min(wanted, lot, budget.left)
    starts_at = now if budget.starts_at is None else budget.starts_at
    granted = replace(budget, starts_at=starts_at, granted=budget.granted + permits, next_at=now + permits * spacing)
    return granted, Grant(permits=permits)


def _grant_spare(budget: Budget, now: float) -> tuple[Budget, Grant]:
    """Grant a permit that does not delay the next one, unless only the reserved share is left."""
    time = budget.end(now) - now
    if budget.left <= int((budget.permits or 0) * RESERVED_SHARE):
        return budget, Grant(permits=0, wait=max(time, PROBE_POLL))
    if budget.next_at > now:
        return budget, Grant(permits=0, wait=budget.next_at - now)
    spacing = max(time - WINDOW_MARGIN, 0.0) / max(budget.ours(now), 1.0)
    starts_at = now if budget.starts_at is None else budget.starts_at
    return replace(budget, starts_at=starts_at, granted=budget.granted + 1), Grant(permits=1, wait=spacing)


def give_back(budget: Budget, permits: int, allowance: Allowance | None = None) -> Budget:
    """Take back unused permits; the limiter's next permit is available at once."""
    slowed = budget.slowed_until - permits * allowance.spacing if allowance else budget.slowed_until
    return replace(
        budget, granted=max(budget.answered, budget.granted - permits), next_at=0.0, slowed_until=max(0.0, slowed)
    )


def learn(budget: Budget, lesson: LimiterReply) -> Budget:
    """Correct the budget after one answer."""
    if lesson.rate is not None:
        budget = _heed(budget, lesson.rate, lesson)
    elif lesson.lost:
        # The next answer shows whether the server counted it.
        next_at = 0.0 if budget.metered is None else budget.next_at
        budget = replace(budget, answered=min(budget.granted, budget.answered + 1), next_at=next_at)
    elif budget.metered is None and lesson.throttled_for is None:
        # The answer passed the place of the limiter without limiter headers, so there is none.
        budget = replace(budget, metered=False, granted=0, starts_at=None)
    elif budget.metered and lesson.throttled_for is None:
        budget = _count(budget, lesson)
    if lesson.throttled_for is not None:
        budget = _block(budget, lesson)
    return budget


def _ask_first(budget: Budget, now: float) -> tuple[Budget, Grant]:
    if budget.next_at > now:
        return budget, Grant(permits=0, wait=PROBE_POLL)
    return replace(budget, granted=1, starts_at=now, next_at=now + PROBE_TIMEOUT), Grant(permits=1)


def _roll(budget: Budget, now: float) -> Budget:
    """Begin a new window if the old one is over.

    A new window begins with its first request, not at the end of the old one.
    """
    if budget.starts_at is None or now < budget.end(now):
        return budget
    permits = budget.permits
    if budget.searching and permits is not None and budget.granted >= permits:
        permits = math.ceil(permits * SEARCH_FACTOR)
    return replace(_begin_window(budget), permits=permits)


def _begin_window(budget: Budget, starts_at: float | None = None) -> Budget:
    late = max(0, budget.granted - budget.answered)
    return replace(
        budget,
        starts_at=starts_at,
        ends_at=None,
        ended_at=budget.ends_at,
        next_at=0.0,
        granted=0,
        answered=0,
        used=0,
        late=late,
        theirs=0,
    )


def _was_sent_before(budget: Budget, lesson: LimiterReply) -> bool:
    """Whether a request was sent before this window began."""
    return budget.starts_at is not None and lesson.at - lesson.elapsed < budget.starts_at


def _heed(budget: Budget, rate: RateHeaders, lesson: LimiterReply) -> Budget:
    # `reset` is whole seconds, rounded up. The window ends no later than `reset` after the answer arrived, and later
    # than `reset` minus one second after the request was sent.
    at, sent_at = lesson.at, lesson.at - lesson.elapsed
    latest, earliest = at + rate.reset, sent_at + rate.reset - 1.0
    before = _was_sent_before(budget, lesson)
    if before and latest < (budget.starts_at or 0.0) + budget.period * LATE_SHARE:
        return budget
    if budget.ends_at is not None and earliest > budget.ends_at:
        # Another client, or a late request of ours, has already begun the next window.
        budget = _begin_window(budget, sent_at)
    ends_at = latest if budget.ends_at is None else min(budget.ends_at, latest)
    budget = replace(
        budget,
        metered=True,
        permits=rate.limit,
        period=_period(budget, rate, sent_at),
        starts_at=sent_at if budget.starts_at is None else budget.starts_at,
        ends_at=ends_at,
        answered=budget.answered + (not before),
        used=max(budget.used, rate.limit - rate.remaining),
        next_at=budget.next_at if budget.metered else 0.0,
        searching=False,
        bare_since=0.0,
        configured=False,
    )
    return _watch_others(budget, at)


def _period(budget: Budget, rate: RateHeaders, sent_at: float) -> float:
    """Return the length of a window: the `reset` of its first request."""
    first = rate.remaining == rate.limit - 1
    if budget.ends_at is None and budget.ended_at is not None and sent_at < budget.ended_at + 1.0:
        # It began when the previous one ended, or slightly later.
        first = first or rate.reset < budget.period - 1.0
    return max(rate.reset, 1.0) if first else max(budget.period, rate.reset)


def _watch_others(budget: Budget, at: float) -> Budget:
    """Update the rate at which other clients use permits, which fades over time."""
    theirs = max(budget.theirs, budget.used - budget.late - max(budget.granted, budget.answered))
    since = max(budget.seen_at, budget.end(at) - budget.period)
    if at <= since:
        more = (theirs - budget.theirs) / (budget.period * OTHERS_MEMORY)
        return replace(budget, theirs=theirs, their_pace=budget.their_pace + more)
    faded = math.exp(-(at - since) / (budget.period * OTHERS_MEMORY))
    idle = math.exp(-max(0.0, since - budget.seen_at) / (budget.period * OTHERS_MEMORY))
    pace = budget.their_pace * idle * faded + (theirs - budget.theirs) / (at - since) * (1 - faded)
    return replace(budget, theirs=theirs, their_pace=pace, seen_at=at)


def _count(budget: Budget, lesson: LimiterReply) -> Budget:
    """Count our own requests if no header does."""
    if budget.bare_since == 0.0:
        budget = replace(budget, bare_since=lesson.at)
    elif budget.bare_since is not None and lesson.at - budget.bare_since >= budget.period:
        # For a whole window no answer had the headers that once taught the limit, so there is no limit any more.
        return Budget(metered=False, address=budget.address, slowed_until=budget.slowed_until)
    if _was_sent_before(budget, lesson):
        return budget
    answered = budget.answered + 1
    ends_at = lesson.at + budget.period if budget.ends_at is None else budget.ends_at
    return replace(budget, answered=answered, used=max(budget.used, answered), ends_at=ends_at)


def _block(budget: Budget, lesson: LimiterReply) -> Budget:
    """Block the budget until the refusal is over."""
    until = lesson.at + (lesson.throttled_for or 0.0)
    if lesson.rate is not None and budget.ends_at is not None and until - 1.0 < budget.ends_at < until:
        until = budget.ends_at  # the refusal's seconds were rounded up
    permits, searching = budget.permits or SMALLEST_LIMIT, budget.searching
    if lesson.rate is None and budget.metered is not True:
        searching = True
    elif searching and lesson.at - lesson.elapsed >= budget.blocked_until:
        permits, searching = max(SMALLEST_LIMIT, budget.answered - 1), False
    budget = replace(
        budget,
        metered=True,
        permits=permits,
        searching=searching,
        blocked_until=max(budget.blocked_until, until),
        starts_at=lesson.at - lesson.elapsed if budget.starts_at is None else budget.starts_at,
        ends_at=until if budget.ends_at is None else budget.ends_at,
        next_at=0.0,
    )
    # Without headers, the refusal itself says that this window is used up, and when it ends.
    if lesson.rate is not None:
        return budget
    return replace(budget, used=max(budget.used, permits), ends_at=until, bare_since=None)
