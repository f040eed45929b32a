"""What people and probes are told: progress, pace, and problems."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from provisioner.core.forecast import LineState as ForecastLine, NoForecast, obstacle
from provisioner.core.pacing import MIN_SHARE
from provisioner.core.queue_values import OperatorLimit
from provisioner.core.text import several

# The states of `Progress`, in the order in which they are shown.
STATES: Final = (
    *("succeeded", "failed", "cancelled", "removed", "in_flight", "updating", "removing"),
    *("ready", "waiting", "retrying", "quarantined"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of one batch, or of everything (`total`). `batch` None without `total`: requests without a batch.

    The last request ended at `ended_at`, or will probably end at `ends_at`; at most one of them is known. `ends_why`
    says why neither is. Each request is counted in one state.
    """

    batch: str | None
    total: bool
    requests: int
    waiting: int
    ready: int
    in_flight: int
    succeeded: int
    failed: int
    cancelled: int
    removed: int = 0
    started_at: datetime | None
    ended_at: datetime | None
    ends_at: datetime | None
    ends_why: str | None = None
    retrying: int = 0
    quarantined: int = 0
    updating: int = 0
    removing: int = 0

    @property
    def pending(self) -> int:
        """The number of requests that have not ended."""
        stuck = self.waiting + self.retrying + self.quarantined
        return stuck + self.ready + self.in_flight + self.updating + self.removing

    @property
    def finished(self) -> int:
        """The number of requests that have ended, in success or failure."""
        return self.succeeded + self.failed + self.cancelled + self.removed


# Nobody has requested anything.
EMPTY: Final = Progress(
    batch=None,
    total=True,
    requests=0,
    waiting=0,
    ready=0,
    in_flight=0,
    succeeded=0,
    failed=0,
    cancelled=0,
    started_at=None,
    ended_at=None,
    ends_at=None,
)


def is_restriction(trouble: str | None) -> bool:
    """Whether a target is in trouble because Infisical's plan lacks the feature."""
    return "plan restriction" in (trouble or "").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    """One target: its `pending` requests, the number of live workers that serve it, and its limits.

    `metered` is None while it is unknown whether there is a rate limiter. It allows `permits` creates in `period`
    seconds, of which other clients of the same address use `others` a second. `troubled` workers withhold calls,
    because of `trouble`. `configured`: the limit comes from the settings. An operator, `limited_by`, set other limits
    at `limited_at`: `allowed_writes` in `allowed_period` seconds, and `allowed_in_flight` over all workers; None means
    what the settings say. All workers together may have `in_flight_limit` creates in flight; `cliff` at once stopped
    the server at `cliff_at`. No call has ended since `stalled_at`. `pace` is the recently measured number of requests
    that end per second.
    """

    target: str
    pending: int = 0
    workers: int = 0
    metered: bool | None = None
    permits: int | None = None
    period: float | None = None
    others: float = 0.0
    blocked_until: datetime | None = None
    configured: bool = False
    allowed_writes: int | None = None
    allowed_period: float | None = None
    allowed_in_flight: int | None = None
    limited_at: datetime | None = None
    limited_by: str | None = None
    paused_at: datetime | None = None
    paused_by: str | None = None
    trouble: str | None = None
    trouble_since: datetime | None = None
    troubled: int = 0
    in_flight_limit: int | None = None
    cliff: int | None = None
    cliff_at: datetime | None = None
    stalled_at: datetime | None = None
    pace: float | None = None

    @property
    def expected(self) -> float | None:
        """Requests that will end per second: as recently measured, else as allowed; None if neither is known."""
        return self.pace or self.allowed

    @property
    def obstacle(self) -> NoForecast | None:
        """Why there is no forecast for what is pending, even if there are workers."""
        if not self.pending:
            return None
        return obstacle(ForecastLine(paused=self.paused_at is not None, troubled=self.trouble is not None))

    @property
    def partly(self) -> str:
        """For how many of the workers it is in trouble, if not for all: each worker finds out by itself."""
        return f" for {self.troubled:,} of {self.workers:,} workers" if 0 < self.troubled < self.workers else ""

    @property
    def restricted(self) -> bool:
        """Whether Infisical says that its plan lacks the feature; that lasts until a person changes the plan."""
        return is_restriction(self.trouble)

    @property
    def troubles(self) -> str:
        """That it is in trouble and why, in words, naming OpenRouter if the trouble is there. Empty if it is not."""
        if not self.trouble:
            return ""
        if self.trouble.startswith("OpenRouter is in trouble"):
            return f"{self.trouble}{f' ({self.partly.strip()})' if self.partly else ''}"
        return f"in trouble{self.partly}: {self.trouble}"

    @property
    def at_once(self) -> str:
        """How many creates may be in flight, in words, with the number that stopped the server; empty if unknown."""
        if self.in_flight_limit is None:
            return ""
        stopped = f" ({self.cliff:,} stalled the server)" if self.cliff is not None else ""
        return f", {self.in_flight_limit:,} in flight{stopped}"

    @property
    def allowed(self) -> float | None:
        """Creates a second that the limiter and an operator allow; None if neither sets a limit."""
        most = self.allowed_writes / self.allowed_period if self.allowed_writes and self.allowed_period else None
        if not (self.metered and self.permits and self.period):
            return most
        rate = self.permits / self.period
        left = max(rate - self.others, rate * MIN_SHARE)
        return left if most is None else min(left, most)

    @property
    def operator_limit(self) -> str:
        """The limit that an operator set while workers run, and who set it, in words; empty if there is none."""
        if self.limited_at is None:
            return ""
        parts = []
        if self.allowed_writes and self.allowed_period:
            parts.append(f"{self.allowed_writes:,} writes in {self.allowed_period:,g} s")
        if self.allowed_in_flight:
            parts.append(f"{self.allowed_in_flight:,} in flight")
        return f"limited to {' and '.join(parts)}{f' by {self.limited_by}' if self.limited_by else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Workers with a valid lease, workers whose lease has expired, and the former's creates a second recently."""

    living: int
    lost: int
    pace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One worker. `alive`: its lease is valid. `created` since it started, `pace` creates a second recently."""

    id: int
    name: str
    version: str
    targets: tuple[str, ...]
    started_at: datetime
    seen_at: datetime
    alive: bool
    stopping: bool
    created: int
    pace: float
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Requests that failed with one code, when the latest failed, and an example if there is one."""

    error_code: str
    requests: int
    example_id: int | None
    example: str | None
    newest_at: datetime | None = field(default=None, compare=False)  # equal failures may be seen at different times


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Requests of a target that are retried or quarantined for one reason.

    This began at `since`, and the next attempt of any of them is due at `next_at`. `quarantine`: they wait together for
    a credential, such as `credential:team-a`, or each for its `project`, until the cause is gone.
    """

    target: str
    error_code: str
    quarantine: str | None
    requests: int
    since: datetime | None
    next_at: datetime
    example_id: int
    example: str | None

    @property
    def state(self) -> str:
        """The live state of these requests."""
        return "quarantined" if self.quarantine else "retrying"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedKey:
    """A key that OpenRouter refuses, and how many requests wait for its replacement or acceptance."""

    target: str
    credential: str
    since: datetime
    reason: str | None
    next_probe_at: datetime | None
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrecorded:
    """The number of outcomes that the database does not record, and the longest-standing one's reason."""

    requests: int = 0
    example_id: int | None = None
    example: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InaccessibleProjects:
    """Projects of a target in which the machine identity may not create, how many requests wait, and an example."""

    target: str
    projects: int
    requests: int
    example: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything at one moment, or one batch.

    `progress` covers all that was asked about; None if that is an unknown batch. `more_batches` were left out. `crew`
    are the individual workers. `drifted` recorded requests, of which `drifted_rotations` are rotations, differ from
    what was recorded. `leaving` rotations may have left keys behind at OpenRouter.
    """

    now: datetime
    progress: Progress | None
    batches: tuple[Progress, ...]
    more_batches: int
    targets: tuple[TargetReport, ...]
    workers: Workers
    failures: tuple[Failures, ...]
    crew: tuple[WorkerReport, ...] = ()
    unrecorded: Unrecorded = Unrecorded()
    outside: tuple[InaccessibleProjects, ...] = ()
    retries: tuple[Retries, ...] = ()
    refused_keys: tuple[RefusedKey, ...] = ()
    drifted: int = 0
    drifted_rotations: int = 0
    leaving: int = 0

    @property
    def drifted_words(self) -> str:
        """How many of each kind differ from what was recorded, such as: 2 connections and 1 rotation are."""
        kinds = (("connection", self.drifted - self.drifted_rotations), ("rotation", self.drifted_rotations))
        parts = [several(number, kind) for kind, number in kinds if number]
        return f"{' and '.join(parts)} {'is' if self.drifted == 1 else 'are'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Unfinished requests of some targets that `run --drain` does not wait for, by what prevents them.

    `paused`, `unserved` and `outside` (the identity may not create in the project) are by target, `quarantined` by
    credential, `failed` by error code. `scheduled` requests start later, and `unfinished` ones were left because the
    run was told to stop. `unrecorded` ones have ended, but the database refuses to record how. `removed` ones are gone.
    """

    paused: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    unserved: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    succeeded: int = 0
    removed: int = 0
    scheduled: int = 0
    unfinished: int = 0
    unrecorded: int = 0

    def since(self, before: "Leftovers") -> "Leftovers":
        """Return what is left now, counting only requests that ended after an earlier snapshot."""
        failed = {code: count - before.failed.get(code, 0) for code, count in self.failed.items()}
        return replace(
            self,
            succeeded=max(0, self.succeeded - before.succeeded),
            removed=max(0, self.removed - before.removed),
            failed={code: count for code, count in failed.items() if count > 0},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCount:
    """How many requests of a target are in one state, and the age of the oldest in seconds."""

    target: str
    state: str
    requests: int
    oldest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReport:
    """One budget that all workers share: permits per window of `period` seconds, and those used in the present window.

    After a refusal it is blocked for `blocked` seconds. `metered` is None while it is unknown whether there is a
    limiter. `configured`: the limit comes from the settings, not from answers.
    """

    target: str
    kind: str
    metered: bool | None
    permits: int | None
    period: float
    used: int
    blocked: float
    configured: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyReport:
    """The limit on a target's creates in flight over all workers, and the number at once that stopped its server."""

    target: str
    in_flight_limit: int
    cliff: int | None
    stalled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The shared figures that a monitor reads often: quick to query, whatever the table's size."""

    lines: tuple[StateCount, ...]
    budgets: tuple[BudgetReport, ...]
    workers: Workers
    concurrency: tuple[ConcurrencyReport, ...] = ()
    drifted: Mapping[str, int] = field(default_factory=dict)
    leaving: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, OperatorLimit] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)

    def create_limits(self) -> Iterator[tuple[str, str, str, float]]:
        """Yield each target's limits on creates: the source, who set it, and creates per second."""
        known = {each.target: each for each in self.budgets if each.kind == "write" and each.metered and each.permits}
        for target in sorted(known.keys() | self.limits.keys()):
            budget, limit = known.get(target), self.limits.get(target)
            found = []
            if budget is not None and budget.permits:
                found.append((budget.permits / budget.period, "settings" if budget.configured else "infisical", ""))
            if limit is not None and limit.writes and limit.period:
                found.append((limit.writes / limit.period, "operator", limit.by or ""))
            if found:
                pace, source, by = min(found)
                yield target, source, by, pace
