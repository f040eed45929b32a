"""This process among the workers: its number, its lease, and everything that it holds."""

from collections import Counter
from collections.abc import Iterable

from provisioner.core.model import Claim
from provisioner.core.ports import Clock
from provisioner.core.queue_values import WorkerId


class LeaseState:
    """What the parts of a worker know together.

    `held` are all requests that are claimed and not yet settled, each with its claim's mark: after a lost lease the
    same request may come again while the call of its former attempt is still out. The lease is counted on our own
    monotonic clock from before the renewal was asked for, so it ends here no later than in the database.
    """

    def __init__(self, clock: Clock, *, lease: float) -> None:
        self._clock = clock
        self._lease = lease
        self._until = float("-inf")
        self.worker: WorkerId = 0
        self.held: dict[int, tuple[int, int]] = {}
        self.created = 0
        self.retried: Counter[str] = Counter()  # by target, until it is written down

    def enter(self, worker: WorkerId) -> None:
        """This process has a new number; whatever it held under another one is no longer its own."""
        self.worker = worker
        self.held.clear()

    def take(self, claims: Iterable[Claim]) -> None:
        """These claims are ours now."""
        self.held.update({claim.request.id: claim.mark for claim in claims})

    def discard(self, claims: Iterable[Claim]) -> None:
        """These claims are settled or given back; a later attempt of the same request stays ours."""
        for claim in claims:
            if self.held.get(claim.request.id) == claim.mark:
                del self.held[claim.request.id]

    def renewed(self, asked_at: float) -> None:
        """The lease was renewed by a request that was sent at monotonic time `asked_at`."""
        self._until = asked_at + self._lease

    @property
    def leased(self) -> bool:
        """Whether the lease certainly still lasts."""
        return self._clock.monotonic() < self._until

    def holds(self, claim: Claim) -> bool:
        """Whether a claim is still ours: nothing may be sent for it once the lease may have run out."""
        return self.leased and self.held.get(claim.request.id) == claim.mark
