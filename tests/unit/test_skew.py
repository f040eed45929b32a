"""The difference of two clocks, from answers that tell whole seconds."""

import math

from hypothesis import assume, given, strategies as st

from provisioner.core.skew import HALF_SECOND, Skew

# When a call began, how long it took, and at which share of that the answer was dated.
CALLS = st.tuples(st.floats(0, 1e6), st.floats(0, 30), st.floats(0, 1))


def measured(began: float, elapsed: float, share: float, *, difference: float) -> float:
    """What the answer's `Date`, in whole seconds of the other clock, makes of the difference."""
    date = math.floor(began + share * elapsed + difference)
    return date + HALF_SECOND - (began + elapsed)


@given(difference=st.floats(-600, 600), calls=st.lists(CALLS, min_size=1, max_size=20))
def test_the_truth_is_never_shut_out(difference: float, calls: list[tuple[float, float, float]]) -> None:
    """However late answers are, the difference lies within the error, which no answer makes larger."""
    skew, before = Skew(), math.inf
    for began, elapsed, share in calls:
        skew.note(measured(began, elapsed, share, difference=difference), elapsed)
        assert skew.error is not None
        assert abs(skew.middle - difference) <= skew.error + 1e-6
        assert skew.error <= min(before, HALF_SECOND + elapsed / 2) + 1e-6
        before = skew.error


@given(difference=st.floats(-600, 600), began=st.floats(0, 1e3))
def test_many_answers_find_it_to_hundredths(difference: float, began: float) -> None:
    """A hundred answers of 20 ms, spread over the second, leave an error of some hundredths."""
    skew = Skew()
    for number in range(100):
        at = began + number * 1.01
        skew.note(measured(at, 0.02, 0.5, difference=difference), 0.02)
    assert skew.error is not None
    assert skew.error < 0.03


@given(first=st.floats(-600, 600), second=st.floats(-600, 600), calls=st.lists(CALLS, min_size=1, max_size=5))
def test_a_clock_that_is_set_is_measured_anew(
    first: float, second: float, calls: list[tuple[float, float, float]]
) -> None:
    """What was known before a jump that contradicts it is forgotten with the first answer after it."""
    assume(abs(first - second) > 40)
    skew = Skew()
    for began, elapsed, share in calls:
        skew.note(measured(began, elapsed, share, difference=first), elapsed)
    skew.note(measured(2e6, 0.1, 0.5, difference=second), 0.1)
    assert skew.error is not None
    assert abs(skew.middle - second) <= skew.error + 1e-6


def test_nothing_is_known_at_first() -> None:
    """Without any answer there is a guess, and no error to rely on."""
    assert (Skew().middle, Skew().error) == (0.0, None)
