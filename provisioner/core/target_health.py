"""Who is to blame: the row, its key, OpenRouter, or Infisical? One answer does not tell, what came lately does.

A `Breaker` opens when nothing gets through to Infisical any more. `Upstream` tells a key that OpenRouter refuses from
an OpenRouter that refuses every key. Both let single probes through until something works again. They keep no clock:
callers pass seconds of one that never jumps.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from provisioner.core.model import Result

# What says nothing about the row, only that the target cannot be used just now.
TROUBLE: Final = frozenset(
    {Result.UNKNOWN, Result.NOT_SENT, Result.TOKEN_TROUBLE, Result.MISCONFIGURED, Result.PLAN_RESTRICTED}
)
# One answer tells it for all, and it stays so until a person changes it.
PERSISTENT: Final = frozenset({Result.PLAN_RESTRICTED})
# What never left this process says nothing about the target.
_NEUTRAL: Final = frozenset(
    {Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY, Result.THROTTLED}
)

# So many calls in a row without one that works, and the target is held.
THRESHOLD: Final = 5
# Seconds until the first probe, and at most between two of them: work resumes within seconds of an outage's end.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
# Seconds between two probes where only a person can help.
LASTING_PAUSE: Final = 60.0
# Others got through so lately, seconds, that trouble is the row's own.
RECENT: Final = 10.0


class Breaker:
    """Holds one target's calls back while nothing works there."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._pause = FIRST_PAUSE
        self._probe_at = 0.0
        self._worked_at = float("-inf")
        self.reason = ""

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._in_a_row >= THRESHOLD

    def works(self, now: float) -> bool:
        """Whether others get through: trouble is then the row's own."""
        return not self.is_open and now - self._worked_at < RECENT

    def allowance(self, now: float) -> tuple[int | None, float]:
        """How many calls may be under way (None: any number), and in how many seconds that may change."""
        if not self.is_open:
            return None, 0.0
        if now < self._probe_at:
            return 0, self._probe_at - now
        return 1, self._pause

    def observe(self, result: Result, reason: str, now: float) -> bool:
        """Note what one call showed; returns whether the breaker opened or closed by it."""
        if result in _NEUTRAL:
            return False
        was_open = self.is_open
        if result not in TROUBLE:
            self._in_a_row, self._pause, self._worked_at, self.reason = 0, FIRST_PAUSE, now, ""
            return was_open
        lasting = result in PERSISTENT
        self._in_a_row = THRESHOLD if lasting else self._in_a_row + 1
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


# A key that was accepted so lately, seconds, hardly became a bad one: OpenRouter is suspected first.
LATELY: Final = 300.0
# Infisical asks OpenRouter four times before it gives up, which takes at least so many seconds more than a refusal.
SLOW: Final = 1.4
# So many different requests have to be refused before a key that worked lately, or OpenRouter, is blamed.
SEVERAL: Final = 3
# So many slow refusals in a row are enough.
FEW_SLOW: Final = 2


@dataclass(slots=True)
class _Series:
    """Refusals of one key with nothing accepted in between."""

    since: float
    requests: set[int] = field(default_factory=set)
    slow: int = 0


class Upstream:
    """Whether OpenRouter, as Infisical sees it, can be asked at all."""

    def __init__(self) -> None:
        self._accepted: dict[str, float] = {}
        self._refused: dict[str, _Series] = {}
        self._usual = 0.0
        self._probe_at = 0.0
        self._pause = FIRST_PAUSE
        self.is_open = False
        self.reason = ""

    def remember(self, key: str, at: float) -> None:
        """A key was accepted at that time, by others or before this process began."""
        self._accepted[key] = max(at, self._accepted.get(key, at))

    def accepted_since(self, key: str, at: float) -> bool:
        """Whether a key was accepted after that time."""
        return self._accepted.get(key, at) > at

    def accepted(self, key: str, elapsed: float, now: float) -> bool:
        """Note that a key was accepted after `elapsed` seconds; returns whether that ended a hold."""
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
        """Note that a key was refused for a request after `elapsed` seconds; says who is at fault."""
        series = self._refused.setdefault(key, _Series(since=now))
        series.requests.add(request)
        slow = elapsed - self._usual >= SLOW
        series.slow += slow
        lately = now - self._accepted.get(key, float("-inf")) < LATELY
        if self.is_open:
            return self._probed(key, suspect=lately or slow, reason=reason, now=now)
        if self._others_accepted(key, series.since):
            return Blame.NOBODY_YET if lately and len(series.requests) < SEVERAL else Blame.KEY
        if not lately and not slow:
            return Blame.KEY
        if series.slow >= FEW_SLOW or (lately and self._refused_together() >= SEVERAL):
            self.is_open, self.reason, self._probe_at = True, reason, now + self._pause
            return Blame.UPSTREAM
        return Blame.NOBODY_YET

    def allowance(self, now: float) -> tuple[int | None, float]:
        """How many creates may be under way (None: any number), and in how many seconds that may change."""
        if not self.is_open:
            return None, 0.0
        if now < self._probe_at:
            return 0, self._probe_at - now
        return 1, self._pause

    def may_send(self, now: float) -> bool:
        """Whether a create may be sent; while held, who is told so is the probe."""
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
            name != key and now - self._accepted.get(name, now - LATELY) < LATELY for name in self._refused
        ):
            return Blame.UPSTREAM
        # Nobody's key was accepted within minutes, and this one is refused at once: OpenRouter can be asked.
        self.is_open, self.reason, self._pause = False, "", FIRST_PAUSE
        self._refused.clear()
        return Blame.KEY

    def _others_accepted(self, key: str, since: float) -> bool:
        return any(at >= since for name, at in self._accepted.items() if name != key)

    def _refused_together(self) -> int:
        """Different requests whose keys are refused with nothing accepted in between, of all keys."""
        return sum(len(series.requests) for series in self._refused.values())
