"""The output of `onboard`: counts are never cut, and predictions come with their basis."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from provisioner.cli.bulk.watching import Pace, facts, folded, trouble
from provisioner.cli.onboard.preview import Preview, question
from provisioner.core.comparison import PlannedOutcome
from provisioner.core.forecast import expected_pace
from provisioner.core.reports import Leftovers, TargetReport
from provisioner.postgres.onboarding import Tally

BUSY = Tally(
    pending=81_234, succeeded=17_654, cancelled=3, failed={"credential_refused": 1_000, "gave_up": 109}, retried=1_234
)
LIMITED = TargetReport(target="default", pending=81_234, metered=True, permits=200, period=60.0)


def test_every_count_has_its_place_in_80_columns() -> None:
    """However large the numbers are, none is lost or cut at 80 columns."""
    said = list(facts(BUSY, [LIMITED], 187.0))
    lines = list(folded(said, 78))
    assert all(len(line) <= 78 for line in lines)
    for part in (
        "18,766 of 100,000 done",
        "17,654 succeeded",
        "1,109 failed (1,000 credential_refused, 109 gave_up)",
        "1,234 retried",
        "187 of 200 creates/min",
        "about 6 h 46 min left",
    ):
        assert part in "   ".join(lines)
        assert any(part in line for line in lines)


def test_the_pace_is_that_of_lately() -> None:
    """The pace is the successes of the last seconds, and unknown before the second observation."""
    pace = Pace()
    assert pace(0.0, 0) == 0.0
    assert pace(10.0, 50) == 300.0
    assert pace(20.0, 50) == pytest.approx(0.0)


def test_what_stands_still_is_said() -> None:
    """A target in trouble or paused is named, with advice, as long as anything waits for it."""
    said = trouble([TargetReport(target="eu", pending=1, trouble="it cannot be reached")])
    assert said == "target eu: it cannot be reached; it recovers automatically"
    assert trouble([TargetReport(target="eu", trouble="it cannot be reached")]) == ""


def test_nobody_says_how_long_while_nothing_moves() -> None:
    """A target that is paused, in trouble or stalled ends nothing, so its limit gives no forecast."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for odd in (
        replace(LIMITED, trouble="down"),
        replace(LIMITED, paused_at=now),
        replace(LIMITED, stalled_at=now),
    ):
        assert trouble([odd]).startswith("target default")
        assert not any("left" in part for part in facts(BUSY, [odd], 187.0))


@pytest.mark.parametrize(
    ("metered", "reads", "creates"), [(True, 200, 90), (True, 350, 200), (True, 1200, 600), (False, None, 1200)]
)
def test_what_is_expected_before_the_first_create(metered: bool, reads: int | None, creates: int) -> None:
    """The read limit shows the plan and so the create limit; without a limiter the server decides."""
    found = expected_pace(metered=metered, reads=reads, period=60.0)
    assert found is not None
    assert found.pace * 60 == pytest.approx(creates)
    assert expected_pace(metered=None, reads=None, period=60.0) is None


def test_the_question_names_what_would_be_made() -> None:
    """Conflicts are not promised, and earlier requests are distinguished."""
    ahead = Preview(requests=10)
    ahead.new[PlannedOutcome.CREATE] = 1
    ahead.new[PlannedOutcome.CONFLICT] = 2
    assert question(ahead) == "Create 1 connection?"
    ahead.known["pending"] = 3
    assert question(ahead) == "Create 1 connection and carry out 3 other requests?"
    ahead.new[PlannedOutcome.CREATE] = 0
    assert question(ahead) == "Carry out 3 requests?"


def test_a_run_counts_what_ended_in_it() -> None:
    """Earlier successes and failures are not counted; what is left is."""
    before = Leftovers(succeeded=5, removed=2, failed={"gave_up": 2, "name_conflict": 1})
    after = Leftovers(succeeded=9, removed=3, failed={"gave_up": 3, "name_conflict": 1}, unfinished=4)
    assert after.since(before) == Leftovers(succeeded=4, removed=1, failed={"gave_up": 1}, unfinished=4)
