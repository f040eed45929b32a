"""What the journey of a request needs from the outside, as protocols; `ports_beside.py` has the others.

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

    Every method raises `DatabaseUnavailable` when the database cannot be reached just now: the call may then have taken
    effect or not, and may be made again.
    """

    async def register(self, *, name: str, targets: Sequence[str], lease: float) -> WorkerId:
        """Enter this process as a worker whose lease lasts `lease` seconds."""

    async def renew(self, worker: WorkerId, *, lease: float, heartbeat: Heartbeat) -> None:
        """Renew the lease of everything that the worker holds. Raises `LeaseLost`."""

    async def leave(self, worker: WorkerId) -> None:
        """Strike the worker off the list if it holds nothing."""

    async def claim(
        self, worker: WorkerId, *, target: str, start: QueuePosition, limit: int, retried_only: bool = False
    ) -> Claims:
        """Claim up to `limit` requests in line from `start` on; the intent is durable when this returns.

        `retried_only`: only those that were tried before, unless somebody else claims them meanwhile.
        """

    async def release(self, worker: WorkerId, claims: Collection[Claim]) -> None:
        """Give back claims that were never sent."""

    async def release_lost(self, worker: WorkerId, *, target: str, known: Collection[int], older: float = 0.0) -> int:
        """Give back what a claim whose answer was lost had claimed, `older` seconds ago or more; returns how many."""

    async def settle(self, worker: WorkerId, settlements: Sequence[Settlement]) -> Report:
        """Record how claims ended, in one transaction, each only if the worker still holds it under that fence.

        Raises `OutcomeRefused` or `OutcomeDelayed` when the database answers and does not record them.
        """

    async def set_aside(self, worker: WorkerId, settlement: Settlement, *, reason: str) -> bool:
        """Keep an outcome that is not recorded; whether the worker still held its claim. Raises as `settle` does."""

    async def record_set_aside(self, limit: int) -> Sequence[LateRecord]:
        """Try again to record outcomes that were set aside, at most `limit` of those whose time has come."""

    async def poll(self, *, marks: dict[str, QueuePosition], served: dict[str, QueuePosition]) -> QueueSnapshot:
        """Look at what there is to do from the given marks on, and tell how far the queues have been served."""

    async def renew_forecasts(self, *, every: float) -> bool:
        """Renew the forecasts, if that is due and nobody else is about it; whether it was done."""

    async def promote(self, limit: int) -> dict[str, QueuePosition]:
        """Put what is due in line; returns the foremost place of the newcomers by target."""

    async def rescue(self, *, pause: float) -> Rescue:
        """Take over what lapsed workers held; it is tried again after `pause` seconds."""

    async def fail_unknown_targets(self, limit: int) -> Sequence[int]:
        """Fail requests for targets that no worker has ever known; returns their ids."""

    async def work_left(self, targets: Collection[str]) -> bool:
        """Whether anything is still to be done for these targets, apart from what is scheduled or paused."""

    async def turn_log(self, *, keep: float) -> bool:
        """Make room in the attempt log and forget what is older than `keep` seconds; whether nobody was in the way."""

    async def sweep(self, limit: int, *, pause: float) -> SweepResult:
        """Put about `limit` requests in line that have no place, unless that was looked for within `pause` seconds."""

    async def sweep_all(self, limit: int) -> int:
        """Put every request in line that has no place, looking at `limit` at a time; returns how many."""

    async def recount(self) -> int:
        """Correct the counts of requests; returns how many were wrong."""

    async def fold(self, limit: int, *, retried: Mapping[str, int]) -> bool:
        """Fold at most `limit` changes into the counts of requests; whether there may be more.

        `retried`: how many attempts of each target came to nothing since, and are made again.
        """

    async def wipe(self, limit: int, *, keep: float) -> Wiped:
        """Wipe sealed keys of requests that failed `keep` seconds ago or earlier, at most `limit` of them."""


class Connections(Protocol):
    """The app-connection calls of one target. They never raise for what the other side did: that is the observation."""

    async def create(self, request: Request, key: Secret) -> Observation:
        """Create the connection. At most one request is sent: a create is never repeated in here."""

    async def look_up(self, request: Request) -> Observation:
        """Find the connection of that name in the request's project."""

    async def get(self, connection_id: str) -> Observation:
        """Find a connection by its id, wherever it is."""

    async def replace(self, request: Request, connection: Connection, key: Secret) -> Observation:
        """Set the credentials of an existing connection."""

    async def update(self, request: Request, connection: Connection, key: Secret | None) -> Observation:
        """Send what was edited of a request to its connection; `key` where its credential was."""

    async def remove(self, connection: Connection) -> Observation:
        """Delete a connection."""


class Vault(Protocol):
    """Where API keys come from."""

    async def open(self, request: Request) -> Secret:
        """The API key for a request.

        Raises `CredentialUnknown`, `CredentialUnreadable`, or `CredentialUnavailable` when it may be had later.
        """

    async def reopen(self, request: Request) -> Secret:
        """The key as it is now, after it was refused: read once more where `open` may give an older one.

        Raises as `open` does.
        """


class CredentialHealth(Protocol):
    """What all workers know together about the API keys of one target; see `core.key_health`.

    A key is named by its credential's canonical name and its fingerprint. Every method raises `DatabaseUnavailable`.
    """

    async def salt(self) -> str:
        """What fingerprints are salted with, the same for all workers."""

    async def ask(self, credential: str, fingerprint: str, *, confirming: bool) -> TrialPermit:
        """Ask to try a key that nobody here knows; few may at a time, counted over all workers.

        `confirming`: the request was refused with this key before.
        """

    async def undecided(self, credential: str, fingerprint: str) -> None:
        """Note that a trial said nothing about the key."""

    async def accepted(self, credential: str, fingerprint: str) -> bool:
        """Note that the key works; returns whether that released requests."""

    async def suspected(self, credential: str, fingerprint: str) -> None:
        """Note that a key that worked is refused: it has to be tried like an unknown one."""

    async def refused(self, credential: str, fingerprint: str, reason: str) -> tuple[bool, bool]:
        """Note a refusal; returns whether the key is quarantined now, and whether by this refusal."""

    async def found_invalid(self, credential: str, fingerprint: str, reason: str) -> bool:
        """Note that OpenRouter itself says no to a key; returns whether that quarantined it."""

    async def hold_back(self, credential: str) -> int:
        """Take the requests with this credential out of the line; returns how many."""

    async def quarantined(self, ours: Collection[tuple[str, str]]) -> Sequence[QuarantinedKey]:
        """The quarantined keys that concern this worker, whose own keys are `ours`: (credential, fingerprint).

        Where a probe of one of ours is due, one request that waits for it is put in line.
        """

    async def replaced(self, credential: str, fingerprint: str) -> bool:
        """Note that this key has taken the place of those that are quarantined; returns whether that released any."""

    async def forget(self) -> None:
        """Forget keys that nobody tried for long, and for which nothing waits."""


class KeyChecker(Protocol):
    """Somebody who knows keys: OpenRouter itself."""

    async def ask(self, key: Secret) -> KeyKind:
        """What the key is; `UNKNOWN` if that cannot be asked just now. It never raises for what the other side did."""


class KeyVerdicts(Protocol):
    """What all workers know together of keys that were asked about. Every method raises `DatabaseUnavailable`."""

    async def load(self, fingerprint: str) -> tuple[KeyKind, float]:
        """The verdict and its age in seconds; `UNKNOWN` if there is none."""

    async def save(self, fingerprint: str, verdict: KeyKind) -> None:
        """Keep a verdict."""


class ProjectHealth(Protocol):
    """What all workers know together of projects in which the identity may not create; see `core.project_health`.

    Every method raises `DatabaseUnavailable`.
    """

    async def quarantined(self) -> Mapping[str, QuarantinedProject]:
        """The projects whose requests wait."""

    async def keep(self, projects: Mapping[str, QuarantinedProject]) -> int:
        """Quarantine projects, or keep them so; returns how many requests that took out of the line."""

    async def release(self, projects: Collection[str]) -> int:
        """Let the requests of these projects go on; returns how many waited."""

    async def release_stragglers(self, projects: Collection[str] | None) -> None:
        """Let requests go on that wait for one of these projects, or any (None), though it is not quarantined."""

    async def wanted(self) -> Sequence[str]:
        """The projects that requests in flight or in line are for."""

    async def called(self, project: str) -> str | None:
        """The project's name, if a request tells it."""

    async def may_read(self, *, refused: bool) -> bool:
        """Take the turn to read the list of the identity's projects, if it is time for that."""

    async def may_probe(self, *, passed: bool) -> bool:
        """Take the turn to probe projects, if it is time for that."""

    async def probe(self, project: str) -> None:
        """Let one request create in a project whose permission was missing."""

    async def take_probe(self, project: str) -> bool:
        """Take the one create that may go out there now, if nobody has."""

    async def forget(self) -> None:
        """Forget projects for which nothing waits."""


class JoinedProjects(Protocol):
    """Tells in which projects the machine identity is."""

    async def projects(self) -> tuple[Observation, tuple[SeenProject, ...]]:
        """`FOUND` with all of them, or what stood in the way. It never raises for what the other side did."""

    async def project(self, project_id: str) -> Observation:
        """`FOUND`, `PROJECT_MISSING` if there is no such project, or what stood in the way. It never raises either."""


class Incidents(Protocol):
    """What the workers report together about trouble at one target."""

    async def report(self, reason: str | None) -> None:
        """Report why this worker holds creates back, or, with None, that the target works for it.

        Raises `DatabaseUnavailable`.
        """


class SecretStore(Protocol):
    """Where a named credential is kept outside of this process: the secrets of one Infisical."""

    async def read(self, place: SecretLocation) -> Secret:
        """The secret's value, trimmed. Raises `CredentialUnreadable` or `CredentialUnavailable`."""


class Permits(Protocol):
    """The budget of one target and one kind of call, shared by all workers behind one address."""

    async def acquire(self, wanted: int, *, spare: bool = False) -> Grant:
        """Ask for permits to send `wanted` calls; `spare` for what can wait. Raises `DatabaseUnavailable`."""

    async def share(self) -> None:
        """Tell the others at once what was learned and given back. Raises `DatabaseUnavailable`."""

    def give_back(self, permits: int) -> None:
        """Hand back permits that will not be used."""

    def learn(
        self, rate: RateHeaders | None, *, metered: bool, throttled_for: float | None, elapsed: float = 0.0
    ) -> None:
        """Note what one answer said of the limiter, `elapsed` after the call; it is shared with the next `acquire`."""


class ClockStore(Protocol):
    """Where workers of one target leave what they know of its Infisical's clock for those who start later."""

    async def load(self) -> Bounds | None:
        """What was left there lately. Raises `DatabaseUnavailable`."""

    async def save(self, bounds: Bounds) -> None:
        """Leave this for others. Raises `DatabaseUnavailable`."""


class Clock(Protocol):
    """Where the present comes from."""

    def now(self) -> datetime:
        """The present on the database's clock, as well as it is known."""

    def epoch(self) -> float:
        """The same in seconds since 1970: cheaper, for what happens at each call."""

    def at(self, monotonic: float) -> datetime:
        """What the database's clock showed at a monotonic time."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""

    def set_by(self, theirs: datetime, *, took: float = 0.0) -> None:
        """Correct the clock: the database has said what time it is, in a call that lasted `took` seconds."""


class Observer(Protocol):
    """Hears what a worker does.

    Told of every call, so it counts and nothing else: it neither waits nor raises. `took` is in seconds.
    """

    def called(self, target: str, action: Action, observation: Observation) -> None:
        """A call to Infisical has ended."""

    def claimed(self, target: str, requests: int, took: float) -> None:
        """A claim brought so many requests."""

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """A batch was recorded."""

    def logged_in(self, target: str, outcome: str) -> None:
        """A login has ended: `granted`, `refused`, `limited` or `trouble`."""
