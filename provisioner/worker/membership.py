"""This process among the workers: its number, its lease, and everything that it holds."""

from provisioner.core.ports import Clock, WorkerId


class Membership:
    """What the parts of a worker know together.

    `held` are the ids of all requests that are claimed and not yet settled. The lease is counted on our own monotonic
    clock from before the renewal was asked for, so it ends here no later than in the database.
    """

    def __init__(self, clock: Clock, *, lease: float) -> None:
        self._clock = clock
        self._lease = lease
        self._until = float("-inf")
        self.worker: WorkerId = 0
        self.held: set[int] = set()
        self.created = 0

    def renewed(self, asked_at: float) -> None:
        """The lease was renewed by a request that was sent at monotonic time `asked_at`."""
        self._until = asked_at + self._lease

    def holds(self) -> bool:
        """Whether what was claimed is still ours: nothing may be sent once the lease may have run out."""
        return self._clock.monotonic() < self._until
