"""Renew the forecasts in a task of their own, so that no lease waits for them."""

import asyncio
from typing import Final

from provisioner.core.errors import ProvisionerError
from provisioner.core.ports import Clock, Queue
from provisioner.worker.database_retry import log_failure

# After a failure, wait this many seconds at first, and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 300.0


class Forecaster:
    """Renews the forecasts of the whole fleet when they are due; the first worker to notice does it."""

    def __init__(self, queue: Queue, *, clock: Clock, every: float) -> None:
        self._queue = queue
        self._clock = clock
        self._every = every
        self._due = asyncio.Event()
        self._not_before = 0.0
        self._pause = FIRST_PAUSE

    def hurry(self) -> None:
        """Note that the forecasts are due; ignored shortly after a failure."""
        if self._clock.monotonic() >= self._not_before:
            self._due.set()

    async def run(self) -> None:
        """Renew the forecasts until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._queue.renew_forecasts(every=self._every)
                self._pause = FIRST_PAUSE
            except ProvisionerError as error:
                self._not_before = self._clock.monotonic() + self._pause
                log_failure("forecast", error, self._pause)
                self._pause = min(2 * self._pause, LAST_PAUSE)
