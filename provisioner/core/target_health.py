"""Decide who is to blame: the row, its key, OpenRouter, or Infisical. One answer cannot tell, recent history can.

A `Breaker` opens when nothing gets through to Infisical any more. `Upstream` distinguishes a key that OpenRouter
refuses from an OpenRouter that refuses every key. Both let single probes through until something works again. They have
no clock: callers pass seconds of a clock that never jumps.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from provisioner.core.model import Result

# Results that say nothing about the row, only that the target cannot be used at present.
TROUBLE: Final = frozenset(
    {Result.UNKNOWN, Result.NOT_SENT, Result.TOKEN_TROUBLE, Result.MISCONFIGURED, Result.PLAN_RESTRICTED}
)
# One such answer applies to all requests, until a person changes something.
PERSISTENT: Final = frozenset({Result.PLAN_RESTRICTED})
# Calls that never left this process say nothing about the target.
_NEUTRAL: Final = frozenset(
    {Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY, Result.THROTTLED}
)

# This many calls in a row without a success open the breaker.
BREAKER_THRESHOLD: Final = 5
# Seconds until the first probe, and at most between two probes: work resumes within seconds after an outage.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
# Seconds between two probes if only a person can help.
LASTING_PAUSE: Final = 60.0
# If others got through within this many seconds, trouble is the row's own.
WORKING_FOR: Final = 10.0


def _probes(at: float, pause: float, now: float) -> tuple[int, float]:
    return (0, at - now) if now < at else (1, pause)


class Breaker:
    """Withholds a target's calls while nothing works there."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._pause = FIRST_PAUSE
        self._probe_at = 0.0
        self._worked_at = float("-inf")
        self.reason = ""

    @property
    def is_open(self) -> bool:
        """Whether calls are withheld."""
        return self._in_a_row >= BREAKER_THRESHOLD

    def works(self, now: float) -> bool:
        """Whether other requests get through, so that trouble is the row's own."""
        return not self.is_open and now - self._worked_at < WORKING_FOR

    def allowance(self, now: float) -> tuple[int | None, float]:
        """Return how many calls may run at once (None: any number), and the seconds until that may change."""
        return _probes(self._probe_at, self._pause, now) if self.is_open else (None, 0.0)

    def observe(self, result: Result, reason: str, now: float) -> bool:
        """Note the result of one call; returns whether it opened or closed the breaker."""
        if result in _NEUTRAL:
            return False
        was_open = self.is_open
        if result not in TROUBLE:
            self._in_a_row, self._pause, self._worked_at, self.reason = 0, FIRST_PAUSE, now, ""
            return was_open
        lasting = result in PERSISTENT
        self._in_a_row = BREAKER_THRESHOLD if lasting else self._in_a_row + 1
        if self.is_open and (now >= self._probe_at or not was_open):
            self._probe_at = now + (LASTING_PAUSE if lasting else self._pause)
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            self.reason = reason
        return self.is_open and not was_open


class Blame(Enum):
    """Who is at fault when OpenRouter is said to refuse a key."""

    KEY = "the key"
    UPSTREAM = "OpenRouter"
    NOBODY_YET = "more has to be seen"


# A key that was accepted within this many seconds has hardly become bad: OpenRouter is suspected first.
TRUSTED_FOR: Final = 300.0
# Infisical asks OpenRouter four times before it gives up, which takes at least this many seconds longer than a refusal.
SLOW_REFUSAL: Final = 1.4
# This many different requests must be refused before a key that worked recently, or OpenRouter, is blamed.
MIN_REFUSED_REQUESTS: Final = 3
# This many slow refusals in a row are enough.
MIN_SLOW_REFUSALS: Final = 2


@dataclass(slots=True)
class _Series:
    """Consecutive refusals of one key."""

    since: float
    requests: set[int] = field(default_factory=set)
    slow: int = 0


class Upstream:
    """Whether OpenRouter, as seen through Infisical, is available at all."""

    def __init__(self) -> None:
        self._accepted: dict[str, float] = {}
        self._refused: dict[str, _Series] = {}
        self._usual = 0.0
        self._probe_at = 0.0
        self._pause = FIRST_PAUSE
        self.is_open = False
        self.reason = ""

    def remember(self, key: str, at: float) -> None:
        """Note that a key was accepted at that time, by another worker or before this process began."""
        self._accepted[key] = max(at, self._accepted.get(key, at))

    def accepted_since(self, key: str, at: float) -> bool:
        """Whether a key was accepted after that time."""
        return self._accepted.get(key, at) > at

    def accepted(self, key: str, elapsed: float, now: float) -> bool:
        """Note that a key was accepted after `elapsed` seconds; returns whether that ended an outage."""
        self._accepted[key] = now
        self._usual += (elapsed - self._usual) / 16
        if self._refused:
            self._refused.pop(key, None)
        if not self.is_open:
            return False
        self.is_open, self.reason, self._pause = False, "", FIRST_PAUSE
        self._refused.clear()
        return True

    def refused(self, key: str, request: int, elapsed: float, reason: str, now: float) -> Blame:
        """Note that a key was refused for a request after `elapsed` seconds; returns who is at fault."""
        series = self._refused.setdefault(key, _Series(since=now))
        series.requests.add(request)
        slow = elapsed - self._usual >= SLOW_REFUSAL
        series.slow += slow
        lately = now - self._accepted.get(key, float("-inf")) < TRUSTED_FOR
        if self.is_open:
            return self._probed(key, suspect=lately or slow, reason=reason, now=now)
        if self._others_accepted(key, series.since):
            return Blame.NOBODY_YET if lately and len(series.requests) < MIN_REFUSED_REQUESTS else Blame.KEY
        if not lately and not slow:
            return Blame.KEY
        if series.slow >= MIN_SLOW_REFUSALS or (lately and self._refused_together() >= MIN_REFUSED_REQUESTS):
            self.is_open, self.reason, self._probe_at = True, reason, now + self._pause
            return Blame.UPSTREAM
        return Blame.NOBODY_YET

    def allowance(self, now: float) -> tuple[int | None, float]:
        """Return how many creates may run at once (None: any number), and the seconds until that may change."""
        return _probes(self._probe_at, self._pause, now) if self.is_open else (None, 0.0)

    def may_send(self, now: float) -> bool:
        """Whether a create may be sent; during an outage, the caller that gets True is the probe."""
        if not self.is_open:
            return True
        if now < self._probe_at:
            return False
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        self._probe_at = now + self._pause
        return True

    def _probed(self, key: str, *, suspect: bool, reason: str, now: float) -> Blame:
        self.reason = reason
        if suspect or any(
            name != key and now - self._accepted.get(name, now - TRUSTED_FOR) < TRUSTED_FOR for name in self._refused
        ):
            return Blame.UPSTREAM
        # No key was accepted for minutes, and this one is refused at once: OpenRouter is available.
        self.is_open, self.reason, self._pause = False, "", FIRST_PAUSE
        self._refused.clear()
        return Blame.KEY

    def _others_accepted(self, key: str, since: float) -> bool:
        return any(at >= since for name, at in self._accepted.items() if name != key)

    def _refused_together(self) -> int:
        """The number of different requests whose keys are refused without any acceptance in between, over all keys."""
        return sum(len(series.requests) for series in self._refused.values())
