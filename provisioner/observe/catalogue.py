"""The list of all metrics: names, kinds, units, labels and meanings.

`docs/metrics.md` is generated from it, and the export of `metrics` is checked against it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PREFIX: Final = "provisioner_"


class Kind(StrEnum):
    """The kinds of metrics in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `shared`: read from the database, so all workers export the same value; take the maximum."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    shared: bool = False

    @property
    def full_name(self) -> str:
        """The name in queries; a histogram's series end with `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.name + ("_total" if self.kind is Kind.COUNTER else "")


def _counter(name: str, unit: str, *labels: str, help: str) -> Metric:  # noqa: A002 - Prometheus' own word
    return Metric(name=name, kind=Kind.COUNTER, unit=unit, labels=labels, help=help)


def _gauge(name: str, unit: str, *labels: str, help: str, shared: bool = False) -> Metric:  # noqa: A002 - as above
    return Metric(name=name, kind=Kind.GAUGE, unit=unit, labels=labels, help=help, shared=shared)


def _histogram(name: str, *labels: str, help: str) -> Metric:  # noqa: A002 - as above
    return Metric(name=name, kind=Kind.HISTOGRAM, unit="seconds", labels=labels, help=help)


CALLS: Final = _counter(
    "calls",
    "calls",
    "target",
    "action",
    "outcome",
    "status",
    help="Calls to Infisical (create, look_up, identify, replace, inspect or remove), their outcome, and the HTTP "
    "status, or none if there was no answer.",
)
CALL_SECONDS: Final = _histogram(
    "call_seconds", "target", "action", help="Duration of the calls that were sent, answered or not."
)
REFUSED: Final = _counter(
    "permits_refused",
    "calls",
    "target",
    "kind",
    help="Calls that Infisical's rate limiter refused (429). They cost requests no attempt.",
)
LOGINS: Final = _counter(
    "logins",
    "logins",
    "target",
    "outcome",
    help="Logins: granted, refused (needs attention), limited (over the rate limit) or trouble (no usable answer).",
)
CLAIMED: Final = _counter("claimed", "requests", "target", help="Requests that this worker has claimed.")
CLAIM_SECONDS: Final = _histogram("claim_seconds", "target", help="Duration of one claim in the database.")
SETTLED: Final = _counter(
    "settled",
    "requests",
    "outcome",
    "code",
    help="Claims that this worker has settled: succeeded, failed, put_back (retried later) or cancelled; "
    "and the error code, empty if there is none.",
)
FENCED: Final = _counter(
    "fenced", "requests", help="Settlements that came too late: another worker had taken the request over."
)
NOTICES: Final = _counter(
    "notices",
    "deliveries",
    "outcome",
    help="Deliveries of notices to `notify.url`: sent, failed (tried again), or given_up (not tried any more).",
)
SETTLE_SECONDS: Final = _histogram(
    "settle_seconds", help="Duration of recording one batch, including the wait for an unavailable database."
)
IN_HAND: Final = _gauge("in_hand", "requests", "target", help="Claims of this worker that are not settled yet.")
HELD: Final = _gauge(
    "breaker_open",
    "0 or 1",
    "target",
    help="Whether this worker sends only single probes to the target, because nothing works there.",
)
PAUSED: Final = _gauge("target_paused", "0 or 1", "target", help="Whether an operator has paused the target.")
READY: Final = _gauge("ready", "0 or 1", help="Whether this worker accepts requests: what /readyz answers.")
DATABASE_UP: Final = _gauge(
    "database_up", "0 or 1", help="Whether the database answered this scrape. If not, the shared metrics are missing."
)
BUILD: Final = _gauge("build_info", "always 1", "version", help="The running version.")
QUEUE: Final = _gauge(
    "queue_requests",
    "requests",
    "target",
    "state",
    shared=True,
    help="Requests that have not ended: waiting, retrying, quarantined, ready, in_flight, updating or removing.",
)
OLDEST: Final = _gauge(
    "queue_oldest_seconds",
    "seconds",
    "target",
    "state",
    shared=True,
    help="Age of the oldest request that is ready, and of the oldest claim that is in_flight.",
)
LIMIT: Final = _gauge(
    "permits_limit",
    "calls a window",
    "target",
    "kind",
    shared=True,
    help="What the rate limiter allows; missing while it is unknown, or if there is no limiter.",
)
WINDOW: Final = _gauge(
    "permits_window_seconds", "seconds", "target", "kind", shared=True, help="Length of the limiter's window."
)
USED: Final = _gauge(
    "permits_used",
    "calls",
    "target",
    "kind",
    shared=True,
    help="Permits used in the present window, by us and by everybody else behind the same address.",
)
BLOCKED: Final = _gauge(
    "permits_blocked_seconds",
    "seconds",
    "target",
    "kind",
    shared=True,
    help="Seconds until calls are sent again after a refusal; 0 if nothing is blocked.",
)
WRITES_LIMIT: Final = _gauge(
    "writes_limit",
    "creates a second",
    "target",
    "source",
    "by",
    shared=True,
    help="The limit in effect for a target's creates, and its source: operator (set with `provisioner limit`, by that "
    "role), settings, or infisical (learned from answers). Missing while there is none.",
)
LIMIT_SET: Final = _gauge(
    "limit_set",
    "always 1",
    "target",
    "by",
    shared=True,
    help="An operator has limited the target with `provisioner limit`; missing if nobody has.",
)
IN_FLIGHT_LIMIT: Final = _gauge(
    "in_flight_limit",
    "creates",
    "target",
    shared=True,
    help="Creates that may be in flight at once, over all workers of the target.",
)
CLIFF: Final = _gauge(
    "in_flight_cliff",
    "creates",
    "target",
    shared=True,
    help="Number of creates in flight that stalled the server; missing if none has.",
)
STALLED: Final = _gauge(
    "target_stalled",
    "0 or 1",
    "target",
    shared=True,
    help="Whether the server has stalled because too many creates were in flight, and all workers wait.",
)
WORKERS: Final = _gauge(
    "workers",
    "workers",
    "state",
    shared=True,
    help="Workers that are alive, and those that are lost: their lease expired without them signing off.",
)
ENDS: Final = _gauge(
    "forecast_seconds",
    "seconds",
    "target",
    shared=True,
    help="Seconds until everything pending at the target has ended, as forecast; missing while there is no forecast.",
)
DRIFTED: Final = _gauge(
    "drifted_connections",
    "connections",
    "target",
    shared=True,
    help="Recorded connections (at `NAME/rotations`: rotations) that standing verification found gone or changed.",
)
LEFT_BEHIND: Final = _gauge(
    "left_behind_rotations",
    "rotations",
    "target",
    shared=True,
    help="Rotations that may have left keys behind at OpenRouter, which can spend money until somebody deletes them.",
)

METRICS: Final = tuple(each for each in tuple(globals().values()) if isinstance(each, Metric))  # in the order above
