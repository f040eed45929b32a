"""Decide what may be done with one API key: the state machine that all workers share.

A key is identified by its credential's canonical name and by its fingerprint. It is *unknown* at first: a few requests
try it, counted over all workers. When OpenRouter accepts it, it is *accepted* and needs no trial. When it is refused
often enough it is *quarantined*: the requests that need it wait, and one at a time probes it, at growing intervals.
Acceptance, or another key in its place, releases them.

Pure: callers pass the time, on the database's clock. PostgreSQL only stores the state.
"""

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from provisioner.core.model import Retry
from provisioner.core.secret import Secret

FINGERPRINT_LENGTH: Final = 16  # hexadecimal digits; enough to tell a fleet's keys apart
SEALED: Final = "sealed-"  # a sealed key has no name of its own: its fingerprint stands for it

# Requests that try an unknown key at the same time: one may be lost with its worker, and three refusals convince.
TRIALS: Final = 3
# Refusals that quarantine a key.
REFUSALS: Final = 3
# Trials of a quarantined key in all, besides probes: each request that was refused with it may come to its end.
CONFIRMING_TRIALS: Final = 9
# A trial that said nothing for this long was probably lost with its worker.
TRIAL_LOST: Final = timedelta(seconds=5)
# A key that was accepted this lately needs no trial; a worker tells of acceptance once a minute.
ACCEPTED_FOR: Final = timedelta(minutes=10)
# The first probe comes soon, for somebody may be correcting the key just now; later ones come at growing intervals.
FIRST_PROBE: Final = timedelta(seconds=30)
PROBE_PAUSE: Final = timedelta(seconds=60)
LONGEST_PROBE_PAUSE: Final = timedelta(minutes=5)
# A request that waits for a quarantined key looks again after this long, whatever else happened.
QUARANTINE_RECHECK: Final = timedelta(hours=1)


def fingerprint(key: Secret, salt: str) -> str:
    """What a key is known by in the database and in logs: salted and cut short, so that it leads nowhere back."""
    digest = hmac.digest(salt.encode(), key.reveal().encode("utf-8", "surrogatepass"), hashlib.sha256)
    return digest.hex()[:FINGERPRINT_LENGTH]


def canonical(credential: str) -> str:
    """A credential's name as names are compared: without case, `_` as `-`."""
    return credential.strip().lower().replace("_", "-")


def quarantine_of(credential: str) -> str:
    """What `waiting.quarantine` says of a request that waits for this credential."""
    return f"credential:{credential}"


def waiting_for_key(credential: str) -> Retry:
    """How a claim ends whose key is quarantined."""
    return Retry(
        delay=QUARANTINE_RECHECK.total_seconds(),
        message=f"the API key of credential {credential} is refused: correct it, and this request continues",
        quarantine=quarantine_of(credential),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHealth:
    """What is known of one key.

    `trials` counts creates that tried it since it was last decided, refused ones included; `tried_at` is the last one's
    start. `refusals` counts refusals in a row. `probing`: one request may probe the quarantined key now.
    """

    accepted_at: datetime | None = None
    trials: int = 0
    tried_at: datetime | None = None
    refusals: int = 0
    quarantined_since: datetime | None = None
    reason: str | None = None
    probing: bool = False
    probe_at: datetime | None = None
    probe_pause: timedelta = PROBE_PAUSE

    @property
    def is_quarantined(self) -> bool:
        """Whether the requests that need this key wait."""
        return self.quarantined_since is not None

    def accepted_lately(self, now: datetime) -> bool:
        """Whether it may be used without a trial."""
        return not self.is_quarantined and self.accepted_at is not None and now - self.accepted_at <= ACCEPTED_FOR

    def has_lost_trials(self, now: datetime) -> bool:
        """Whether the last trial began so long ago that its worker is probably gone."""
        return self.tried_at is None or now - self.tried_at > TRIAL_LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPermit:
    """Whether a key may be tried.

    `accepted_for`: it needs no trial, it was accepted this long ago. `quarantined`: it was refused and waits to be
    corrected.
    """

    granted: bool
    accepted_for: timedelta | None = None
    quarantined: bool = False


def ask(health: KeyHealth, now: datetime, *, confirming: bool) -> tuple[KeyHealth, TrialPermit]:
    """Ask to try a key. `confirming`: the request was refused with this key before, and may come to its end."""
    if health.accepted_lately(now):
        accepted_for = now - health.accepted_at if health.accepted_at is not None else None
        return health, TrialPermit(granted=False, accepted_for=accepted_for)
    lost = health.has_lost_trials(now)
    if health.is_quarantined:
        granted = health.probing or (confirming and health.trials < CONFIRMING_TRIALS)
    else:
        granted = lost or health.trials < TRIALS
    if not granted:
        return health, TrialPermit(granted=False, quarantined=health.is_quarantined)
    begun = health.refusals if lost else health.trials
    tried = replace(health, trials=begun + 1, tried_at=now, probing=False)
    return tried, TrialPermit(granted=True, quarantined=health.is_quarantined)


def undecided(health: KeyHealth) -> KeyHealth:
    """Return the key after a trial that said nothing about it: another request may try."""
    return replace(health, trials=max(health.trials - 1, health.refusals))


def accepted(now: datetime) -> KeyHealth:
    """Return a key that OpenRouter has just accepted: whatever was against it counts no more."""
    return KeyHealth(accepted_at=now)


def suspected(health: KeyHealth) -> KeyHealth:
    """Return a key that worked and was refused: it has to be tried like an unknown one."""
    if health.accepted_at is None:
        return health
    return replace(health, accepted_at=None, trials=0, refusals=0)


def refused(health: KeyHealth, reason: str, now: datetime) -> tuple[KeyHealth, bool]:
    """Return a key that was refused once more, and whether this refusal quarantined it."""
    refusals = health.refusals + 1
    counted = replace(health, accepted_at=None, refusals=refusals, reason=reason)
    if health.is_quarantined or refusals < REFUSALS:
        return counted, False
    quarantined = replace(counted, quarantined_since=now, probe_at=now + FIRST_PROBE, probe_pause=PROBE_PAUSE)
    return quarantined, True


def found_invalid(health: KeyHealth, reason: str, now: datetime) -> tuple[KeyHealth, bool]:
    """Return a key of which OpenRouter itself says that it is none, and whether that quarantined it: no create did."""
    if health.is_quarantined:
        return replace(health, accepted_at=None, reason=reason, probing=False), False
    blank = KeyHealth(refusals=REFUSALS, trials=REFUSALS, tried_at=now, reason=reason)
    return replace(blank, quarantined_since=now, probe_at=now + FIRST_PROBE), True


def due_probe(health: KeyHealth, now: datetime) -> KeyHealth | None:
    """Return a quarantined key whose next probe may go out now; None while it has to wait."""
    if not health.is_quarantined or health.probe_at is None or health.probe_at > now:
        return None
    pause = min(health.probe_pause * 2, LONGEST_PROBE_PAUSE)
    return replace(health, probing=True, probe_at=now + health.probe_pause, probe_pause=pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedKey:
    """A key whose requests wait. `probing`: one request with it may go out now."""

    credential: str
    fingerprint: str
    probing: bool
