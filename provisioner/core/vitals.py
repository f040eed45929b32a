"""How a worker is, for the status page, the probes and the metrics."""

from dataclasses import dataclass

from provisioner.core.queue_values import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetVitals:
    """One target as one worker sees it.

    `in_hand` requests are claimed and not carried out, `held` says why calls are held back, if they are.
    """

    target: str
    in_hand: int = 0
    paused: bool = False
    held: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """How one worker is. `worker` is 0 until it is entered in the list.

    `moves` counts what its maintenance has begun and ended, well or not.
    """

    worker: WorkerId
    moves: int
    lease_good: bool
    database_away: bool
    stopping: bool
    targets: tuple[TargetVitals, ...] = ()
