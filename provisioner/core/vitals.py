"""The state of a worker, for the status page, the probes and the metrics."""

from dataclasses import dataclass

from provisioner.core.queue_values import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetVitals:
    """One target as one worker sees it.

    `in_hand` requests are claimed and not settled. `held` says why calls are withheld, if they are.
    """

    target: str
    in_hand: int = 0
    paused: bool = False
    held: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The state of one worker. `worker` is 0 before it is registered.

    `moves` counts the statements and rounds of its maintenance, successful or not.
    """

    worker: WorkerId
    moves: int
    lease_good: bool
    database_away: bool
    stopping: bool
    targets: tuple[TargetVitals, ...] = ()
