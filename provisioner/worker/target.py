"""One Infisical, as the parts of a worker share it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from provisioner.core.model import Connection, Request
from provisioner.core.policy import Rules
from provisioner.core.ports import ClockStore, Connections, Incidents, Observer, Permits, Vault
from provisioner.core.skew import ServerClock
from provisioner.core.target_health import Breaker
from provisioner.core.unobserved import UNOBSERVED
from provisioner.worker.key_gate import KeyGate
from provisioner.worker.project_gate import ProjectGate
from provisioner.worker.slots import OPEN, OpenGate


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One Infisical and the ways to reach it.

    `writes`, `changes` and `removals` are the budgets for creates, PATCHes and DELETEs; with a `shared_budget` all use
    that of creates. `keys` spends no creates on refused keys, and `projects` none on projects without the identity.
    `incidents` receives the reasons for withholding creates, and `gate` limits the number in flight; all of these are
    optional. `recorded` returns which request of another target has recorded a connection, if any. `clock` is what is
    known about this Infisical's clock, and `clock_store` keeps that beyond this process.
    """

    name: str
    connections: Connections
    vault: Vault
    writes: Permits
    reads: Permits
    changes: Permits
    removals: Permits
    rules: Rules
    breaker: Breaker
    keys: KeyGate | None = None
    projects: ProjectGate | None = None
    incidents: Incidents | None = None
    gate: OpenGate = OPEN
    shared_budget: bool = False
    recorded: Callable[[Request, Connection], Awaitable[str]] | None = None
    observer: Observer = UNOBSERVED
    clock: ServerClock = field(default_factory=ServerClock)
    clock_store: ClockStore | None = None

    def allowance(self, now: float) -> tuple[int | None, float]:
        """Return how many creates may run at once (None: any number), and the seconds until that may change."""
        allowed, pause = self.breaker.allowance(now)
        if allowed is None and self.keys is not None:
            return self.keys.upstream.allowance(now)
        return allowed, pause

    @property
    def held(self) -> str | None:
        """Why creates are withheld; None if they are not."""
        if self.breaker.is_open:
            return self.breaker.reason
        return None if self.keys is None else self.keys.trouble
