"""The difference of two clocks: from connections made during a call, and from headers with whole seconds."""

import math

import pytest
from hypothesis import assume, given, strategies as st

from provisioner.core.skew import (
    CLOCK_SLACK,
    CLOCK_TOLERANCE,
    HALF_SECOND,
    MILLISECOND,
    OWN_SLACK,
    Bounds,
    Reading,
    ServerClock,
    Skew,
    dated,
)

# When a call began, how long it took, and at which share of that the answer was dated or the connection made.
CALLS = st.tuples(st.floats(0, 1e6), st.floats(0, 30), st.floats(0, 1))
ROUNDING = 1e-6
# In microseconds, as clocks have them: less is lost where it is added to the time, and made up another second.
DIFFERENCES = st.floats(-600, 600).map(lambda difference: round(difference, 6))


def by_date(began: float, elapsed: float, share: float, *, difference: float) -> Bounds:
    """Return what an answer's `Date`, in whole seconds of the other clock, says about the difference."""
    date = math.floor(began + share * elapsed + difference)
    return dated(date + HALF_SECOND - (began + elapsed), elapsed)


def holds(bounds: Bounds | None, difference: float) -> bool:
    """Whether the truth is within the bounds."""
    return bounds is not None and bounds.low - ROUNDING <= difference <= bounds.high + ROUNDING


@given(difference=DIFFERENCES, calls=st.lists(CALLS, min_size=1, max_size=20))
def test_the_truth_is_never_shut_out(difference: float, calls: list[tuple[float, float, float]]) -> None:
    """However late answers are, the difference lies within the bounds, which no answer makes wider."""
    clock, before = ServerClock(), math.inf
    for began, elapsed, share in calls:
        clock.headers.note(by_date(began, elapsed, share, difference=difference))
        made = math.floor((began + share * elapsed + difference) * 1000) / 1000
        clock.note_made(made, sent=began, received=began + elapsed)
        reading = clock.reading()
        assert holds(reading.headers, difference)
        assert holds(reading.made, difference)
        assert reading.made is not None
        width = reading.made.high - reading.made.low
        assert width <= min(before, elapsed + MILLISECOND) + ROUNDING
        before = width


@given(difference=st.floats(-600, 600), began=st.floats(0, 1e3))
def test_many_dates_find_it_to_hundredths(difference: float, began: float) -> None:
    """A hundred answers of 20 ms, spread over the second, leave an error of some hundredths."""
    skew = Skew()
    for number in range(100):
        skew.note(by_date(began + number * 1.01, 0.02, 0.5, difference=difference))
    assert skew.bounds is not None
    assert skew.bounds.high - skew.bounds.low < 0.06


@given(first=st.floats(-600, 600), second=st.floats(-600, 600), calls=st.lists(CALLS, min_size=1, max_size=5))
def test_a_clock_that_is_set_is_measured_anew(
    first: float, second: float, calls: list[tuple[float, float, float]]
) -> None:
    """A measurement that contradicts all others is allowed for at once, and believed when the next one agrees."""
    assume(abs(first - second) > 40)
    skew = Skew()
    for began, elapsed, share in calls:
        skew.note(by_date(began, elapsed, share, difference=first))
    skew.note(by_date(2e6, 0.1, 0.5, difference=second))
    assert holds(skew.cautious, first)
    assert holds(skew.cautious, second)
    skew.note(by_date(2e6 + 1, 0.1, 0.5, difference=second))
    assert holds(skew.cautious, second)
    assert not holds(skew.cautious, first)


def test_one_answer_that_is_wrong_is_forgotten() -> None:
    """A cached answer has the time of another create; the next one that agrees with the others refutes it."""
    skew = Skew()
    for measured in (Bounds(4.0, 4.2), Bounds(-900.0, -899.0), Bounds(4.1, 4.3)):
        skew.note(measured)
    assert skew.cautious == Bounds(4.1, 4.2)


class TestReading:
    """The tolerance for a time from Infisical."""

    @pytest.mark.parametrize("lost", [True, False])
    @pytest.mark.parametrize("headers", [None, Bounds(-100.0, -99.0)])
    def test_what_was_made_decides(self, headers: Bounds | None, lost: bool) -> None:
        """A `Date` from another host's clock is ignored once a `createdAt` is known."""
        slack = CLOCK_SLACK if lost else OWN_SLACK
        assert Reading(Bounds(4.0, 4.1), headers).bounds(lost=lost) == Bounds(4.0, 4.1).widened(slack)

    def test_a_lost_answer_is_allowed_much(self) -> None:
        """While nothing was made, `Date` is a guess that may be seconds off, and no `Date` a guess of zero."""
        assert Reading(None, Bounds(199.5, 200.5)).bounds(lost=True) == Bounds(199.5, 200.5).widened(CLOCK_TOLERANCE)
        assert Reading().bounds(lost=True) == Bounds(-CLOCK_TOLERANCE, CLOCK_TOLERANCE)

    def test_a_name_that_is_taken_is_allowed_little(self) -> None:
        """Clocks that may agree are assumed to agree; others are read as precisely as they are known."""
        assert Reading().bounds(lost=False) == Bounds(-CLOCK_SLACK, CLOCK_SLACK)
        assert Reading(None, Bounds(-0.4, 0.7)).bounds(lost=False) == Bounds(-CLOCK_SLACK, CLOCK_SLACK)
        assert Reading(None, Bounds(4.0, 5.0)).bounds(lost=False) == Bounds(4.0, 5.0).widened(CLOCK_SLACK)
