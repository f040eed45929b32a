"""The protocols through which the worker reaches the outside; `background_ports.py` has those for other tasks.

Times are aware `datetime`s on the database's clock, durations are seconds.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from provisioner.core.key_check import KeyKind
from provisioner.core.key_health import QuarantinedKey, TrialPermit
from provisioner.core.model import Action, Claim, Connection, Observation, RateHeaders, Request, Settlement
from provisioner.core.pacing import Grant
from provisioner.core.project_health import QuarantinedProject
from provisioner.core.projects import SeenProject
from provisioner.core.queue_values import (
    Claims,
    Heartbeat,
    LateRecord,
    QueuePosition,
    QueueSnapshot,
    Report,
    Rescue,
    SweepResult,
    Wiped,
    WorkerId,
)
from provisioner.core.secret import Secret, SecretLocation
from provisioner.core.skew import Bounds


class Queue(Protocol):
    """The queue of requests.

    Every method raises `DatabaseUnavailable` if the database cannot be reached. The call may or may not have taken
    effect, and may be repeated.
    """

    async def register(self, *, name: str, targets: Sequence[str], lease: float) -> WorkerId:
        """Register this process as a worker whose lease lasts `lease` seconds."""

    async def renew(self, worker: WorkerId, *, lease: float, heartbeat: Heartbeat) -> None:
        """Renew the lease of everything that the worker has claimed. Raises `LeaseLost`."""

    async def leave(self, worker: WorkerId) -> None:
        """Remove the worker from the list if it has no claims."""

    async def claim(
        self, worker: WorkerId, *, target: str, start: QueuePosition, limit: int, retried_only: bool = False
    ) -> Claims:
        """Claim up to `limit` requests in line from `start` on; the intent is durable when this returns.

        `retried_only`: only retried requests, unless another worker claims them first.
        """

    async def release(self, worker: WorkerId, claims: Collection[Claim]) -> None:
        """Give back claims for which nothing was sent."""

    async def release_lost(self, worker: WorkerId, *, target: str, known: Collection[int], older: float = 0.0) -> int:
        """Give back claims of this worker, `older` seconds old or more, whose answer was lost; returns how many."""

    async def settle(self, worker: WorkerId, settlements: Sequence[Settlement]) -> Report:
        """Record how claims ended, in one transaction; each only if the worker still has it under that fence.

        Raises `OutcomeRefused` or `OutcomeDelayed` if the database answers but does not record them.
        """

    async def set_aside(self, worker: WorkerId, settlement: Settlement, *, reason: str) -> bool:
        """Set aside an outcome that could not be recorded; whether its claim was still ours. Raises like `settle`."""

    async def record_set_aside(self, limit: int) -> Sequence[LateRecord]:
        """Try again to record outcomes that were set aside and are due, at most `limit`."""

    async def poll(self, *, marks: dict[str, QueuePosition], served: dict[str, QueuePosition]) -> QueueSnapshot:
        """Read what there is to do, from the given marks on, and store how far the queues have been served."""

    async def renew_forecasts(self, *, every: float) -> bool:
        """Renew the forecasts if they are due and no other worker is doing it; whether it was done."""

    async def promote(self, limit: int) -> dict[str, QueuePosition]:
        """Put due requests in line; returns, by target, the first position at which one was added."""

    async def rescue(self, *, pause: float) -> Rescue:
        """Take over the claims of lost workers; each is retried after `pause` seconds."""

    async def fail_unknown_targets(self, limit: int) -> Sequence[int]:
        """Fail requests for targets that no worker has ever had; returns their ids."""

    async def work_left(self, targets: Collection[str]) -> bool:
        """Whether these targets have any work left, apart from what is scheduled or paused."""

    async def turn_log(self, *, keep: float) -> bool:
        """Add partitions to the attempt log and drop those older than `keep` seconds; whether no lock prevented it."""

    async def sweep(self, limit: int, *, pause: float) -> SweepResult:
        """Put up to about `limit` requests without a place in line, unless that was done within `pause` seconds."""

    async def sweep_all(self, limit: int) -> int:
        """Put every request without a place in line, checking `limit` at a time; returns how many."""

    async def recount(self) -> int:
        """Correct the counts of requests; returns how many were wrong."""

    async def fold(self, limit: int, *, retried: Mapping[str, int]) -> bool:
        """Fold at most `limit` changes into the counts of requests; whether there may be more.

        `retried`: by target, how many attempts since the last call ended in a retry.
        """

    async def wipe(self, limit: int, *, keep: float) -> Wiped:
        """Wipe sealed keys of requests that failed at least `keep` seconds ago, at most `limit` of them."""


class Connections(Protocol):
    """The app-connection calls of one target. Trouble on the other side never raises: it is in the observation."""

    async def create(self, request: Request, key: Secret) -> Observation:
        """Create the connection. At most one request is sent: this never repeats a create."""

    async def look_up(self, request: Request) -> Observation:
        """Find the connection with the request's name in its project."""

    async def get(self, connection_id: str) -> Observation:
        """Find a connection by its id, wherever it is."""

    async def replace(self, request: Request, connection: Connection, key: Secret) -> Observation:
        """Set the credentials of an existing connection."""

    async def update(self, request: Request, connection: Connection, key: Secret | None) -> Observation:
        """Send what was edited of a request to its connection; with `key` if the credential was edited."""

    async def remove(self, connection: Connection) -> Observation:
        """Delete a connection."""


class Vault(Protocol):
    """Where API keys come from."""

    async def open(self, request: Request) -> Secret:
        """Return the API key for a request.

        Raises `CredentialUnknown`, `CredentialUnreadable`, or `CredentialUnavailable` if it may be available later.
        """

    async def reopen(self, request: Request) -> Secret:
        """Return the key after a refusal; it is read again if `open` may return an older one.

        Raises as `open` does.
        """


class CredentialHealth(Protocol):
    """What all workers know about the API keys of one target; see `core.key_health`.

    A key is identified by its credential's canonical name and its fingerprint. Every method raises
    `DatabaseUnavailable`.
    """

    async def salt(self) -> str:
        """Return the salt of fingerprints, which is the same for all workers."""

    async def ask(self, credential: str, fingerprint: str, *, confirming: bool) -> TrialPermit:
        """Ask to try an unknown key; only a few workers may at a time.

        `confirming`: the request was refused with this key before.
        """

    async def undecided(self, credential: str, fingerprint: str) -> None:
        """Note that a trial showed nothing about the key."""

    async def accepted(self, credential: str, fingerprint: str) -> bool:
        """Note that the key works; returns whether that released requests."""

    async def suspected(self, credential: str, fingerprint: str) -> None:
        """Note that a key that used to work is refused: it needs a trial like an unknown one."""

    async def refused(self, credential: str, fingerprint: str, reason: str) -> tuple[bool, bool]:
        """Note a refusal; returns whether the key is quarantined now, and whether this refusal did it."""

    async def found_invalid(self, credential: str, fingerprint: str, reason: str) -> bool:
        """Note that OpenRouter itself calls a key invalid; returns whether that quarantined it."""

    async def hold_back(self, credential: str) -> int:
        """Take the requests with this credential out of the line; returns how many."""

    async def quarantined(self, ours: Collection[tuple[str, str]]) -> Sequence[QuarantinedKey]:
        """Return the quarantined keys that concern this worker; `ours` are its own, as (credential, fingerprint).

        If a probe of one of them is due, one request that waits for it is put in line.
        """

    async def replaced(self, credential: str, fingerprint: str) -> bool:
        """Note that this key has replaced the quarantined ones; returns whether that released any."""

    async def forget(self) -> None:
        """Forget keys that were not tried for long and for which nothing waits."""


class KeyChecker(Protocol):
    """A service that knows keys: OpenRouter itself."""

    async def ask(self, key: Secret) -> KeyKind:
        """Return a key's kind; `UNKNOWN` if it cannot be determined now. Trouble on the other side never raises."""


class KeyVerdicts(Protocol):
    """What all workers know about keys that were checked. Every method raises `DatabaseUnavailable`."""

    async def load(self, fingerprint: str) -> tuple[KeyKind, float]:
        """The verdict and its age in seconds; `UNKNOWN` if there is none."""

    async def save(self, fingerprint: str, verdict: KeyKind) -> None:
        """Store a verdict."""


class ProjectHealth(Protocol):
    """What all workers know about projects in which the identity may not create; see `core.project_health`.

    Every method raises `DatabaseUnavailable`.
    """

    async def quarantined(self) -> Mapping[str, QuarantinedProject]:
        """The projects whose requests wait."""

    async def keep(self, projects: Mapping[str, QuarantinedProject]) -> int:
        """Quarantine projects, or keep them quarantined; returns how many requests that took out of the line."""

    async def release(self, projects: Collection[str]) -> int:
        """Release the requests of these projects; returns how many waited."""

    async def release_stragglers(self, projects: Collection[str] | None) -> None:
        """Release requests that wait for one of these projects, or any (None), although it is not quarantined."""

    async def wanted(self) -> Sequence[str]:
        """Return the projects for which requests are in flight or in line."""

    async def called(self, project: str) -> str | None:
        """Return the project's name, if a request has it."""

    async def may_read(self, *, refused: bool) -> bool:
        """Take the turn to read the list of the identity's projects, if a read is due."""

    async def may_probe(self, *, passed: bool) -> bool:
        """Take the turn to probe projects, if probes are due."""

    async def probe(self, project: str) -> None:
        """Let one request create in a project for which the permission was missing."""

    async def take_probe(self, project: str) -> bool:
        """Take the one create that may be sent to this project now, unless another worker has."""

    async def forget(self) -> None:
        """Forget projects for which nothing waits."""


class JoinedProjects(Protocol):
    """The projects that the machine identity is a member of."""

    async def projects(self) -> tuple[Observation, tuple[SeenProject, ...]]:
        """Return `FOUND` with all of them, or what prevented it. Trouble on the other side never raises."""

    async def project(self, project_id: str) -> Observation:
        """Return `FOUND`, `PROJECT_MISSING` if it does not exist, or what prevented the answer. Never raises either."""


class Incidents(Protocol):
    """The workers' shared reports about trouble at one target."""

    async def report(self, reason: str | None) -> None:
        """Report why this worker withholds creates, or None if the target works for it.

        Raises `DatabaseUnavailable`.
        """


class SecretStore(Protocol):
    """A place outside this process that keeps named credentials: the secrets of one Infisical."""

    async def read(self, place: SecretLocation) -> Secret:
        """Return the secret's value, trimmed. Raises `CredentialUnreadable` or `CredentialUnavailable`."""


class Permits(Protocol):
    """The budget of one target and one kind of call, shared by all workers behind one address."""

    async def acquire(self, wanted: int, *, spare: bool = False) -> Grant:
        """Ask for permits to send `wanted` calls; `spare` for calls that can wait. Raises `DatabaseUnavailable`."""

    async def share(self) -> None:
        """Share what was learned and given back with the other workers now. Raises `DatabaseUnavailable`."""

    def give_back(self, permits: int) -> None:
        """Return permits that will not be used."""

    def learn(
        self, rate: RateHeaders | None, *, metered: bool, throttled_for: float | None, elapsed: float = 0.0
    ) -> None:
        """Note what an answer, `elapsed` seconds after the call, said of the limiter; the next `acquire` shares it."""


class ClockStore(Protocol):
    """The stored measurements of one Infisical's clock, for workers that start later."""

    async def load(self) -> Bounds | None:
        """Return the latest measurement. Raises `DatabaseUnavailable`."""

    async def save(self, bounds: Bounds) -> None:
        """Store a measurement for other workers. Raises `DatabaseUnavailable`."""


class Clock(Protocol):
    """A source of the present time."""

    def now(self) -> datetime:
        """Return the present on the database's clock, as precisely as it is known."""

    def epoch(self) -> float:
        """Return the same in seconds since 1970, which is cheaper for every call."""

    def at(self, monotonic: float) -> datetime:
        """Return what the database's clock showed at a monotonic time."""

    def monotonic(self) -> float:
        """Return the seconds of a clock that never jumps."""

    def set_by(self, theirs: datetime, *, took: float = 0.0) -> None:
        """Correct the clock by the database's time, which was read in a call of `took` seconds."""


class Observer(Protocol):
    """Receives the events of a worker.

    It is called for every call, so it only counts: it neither waits nor raises. `took` is in seconds.
    """

    def called(self, target: str, action: Action, observation: Observation) -> None:
        """A call to Infisical has ended."""

    def claimed(self, target: str, requests: int, took: float) -> None:
        """A claim returned this many requests."""

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """A batch was recorded."""

    def logged_in(self, target: str, outcome: str) -> None:
        """A login has ended: `granted`, `refused`, `limited` or `trouble`."""
