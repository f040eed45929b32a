"""Is this worker well? What the probes are told.

Alive means that restarting would not help; ready means that requests are being taken on. A database that is away is
no reason to restart a worker, for it waits and goes on by itself.
"""

from collections.abc import Callable
from typing import Final

from provisioner.core.vitals import Vitals

# Maintenance that has not run for this many polls has stopped, unless it still waits for a statement.
POLLS: Final = 5
STATEMENT: Final = 15.0  # seconds; a little more than a statement may take


class Health:
    """What the vitals of one worker mean; `poll` is the seconds between two rounds of its maintenance."""

    def __init__(self, vitals: Callable[[], Vitals], *, monotonic: Callable[[], float], poll: float) -> None:
        self._vitals = vitals
        self._monotonic = monotonic
        self._patience = max(POLLS * poll, STATEMENT)

    @property
    def vitals(self) -> Vitals:
        """How the worker is."""
        return self._vitals()

    def ailment(self) -> str:
        """Why this process should be restarted; nothing when it is well."""
        vitals = self._vitals()
        if not vitals.worker or vitals.database_away:
            return ""
        silent = self._monotonic() - vitals.last_round_at
        if silent > self._patience:
            return f"maintenance has not run for {silent:.0f} s"
        # Stopping, it holds nothing any more that the lease would protect.
        return "" if vitals.lease_good or vitals.stopping else "the lease has expired and was not renewed"

    def absence(self) -> str:
        """Why no request is taken on just now; nothing when they are."""
        vitals = self._vitals()
        if vitals.stopping:
            return "stopping"
        if vitals.database_away:
            return "the database cannot be reached; trying again"
        if not vitals.worker:
            return "starting"
        return self.ailment()
