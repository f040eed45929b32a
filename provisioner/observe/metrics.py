"""What a worker has done, counted: cheap to count, and turned into Prometheus' text only when somebody asks.

The counts are plain numbers, because labelled metrics of the client library cost a microsecond or two each time.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric as Family

from provisioner import __version__
from provisioner.core.model import (
    Action,
    Cancel,
    ErrorCode,
    Fail,
    Observation,
    Outcome,
    Remove,
    Result,
    Retry,
    Settlement,
    Succeed,
)
from provisioner.core.queue_values import Report
from provisioner.core.reports import Gauges
from provisioner.core.vitals import Vitals
from provisioner.observe import catalogue as c

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. A call to Infisical takes a fifth of a second on a good day, and is given up after 35 to 45.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

LOGINS: Final = ("granted", "refused", "limited", "trouble")

_UNSENT: Final = frozenset(
    {Result.NOT_SENT, Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY}
)
_READS: Final = frozenset({Action.LOOK_UP, Action.IDENTIFY})
_OUTCOMES: Final = {Succeed: "succeeded", Fail: "failed", Retry: "put_back", Cancel: "cancelled", Remove: "removed"}

Labels = tuple[str, ...]
Values = Mapping[Labels, float]


class Histogram:
    """How often something took how long."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """For each bound how many took no longer."""
        found, below = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Meter:
    """Counts what one worker does: `core.ports.Observer`.

    For the given targets what matters is counted from nought, so that already the first of its kind shows as a rise.
    """

    def __init__(self, targets: Iterable[str] = ()) -> None:
        targets = tuple(targets)
        self._calls: defaultdict[tuple[str, Action, Result, int | None], int] = defaultdict(int)
        self._call_seconds: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self._logins: defaultdict[Labels, int] = defaultdict(int)
        self._claimed: defaultdict[Labels, int] = defaultdict(int)
        self._claim_seconds: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self._settled: defaultdict[tuple[type[Outcome], str | None], int] = defaultdict(int)
        self._settle_seconds = Histogram()
        self._fenced = 0
        for target in targets:
            self._calls[target, Action.CREATE, Result.CREATED, 200] = 0
            self._claimed[target,] = 0
            self._logins.update({(target, outcome): 0 for outcome in LOGINS})
        self._settled.update(dict.fromkeys([(Succeed, None), (Cancel, None), (Remove, None)], 0))
        self._settled.update({(Fail, code): 0 for code in ErrorCode})

    def called(self, target: str, action: Action, observation: Observation) -> None:
        """Count a call to Infisical."""
        what = observation.result
        self._calls[target, action, what, observation.status] += 1
        if what not in _UNSENT:
            self._call_seconds[target, action].add(observation.elapsed)

    def claimed(self, target: str, requests: int, took: float) -> None:
        """Count a claim."""
        self._claimed[target,] += requests
        self._claim_seconds[target,].add(took)

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """Count a batch that was recorded."""
        self._settle_seconds.add(took)
        self._fenced += len(report.fenced)
        for settlement in settlements:
            outcome = settlement.outcome
            if not report.fenced or settlement.claim.request.id not in report.fenced:
                code = outcome.code if isinstance(outcome, Fail | Retry) else None
                self._settled[type(outcome), code] += 1

    def logged_in(self, target: str, outcome: str) -> None:
        """Count a login."""
        self._logins[target, outcome] += 1

    def families(self) -> Iterator[Family]:
        """Give everything that was counted."""
        yield _counter(c.CALLS, self._outcomes())
        yield _histogram(c.CALL_SECONDS, self._call_seconds)
        yield _counter(c.REFUSED, self._refused())
        yield _counter(c.LOGINS, self._logins)
        yield _counter(c.CLAIMED, self._claimed)
        yield _histogram(c.CLAIM_SECONDS, self._claim_seconds)
        yield _counter(
            c.SETTLED, {(_OUTCOMES[kind], code or ""): count for (kind, code), count in self._settled.items()}
        )
        yield _counter(c.FENCED, {(): self._fenced})
        yield _histogram(c.SETTLE_SECONDS, {(): self._settle_seconds})

    def _outcomes(self) -> Values:
        return {
            (target, action, what.name.lower(), str(status or "none")): count
            for (target, action, what, status), count in self._calls.items()
        }

    def _refused(self) -> Values:
        refused: defaultdict[Labels, int] = defaultdict(int)
        for (target, action, what, _), count in self._calls.items():
            refused[target, "read" if action in _READS else "write"] += count if what is Result.THROTTLED else 0
        return refused


def exposition(meter: Meter, vitals: Vitals, gauges: Gauges | None, *, ready: bool) -> bytes:
    """Everything in Prometheus' text format. `gauges` is None if the database could not be asked."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collected([*meter.families(), *_own(vitals, gauges, ready=ready), *_shared(gauges)]))
    return generate_latest(registry)


class _Collected:
    """What was collected already, as the client library wants it."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Sequence[Family]:
        return self._families


def _own(vitals: Vitals, gauges: Gauges | None, *, ready: bool) -> Iterator[Family]:
    yield _gauge(c.IN_HAND, {(each.target,): each.in_hand for each in vitals.targets})
    yield _gauge(c.HELD, {(each.target,): each.held is not None for each in vitals.targets})
    yield _gauge(c.PAUSED, {(each.target,): each.paused for each in vitals.targets})
    yield _gauge(c.READY, {(): ready})
    yield _gauge(c.DATABASE_UP, {(): gauges is not None})
    yield _gauge(c.BUILD, {(__version__,): 1})


def _shared(gauges: Gauges | None) -> Iterator[Family]:
    if gauges is None:
        return
    lines, budgets = gauges.lines, gauges.budgets
    yield _gauge(c.QUEUE, {(line.target, line.state): line.requests for line in lines})
    yield _gauge(c.OLDEST, {(line.target, line.state): line.oldest for line in lines if line.oldest is not None})
    limited = {(each.target, each.kind): each for each in budgets if each.metered and each.permits}
    yield _gauge(c.LIMIT, {key: each.permits or 0 for key, each in limited.items()})
    yield _gauge(c.WINDOW, {key: each.period for key, each in limited.items()})
    yield _gauge(c.USED, {key: each.used for key, each in limited.items()})
    yield _gauge(c.BLOCKED, {(each.target, each.kind): each.blocked for each in budgets})
    yield _gauge(c.IN_FLIGHT_LIMIT, {(each.target,): each.in_flight_limit for each in gauges.concurrency})
    cliffs: Values = {(each.target,): each.cliff for each in gauges.concurrency if each.cliff is not None}
    yield _gauge(c.CLIFF, cliffs)
    yield _gauge(c.STALLED, {(each.target,): each.stalled for each in gauges.concurrency})
    yield _gauge(c.WORKERS, {("alive",): gauges.workers.living, ("lost",): gauges.workers.lost})


def _counter(metric: c.Metric, values: Values) -> Family:
    family = CounterMetricFamily(c.PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _gauge(metric: c.Metric, values: Values) -> Family:
    family = GaugeMetricFamily(c.PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: c.Metric, values: Mapping[Labels, Histogram]) -> Family:
    family = HistogramMetricFamily(c.PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, histogram in values.items():
        family.add_metric(labels, histogram.buckets(), histogram.total)
    return family
