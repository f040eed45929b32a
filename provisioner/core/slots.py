"""One worker's part of a target's concurrency: its running calls, what they showed, and what to report.

This is the bookkeeping between two exchanges (`core.concurrency`), without I/O or a clock: callers pass seconds of a
clock that never jumps.
"""

from dataclasses import asdict, dataclass
from enum import Enum, auto

from provisioner.core.concurrency import FIRST_STALL, SELF_HOSTED_LIMIT, CallReport
from provisioner.core.sharing import Allotment


class Ending(Enum):
    """What the end of a call says about the server's capacity."""

    ACCEPTED = auto()  # it went all the way, so its latency counts
    ANSWERED = auto()  # refused on the way by a server that works
    FAILED = auto()  # no answer from the server
    BROKEN = auto()  # the server's own error
    STRAINED = auto()  # refused after several attempts upstream
    REFUSED = auto()  # never sent: nothing listened, or we were not let in
    NOTHING = auto()  # says nothing


@dataclass(slots=True)
class _Tally:
    """The part of the next `CallReport` that is counted."""

    calls: int = 0
    accepted: int = 0
    elapsed: float = 0.0
    failed: int = 0
    slow: int = 0
    lost: int = 0
    refused: int = 0
    metered: int = 0
    quick: bool = False


class Slots:
    """Counts a worker's calls against its slots."""

    def __init__(self) -> None:
        self.slots = 0
        self.limit = 0
        self.awaited = False
        self._out: dict[int, float] = {}
        self._number = 0
        self._tally = _Tally()
        self._pressed = False
        self._ended_at = float("-inf")
        self._held = 0
        self._asked = 0
        self._round: int | None = None
        self._patience = FIRST_STALL
        self._stalled = False
        self._stalled_until = float("-inf")
        self._burst = SELF_HOSTED_LIMIT
        self._spacing = 0.0
        self._next = float("-inf")

    @property
    def running(self) -> int:
        """The number of calls in flight."""
        return len(self._out)

    @property
    def rests(self) -> bool:
        """Whether our last report said that we use no slots."""
        return not self._asked and not self._tally.calls and not self._out

    @property
    def is_free(self) -> bool:
        """Whether another call may begin."""
        return len(self._out) < self.slots

    def could_use(self, wanted: int) -> bool:
        """Whether we could use more slots than we asked for, and there may be more."""
        return self.slots < min(wanted, max(self.limit, 1)) and wanted > self._asked

    @property
    def is_due(self) -> bool:
        """Whether the others wait for a report: a round is over, or a slot must be given back."""
        running = len(self._out)
        if self._held > self.slots and running < self._held:
            return True
        if self._tally.slow or self._tally.lost or self._stalled:
            return self._tally.calls + self._tally.refused > 0
        return self._round is not None and self._tally.calls >= self._round

    def begin(self, now: float) -> tuple[int, float]:
        """Take a slot for a call; returns its number, and when it may be sent.

        If many slots become free at once (they are new, or their calls ended together), calls are spread: a server may
        handle a number in flight and yet stop if that many arrive at the same moment.
        """
        sent_at = now
        if self._spacing:
            sent_at = max(now, self._next - (self._burst - 1) * self._spacing)
            self._next = max(now, self._next) + self._spacing
        self._number += 1
        self._out[self._number] = sent_at
        if len(self._out) >= self.slots:
            self._pressed = True
        return self._number, sent_at

    def end(self, number: int, ending: Ending, now: float, *, metered: bool = False) -> None:
        """Note that a call has ended. `metered`: its answer carried a rate limiter's headers."""
        elapsed = now - self._out.pop(number)
        if ending is Ending.NOTHING:
            return
        tally, slow = self._tally, elapsed >= self._patience
        if ending is Ending.REFUSED:
            tally.refused += 1
            return
        tally.calls += 1
        tally.metered += metered
        self._ended_at = now
        if ending is Ending.ACCEPTED:  # the usual case
            tally.accepted += 1
            tally.elapsed += elapsed
        elif ending is not Ending.ANSWERED:
            tally.failed += 1
            tally.slow += slow and ending is Ending.BROKEN
            tally.lost += slow and ending is Ending.FAILED
            return
        if not slow:
            tally.quick = True

    def excuses(self, began: float) -> bool:
        """Whether the failure of a call that began then is blamed on the number in flight alone."""
        return self._stalled or began <= self._stalled_until

    def read(self, wanted: int, now: float) -> CallReport:
        """Return the report; its contents count as reported."""
        tally, pressed = self._tally, self._pressed
        self._tally, self._pressed = _Tally(), not self.is_free
        return CallReport(
            wanted=wanted,
            running=len(self._out),
            slots=self.slots,
            pressed=pressed,
            oldest=max(0.0, now - next(iter(self._out.values()), now)),
            ended_ago=max(0.0, now - self._ended_at) if tally.calls else 0.0,
            **asdict(tally),
        )

    def obey(self, allotment: Allotment, now: float, *, told: CallReport) -> None:
        """Apply the allotment that was given for a report."""
        self.slots, self.limit = allotment.slots, allotment.limit
        self._held, self._asked = max(allotment.slots, told.running, told.slots), told.wanted
        self._round, self._patience = allotment.round, allotment.patience
        self._stalled, self.awaited = allotment.stalled, allotment.awaited
        self._burst, self._spacing = allotment.burst, allotment.spacing
        if allotment.stalled:
            self._stalled_until = now

    def forget(self) -> None:
        """Note that our slots have gone to others, because the lease was lost."""
        self.slots = self._held = 0
