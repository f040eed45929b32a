"""Decide how one API key may be used: the state machine that all workers share.

A key is identified by its credential's canonical name and its fingerprint. It starts as *unknown*, and a few requests
over all workers try it. When OpenRouter accepts it, it is *accepted* and needs no trial. After enough refusals it is
*quarantined*: the requests that need it wait, and single ones probe it at growing intervals. Acceptance, or another key
for the credential, releases them.
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
SEALED: Final = "sealed-"  # prefix of a sealed key's name: it has no credential, so its fingerprint is its name

# How many requests may try an unknown key at once: one may be lost with its worker, and three refusals quarantine.
TRIALS: Final = 3
# Refusals that quarantine a key.
REFUSALS: Final = 3
# Total trials of a quarantined key besides probes, so that the requests already refused with it can finish.
CONFIRMING_TRIALS: Final = 9
# After this long without a result, a trial was probably lost with its worker.
TRIAL_LOST: Final = timedelta(seconds=5)
# A key accepted within this time needs no trial. Workers report an acceptance once a minute.
ACCEPTED_FOR: Final = timedelta(minutes=10)
# The first probe comes soon, because somebody may be correcting the key right now.
FIRST_PROBE: Final = timedelta(seconds=30)
PROBE_PAUSE: Final = timedelta(seconds=60)
LONGEST_PROBE_PAUSE: Final = timedelta(minutes=5)
# A request that waits for a quarantined key is tried again after this long in any case.
QUARANTINE_RECHECK: Final = timedelta(hours=1)


def fingerprint(key: Secret, salt: str) -> str:
    """Return a key's identity in the database and in logs: salted and truncated, so it cannot be reversed."""
    digest = hmac.digest(salt.encode(), key.reveal().encode("utf-8", "surrogatepass"), hashlib.sha256)
    return digest.hex()[:FINGERPRINT_LENGTH]


def canonical(credential: str) -> str:
    """Return a credential's name in the form used for comparison: lower case, `_` as `-`."""
    return credential.strip().lower().replace("_", "-")


def quarantine_of(credential: str) -> str:
    """Return the value of `waiting.quarantine` for requests that wait for this credential."""
    return f"credential:{credential}"


def waiting_for_key(credential: str) -> Retry:
    """Return the outcome of a claim whose key is quarantined."""
    return Retry(
        delay=QUARANTINE_RECHECK.total_seconds(),
        message=f"the API key of credential {credential} is refused: correct it, and this request continues",
        quarantine=quarantine_of(credential),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHealth:
    """What is known about one key.

    `trials` counts the creates that tried it since its last decision, refused ones included; the last one began at
    `tried_at`. `refusals` counts consecutive refusals. `probing`: one request may probe the quarantined key now.
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
        """Whether requests that need this key wait."""
        return self.quarantined_since is not None

    def accepted_lately(self, now: datetime) -> bool:
        """Whether the key may be used without a trial."""
        return not self.is_quarantined and self.accepted_at is not None and now - self.accepted_at <= ACCEPTED_FOR

    def has_lost_trials(self, now: datetime) -> bool:
        """Whether the last trial began so long ago that its worker is probably lost."""
        return self.tried_at is None or now - self.tried_at > TRIAL_LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPermit:
    """Whether a key may be tried.

    `accepted_for`: it needs no trial, because it was accepted this long ago. `quarantined`: it was refused, and waits
    to be corrected.
    """

    granted: bool
    accepted_for: timedelta | None = None
    quarantined: bool = False


def request_trial(health: KeyHealth, now: datetime, *, confirming: bool) -> tuple[KeyHealth, TrialPermit]:
    """Ask to try a key. `confirming`: the request was refused with this key before, and may finish."""
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
    """Return the key after a trial with no result: another request may try."""
    return replace(health, trials=max(health.trials - 1, health.refusals))


def accepted(now: datetime) -> KeyHealth:
    """Return a key that OpenRouter has just accepted, with everything held against it cleared."""
    return KeyHealth(accepted_at=now)


def suspected(health: KeyHealth) -> KeyHealth:
    """Return a key that used to work and was refused: it needs a trial like an unknown one."""
    if health.accepted_at is None:
        return health
    return replace(health, accepted_at=None, trials=0, refusals=0)


def refused(health: KeyHealth, reason: str, now: datetime) -> tuple[KeyHealth, bool]:
    """Return the key after another refusal, and whether this refusal quarantined it."""
    refusals = health.refusals + 1
    counted = replace(health, accepted_at=None, refusals=refusals, reason=reason)
    if health.is_quarantined or refusals < REFUSALS:
        return counted, False
    quarantined = replace(counted, quarantined_since=now, probe_at=now + FIRST_PROBE, probe_pause=PROBE_PAUSE)
    return quarantined, True


def found_invalid(health: KeyHealth, reason: str, now: datetime) -> tuple[KeyHealth, bool]:
    """Return a key that OpenRouter itself calls invalid, and whether that quarantined it. No create was spent on it."""
    if health.is_quarantined:
        return replace(health, accepted_at=None, reason=reason, probing=False), False
    blank = KeyHealth(refusals=REFUSALS, trials=REFUSALS, tried_at=now, reason=reason)
    return replace(blank, quarantined_since=now, probe_at=now + FIRST_PROBE), True


def due_probe(health: KeyHealth, now: datetime) -> KeyHealth | None:
    """Return a quarantined key that may be probed now; None if it has to wait."""
    if not health.is_quarantined or health.probe_at is None or health.probe_at > now:
        return None
    pause = min(health.probe_pause * 2, LONGEST_PROBE_PAUSE)
    return replace(health, probing=True, probe_at=now + health.probe_pause, probe_pause=pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedKey:
    """A key whose requests wait. `probing`: one request with it may be sent now."""

    credential: str
    fingerprint: str
    probing: bool
