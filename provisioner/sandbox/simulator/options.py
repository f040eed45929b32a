"""How a simulator starts. Everything but the ids can be changed while it runs, see `settings.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Mode", "Options"]

Mode = Literal["cloud", "self-hosted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the simulated Infisical is like when it starts.

    Times are in seconds, limits in requests a `window` for each route and client address. The same `seed` gives the
    same ids, secrets and faults. `client_id` and `client_secret` left out are derived from the seed.
    """

    port: int = 0
    """The TCP port on 127.0.0.1; 0 takes a free one."""
    mode: Mode = "cloud"
    """`cloud` limits rates; `self-hosted` has neither a limiter nor its headers."""
    write_limit: int = 200
    read_limit: int = 350
    login_limit: int = 200
    secret_limit: int = 120
    window: float = 60.0
    latency: float = 0.0
    """What every request waits before it is looked at."""
    projects: int = 10
    """How many projects there are."""
    any_project: bool = False
    """Take every UUID for a project of the organization."""
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    token_ttl: int = 2_592_000
    """How long an access token lives; 0 is for ever."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """The share of the creates that each named fault strikes, see `faults.FAULTS`."""
    rotation_faults: Mapping[str, float] = field(default_factory=dict)
    """The same for creates of rotations, see `faults.ROTATION_FAULTS`."""
    secrets: Sequence[Mapping[str, object]] = field(default=(), repr=False)
    """Secrets of projects that are there, as the setting `secrets` plants them; for those of the `projects`."""
    seed: int = 0
    cut_after: float = 100.0
    """How long a request may go unanswered before its connection is cut; its work goes on."""
    late_by: float = 0.5
    """How long after the cut the fault `late-commit` inserts its row."""
    replica_lag: float = 0.0
    """How long a new connection stays invisible to reads."""
    clock_offset: float = 0.0
    """The server's clock minus the real one: in `Date`, `createdAt` and `updatedAt`."""
    upstream_pace: float = 1.0
    """Multiplies every delay of the call to OpenRouter: 0.01 makes tests a hundred times faster."""
    pool: int = 10
    """How many database connections the server has; 0 is no end of them, and creates that cost no time."""
    pool_wait: float = 60.0
    """How long a request waits for a database connection before its 500."""
    pool_step: float = 0.0045
    """What each of the two turns of a create takes on the server's one thread; 0.0045 allows about 110 a second."""
