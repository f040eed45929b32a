"""This process as a worker: its number, its lease, and its claims."""

from collections import Counter
from collections.abc import Iterable

from provisioner.core.model import Claim
from provisioner.core.ports import Clock
from provisioner.core.queue_values import WorkerId


class LeaseState:
    """What the parts of a worker share.

    `held` contains all requests that are claimed and not settled, each with its claim's mark: after a lost lease, the
    same request may be claimed again while the call of its former attempt is still running. The lease is timed on our
    own monotonic clock from before the renewal was sent, so it never ends later here than in the database.
    """

    def __init__(self, clock: Clock, *, lease: float) -> None:
        self._clock = clock
        self._lease = lease
        self._until = float("-inf")
        self.worker: WorkerId = 0
        self.held: dict[int, tuple[int, int]] = {}
        self.created = 0
        self.retried: Counter[str] = Counter()  # by target, until it is stored

    def enter(self, worker: WorkerId) -> None:
        """Take a new worker number; claims under an old number are no longer ours."""
        self.worker = worker
        self.held.clear()

    def take(self, claims: Iterable[Claim]) -> None:
        """Add claims."""
        self.held.update({claim.request.id: claim.mark for claim in claims})

    def discard(self, claims: Iterable[Claim]) -> None:
        """Remove claims that are settled or given back, but not a later claim of the same request."""
        for claim in claims:
            if self.held.get(claim.request.id) == claim.mark:
                del self.held[claim.request.id]

    def renewed(self, asked_at: float) -> None:
        """Note that the lease was renewed by a call that began at monotonic time `asked_at`."""
        self._until = asked_at + self._lease

    @property
    def leased(self) -> bool:
        """Whether the lease is certainly still valid."""
        return self._clock.monotonic() < self._until

    def holds(self, claim: Claim) -> bool:
        """Whether a claim is still ours: nothing may be sent for it once the lease may have expired."""
        return self.leased and self.held.get(claim.request.id) == claim.mark
