"""How many calls at once, where no limiter says how fast? As many as help.

Up while throughput grows, halved when the server is in distress: answers that are no answers, refusals that took four
tries upstream, or latency far above what is usual. One `Pressure` a target; it is told of every call's end, so noting
one costs next to nothing. It keeps no clock: callers pass seconds of one that never jumps.
"""

from typing import Final

# What any Infisical and OpenRouter bear; above it, more is tried only as long as it brings more.
START: Final = 64
# So many more at a time, as a share, and at least so much more throughput has to come of it.
STEP: Final = 0.125
WORTH: Final = 0.03
# The share of a round's calls that failed, from which on the server is in distress; fewer are bad luck.
DISTRESS: Final = 0.5
# Latency that is so many times the usual one, and so many seconds more, is distress too.
SLOWER: Final = 3.0
MUCH: Final = 0.5
GETTING_USED: Final = 1.25
# A round is what is in flight once, and at least so many calls. Climbing is judged by so many rounds together; what did
# not help is tried again after so many judgements.
LEAST: Final = 8
CYCLES: Final = 4
AGAIN: Final = 16


class Pressure:
    """Adapts how many calls of one target may be in flight, never above `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = min(most, START)
        self._calls = 0
        self._failed = 0
        self._elapsed = 0.0
        self._usual = float("inf")
        self._rounds: list[tuple[int, float]] = []
        self._began = 0.0
        self._before: tuple[int, float] | None = None
        self._rest = 0

    def note(self, elapsed: float, now: float, *, failed: bool = False) -> None:
        """A call has ended after `elapsed` seconds; `failed` when it looks as if the server could not cope."""
        if not self._calls and not self._rounds:
            self._began = now - elapsed
        self._calls += 1
        self._elapsed += elapsed
        self._failed += failed
        if self._calls >= self.limit and self._calls >= LEAST:
            self._round(now)

    def _round(self, now: float) -> None:
        latency, failed = self._elapsed / self._calls, self._failed / self._calls
        self._rounds.append((self._calls, self._elapsed))
        self._calls, self._failed, self._elapsed = 0, 0, 0.0
        if failed >= DISTRESS or latency > max(SLOWER * self._usual, self._usual + MUCH):
            self.limit = max(1, self.limit // 2)
            self._before, self._rest = None, 1
            self._usual *= GETTING_USED  # if it stays like this, it is the usual
            self._rounds.clear()
            return
        self._usual = min(latency, self._usual * 1.02)
        if len(self._rounds) == CYCLES:
            self._judge(now - self._began)

    def _judge(self, seconds: float) -> None:
        calls, elapsed = (sum(column) for column in zip(*self._rounds, strict=True))
        self._rounds.clear()
        if self._rest:
            self._rest -= 1
        elif self.limit < self._most:
            # By Little's law: how many calls were in flight, on average.
            busy = elapsed / max(seconds, 1e-6)
            if busy >= self.limit / 2:
                self._climb(calls / max(seconds, 1e-6))

    def _climb(self, pace: float) -> None:
        """Try a little more, and take it back when nothing came of it."""
        if self._before is not None and pace < self._before[1] * (1 + WORTH):
            self.limit, self._before, self._rest = self._before[0], None, AGAIN
            return
        self._before = (self.limit, pace)
        self.limit = min(self._most, self.limit + max(1, round(self.limit * STEP)))
