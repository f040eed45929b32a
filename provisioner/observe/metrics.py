"""The metrics of a worker and its database, in Prometheus' text format."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric as Family

from provisioner import __version__
from provisioner.core.model import Action, Cancel, Fail, Remove, Result, Retry, Succeed
from provisioner.core.reports import Gauges
from provisioner.core.vitals import Vitals
from provisioner.observe import catalogue as c
from provisioner.observe.meter import Histogram, Labels, Meter

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_READS: Final = frozenset({Action.LOOK_UP, Action.IDENTIFY})
_OUTCOMES: Final = {Succeed: "succeeded", Fail: "failed", Retry: "put_back", Cancel: "cancelled", Remove: "removed"}

Values = Mapping[Labels, float]


def exposition(meter: Meter, vitals: Vitals, gauges: Gauges | None, *, ready: bool) -> bytes:
    """Return all metrics in Prometheus' text format. `gauges` is None if the database could not be queried."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collected([*_counted(meter), *_own(vitals, gauges, ready=ready), *_shared(gauges)]))
    return generate_latest(registry)


class _Collected:
    """Metrics that were collected already, in the form that the client library expects."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Sequence[Family]:
        return self._families


def _counted(meter: Meter) -> Iterator[Family]:
    """Yield everything that was counted."""
    yield _counter(c.CALLS, _outcomes(meter))
    yield _histogram(c.CALL_SECONDS, meter.call_seconds)
    yield _counter(c.REFUSED, _refused(meter))
    yield _counter(c.LOGINS, meter.logins)
    yield _counter(c.CLAIMED, meter.claims)
    yield _histogram(c.CLAIM_SECONDS, meter.claim_seconds)
    yield _counter(c.SETTLED, {(_OUTCOMES[kind], code or ""): count for (kind, code), count in meter.outcomes.items()})
    yield _counter(c.FENCED, {(): meter.fenced})
    yield _counter(c.NOTICES, meter.notices)
    yield _histogram(c.SETTLE_SECONDS, {(): meter.settle_seconds})


def _outcomes(meter: Meter) -> Values:
    return {
        (target, action, what.name.lower(), str(status or "none")): count
        for (target, action, what, status), count in meter.calls.items()
    }


def _refused(meter: Meter) -> Values:
    refused: defaultdict[Labels, int] = defaultdict(int)
    for (target, action, what, _), count in meter.calls.items():
        refused[target, "read" if action in _READS else "write"] += count if what is Result.THROTTLED else 0
    return refused


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
    yield _gauge(c.WRITES_LIMIT, {(target, source, by): pace for target, source, by, pace in gauges.create_limits()})
    yield _gauge(c.LIMIT_SET, {(target, limit.by or ""): 1 for target, limit in gauges.limits.items()})
    yield _gauge(c.IN_FLIGHT_LIMIT, {(each.target,): each.in_flight_limit for each in gauges.concurrency})
    cliffs: Values = {(each.target,): each.cliff for each in gauges.concurrency if each.cliff is not None}
    yield _gauge(c.CLIFF, cliffs)
    yield _gauge(c.STALLED, {(each.target,): each.stalled for each in gauges.concurrency})
    yield _gauge(c.ENDS, {(target,): seconds for target, seconds in gauges.ends.items()})
    yield _gauge(c.DRIFTED, {(target,): requests for target, requests in gauges.drifted.items()})
    yield _gauge(c.LEFT_BEHIND, {(target,): rotations for target, rotations in gauges.leaving.items()})
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
