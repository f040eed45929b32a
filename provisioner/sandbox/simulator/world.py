"""Everything that one simulated Infisical consists of, wired together and changed as a whole."""

from collections.abc import Callable, Mapping, Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Self

from provisioner.sandbox.simulator import settings as live
from provisioner.sandbox.simulator.clock import Clock, Events, iso
from provisioner.sandbox.simulator.connections import Connections, Upstream
from provisioner.sandbox.simulator.faults import Faults
from provisioner.sandbox.simulator.limiter import Limiter
from provisioner.sandbox.simulator.logins import Logins
from provisioner.sandbox.simulator.mishaps import Mishaps
from provisioner.sandbox.simulator.model import CreateRecord, Grant, Store
from provisioner.sandbox.simulator.openrouter import KeyStore
from provisioner.sandbox.simulator.options import Options
from provisioner.sandbox.simulator.pool import Pool
from provisioner.sandbox.simulator.rotations import Rotations
from provisioner.sandbox.simulator.secrets import Secrets
from provisioner.sandbox.simulator.seeds import Seeds
from provisioner.sandbox.simulator.settings import Settings, SettingsError
from provisioner.sandbox.simulator.tokens import Tokens

__all__ = ["World"]

# Options that are settings as well: the start values are held to the same rules as later changes.
START = (
    *(
        "mode",
        "write_limit",
        "read_limit",
        "login_limit",
        "secret_limit",
        "window",
        "latency",
        "token_ttl",
        "faults",
        "rotation_faults",
        "seed",
    ),
    *("cut_after", "late_by", "replica_lag", "clock_offset", "upstream_pace", "secrets"),
    *("pool", "pool_wait", "pool_step"),
)


@dataclass(slots=True, kw_only=True)
class World:
    """The state behind the routes. No network here."""

    seeds: Seeds
    clock: Clock
    settings: Settings
    store: Store
    faults: Faults
    limiter: Limiter
    tokens: Tokens
    logins: Logins
    connections: Connections
    rotations: Rotations
    rotation_faults: Faults
    change_faults: Faults
    keys: KeyStore
    rotation_creates: list[CreateRecord]
    secrets: Secrets
    pool: Pool
    requests: dict[str, dict[str, int]]
    events: Events

    @classmethod
    def begin(cls, options: Options, clock: Clock) -> Self:
        """Build the world of these options, or raise `SettingsError`."""
        if options.projects < 0:
            raise SettingsError("projects", f"must be at least 0, not {options.projects!r}")
        seeds = Seeds(options.seed)
        settings = Settings(client_secret=options.client_secret or seeds.named_secret("client secret"))
        store = Store(
            seeds=seeds,
            organization_id=seeds.named_uuid("organization"),
            projects=[seeds.named_uuid(f"project {number}") for number in range(1, options.projects + 1)],
            any_project=options.any_project,
            clock=clock,
        )
        events = store.events
        tokens = Tokens(seeds, clock)
        client_id = options.client_id or seeds.named_uuid("client id")
        faults = Faults(options.seed, {})
        rotation_faults = Faults(options.seed, {}, "rotation faults")
        change_faults = Faults(options.seed, {}, "change faults")
        secrets = Secrets(store=store)
        keys = KeyStore(seeds=seeds)
        upstream = Upstream(settings=settings, seeds=seeds)
        pool = Pool(settings=settings)
        world = cls(
            seeds=seeds,
            clock=clock,
            settings=settings,
            store=store,
            faults=faults,
            limiter=Limiter(),
            tokens=tokens,
            logins=Logins(tokens=tokens, settings=settings, clock=clock, client_id=client_id),
            connections=Connections(
                store=store,
                upstream=upstream,
                pool=pool,
                mishaps=Mishaps(creates=faults, changes=change_faults, settings=settings),
                settings=settings,
                clock=clock,
            ),
            secrets=secrets,
            rotations=Rotations(
                store=store,
                secrets=secrets,
                keys=keys,
                mishaps=Mishaps(creates=rotation_faults, changes=change_faults, settings=settings),
                settings=settings,
                clock=clock,
            ),
            rotation_faults=rotation_faults,
            change_faults=change_faults,
            keys=keys,
            rotation_creates=[],
            pool=pool,
            requests={},
            events=events,
        )
        world.change({name: getattr(options, name) for name in START})
        return world

    def change(self, changes: dict[str, Any]) -> None:
        """Change settings, or raise `SettingsError` and change none."""
        checked = live.check(changes)
        added = {*checked.get("addProjects", ()), *checked.get("projects", ())}
        for place in checked.get("permissions", ()):
            self._check_place("permissions", place, added | {self.store.organization_id})
        names = set()
        for plant in checked.get("plant", ()):
            self._check_place("plant", plant.project_id, added | {None})
            name = (plant.name, plant.project_id)
            if name in names or self.store.named(*name):
                raise SettingsError("plant", f"there is a connection {plant.name!r} already in {plant.project_id}")
            names.add(name)
        for secret in checked.get("secrets", ()):
            self._check_place("secrets", secret.project_id, added)
        for field, value in checked.items():
            self._apply(field, value)

    def _check_place(self, field: str, place: str | None, others: AbstractSet[str | None]) -> None:
        if place not in others and not (place and self.store.has_project(place)):
            raise SettingsError(field, f"there is no project {place}; add it with addProjects")

    def _apply(self, name: str, value: Any) -> None:
        switches: dict[str, Callable[[], None]] = {
            "expireTokens": lambda: self.tokens.end_all("expired"),
            "lapseTokens": lambda: self.tokens.end_all("lapsed"),
            "unlock": self.logins.unlock,
        }
        effects: dict[str, Callable[[Any], object]] = {
            "faults": self.faults.share,
            "rotationFaults": self.rotation_faults.share,
            "changeFaults": self.change_faults.share,
            "seed": self._reseed,
            "folders": self._add_folders,
            "identity": self.tokens.judge,
            "revokeTokens": self.tokens.revoke_all,
            "clientSecret": self.logins.renew_secret,
            "addProjects": self.store.add_projects,
            "projects": self.store.call_projects,
            "removeProjects": self._remove_projects,
            "permissions": self._grant,
            "pool": self.pool.resize,
            "plant": self.connections.plant,
            "secrets": self.secrets.plant,
        }
        if name in effects:
            effects[name](value)
        elif name not in switches:
            setattr(self.settings, live.snake(name), value)
        elif value:
            switches[name]()

    def _reseed(self, seed: int) -> None:
        self.faults.reseed(seed)
        self.rotation_faults.reseed(seed)
        self.change_faults.reseed(seed)

    def _add_folders(self, folders: list[tuple[str, str, str]]) -> None:
        self.secrets.add_folders(folders)

    def _remove_projects(self, projects: list[str]) -> None:
        self.rotations.remove_projects(projects)
        self.store.remove_projects(projects)

    def _grant(self, grants: Mapping[str, Grant]) -> None:
        self.store.grant(grants, now=self.clock(), lag=self.settings.role_lag)

    def arrive(self, action: str, request_id: str) -> CreateRecord | None:
        """Note that a create arrived, of a connection or of a rotation."""
        creates = {"create": self.store.creates, "create_rotation": self.rotation_creates}.get(action)
        if creates is None:
            return None
        record = CreateRecord(order=len(creates) + 1, at=iso(self.clock()), request_id=request_id)
        creates.append(record)
        self.events.happened()
        return record

    def count(self, pattern: str, outcome: str) -> None:
        """Count one request of a route by its outcome: a status, or `cut`."""
        outcomes = self.requests.setdefault(pattern, {})
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.events.happened()

    def state(self) -> dict[str, Any]:
        """Return what GET /_simulator/state tells. Keys are shown by their fingerprints only."""
        organization_id = self.store.organization_id
        return {
            "connections": [
                connection.public(organization_id)
                | {"keyFingerprint": connection.fingerprint, "planted": connection.planted}
                for connection in self.store.connections.values()
            ],
            "creates": [record.public() for record in self.store.creates],
            "requests": {pattern: dict(outcomes) for pattern, outcomes in self.requests.items()},
            "rotations": self.rotations.public(),
            "rotationCreates": [record.public() for record in self.rotation_creates],
            "keys": [key.public() for key in self.keys.keys.values()],
            "secrets": self.secrets.public(),
            "faults": dict(self.faults.struck),
            "rotationFaults": dict(self.rotation_faults.struck),
            "changeFaults": dict(self.change_faults.struck),
            "pool": self.pool.public(),
            "logins": dict(self.logins.counts),
        }
