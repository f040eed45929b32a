"""The status of a request after a claim, whatever was requested meanwhile."""

from typing import Final

import pytest
from hypothesis import given, strategies as st

from provisioner.core.endings import (
    ABANDONED,
    SPREAD,
    UNSENT,
    UNSTORABLE,
    Status,
    StatusAfter,
    database_silent,
    lost,
    status_after,
    unknown_target,
    without_budget,
)
from provisioner.core.key_health import waiting_for_key
from provisioner.core.model import Cancel, ErrorCode, Fail, Outcome, Remove, Retry, Succeed
from tests.support.builders import a_connection

P, S, F, C, R = Status.PENDING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.REMOVED
SUCCEED: Final = Succeed(connection=a_connection())
FAIL: Final = Fail(code=ErrorCode.GAVE_UP, message="no")
AGAIN: Final = Retry(delay=1.0, message="later")


@pytest.mark.parametrize(
    ("outcome", "doubted", "expected"),
    [
        (SUCCEED, False, (S, S, P)),
        (SUCCEED, True, (S, S, P)),
        (FAIL, False, (F, C, P)),
        (FAIL, True, (F, F, P)),
        (AGAIN, False, (P, C, P)),
        (AGAIN, True, (P, P, P)),
        (Cancel(), False, (C, C, C)),
        (Cancel(), True, (C, C, C)),
        (Remove(), False, (R, R, P)),
        (Remove(), True, (R, R, P)),
    ],
)
def test_every_outcome(outcome: Outcome, doubted: bool, expected: tuple[Status, Status, Status]) -> None:
    """The statuses for the usual case, after a cancellation and after an edit: no doubt is cancelled unseen."""
    assert status_after(type(outcome), doubted=doubted) == StatusAfter(*expected)


def test_what_ends_a_claim_without_an_answer() -> None:
    """An unsent claim loses nothing, a lost worker's may have made something, and an unknown target fails."""
    assert (UNSENT.delay, UNSENT.counted) == (0.0, False)
    assert lost(2.0).code is ErrorCode.OUTCOME_UNKNOWN
    assert (lost(2.0).delay, lost(2.0).counted) == (2.0, False)
    assert unknown_target("eu").code is ErrorCode.TARGET_UNKNOWN
    assert "[targets.eu]" in unknown_target("eu").message


@given(st.floats(0, 3600), st.floats(0, 1, exclude_max=True))
def test_those_without_a_permit_come_back_apart(wait: float, jitter: float) -> None:
    """Not before the budget has permits again, and within seconds after that; it costs no attempt."""
    outcome = without_budget(wait, jitter=jitter)
    assert wait <= outcome.delay <= wait + SPREAD
    assert not outcome.counted


def test_no_end_without_an_answer_costs_an_attempt() -> None:
    """Trouble of a worker, the database or another request's key is not the request's fault."""
    waits = waiting_for_key("team-a")
    assert not any(one.counted for one in (UNSENT, ABANDONED, lost(1.0), database_silent("away"), waits))
    assert (ABANDONED.code, UNSTORABLE.code) == (ErrorCode.OUTCOME_UNKNOWN, ErrorCode.OUTCOME_UNKNOWN)
    assert waits.quarantine == "credential:team-a"
