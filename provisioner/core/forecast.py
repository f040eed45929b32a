"""When will it end? From what stands before it in line, what the target allows, and what came of that lately. Pure.

One worker of the fleet computes the forecasts every few seconds and leaves them in the database, where the views and
everybody else read them. Durations are seconds from the moment of the look. `docs/forecast.md` tells people how a
forecast is made; a change here is a change there.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from provisioner.core.pacing import SHARE, Allowance, Budget
from provisioner.core.queue_values import QueuePosition

# What nobody tried yet is scheduled if it is due later than this, seconds: sooner it is put in line any moment.
SOON: Final = 5.0
# At first every permit is taken to end a request: with the weight of this share of a window, and it fades.
PRIOR: Final = 0.05
# A permit ends so much of a request, at the least and at the most. Changes and removals have permits of their own, so a
# little more than one; but within a window the pace is above the limit's, for its first answer was waited for: what
# looks like much more in the first window is that. With 3.0 forecasts were a tenth too early, with 1.0 a sixth too late
# beside a second client.
LEAST: Final = 0.02
MOST: Final = 1.1
# Two looks that are further apart, seconds, tell nothing of what happened in between.
APART: Final = 60.0
# Where there is no limiter, the pace is that of about the last so many seconds.
LATELY: Final = 30.0
# No forecast goes further than this, seconds: three centuries.
FAR: Final = 1e10


class NoForecast(StrEnum):
    """Why there is no forecast, in the words of `ends_why`; the first that holds is told."""

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
        """Its place among the others."""
        return _ORDER[self]


_ORDER: Final = {why: number for number, why in enumerate(NoForecast)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """In how many seconds it ends, or why nobody can say."""

    seconds: float | None
    why: NoForecast | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast requests of a line end.

    Nothing before `wait` is over. The present window has `first` permits for us in `span` seconds, each one after it
    `rate` a second. A permit ends `share` of a request: the others are retried.
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
        """How long so many requests take from now on."""
        permits = requests / self.share
        if permits <= self.first:
            return self.wait + permits * self.span / self.first if permits else self.wait
        return min(self.wait + self.span + (permits - self.first) / self.rate, FAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of the permits of a line while there was work in it; what is long past fades.

    Up to `seen_at`, when `ended` requests of it had ended and it had work (`busy`): in `seconds` the limiter left us
    `permits`, and `got` requests ended.
    """

    seen_at: float = 0.0
    ended: int = 0
    busy: bool = False
    seconds: float = 0.0
    permits: float = 0.0
    got: float = 0.0

    @property
    def share(self) -> float:
        """How many requests a permit ends."""
        return min(max(self.got / self.permits, LEAST), MOST) if self.permits else 1.0

    @property
    def pace(self) -> float | None:
        """Requests a second; None if nothing was seen."""
        return self.got / self.seconds if self.seconds and self.got else None


def measure(before: Measured, *, now: float, ended: int, busy: bool, budget: Budget, rate: float | None) -> Measured:
    """Look once more: only what lies between two looks that both saw work in line tells of the pace."""
    after = replace(before, seen_at=now, ended=ended, busy=busy)
    passed, got = now - before.seen_at, ended - before.ended
    if not (before.busy and busy and 0 < passed <= APART and got >= 0):
        return after
    if not budget.metered:
        fade = math.exp(-passed / LATELY)
        return replace(after, seconds=before.seconds * fade + passed, got=before.got * fade + got, permits=0.0)
    # A window that is used up, or blocked, allows nothing: that is not held against what a permit brings.
    spent = budget.blocked_until > now or (budget.end(now) > now and not budget.left)
    fade, allowed = math.exp(-passed / budget.period), 0.0 if spent else rate or 0.0
    permits, ours = (before.permits, before.got) if before.permits else ((rate or 0.0) * budget.period * PRIOR,) * 2
    return replace(
        after,
        seconds=before.seconds * fade + passed,
        permits=permits * fade + allowed * passed,
        got=ours * fade + got,
    )


def rate_of(budget: Budget, now: float, allowance: Allowance | None) -> float | None:
    """Permits a second that the limiter, other clients and an operator leave us in the long run; None if not known."""
    if budget.metered and budget.permits:
        full = budget.permits / budget.period
        theirs = budget.their_pace if budget.seen_at > now - budget.period else 0.0
        left = max(full - theirs, full * SHARE)
        return min(left, allowance.rate) if allowance else left
    return allowance.rate if allowance else None


def pace_of(budget: Budget, now: float, allowance: Allowance | None, measured: Measured) -> Pace | None:
    """How fast requests end, as far as that can be known now."""
    rate, lately = rate_of(budget, now, allowance), measured.pace
    if not budget.metered:
        # What a server without a limiter does shows only in what it did; an operator's limit is no promise.
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
    """One line: is anything in its way, and how fast does it move? `in_flight` are all of it."""

    paused: bool = False
    workers: int = 1
    troubled: bool = False
    in_flight: int = 0
    ready: int = 0
    pace: Pace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Requests that wait for their time: how many, and when the first and the last of them are due."""

    requests: int = 0
    first: float = 0.0
    last: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """What is left of one batch in one line; `place` is where the last of its `ready` requests stands.

    `held`: why some of it waits until somebody does something, if some does. `later` are scheduled, `again` retried.
    """

    ready: int = 0
    in_flight: int = 0
    place: int = 0
    held: NoForecast | None = None
    later: Waits = field(default_factory=Waits)
    again: Waits = field(default_factory=Waits)


def obstacle(line: LineState) -> NoForecast | None:
    """Why nothing in this line moves, if that is so."""
    if line.paused:
        return NoForecast.PAUSED
    if not line.workers:
        return NoForecast.NOBODY
    return NoForecast.TROUBLE if line.troubled else None


def forecast_part(line: LineState, part: BatchPart) -> Forecast:
    """When the last request of a batch ends, or why nobody can say."""
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
    # What has waited its backoff goes first; what was scheduled joins the line at its end.
    if part.again.requests:
        ends = max(ends, _served(part.again, pace))
    if part.later.requests:
        ends = max(ends, _served(part.later, pace), pace.seconds(line.in_flight + line.ready + part.later.requests))
    return Forecast(ends)


def _served(waits: Waits, pace: Pace) -> float:
    """When the last of them has been served: no sooner than due, and no more at once than the pace allows."""
    return max(waits.last + 1 / pace.ended, waits.first + waits.requests / pace.ended, pace.seconds(waits.requests))


def together(forecasts: Iterable[Forecast]) -> Forecast:
    """The forecast of what stands in several lines, which move side by side."""
    latest = 0.0
    first: NoForecast | None = None
    for each in forecasts:
        if each.why is not None and (first is None or each.why.order < first.order):
            first = each.why
        latest = max(latest, each.seconds or 0.0)
    return Forecast(latest) if first is None else Forecast(None, first)


@dataclass(frozen=True, slots=True)
class BatchInFront:
    """What of a batch stands among the first of a line: how many, and the place of the last."""

    requests: int
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSample:
    """What was seen of a line of `length`.

    Its `head` requests are known one by one: `front` by batch. Behind the place `edge`, `sample` are some, chosen by
    chance, with their batches, and `newest` stands the newest request of a batch.
    """

    length: int
    head: int
    front: Mapping[str, BatchInFront]
    edge: QueuePosition | None = None
    sample: Sequence[tuple[QueuePosition, str]] = ()
    newest: Mapping[str, QueuePosition] = field(default_factory=dict)


def estimated_places(survey: LineSample, batches: Mapping[str, int]) -> Mapping[str, int]:
    """Where the last request of each batch stands, of which so many are in line: exact in the front, estimated behind.

    The sample divides what is behind the front into equal parts. Of a batch that is hit often, the last hit and the
    usual distance between two tell; of another one its newest request does, which seldom stands far from its end.
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
