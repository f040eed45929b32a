"""Forecast when requests end, from their place in line, what the target allows, and how fast it went lately. Pure.

One worker of the fleet computes the forecasts every few seconds and stores them in the database, where the views and
everything else read them. Durations are seconds from the moment of the computation. `docs/forecast.md` explains
forecasts to users: change it whenever this changes.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from provisioner.core.pacing import MIN_SHARE, Allowance, Budget
from provisioner.core.queue_values import QueuePosition

# An untried request due later than this, in seconds, counts as scheduled; earlier ones are about to enter the line.
SOON: Final = 5.0
# At first every permit is assumed to end one request. This assumption has the weight of this share of a window.
PRIOR_WEIGHT: Final = 0.05
# The limits for how many requests one permit ends. Updates and removals have permits of their own, so slightly more
# than one is possible. The first window also looks faster than its limit, because its first answer was waited for. With
# 3.0, forecasts were 10 % too early; with 1.0, 17 % too late beside a second client.
MIN_PERMIT_SHARE: Final = 0.02
MOST: Final = 1.1
# Two measurements further apart than this, in seconds, say nothing about the time in between.
LONGEST_GAP: Final = 60.0
# Without a rate limiter, the pace is averaged over about this many seconds.
PACE_MEMORY: Final = 30.0
# The longest forecast, in seconds: three centuries.
LONGEST: Final = 1e10
# Reads and creates per minute of Infisical's plans: the read limit shows the plan, and so the create limit.
PLANS: Final = ((200, 90, "Free"), (350, 200, "Pro"))
MINUTE: Final = 60.0
# Without a limiter: measured on a self-hosted server with 8 creates in flight and 0.3 s per call to OpenRouter.
SELF_HOSTED_PACE: Final = 20.0


class NoForecast(StrEnum):
    """Why there is no forecast, in the words of `ends_why`. If several apply, the first is given."""

    PAUSED = "paused"
    NOBODY = "nobody at work"
    TROUBLE = "the target is in trouble"
    KEY = "held for a key"
    PROJECT = "held for a project"
    CONNECTION = "held for a connection"
    SCHEDULED = "scheduled for later"
    PACE = "the pace is not known yet"
    NEW = "not known yet"

    @property
    def order(self) -> int:
        """Its position among the reasons."""
        return _ORDER[self]


_ORDER: Final = {why: number for number, why in enumerate(NoForecast)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """The seconds until the end, or why that is unknown."""

    seconds: float | None
    why: NoForecast | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the requests of a line end.

    Nothing ends before `wait` seconds. The present window has `first` permits for us over `span` seconds; later windows
    have `rate` permits a second. A permit ends `share` of a request, because some requests are retried.
    """

    rate: float
    first: float = 0.0
    span: float = 0.0
    wait: float = 0.0
    share: float = 1.0

    @property
    def ended(self) -> float:
        """Requests a second in the long run."""
        return self.rate * self.share

    def seconds(self, requests: float) -> float:
        """Return the seconds that this many requests take from now on."""
        permits = requests / self.share
        if permits <= self.first:
            return self.wait + permits * self.span / self.first if permits else self.wait
        return min(self.wait + self.span + (permits - self.first) / self.rate, LONGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a line's permits achieved while there was work; old measurements fade.

    At `seen_at`, `ended` requests had ended and `busy` said whether there was work. In `seconds`, the limiter left us
    `permits` permits and `got` requests ended.
    """

    seen_at: float = 0.0
    ended: int = 0
    busy: bool = False
    seconds: float = 0.0
    permits: float = 0.0
    got: float = 0.0

    @property
    def share(self) -> float:
        """How many requests one permit ends."""
        return min(max(self.got / self.permits, MIN_PERMIT_SHARE), MOST) if self.permits else 1.0

    @property
    def pace(self) -> float | None:
        """Requests a second; None before anything was measured."""
        return self.got / self.seconds if self.seconds and self.got else None


def measure(before: Measured, *, now: float, ended: int, busy: bool, budget: Budget, rate: float | None) -> Measured:
    """Update the measurement. Only the time between two measurements that both found work says anything about pace."""
    after = replace(before, seen_at=now, ended=ended, busy=busy)
    passed, got = now - before.seen_at, ended - before.ended
    if not (before.busy and busy and 0 < passed <= LONGEST_GAP and got >= 0):
        return after
    if not budget.metered:
        fade = math.exp(-passed / PACE_MEMORY)
        return replace(after, seconds=before.seconds * fade + passed, got=before.got * fade + got, permits=0.0)
    # A window that is used up or blocked allows nothing, which says nothing about what a permit achieves.
    spent = budget.blocked_until > now or (budget.end(now) > now and not budget.left)
    fade, allowed = math.exp(-passed / budget.period), 0.0 if spent else rate or 0.0
    prior = (rate or 0.0) * budget.period * PRIOR_WEIGHT
    permits, ours = (before.permits, before.got) if before.permits else (prior, prior)
    return replace(
        after,
        seconds=before.seconds * fade + passed,
        permits=permits * fade + allowed * passed,
        got=ours * fade + got,
    )


def rate_of(budget: Budget, now: float, allowance: Allowance | None) -> float | None:
    """Return the permits a second left by limiter, other clients and operator in the long run; None if unknown."""
    if budget.metered and budget.permits:
        full = budget.permits / budget.period
        theirs = budget.their_pace if budget.seen_at > now - budget.period else 0.0
        left = max(full - theirs, full * MIN_SHARE)
        return min(left, allowance.rate) if allowance else left
    return allowance.rate if allowance else None


def pace_of(budget: Budget, now: float, allowance: Allowance | None, measured: Measured) -> Pace | None:
    """Return how fast requests end, as far as it is known."""
    rate, lately = rate_of(budget, now, allowance), measured.pace
    if not budget.metered:
        # Without a limiter only past throughput shows what the server does; an operator's limit promises nothing.
        known = [each for each in (rate, lately) if each]
        return Pace(rate=min(known)) if lately or (rate and budget.metered is None) else None
    if not rate:
        return None
    share = measured.share
    if budget.blocked_until > now:
        return Pace(rate=rate, wait=budget.blocked_until - now, share=share)
    end = budget.end(now)
    if end <= now:
        return Pace(rate=rate, share=share)
    span = end - now
    first = min(budget.ours(now), allowance.rate * span) if allowance else budget.ours(now)
    return Pace(rate=rate, first=first, span=span, share=share)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineState:
    """The state of one line: what blocks it, and how fast it moves. `in_flight` counts all of its requests."""

    paused: bool = False
    workers: int = 1
    troubled: bool = False
    in_flight: int = 0
    ready: int = 0
    pace: Pace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Requests that wait for their time: how many, and when the first and the last are due."""

    requests: int = 0
    first: float = 0.0
    last: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """The rest of one batch in one line; `place` is the position of its last `ready` request.

    `held`: why some of it waits until a person acts, if some does. `later` are scheduled, `again` are retried.
    """

    ready: int = 0
    in_flight: int = 0
    place: int = 0
    held: NoForecast | None = None
    later: Waits = field(default_factory=Waits)
    again: Waits = field(default_factory=Waits)


def obstacle(line: LineState) -> NoForecast | None:
    """Return why nothing in this line moves, or None if it moves."""
    if line.paused:
        return NoForecast.PAUSED
    if not line.workers:
        return NoForecast.NOBODY
    return NoForecast.TROUBLE if line.troubled else None


def forecast_part(line: LineState, part: BatchPart) -> Forecast:
    """Forecast when the last request of a batch ends, or say why that is unknown."""
    why = obstacle(line) or part.held
    if why is None and part.later.requests and not (part.ready or part.in_flight or part.again.requests):
        why = NoForecast.SCHEDULED
    if why is not None:
        return Forecast(None, why)
    pace = line.pace
    if pace is None:
        return Forecast(None, NoForecast.PACE)
    ends = 0.0
    if part.ready:
        ends = pace.seconds(line.in_flight + part.place)
    elif part.in_flight:
        ends = pace.seconds(part.in_flight)
    # Retries whose backoff is over go first; scheduled requests join the line at its end.
    if part.again.requests:
        ends = max(ends, _served(part.again, pace))
    if part.later.requests:
        ends = max(ends, _served(part.later, pace), pace.seconds(line.in_flight + line.ready + part.later.requests))
    return Forecast(ends)


def _served(waits: Waits, pace: Pace) -> float:
    """Return when the last of them is served: not before it is due, and not faster than the pace allows."""
    return max(waits.last + 1 / pace.ended, waits.first + waits.requests / pace.ended, pace.seconds(waits.requests))


@dataclass(frozen=True, slots=True)
class BatchInFront:
    """The requests of one batch in the front of a line: how many, and the position of the last."""

    requests: int
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSample:
    """A sample of a line of `length` requests.

    The first `head` requests are known one by one, and counted by batch in `front`. Beyond the position `edge`,
    `sample` contains some requests chosen at random, with their batches. `newest` has the position of each batch's
    newest request.
    """

    length: int
    head: int
    front: Mapping[str, BatchInFront]
    edge: QueuePosition | None = None
    sample: Sequence[tuple[QueuePosition, str]] = ()
    newest: Mapping[str, QueuePosition] = field(default_factory=dict)


def estimated_places(survey: LineSample, batches: Mapping[str, int]) -> Mapping[str, int]:
    """Estimate the position of each batch's last request; `batches` counts those in line. Exact in the front.

    The sample divides the rest of the line into equal parts. For a batch with many hits, the last hit and the usual
    distance between hits give the estimate. For other batches the newest request does, because it is rarely far from
    the end.
    """
    edge = survey.edge
    if edge is None:
        return {batch: survey.front[batch].place if batch in survey.front else survey.length for batch in batches}
    behind = max(survey.length - survey.head, 1)
    sample = sorted(each for each in survey.sample if each[0] > edge)
    marks = [place for place, _ in sample]
    step = behind / (len(sample) + 1)
    hits: defaultdict[str, list[int]] = defaultdict(list)
    for number, (_, batch) in enumerate(sample, start=1):
        hits[batch].append(number)
    found = {}
    for batch, requests in batches.items():
        seen, hit, newest = survey.front.get(batch), hits[batch], survey.newest.get(batch)
        known = [] if seen is None else [float(seen.place)]
        if len(hit) > 1:
            known.append(survey.head + step * (hit[-1] + (hit[-1] - hit[0]) / (len(hit) - 1)))
        elif hit:
            known.append(survey.head + step * hit[0])
        if newest is not None and newest > edge and sample:
            known.append(survey.head + step * (bisect_right(marks, newest) + 0.5))
        complete = seen is not None and seen.requests >= requests
        last = seen.place if complete and seen else max(known, default=survey.length)
        found[batch] = min(round(last), survey.length)
    return found


@dataclass(frozen=True, slots=True)
class Expectation:
    """Creates per second, and the reason for the estimate."""

    pace: float
    reason: str


def expected_pace(*, metered: bool | None, reads: int | None, period: float) -> Expectation | None:
    """Estimate the pace of a target from the limit on its reads; None if nothing was read yet."""
    if metered is None:
        return None
    if not metered or not reads:
        return Expectation(SELF_HOSTED_PACE, "it has no rate limit; the server decides")
    for allowed, creates, plan in PLANS:
        if reads == allowed and period == MINUTE:
            return Expectation(creates / MINUTE, f"{creates} creates a minute, as on Infisical's {plan} plan")
    # A custom plan: on the known plans, the create limit is about half of the read limit.
    return Expectation(
        reads / period / 2, f"about {reads / 2 / period * MINUTE:.0f} creates a minute, half of its reads"
    )
