"""One Infisical, as the parts of a worker that deal with it share it."""

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
    """One Infisical and the ways to it.

    `writes`, `changes` and `removals` are the budgets of creates, PATCHes and DELETEs; with a `shared_budget` all spend
    that of creates. `keys` keeps creates from being spent on keys that are refused, `projects` on projects
    without the identity, `incidents` hears why creates are
    held back, `gate` keeps too many from being in flight; without them nothing does. `recorded` tells which request of
    another target has recorded a connection, if any. `clock` is what is known of this Infisical's clock, and
    `clock_store` where that outlives this process.
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
        """How many creates may be under way (None: any number), and in how many seconds that may change."""
        allowed, pause = self.breaker.allowance(now)
        if allowed is None and self.keys is not None:
            return self.keys.upstream.allowance(now)
        return allowed, pause

    @property
    def held(self) -> str | None:
        """Why creates are held back; None when they are not."""
        if self.breaker.is_open:
            return self.breaker.reason
        return None if self.keys is None else self.keys.trouble
