"""Do slow work beside the maintenance: outcomes that were set aside, requests without a place in line, the counts.

It has its own tasks, so that no lease waits for it. A failure does not stop the other duties, and is retried after
growing pauses.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from provisioner.core.errors import ProvisionerError
from provisioner.core.ports import Clock, Queue
from provisioner.worker.database_retry import jittered, log_failure

log = structlog.stdlib.get_logger()

# Seconds between two checks whether outcomes that were set aside can be recorded.
SET_ASIDE_INTERVAL: Final = 1.0
LATE_AT_ONCE: Final = 20
# This many requests are checked in each such period by all workers together. It costs a fraction of a percent of a
# core, and covers ten million in three hours; the newest are checked every time.
SWEEP: Final = 10.0
SWEPT_AT_ONCE: Final = 10_000
# After a failure, wait this many seconds at first, and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 300.0


class Upkeep:
    """Does the slow duties; `late` says whether outcomes that were set aside may be due."""

    def __init__(self, queue: Queue, *, clock: Clock, late: Callable[[], bool] = lambda: True) -> None:
        self._queue = queue
        self._is_late = late
        self._clock = clock
        self._due: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._hurried = False
        self._miscounted = False
        self._recording = asyncio.Lock()

    async def run(self) -> None:
        """Do the duties until cancelled."""
        while True:
            if self._is_late():
                await self._duty("late", SET_ASIDE_INTERVAL, self._record_late)
            await self._duty("sweep", 0.0 if self._hurried else SWEEP, self._sweep)
            await asyncio.sleep(jittered(SET_ASIDE_INTERVAL))

    async def _duty(self, name: str, every: float, act: Callable[[], Awaitable[None]]) -> None:
        now = self._clock.monotonic()
        if now < self._due.get(name, 0.0):
            return
        self._due[name] = now + every
        try:
            await act()
            self._pauses.pop(name, None)
        except ProvisionerError as error:
            pause = self._pauses[name] = min(2 * self._pauses.get(name, FIRST_PAUSE / 2), LAST_PAUSE)
            self._due[name] = now + pause
            log_failure(name, error, pause)

    async def record_due(self) -> None:
        """Try once to record each outcome that is due, and wait for those being recorded now."""
        async with self._recording:
            while await self._record_some():
                pass  # each waits longer the next time, so fewer remain

    async def _record_late(self) -> None:
        async with self._recording:
            await self._record_some()

    async def _record_some(self) -> int:
        tried = await self._queue.record_set_aside(LATE_AT_ONCE)
        for late in tried:
            if late.reason is None:
                log.info("outcome_recorded_late", request=late.request)
            else:
                log.debug("outcome_still_refused", request=late.request, reason=late.reason)
        return len(tried)

    async def _sweep(self) -> None:
        swept = await self._queue.sweep(SWEPT_AT_ONCE, pause=0.0 if self._hurried else SWEEP / 2)
        if swept.placed:
            log.warning("requests_requeued", requests=swept.placed, reason="they were pending and not in the queue")
        if swept.placed:
            # One implies more, and rows written with triggers off were not counted either.
            self._hurried = self._miscounted = True
        if swept.done:
            self._hurried = False
            if self._miscounted:
                corrected = await self._queue.recount()
                self._miscounted = False
                log.info("requests_recounted", corrected=corrected)
