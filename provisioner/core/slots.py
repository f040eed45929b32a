"""One worker's part of a target's concurrency: which calls are out, what they showed, what it has to tell.

The arithmetic between two exchanges (`core.concurrency`), without I/O and without a clock: callers pass seconds of one
that never jumps.
"""

from dataclasses import dataclass
from enum import Enum, auto

from provisioner.core.concurrency import FIRST_PATIENCE, SELF_HOSTED, CallReport
from provisioner.core.sharing import Allotment


class Ending(Enum):
    """What the end of a call says of the server's strength."""

    ACCEPTED = auto()  # it went all the way: its latency counts
    ANSWERED = auto()  # refused on the way, by a server that works
    FAILED = auto()  # no word of the server's
    BROKEN = auto()  # the server's own error
    STRAINED = auto()  # refused after several tries upstream
    REFUSED = auto()  # never sent: nobody listened, or nobody let us in
    NOTHING = auto()  # says nothing


@dataclass(slots=True)
class _Tally:
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
    """Counts a worker's calls against the slots that it has."""

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
        self._patience = FIRST_PATIENCE
        self._stalled = False
        self._stalled_until = float("-inf")
        self._burst = SELF_HOSTED
        self._spacing = 0.0
        self._next = float("-inf")

    @property
    def running(self) -> int:
        """Calls that are out."""
        return len(self._out)

    @property
    def rests(self) -> bool:
        """Whether the others were told last that we use none."""
        return not self._asked and not self._tally.calls and not self._out

    @property
    def is_free(self) -> bool:
        """Whether another call may begin."""
        return len(self._out) < self.slots

    def could_use(self, wanted: int) -> bool:
        """Whether more slots than we asked for could be used, and there may be more."""
        return self.slots < min(wanted, max(self.limit, 1)) and wanted > self._asked

    @property
    def is_due(self) -> bool:
        """Whether there is something that the others are waiting for: a round is over, a slot is to be given back."""
        running = len(self._out)
        if self._held > self.slots and running < self._held:
            return True
        if self._tally.slow or self._tally.lost or self._stalled:
            return self._tally.calls + self._tally.refused > 0
        return self._round is not None and self._tally.calls >= self._round

    def begin(self, now: float) -> tuple[int, float]:
        """A call takes a slot; returns its number, and when it may be sent.

        Where many slots are free at once (they are new, or their calls have ended together), the calls are spread: a
        server may bear a number in flight and stop when as many arrive in the same moment.
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
        """A call has ended. `metered`: its answer carried a limiter's headers."""
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
        if ending is Ending.ACCEPTED:  # nearly always
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
        """Whether the failure of a call that began then is blamed on how many were in flight, and on nobody else."""
        return self._stalled or began <= self._stalled_until

    def read(self, wanted: int, now: float) -> CallReport:
        """What there is to tell: it counts as told."""
        tally, pressed = self._tally, self._pressed
        self._tally, self._pressed = _Tally(), not self.is_free
        return CallReport(
            wanted=wanted,
            running=len(self._out),
            calls=tally.calls,
            accepted=tally.accepted,
            elapsed=tally.elapsed,
            failed=tally.failed,
            slow=tally.slow,
            lost=tally.lost,
            refused=tally.refused,
            metered=tally.metered,
            quick=tally.quick,
            pressed=pressed,
            oldest=max(0.0, now - next(iter(self._out.values()), now)),
            ended_ago=max(0.0, now - self._ended_at) if tally.calls else 0.0,
        )

    def obey(self, allotment: Allotment, now: float, *, told: CallReport) -> None:
        """Take over what was allotted to us for what we told."""
        self.slots, self.limit = allotment.slots, allotment.limit
        self._held, self._asked = max(allotment.slots, told.running), told.wanted
        self._round, self._patience = allotment.round, allotment.patience
        self._stalled, self.awaited = allotment.stalled, allotment.awaited
        self._burst, self._spacing = allotment.burst, allotment.spacing
        if allotment.stalled:
            self._stalled_until = now

    def forget(self) -> None:
        """Our slots have gone to others: the lease was lost."""
        self.slots = self._held = 0
