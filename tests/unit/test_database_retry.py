"""What is logged about an unavailable database, and how often."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from provisioner.core.errors import DatabaseRefusing, DatabaseUnavailable
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
            retry.back(now)
            assert not retry.away
        retry.lost(DatabaseUnavailable("terminating connection"))
        retry.back(now)
    said = [(each["event"], each.get("error")) for each in logs]
    full = [("database_lost", "No space left on device"), ("database_back", None)]
    assert said == [*full, *full, ("database_lost", "terminating connection"), ("database_back", None)]


def test_an_answer_from_before_does_not_end_an_absence() -> None:
    """A session may answer its last call when another is already refused: only later calls count."""
    now = 100.0
    retry = DatabaseRetry(DatabaseClock(wall=lambda: datetime.now(UTC), monotonic=lambda: now))
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            retry.lost(DatabaseRefusing("password authentication failed"))
            retry.back(99.0)
            assert retry.away
        now = 101.0
        retry.back(now)
        assert not retry.away
    assert [each["event"] for each in logs] == ["database_lost", "database_refuses", "database_back"]


async def test_a_call_ends_the_absence_that_it_has_met() -> None:
    """The attempt that is answered was made after the absence was noticed."""
    now = 100.0
    retry = DatabaseRetry(DatabaseClock(wall=lambda: datetime.now(UTC), monotonic=lambda: now))
    answers = iter([DatabaseUnavailable("it is away"), None])

    async def ask() -> None:
        nonlocal now
        now += 1.0
        if error := next(answers):
            raise error

    await retry.call(ask)
    assert not retry.away
