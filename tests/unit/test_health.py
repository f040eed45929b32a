"""The breaker holds a target's calls back while nothing works there, and only then."""

import pytest
from hypothesis import given, strategies as st

from provisioner.core.model import Result
from provisioner.core.target_health import (
    BREAKER_THRESHOLD,
    FIRST_PAUSE,
    LASTING_PAUSE,
    LONGEST_PAUSE,
    PERSISTENT,
    TROUBLE,
    WORKING_FOR,
    Breaker,
)

NEUTRAL = [Result.THROTTLED, Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY]
WORKS = sorted(set(Result) - TROUBLE - set(NEUTRAL), key=str)
BAD = sorted(TROUBLE - PERSISTENT, key=str)


def broken(at: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for _ in range(BREAKER_THRESHOLD):
        breaker.observe(Result.UNKNOWN, "502", at)
    return breaker


class TestOpening:
    """When a target is held."""

    @pytest.mark.parametrize("seen", BAD)
    def test_it_opens_when_nothing_works_any_more(self, seen: Result) -> None:
        """After several troubles in a row calls are withheld, with the last one as the reason; reported once."""
        breaker = Breaker()
        told = [breaker.observe(seen, f"trouble {n}", 0.0) for n in range(BREAKER_THRESHOLD + 3)]
        assert told == [n == BREAKER_THRESHOLD - 1 for n in range(BREAKER_THRESHOLD + 3)]
        assert breaker.is_open
        assert breaker.reason.startswith("trouble")

    @pytest.mark.parametrize("seen", WORKS)
    def test_one_answer_in_between_keeps_it_closed(self, seen: Result) -> None:
        """Whatever shows that the target answers for this row starts the count anew."""
        breaker = Breaker()
        for _ in range(10):
            for _ in range(BREAKER_THRESHOLD - 1):
                breaker.observe(Result.UNKNOWN, "502", 0.0)
            breaker.observe(seen, "", 0.0)
        assert not breaker.is_open
        assert breaker.allowance(0.0) == (None, 0.0)

    @pytest.mark.parametrize("seen", NEUTRAL)
    def test_what_says_nothing_of_the_target_changes_nothing(self, seen: Result) -> None:
        """A 429, or a credential that we lack, neither opens it nor closes it nor counts as a success."""
        breaker = Breaker()
        for _ in range(100):
            assert not breaker.observe(seen, "", 1.0)
        assert not breaker.is_open
        assert not breaker.works(1.0)
        open_ = broken()
        assert not open_.observe(seen, "", 1.0)
        assert open_.is_open

    @pytest.mark.parametrize("seen", sorted(PERSISTENT))
    def test_what_only_a_person_changes_holds_all_at_once(self, seen: Result) -> None:
        """One answer opens it, for as long as people take; one that works closes it."""
        breaker = Breaker()
        assert breaker.observe(seen, "the plan", 0.0)
        assert breaker.reason == "the plan"
        assert breaker.allowance(LASTING_PAUSE - 1.0)[0] == 0
        assert breaker.allowance(LASTING_PAUSE)[0] == 1
        assert not breaker.observe(seen, "the plan", LASTING_PAUSE)
        assert breaker.allowance(LASTING_PAUSE + LONGEST_PAUSE)[0] == 0
        assert breaker.observe(Result.CREATED, "", 3 * LASTING_PAUSE)
        assert breaker.allowance(3 * LASTING_PAUSE)[0] is None

    def test_neutral_ones_in_between_do_not_hide_trouble(self) -> None:
        """A 429 among the troubles does not start the count anew."""
        breaker = Breaker()
        for _ in range(BREAKER_THRESHOLD):
            breaker.observe(Result.THROTTLED, "", 0.0)
            breaker.observe(Result.UNKNOWN, "502", 0.0)
        assert breaker.is_open

    def test_a_target_that_breaks_again_at_once_has_its_reason(self) -> None:
        """Whenever it is open it says why, also when it was closed a moment ago."""
        breaker = broken(at=0.0)
        breaker.observe(Result.CREATED, "", 0.1)
        for _ in range(BREAKER_THRESHOLD):
            breaker.observe(Result.NOT_SENT, "refused", 0.2)
        assert breaker.is_open
        assert breaker.reason == "refused"


class TestProbing:
    """While it is open."""

    def test_single_calls_probe(self) -> None:
        """No call may run until the pause is over, and then one."""
        breaker = broken(at=100.0)
        held, pause = breaker.allowance(100.0)
        assert held == 0
        assert pause == pytest.approx(FIRST_PAUSE)
        allowed, again = breaker.allowance(100.0 + FIRST_PAUSE)
        assert allowed == 1
        assert again > 0

    def test_pauses_grow_to_a_bound(self) -> None:
        """A long outage is probed every few seconds, so work resumes within seconds after its end."""
        breaker, now, pauses = broken(at=0.0), 0.0, list[float]()
        for _ in range(10):
            _, pause = breaker.allowance(now)
            pauses.append(pause)
            now += pause
            breaker.observe(Result.UNKNOWN, "502", now)
        assert pauses[0] == FIRST_PAUSE
        assert pauses == sorted(pauses)
        assert pauses[-1] == LONGEST_PAUSE

    def test_stragglers_do_not_stretch_the_pause(self) -> None:
        """Answers to calls from before the outage, that arrive while it waits, are no probes."""
        breaker = broken(at=0.0)
        for _ in range(60):
            breaker.observe(Result.UNKNOWN, "timeout", 0.1)
        assert breaker.allowance(FIRST_PAUSE)[0] == 1

    @pytest.mark.parametrize("seen", WORKS)
    def test_the_first_thing_that_works_closes_it(self, seen: Result) -> None:
        """One answer is enough and is reported once; the next outage begins with short pauses again."""
        breaker = broken(at=0.0)
        for now in range(1, 60):
            breaker.observe(Result.UNKNOWN, "502", float(now))
        assert breaker.observe(seen, "", 100.0)
        assert not breaker.observe(seen, "", 100.0)
        assert breaker.allowance(100.0) == (None, 0.0)
        assert breaker.reason == ""
        for _ in range(BREAKER_THRESHOLD):
            breaker.observe(Result.UNKNOWN, "502", 200.0)
        assert breaker.allowance(200.0)[1] == pytest.approx(FIRST_PAUSE)


class TestWorks:
    """Whether trouble is the row's own."""

    def test_only_lately_counts(self) -> None:
        """Others got through within the last ten seconds, or nothing is known."""
        breaker = Breaker()
        assert not breaker.works(0.0)
        breaker.observe(Result.CREATED, "", 50.0)
        assert breaker.works(50.0 + WORKING_FOR - 0.1)
        assert not breaker.works(50.0 + WORKING_FOR)

    def test_not_while_it_is_open(self) -> None:
        """An outage that begins right after a success is not the request's fault."""
        breaker = Breaker()
        breaker.observe(Result.CREATED, "", 0.0)
        for _ in range(BREAKER_THRESHOLD):
            breaker.observe(Result.UNKNOWN, "502", 0.1)
        assert not breaker.works(0.1)


@given(st.lists(st.tuples(st.sampled_from(sorted(set(Result) - PERSISTENT)), st.floats(0, 30)), max_size=60))
def test_it_never_holds_for_longer_than_its_bound(happened: list[tuple[Result, float]]) -> None:
    """Whatever came in which order: either any number may go, or one may within five seconds."""
    breaker, now = Breaker(), 0.0
    for seen, later in happened:
        now += later
        breaker.observe(seen, "reason", now)
        allowed, pause = breaker.allowance(now)
        assert (allowed is None) is not breaker.is_open
        assert pause <= LONGEST_PAUSE
        assert allowed is None or breaker.allowance(now + pause)[0] == 1
