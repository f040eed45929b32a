"""The values that the queue of requests takes and returns: positions, claims, and results of maintenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from provisioner.core.model import Claim

WorkerId = int


@dataclass(frozen=True, slots=True, order=True)
class QueuePosition:
    """A position in line.

    Smaller positions are served earlier. `rank` is the negated priority. `turn` is the virtual time of fair queueing,
    negative for retried requests. Within a turn, which may contain one request of each of a hundred thousand projects,
    the request's `id` decides.
    """

    rank: int
    turn: int
    id: int = 0


FRONT = QueuePosition(-(2**31), -(2**63))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The result of one claim statement: the claims, the last one's position, and how many were retried requests."""

    claims: Sequence[Claim]
    last: QueuePosition | None
    retried: int = 0


@dataclass(frozen=True, slots=True)
class OperatorLimit:
    """What an operator allows at a target while workers run; None means what the settings say."""

    writes: int | None
    period: float | None
    in_flight: int | None
    by: str | None

    @property
    def stated(self) -> Mapping[str, object]:
        """Return what is allowed, without the fields that are left to the settings."""
        said = {"writes": self.writes, "period": self.period, "in_flight": self.in_flight}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """The result of one poll of the database; see the query `poll`.

    `late`: an outcome that was set aside may be due. At `troubled` targets keys or projects are quarantined, and at
    `awaited` ones a worker waits for slots. `limits` are the operators' limits by target.
    """

    now: datetime
    next_due: datetime | None
    lapsed: bool
    paused: frozenset[str]
    heads: dict[str, QueuePosition]
    forecast_due: bool = False
    late: bool = True
    troubled: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()
    limits: Mapping[str, OperatorLimit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescue:
    """What was taken over from lost workers: the number of requests, and the workers' names."""

    requests: int = 0
    workers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiped:
    """The result of one round of wiping: sealed keys that were wiped, and whether more may be due."""

    keys: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRecord:
    """The result of another try to record an outcome; `reason` is why it failed, None on success."""

    request: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """The result of one sweep: pending requests without a place, how many got one, and whether it is complete."""

    found: int = 0
    placed: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A worker's progress, for the list of workers: creates that succeeded so far, and creates a second recently."""

    created: int = 0
    pace: float = 0.0
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of settling: the ids that were recorded, and those that other workers had taken over."""

    settled: frozenset[int] = field(default_factory=frozenset)
    fenced: frozenset[int] = field(default_factory=frozenset)
