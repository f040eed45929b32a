"""Count what a worker does: cheap to count, and converted to Prometheus' text by `metrics` on request.

The counts are plain numbers, because labelled metrics of the client library cost a microsecond or two each time.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from provisioner.core.model import (
    NEVER_SENT,
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

# Seconds. A call to Infisical usually takes a fifth of a second, and is given up after 35 to 45.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

LOGINS: Final = ("granted", "refused", "limited", "trouble")
NOTICES: Final = ("sent", "failed", "given_up")


Labels = tuple[str, ...]


class Histogram:
    """A histogram of durations."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration, in seconds."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound with the number of durations up to it."""
        found, below = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Meter:
    """Counts what one worker does: `core.ports.Observer`.

    For the given targets, important counters start at zero, so that even the first event shows as an increase.
    """

    def __init__(self, targets: Iterable[str] = ()) -> None:
        targets = tuple(targets)
        self.calls: defaultdict[tuple[str, Action, Result, int | None], int] = defaultdict(int)
        self.call_seconds: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self.logins: defaultdict[Labels, int] = defaultdict(int)
        self.claims: defaultdict[Labels, int] = defaultdict(int)
        self.claim_seconds: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self.outcomes: defaultdict[tuple[type[Outcome], str | None], int] = defaultdict(int)
        self.settle_seconds = Histogram()
        self.fenced = 0
        self.notices: defaultdict[Labels, int] = defaultdict(int)
        self.notices.update({(outcome,): 0 for outcome in NOTICES})
        for target in targets:
            self.calls[target, Action.CREATE, Result.CREATED, 200] = 0
            self.claims[target,] = 0
            self.logins.update({(target, outcome): 0 for outcome in LOGINS})
        self.outcomes.update(dict.fromkeys([(Succeed, None), (Cancel, None), (Remove, None)], 0))
        self.outcomes.update({(Fail, code): 0 for code in ErrorCode})

    def called(self, target: str, action: Action, observation: Observation) -> None:
        """Count a call to Infisical."""
        what = observation.result
        self.calls[target, action, what, observation.status] += 1
        if what not in NEVER_SENT:
            self.call_seconds[target, action].add(observation.elapsed)

    def claimed(self, target: str, requests: int, took: float) -> None:
        """Count a claim."""
        self.claims[target,] += requests
        self.claim_seconds[target,].add(took)

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """Count a batch that was recorded."""
        self.settle_seconds.add(took)
        self.fenced += len(report.fenced)
        for settlement in settlements:
            outcome = settlement.outcome
            if not report.fenced or settlement.claim.request.id not in report.fenced:
                code = outcome.code if isinstance(outcome, Fail | Retry) else None
                self.outcomes[type(outcome), code] += 1

    def logged_in(self, target: str, outcome: str) -> None:
        """Count a login."""
        self.logins[target, outcome] += 1

    def notified(self, outcome: str) -> None:
        """Count the delivery of a notice."""
        self.notices[outcome,] += 1
