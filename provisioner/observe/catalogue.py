"""Every metric that there is: its name, kind, unit and labels, and what it means.

`docs/metrics.md` is made from this list, and what `metrics` exports is checked against it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PREFIX: Final = "provisioner_"


class Kind(StrEnum):
    """What Prometheus does with a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `shared`: read from the database, so every worker exports the same; take the maximum over them."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    shared: bool = False

    @property
    def full_name(self) -> str:
        """The name that queries use; a histogram's parts have `_bucket`, `_sum` and `_count` at its end."""
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
    help="Calls to Infisical: create, look_up, identify, replace, inspect or remove; what they showed; the HTTP "
    "status, or none where there was no answer.",
)
CALL_SECONDS: Final = _histogram(
    "call_seconds", "target", "action", help="How long the calls took that were sent, answered or not."
)
REFUSED: Final = _counter(
    "permits_refused",
    "calls",
    "target",
    "kind",
    help="Calls that Infisical's rate limiter refused (429). They cost the requests nothing.",
)
LOGINS: Final = _counter(
    "logins",
    "logins",
    "target",
    "outcome",
    help="Logins: granted, refused (a person must act), limited (over the rate limit) or trouble (no usable answer).",
)
CLAIMED: Final = _counter("claimed", "requests", "target", help="Requests that this worker has claimed.")
CLAIM_SECONDS: Final = _histogram("claim_seconds", "target", help="How long the database took for one claim.")
SETTLED: Final = _counter(
    "settled",
    "requests",
    "outcome",
    "code",
    help="Attempts that this worker has recorded: succeeded, failed, put_back (tried again later) or cancelled; "
    "the error code, empty where there is none.",
)
FENCED: Final = _counter(
    "fenced", "requests", help="Attempts that came too late to be recorded: another worker had taken over."
)
SETTLE_SECONDS: Final = _histogram(
    "settle_seconds", help="How long it took to record one batch, waiting for a database that was away included."
)
IN_HAND: Final = _gauge("in_hand", "requests", "target", help="Requests that this worker holds just now.")
HELD: Final = _gauge(
    "target_held", "0 or 1", "target", help="Whether this worker holds the target back, because nothing works there."
)
PAUSED: Final = _gauge("target_paused", "0 or 1", "target", help="Whether an operator has paused the target.")
READY: Final = _gauge("ready", "0 or 1", help="Whether this worker takes on requests: what /readyz answers.")
DATABASE_UP: Final = _gauge(
    "database_up", "0 or 1", help="Whether the database answered this look. If not, the shared metrics are missing."
)
BUILD: Final = _gauge("build_info", "always 1", "version", help="The version that runs.")
QUEUE: Final = _gauge(
    "queue_requests",
    "requests",
    "target",
    "state",
    shared=True,
    help="Requests that are not finished: waiting for their time or their retry, ready, or in_flight.",
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
    help="What the rate limiter allows; missing while it is not known, or where there is none.",
)
WINDOW: Final = _gauge(
    "permits_window_seconds", "seconds", "target", "kind", shared=True, help="How long the limiter's window lasts."
)
USED: Final = _gauge(
    "permits_used",
    "calls",
    "target",
    "kind",
    shared=True,
    help="Permits of the present window that are used, by us and by everybody else behind the same address.",
)
BLOCKED: Final = _gauge(
    "permits_blocked_seconds",
    "seconds",
    "target",
    "kind",
    shared=True,
    help="How long nobody sends any more, after a refusal; 0 when nothing is blocked.",
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
    help="As many creates in flight at once stopped the server; missing while none has.",
)
STALLED: Final = _gauge(
    "target_stalled",
    "0 or 1",
    "target",
    shared=True,
    help="Whether no create ends any more because too many were in flight: all workers wait for that.",
)
WORKERS: Final = _gauge(
    "workers",
    "workers",
    "state",
    shared=True,
    help="Workers that are alive, and those that are lost: their lease ran out and they did not sign off.",
)

METRICS: Final = (
    CALLS,
    CALL_SECONDS,
    REFUSED,
    LOGINS,
    CLAIMED,
    CLAIM_SECONDS,
    SETTLED,
    FENCED,
    SETTLE_SECONDS,
    IN_HAND,
    HELD,
    PAUSED,
    READY,
    DATABASE_UP,
    BUILD,
    QUEUE,
    OLDEST,
    LIMIT,
    WINDOW,
    USED,
    BLOCKED,
    IN_FLIGHT_LIMIT,
    CLIFF,
    STALLED,
    WORKERS,
)


def metrics_table() -> str:
    """All metrics as a table in Markdown."""
    return "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    yield "| metric | kind | unit | labels | meaning |"
    yield "|---|---|---|---|---|"
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        kind = f"{metric.kind}, shared" if metric.shared else str(metric.kind)
        yield f"| `{metric.full_name}` | {kind} | {metric.unit} | {labels} | {metric.help} |"
