"""Is this worker well? What the probes are told.

Alive means that restarting would not help; ready means that requests are being taken on. A database that is away is
no reason to restart a worker, for it waits and goes on by itself. Neither is a host that gives the worker no time: a
restart takes more of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provisioner.core.vitals import Vitals

# Seconds between two looks at what maintenance does. Only looks count as time: a process that stands still has none.
EVERY: Final = 1.0
# So long, seconds, or for this many polls, maintenance has to have done nothing at all: a statement may take ten, and
# on a busy host it waits for its turn, too.
PATIENCE: Final = 30.0
POLLS: Final = 5


class Health:
    """What the vitals of one worker mean; `poll` is the seconds between two rounds of its maintenance."""

    def __init__(self, vitals: Callable[[], Vitals], *, poll: float) -> None:
        self._vitals = vitals
        self._patience = max(POLLS * poll, PATIENCE)
        self._seen = -1
        self._silent = 0.0

    @property
    def vitals(self) -> Vitals:
        """How the worker is."""
        return self._vitals()

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(EVERY)

    def look(self) -> None:
        """See whether maintenance has gone on since the last look."""
        vitals = self._vitals()
        still = vitals.moves == self._seen and vitals.worker and not vitals.database_away
        self._silent = self._silent + EVERY if still else 0.0
        self._seen = vitals.moves

    def ailment(self) -> str:
        """Why this process should be restarted; nothing when it is well."""
        return f"maintenance has not run for {self._silent:.0f} s" if self._silent > self._patience else ""

    def absence(self) -> str:
        """Why no request is taken on just now; nothing when they are."""
        vitals = self._vitals()
        if vitals.stopping:
            return "stopping"
        if vitals.database_away:
            return "the database cannot be reached; trying again"
        if not vitals.worker:
            return "starting"
        # A worker that had no time to renew its lease takes a new one.
        return self.ailment() or ("" if vitals.lease_good else "the lease has expired and was not renewed")
