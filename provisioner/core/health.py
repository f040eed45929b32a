"""Who is to blame? What came lately says whether a target works at all.

A breaker opens when nothing gets through any more, and lets single probes through until something does. It keeps no
clock: callers pass seconds of one that never jumps.
"""

from typing import Final

from provisioner.core.model import Seen

# What says nothing about the row, only that the target cannot be used just now.
TROUBLE: Final = frozenset({Seen.UNKNOWN, Seen.NOT_SENT, Seen.TOKEN_TROUBLE, Seen.MISCONFIGURED})
# What never left this process says nothing about the target.
_NEUTRAL: Final = frozenset({Seen.CREDENTIAL_UNKNOWN, Seen.CREDENTIAL_UNREADABLE, Seen.THROTTLED})

# So many calls in a row without one that works, and the target is held.
THRESHOLD: Final = 5
# Seconds until the first probe, and at most between two of them: work resumes within seconds of an outage's end.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
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

    def observe(self, seen: Seen, reason: str, now: float) -> bool:
        """Note what one call showed; returns whether the breaker opened or closed by it."""
        if seen in _NEUTRAL:
            return False
        was_open = self.is_open
        if seen not in TROUBLE:
            self._in_a_row, self._pause, self._worked_at, self.reason = 0, FIRST_PAUSE, now, ""
            return was_open
        self._in_a_row += 1
        if self.is_open and now >= self._probe_at:
            self._probe_at = now + self._pause
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            self.reason = reason
        return self.is_open and not was_open
