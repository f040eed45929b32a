"""Trouble at OpenRouter is distinguished from a bad key by recent history."""

import pytest
from hypothesis import given, strategies as st

from provisioner.core.target_health import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MIN_REFUSED_REQUESTS,
    MIN_SLOW_REFUSALS,
    SLOW_REFUSAL,
    TRUSTED_FOR,
    Blame,
    Upstream,
)

FAST = 0.2
FOUR_TRIES = FAST + SLOW_REFUSAL + 0.1


def refused(
    upstream: Upstream, key: str = "a", *, request: int = 1, elapsed: float = FAST, now: float = 100.0
) -> Blame:
    """How a refusal is judged."""
    return upstream.refused(key, request, elapsed, "refused", now)


def used(*keys: str, at: float = 100.0) -> Upstream:
    """An OpenRouter that has just accepted these keys."""
    upstream = Upstream()
    for key in keys:
        upstream.accepted(key, FAST, at)
    return upstream


def in_trouble(at: float = 100.0) -> Upstream:
    """An OpenRouter that refuses what it has just accepted."""
    upstream = used("a", at=at)
    for request in range(MIN_REFUSED_REQUESTS):
        refused(upstream, request=request, now=at)
    assert upstream.is_open
    return upstream


class TestTheKey:
    """When the key is to blame."""

    def test_a_key_that_was_never_accepted(self) -> None:
        """Refused at once and never seen to work: the key is bad, from the first refusal on."""
        assert refused(Upstream()) is Blame.KEY
        assert refused(used("b")) is Blame.KEY

    def test_even_a_slow_refusal_while_others_are_accepted(self) -> None:
        """Others' keys are accepted meanwhile, so OpenRouter can be asked."""
        upstream = used("b")
        refused(upstream, elapsed=FOUR_TRIES)
        upstream.accepted("b", FAST, 101.0)
        assert refused(upstream, elapsed=FOUR_TRIES, now=101.1) is Blame.KEY

    def test_a_key_that_worked_is_given_the_benefit_of_the_doubt(self) -> None:
        """While other keys work, a recently accepted key is blamed after several requests were refused with it."""
        upstream, verdicts = used("a", "b"), []
        for request in range(MIN_REFUSED_REQUESTS + 1):
            upstream.accepted("b", FAST, 101.0)
            verdicts.append(refused(upstream, request=request, now=101.0))
        assert verdicts == [Blame.NOBODY_YET] * (MIN_REFUSED_REQUESTS - 1) + [Blame.KEY] * 2

    def test_a_key_that_worked_long_ago(self) -> None:
        """An acceptance some minutes ago says nothing about the present."""
        assert refused(used("a", at=0.0), now=TRUSTED_FOR) is Blame.KEY

    def test_slowness_is_measured_against_what_is_usual(self) -> None:
        """Where every create takes long, a refusal that takes as long is no sign of trouble."""
        upstream = Upstream()
        for _ in range(200):
            upstream.accepted("b", 3.0, 0.0)
        assert refused(upstream, elapsed=3.2, now=500.0) is Blame.KEY


class TestOpenRouter:
    """When OpenRouter is to blame."""

    def test_a_single_key_that_worked_is_refused_for_several_requests(self) -> None:
        """With one configured key, several different requests decide; repetitions of the same one do not."""
        upstream = used("a")
        assert [refused(upstream, request=1) for _ in range(5)] == [Blame.NOBODY_YET] * 5
        assert refused(upstream, request=2) is Blame.NOBODY_YET
        assert refused(upstream, request=3) is Blame.UPSTREAM
        assert upstream.is_open
        assert upstream.reason == "refused"

    def test_several_keys_that_worked_are_refused_together(self) -> None:
        """Different keys of which none is accepted any more add up."""
        upstream = used("a", "b", "c")
        verdicts = [refused(upstream, key, request=n, now=101.0) for n, key in enumerate("abc")]
        assert verdicts == [Blame.NOBODY_YET, Blame.NOBODY_YET, Blame.UPSTREAM]

    @pytest.mark.parametrize("upstream", [Upstream(), used("a")], ids=["unknown key", "key that worked"])
    def test_slow_refusals_tell_sooner(self, upstream: Upstream) -> None:
        """Refusals that took four upstream attempts are trouble, even of keys never seen to work."""
        verdicts = [refused(upstream, request=n, elapsed=FOUR_TRIES, now=101.0) for n in range(MIN_SLOW_REFUSALS)]
        assert verdicts == [Blame.NOBODY_YET] * (MIN_SLOW_REFUSALS - 1) + [Blame.UPSTREAM]

    def test_one_that_works_in_between_starts_anew(self) -> None:
        """A few refusals among many successes are not an incident."""
        upstream = used("a")
        for request in range(20):
            assert refused(upstream, request=request, elapsed=FOUR_TRIES) is Blame.NOBODY_YET
            upstream.accepted("a", FAST, 100.0)
        assert not upstream.is_open

    def test_what_others_saw_counts(self) -> None:
        """A key that others saw accepted before this worker began counts as one that worked."""
        upstream = Upstream()
        upstream.remember("a", 50.0)
        assert refused(upstream) is Blame.NOBODY_YET


class TestProbing:
    """While creates are held."""

    def test_one_create_at_a_time(self) -> None:
        """Nothing goes out until the pause is over, then one, then again nothing for a longer pause."""
        upstream = in_trouble()
        assert upstream.allowance(100.0) == (0, FIRST_PAUSE)
        assert not upstream.may_send(100.0)
        assert upstream.allowance(100.0 + FIRST_PAUSE)[0] == 1
        assert upstream.may_send(100.0 + FIRST_PAUSE)
        assert not upstream.may_send(100.0 + FIRST_PAUSE + 0.1)

    def test_pauses_grow_to_a_bound(self) -> None:
        """Work resumes within seconds, however long it lasted."""
        upstream, now = in_trouble(), 100.0
        for _ in range(50):
            now += upstream.allowance(now)[1]
            assert upstream.may_send(now)
            assert refused(upstream, now=now) is Blame.UPSTREAM
        assert upstream.allowance(now)[1] == pytest.approx(LONGEST_PAUSE)

    def test_the_first_that_is_accepted_ends_it(self) -> None:
        """The end is reported once, and everything may be sent."""
        upstream = in_trouble()
        assert upstream.accepted("a", FAST, 101.0)
        assert not upstream.accepted("a", FAST, 101.0)
        assert upstream.allowance(101.0) == (None, 0.0)
        assert upstream.may_send(101.0)
        assert upstream.reason == ""

    def test_it_does_not_excuse_a_bad_key_for_ever(self) -> None:
        """When nothing was accepted for minutes and the refusals come at once, the key is bad after all."""
        upstream = in_trouble()
        assert refused(upstream, now=100.0 + TRUSTED_FOR + 1) is Blame.KEY
        assert not upstream.is_open

    def test_a_stranger_s_refusal_ends_nothing(self) -> None:
        """While a key that worked is refused, the refusal of one that never did says nothing."""
        upstream = in_trouble()
        assert refused(upstream, "never seen", now=101.0) is Blame.UPSTREAM
        assert upstream.is_open


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.booleans(),
            st.integers(1, 4),
            st.sampled_from([FAST, FOUR_TRIES]),
            st.floats(0, 90),
        ),
        max_size=60,
    )
)
def test_whatever_came_an_acceptance_frees_everybody(happened: list[tuple[str, bool, int, float, float]]) -> None:
    """In any order of refusals and acceptances, nothing is withheld beyond the bound, or after an acceptance."""
    upstream, now = Upstream(), 0.0
    for key, good, request, elapsed, later in happened:
        now += later
        if good:
            upstream.accepted(key, elapsed, now)
            assert not upstream.is_open
        else:
            blame = refused(upstream, key, request=request, elapsed=elapsed, now=now)
            assert (blame is Blame.UPSTREAM) <= upstream.is_open
        allowed, pause = upstream.allowance(now)
        assert (allowed is None) is not upstream.is_open
        assert pause <= LONGEST_PAUSE
