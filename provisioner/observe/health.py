"""Decide whether this worker is healthy, for the probes.

Alive means that a restart would not help; ready means that requests are being taken on. An unavailable database is no
reason to restart a worker, because the worker waits and continues by itself. Neither is a host that gives the worker no
time: a restart would take more of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provisioner.core.vitals import Vitals

# Seconds between two observations of maintenance. Only observations count as time: a frozen process makes none.
EVERY: Final = 1.0
# Maintenance must have done nothing at all for this many seconds, or this many polls: a statement may take ten seconds,
# and it also waits for its turn on a busy host.
PATIENCE: Final = 30.0
POLLS: Final = 5


class Health:
    """Interprets the vitals of one worker; `poll` is the seconds between two rounds of its maintenance."""

    def __init__(self, vitals: Callable[[], Vitals], *, poll: float) -> None:
        self._vitals = vitals
        self._patience = max(POLLS * poll, PATIENCE)
        self._seen = -1
        self._silent = 0.0

    @property
    def vitals(self) -> Vitals:
        """The worker's present vitals."""
        return self._vitals()

    async def watch(self) -> None:
        """Observe repeatedly, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(EVERY)

    def look(self) -> None:
        """Check whether maintenance has moved on since the last observation."""
        vitals = self._vitals()
        still = vitals.moves == self._seen and vitals.worker and not vitals.database_away
        self._silent = self._silent + EVERY if still else 0.0
        self._seen = vitals.moves

    def ailment(self) -> str:
        """Return why this process should be restarted; empty if it is healthy."""
        return f"maintenance has not run for {self._silent:.0f} s" if self._silent > self._patience else ""

    def absence(self) -> str:
        """Return why no requests are taken on at present; empty if they are."""
        vitals = self._vitals()
        if vitals.stopping:
            return "stopping"
        if vitals.database_away:
            return "the database cannot be reached; trying again"
        if not vitals.worker:
            return "starting"
        # A worker that had no time to renew its lease registers again.
        return self.ailment() or ("" if vitals.lease_good else "the lease has expired and was not renewed")
