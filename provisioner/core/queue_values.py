"""What the queue of requests takes and gives: places in line, claims, and what a round of upkeep brought."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from provisioner.core.model import Claim

WorkerId = int


@dataclass(frozen=True, slots=True, order=True)
class QueuePosition:
    """A place in line.

    Smaller is served earlier. `rank` is the negated priority, `turn` the virtual time of fair queueing, below nought
    for what was tried before; within a turn, which may have a request of each of a hundred thousand projects, it is
    the request's `id` that counts.
    """

    rank: int
    turn: int
    id: int = 0


FRONT = QueuePosition(-(2**31), -(2**63))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one claim brought, the place in line of its last request, and how many were tried before."""

    claims: Sequence[Claim]
    last: QueuePosition | None
    retried: int = 0


@dataclass(frozen=True, slots=True)
class OperatorLimit:
    """What an operator allows at a target while workers run: None for what the settings say."""

    writes: int | None
    period: float | None
    in_flight: int | None
    by: str | None

    @property
    def stated(self) -> Mapping[str, object]:
        """What is allowed, without what is left to the settings."""
        said = {"writes": self.writes, "period": self.period, "in_flight": self.in_flight}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """What a look at the database told: see the query `look`.

    `late`: an outcome that was set aside may be recorded now. At `troubled` targets keys or projects are quarantined,
    at `awaited` ones somebody waits for slots. `limits` are what an operator allows, by target.
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
    """What was taken over from workers that lost their lease: how many requests, and the workers' names."""

    requests: int = 0
    workers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiped:
    """What one round of wiping did: sealed keys that were wiped, and whether more may be due."""

    keys: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRecord:
    """What another try to record an outcome brought that was set aside: `reason` says why not, None that it did."""

    request: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a look for pending requests without a place found, how many got one, and whether it has come to the end."""

    found: int = 0
    placed: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """How a worker fares, for the list of workers: creates that succeeded so far, creates a second lately."""

    created: int = 0
    pace: float = 0.0
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What settling brought: ids recorded, and ids that others had taken over meanwhile."""

    settled: frozenset[int] = field(default_factory=frozenset)
    fenced: frozenset[int] = field(default_factory=frozenset)
