"""What is said about a database that is away, and how often."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from provisioner.core.errors import DatabaseUnavailable
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.database_retry import REPEATED, DatabaseRetry


def test_a_reason_that_comes_and_goes_is_logged_once_a_minute() -> None:
    """With a full disk reads succeed and writes fail; another reason is logged at once."""
    now = 100.0
    retry = DatabaseRetry(DatabaseClock(wall=lambda: datetime.now(UTC), monotonic=lambda: now))
    with structlog.testing.capture_logs() as logs:
        for moment in (0.0, 1.0, 2.0, REPEATED - 1.0, REPEATED + 1.0):
            now = 100.0 + moment
            retry.lost(DatabaseUnavailable("No space left on device"))
            assert retry.away
            retry.back()
            assert not retry.away
        retry.lost(DatabaseUnavailable("terminating connection"))
        retry.back()
    said = [(each["event"], each.get("error")) for each in logs]
    full = [("database_lost", "No space left on device"), ("database_back", None)]
    assert said == [*full, *full, ("database_lost", "terminating connection"), ("database_back", None)]
