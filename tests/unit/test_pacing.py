"""The pace follows a limiter that is known only by what its answers say."""

import heapq
import itertools
import math
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from hypothesis import given, strategies as st

from provisioner.core.model import RateHeaders
from provisioner.core.pacing import (
    ALLOWANCE_POLL,
    DEFAULT_PERIOD,
    LOT_SECONDS,
    PROBE_POLL,
    PROBE_TIMEOUT,
    SMALLEST_LIMIT,
    WINDOW_MARGIN,
    Allowance,
    Budget,
    LimiterReply,
    fixed,
    give_back,
    grant,
    learn,
)
from tests.benchmarks.pacing.scenarios import SCENARIOS, simulate
from tests.benchmarks.pacing.world import Scenario
from tests.support.builders import rate

NOW = 1_772_366_400.0


def known(limit: int = 200, remaining: int = 199, reset: float = 60.0) -> Budget:
    """A budget whose first request was answered just now."""
    asked, _ = grant(Budget(), 1, NOW)
    return learn(asked, LimiterReply(at=NOW, rate=rate(limit, remaining, reset)))


def answered(at: float, headers: RateHeaders | None, throttled_for: float | None = None) -> LimiterReply:
    """An answer, this many seconds from now."""
    return LimiterReply(at=NOW + at, rate=headers, throttled_for=throttled_for)


class TestWhileNothingIsKnown:
    """Before the first answer."""

    def test_one_request_asks_first(self) -> None:
        """The first request gets one permit however many it wants, and the others wait briefly for what it learns."""
        asking, first = grant(Budget(), 64, NOW)
        _, second = grant(asking, 64, NOW)
        assert first.permits == 1
        assert (second.permits, second.wait) == (0, PROBE_POLL)

    def test_another_one_asks_when_the_first_was_lost(self) -> None:
        """An answer that never comes delays nobody for longer than ten seconds."""
        asking, _ = grant(Budget(), 1, NOW)
        assert grant(asking, 1, NOW + PROBE_TIMEOUT - 0.1)[1].permits == 0
        assert grant(asking, 1, NOW + PROBE_TIMEOUT)[1].permits == 1

    def test_no_headers_mean_no_limit(self) -> None:
        """An answer that passed the limiter's place without a word says that there is none."""
        free = learn(grant(Budget(), 1, NOW)[0], answered(0.1, None))
        assert grant(free, 5000, NOW + 0.1)[1].permits == 5000

    def test_a_limiter_that_appears_later_is_heeded(self) -> None:
        """An unlimited target gets a budget with the first answer that has headers."""
        free = learn(Budget(), answered(0, None))
        bound = learn(free, answered(1, rate(200, 0, 30)))
        assert grant(bound, 1, NOW + 1)[1].permits == 0

    def test_a_refusal_without_numbers_is_believed(self) -> None:
        """After a 429 that names no limit the smallest plan's is kept, once its time is over."""
        blocked = learn(Budget(), answered(0, None, throttled_for=60))
        assert grant(blocked, 10, NOW + 59)[1].permits == 0
        after, granted = grant(blocked, 10_000, NOW + 60)
        assert granted.permits == 1
        assert after.left == SMALLEST_LIMIT - 1


class TestWithinAWindow:
    """Once the limit is known."""

    def test_permits_are_spread_over_the_time_that_is_left(self) -> None:
        """The next permit comes after the rest of the window divided by the remaining permits."""
        after, granted = grant(known(200, 199, 60.0), 64, NOW)
        assert granted.permits == 1
        assert grant(after, 64, NOW)[1].wait == pytest.approx((60 - WINDOW_MARGIN) / 199)

    def test_fast_limits_are_granted_in_lots(self) -> None:
        """One lot lasts a quarter of a second, so that the database is asked a few times a second at most."""
        after, granted = grant(known(12_000, 12_000 - 1, 60.0), 64, NOW)
        assert granted.permits == pytest.approx(LOT_SECONDS * 200, abs=1)
        assert grant(after, 64, NOW)[1].wait == pytest.approx(LOT_SECONDS, rel=0.05)

    def test_others_requests_slow_us_down(self) -> None:
        """Other clients' use reduces what is left, so our permits come further apart."""
        alone, shared = known(200, 199, 60.0), known(200, 99, 60.0)
        assert grant(grant(shared, 1, NOW)[0], 1, NOW)[1].wait == pytest.approx(
            2 * grant(grant(alone, 1, NOW)[0], 1, NOW)[1].wait, rel=0.02
        )

    def test_nothing_left_waits_for_the_end(self) -> None:
        """Without permits the wait lasts as long as the window."""
        assert grant(known(200, 0, 17.0), 5, NOW)[1].wait == pytest.approx(17.0)

    def test_the_window_ends_at_the_earliest_bound(self) -> None:
        """Whole seconds rounded up: the smallest of many bounds is the best."""
        budget = known(200, 0, 60.0)
        for at, reset in ((10.4, 50.0), (20.9, 40.0), (30.05, 30.0)):
            budget = learn(budget, answered(at, rate(200, 0, reset)))
        assert budget.ends_at == pytest.approx(NOW + 60.0)
        assert learn(budget, answered(31.0, rate(200, 0, 28.5))).ends_at == pytest.approx(NOW + 59.5)

    def test_what_is_under_way_counts(self) -> None:
        """Permits that were granted and not answered yet are not granted again."""
        budget, at = known(3, 2, 60.0), NOW
        for _ in range(2):
            budget, granted = grant(budget, 1, at)
            assert granted.permits == 1
            at += 30
        assert grant(budget, 1, NOW + 59.9)[1].permits == 0

    def test_unused_permits_can_be_had_again_at_once(self) -> None:
        """Giving back permits leaves the budget as if they had not been asked for."""
        budget = known(12_000, 11_999, 60.0)
        taken, granted = grant(budget, 64, NOW)
        again, regranted = grant(give_back(taken, granted.permits), 64, NOW)
        assert regranted == granted
        assert again == taken

    def test_more_cannot_be_given_back_than_is_under_way(self) -> None:
        """Giving back twice makes no permits."""
        taken, _ = grant(known(12_000, 11_999, 60.0), 64, NOW)
        assert give_back(taken, 10_000).left <= 11_999

    def test_a_window_begins_with_its_first_request(self) -> None:
        """After an idle hour the next window lasts from its first permit on, not from the end of the last one."""
        after, _ = grant(known(200, 0, 60.0), 1, NOW + 3600)
        assert after.starts_at == NOW + 3600
        assert after.end(NOW + 3600) == NOW + 3600 + DEFAULT_PERIOD

    def test_a_late_answer_of_an_old_window_changes_nothing(self) -> None:
        """An answer from before the present window is no news of it."""
        budget, _ = grant(known(200, 0, 60.0), 1, NOW + 120)
        assert learn(budget, answered(115, rate(200, 0, 1.0))) == budget

    def test_a_window_that_others_began_is_noticed(self) -> None:
        """An answer that counts towards a later end shows that the next window has begun."""
        budget = known(200, 0, 60.0)
        budget = learn(budget, answered(60.1, rate(200, 150, 58.0)))
        assert budget.left == 150
        assert budget.end(NOW + 60.1) == pytest.approx(NOW + 118.1)

    def test_a_plan_that_changes_is_noticed(self) -> None:
        """The limit is the one that the latest answer names."""
        assert learn(known(90, 80, 60.0), answered(1, rate(350, 339, 59.0))).permits == 350


class TestRefused:
    """A 429."""

    def test_blocks_everybody_until_its_time(self) -> None:
        """No permit is granted before the refusal is over, and then one is."""
        blocked = learn(known(), answered(1, rate(200, 0, 42.0), throttled_for=42))
        assert grant(blocked, 1, NOW + 1)[1].wait == pytest.approx(42)
        assert grant(blocked, 1, NOW + 42.9)[1].permits == 0
        assert grant(blocked, 1, NOW + 43)[1].permits == 1

    def test_a_shorter_one_shortens_nothing(self) -> None:
        """Of several refusals the latest end counts."""
        blocked = learn(known(), answered(1, None, throttled_for=42))
        blocked = learn(blocked, answered(2, None, throttled_for=5))
        assert blocked.blocked_until == NOW + 43

    def test_blocks_also_what_is_free(self) -> None:
        """Where no limit was known a refusal still has its time."""
        free = learn(Budget(), answered(0, None))
        blocked = learn(free, answered(1, None, throttled_for=30))
        assert grant(blocked, 1, NOW + 30)[1].permits == 0


class TestWhatCanWait:
    """Spare permits, for surveys."""

    def test_half_of_a_window_is_left_alone(self) -> None:
        """However often a survey asks, half of the window stays available at once for calls that finish a create."""
        budget, taken = known(200, 199, 60.0), 0
        while (asked := grant(budget, 1, NOW, spare=True))[1].permits:
            budget, taken = asked[0], taken + 1
        assert taken == 99
        assert asked[1].wait == pytest.approx(60.0)
        assert grant(budget, 1, NOW)[1].permits == 1

    def test_it_takes_what_others_leave(self) -> None:
        """Where half of the window is used already, by anybody, a survey waits for the next one."""
        assert grant(known(200, 100, 17.0), 1, NOW, spare=True)[1].wait == pytest.approx(17.0)
        assert grant(known(200, 101, 17.0), 1, NOW, spare=True)[1].permits == 1

    def test_it_delays_nobody(self) -> None:
        """A spare permit does not put off the next one; the survey itself waits as long as the pace says."""
        after, granted = grant(known(200, 199, 60.0), 1, NOW, spare=True)
        assert granted.wait == pytest.approx((60 - WINDOW_MARGIN) / 199, rel=0.01)
        assert grant(after, 1, NOW)[1].permits == 1

    def test_a_limit_of_one_is_no_deadlock(self) -> None:
        """Where a window has a single permit, a survey may have it."""
        assert grant(fixed(1, 1.0), 1, NOW, spare=True)[1].permits == 1


class TestOthers:
    """Another client of the address."""

    def test_what_they_did_lately_is_left_to_them(self) -> None:
        """When others use a permit a second, that many are kept for them until the window ends."""
        budget = known(200, 199, 60.0)
        for second in range(1, 16):
            budget = learn(budget, answered(second, rate(200, 199 - 2 * second, 60.0 - second)))  # one ours, one theirs
        assert budget.their_pace == pytest.approx(1 - math.exp(-1), rel=0.1)
        assert budget.left == 169
        assert budget.ours(NOW + 15) == pytest.approx(169 - 0.63 * 45 - 1.5 * math.sqrt(0.63 * 45), abs=3)

    def test_they_are_forgotten_when_they_are_gone(self) -> None:
        """Once the answers count only our own calls, all permits are ours again."""
        budget = known(200, 99, 60.0)
        for second in range(1, 60):
            budget = learn(budget, answered(second, rate(200, 99, 60.0 - second)))
        assert budget.ours(NOW + 59) == pytest.approx(99, abs=1)

    def test_they_never_get_all(self) -> None:
        """However much others use, a quarter of what is left is ours: two polite clients do not starve each other."""
        budget = known(200, 20, 10.0)
        assert budget.ours(NOW) == pytest.approx(0.25 * budget.left)

    def test_our_own_requests_are_not_theirs(self) -> None:
        """Calls in flight when the window began count as ours, not as others'."""
        budget, _ = grant(known(200, 0, 1.0), 1, NOW + 0.5)
        budget = learn(budget, LimiterReply(at=NOW + 2, rate=None, lost=True))
        after, granted = grant(known(12_000, 6_000, 30.0), 64, NOW + 1)
        later, _ = grant(after, 1, NOW + 31)
        later = learn(
            later, LimiterReply(at=NOW + 31.2, rate=rate(12_000, 12_000 - granted.permits, 60.0), elapsed=0.1)
        )
        assert later.late == granted.permits
        assert later.theirs == 0


class TestLateAnswers:
    """Answers that arrive late."""

    def test_a_slow_answer_does_not_begin_a_window(self) -> None:
        """Its `reset` was true when the server counted, some time between the sending and the answer."""
        budget = known(200, 100, 5.0)
        budget = learn(budget, LimiterReply(at=NOW + 7, rate=rate(200, 99, 4.0), elapsed=6.0))
        assert budget.ends_at == pytest.approx(NOW + 5)
        assert budget.used == 101

    def test_an_answer_from_the_last_window_is_passed_over(self) -> None:
        """A late answer about a window that is nearly over changes nothing in this window."""
        budget, _ = grant(known(200, 0, 60.0), 1, NOW + 60)
        assert learn(budget, LimiterReply(at=NOW + 60.5, rate=rate(200, 0, 1.0), elapsed=1.0)) == budget

    def test_a_lost_answer_frees_its_permit(self) -> None:
        """The next answer shows whether the server counted it; until then nothing waits for it."""
        budget, _ = grant(known(200, 100, 60.0), 1, NOW)
        assert budget.left == 99
        assert learn(budget, LimiterReply(at=NOW + 1, rate=None, lost=True)).left == 100

    def test_a_window_of_another_length_is_noticed(self) -> None:
        """The next window's first answer shows how long windows are, whatever was assumed before."""
        budget = known(100, 90, 7.0)
        assert budget.period == DEFAULT_PERIOD
        budget, _ = grant(budget, 1, NOW + 7)
        assert learn(budget, answered(7.1, rate(100, 97, 10.0))).period == 10.0


class TestForgetting:
    """A limit that was learned from headers, at a server that stops sending them."""

    def test_a_window_of_answers_without_headers_ends_it(self) -> None:
        """Where answers lack the headers for a whole window there is no limiter any more."""
        budget = learn(known(limit=90), answered(1, None))
        assert learn(budget, answered(30, None)).metered
        forgotten = learn(learn(budget, answered(30, None)), answered(61.5, None))
        assert forgotten == Budget(metered=False)
        assert grant(forgotten, 1000, NOW + 62)[1].permits == 1000

    def test_headers_in_between_keep_it(self) -> None:
        """A few answers without headers, as from a cache or a gateway, do not."""
        budget = learn(known(limit=90), answered(1, None))
        budget = learn(budget, answered(50, rate(90, 40, 10.0)))
        budget = learn(budget, answered(61.5, None))
        assert budget.metered
        assert learn(budget, answered(100, None)).metered

    def test_a_limit_that_only_refusals_taught_stays(self) -> None:
        """A proxy that strips the headers does not end the limit."""
        budget = learn(Budget(), answered(0, None, throttled_for=60))
        for minute in range(1, 6):
            budget = learn(budget, answered(60 * minute, None))
        assert budget.metered


class TestWithoutHeaders:
    """A limiter whose answers say nothing but no."""

    def test_the_limit_is_searched_upwards_and_found(self) -> None:
        """From the smallest plan's on, a quarter more each window that went well, until a refusal says where it is."""
        budget, limits, now = learn(Budget(), answered(0, None, throttled_for=60)), [], NOW + 60
        for _ in range(8):
            budget, _ = grant(budget, 1, now)
            limits.append(budget.permits)
            count = min(budget.permits or 0, 200)
            budget = replace(budget, granted=budget.permits or 0, answered=count, used=count)
            if (budget.permits or 0) > 200:
                refusal = LimiterReply(at=now + 50, rate=None, throttled_for=10, elapsed=0.1)
                budget = learn(replace(budget, answered=201), refusal)
            now += 61
        assert limits == [90, 113, 142, 178, 223, 200, 200, 200]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("grant"), st.integers(1, 100), st.just(0.0), st.just(0.0)),
            st.tuples(st.just("spare"), st.just(1), st.just(0.0), st.just(0.0)),
            st.tuples(st.just("give back"), st.integers(0, 100), st.just(0.0), st.just(0.0)),
            st.tuples(st.just("learn"), st.integers(1, 500), st.floats(0, 1), st.floats(0, 4e9)),
            st.tuples(st.just("refuse"), st.just(0), st.floats(0, 1e5), st.just(0.0)),
            st.tuples(st.just("silence"), st.just(0), st.just(0.0), st.just(0.0)),
            st.tuples(st.just("wait"), st.just(0), st.floats(0, 200), st.just(0.0)),
        ),
        max_size=40,
    ),
    start=st.sampled_from([Budget(), Budget(metered=False), fixed(200, 60.0), fixed(1, 0.5)]),
)
def test_nothing_ever_hangs(steps: list[tuple[str, int, float, float]], start: Budget) -> None:
    """Whatever answers say, even absurd resets: no more permits than wanted, or a positive and finite wait."""
    budget, now = start, NOW
    for step, number, share, reset in steps:
        match step:
            case "grant":
                budget, granted = grant(budget, number, now)
                assert 0 <= granted.permits <= number
                assert granted.permits or 0 < granted.wait < math.inf
            case "spare":
                before = budget
                budget, granted = grant(budget, number, now, spare=True)
                assert granted.permits == 1 or 0 < granted.wait < math.inf
                assert budget.next_at <= before.next_at or before.metered is None
            case "give back":
                budget = give_back(budget, number)
            case "learn":
                headers = rate(number, int(number * share), reset)
                budget = learn(budget, LimiterReply(at=now, rate=headers))
            case "refuse":
                budget = learn(budget, LimiterReply(at=now, rate=None, throttled_for=share))
            case "silence":
                budget = learn(budget, LimiterReply(at=now, rate=None))
            case "wait":
                now += share
        assert budget.left >= 0


@dataclass(slots=True)
class Limiter:
    """Infisical's limiter: a fixed window that begins with its first request; `reset` in whole seconds, rounded up."""

    limit: int
    period: float
    starts_at: float = -math.inf
    used: int = 0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def count(self, now: float) -> tuple[RateHeaders, float | None]:
        """Count one request; a refusal says for how long."""
        if now >= self.starts_at + self.period:
            self.starts_at, self.used = now, 0
        self.used += 1
        reset = float(math.ceil(self.starts_at + self.period - now))
        if self.used > self.limit:
            self.refused.append(now)
            return rate(self.limit, 0, reset), reset
        self.accepted.append(now)
        return rate(self.limit, self.limit - self.used, reset), None


class Run:
    """Workers with more to do than they may, one shared budget, one limiter, in virtual time.

    As in the product, what a worker learns reaches the budget when it next asks for permits.
    """

    def __init__(self, limiter: Limiter, *, workers: int, latency: float, others: float = 0.0, seed: int = 1) -> None:
        self.limiter = limiter
        self.budget = Budget()
        self.granted: list[float] = []
        self.asked = 0
        self.others_asked = 0
        self.others_refused = 0
        self._latency = latency
        self._others = others
        self._random = random.Random(seed)  # noqa: S311 - repeatable, keeps no secret
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Callable[[float], None]]] = []
        self._lessons: list[list[LimiterReply]] = [[] for _ in range(workers)]
        self._room = [64] * workers
        self._full = [False] * workers
        for worker in range(workers):
            self._at(NOW + self._random.random(), partial(self._feed, worker))
        if others:
            self._at(NOW, self._other)

    def until(self, end: float) -> None:
        """Let time pass."""
        while self._coming[0][0] < end:
            now, _, happen = heapq.heappop(self._coming)
            happen(now)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._coming, (when, next(self._order), happen))

    def _feed(self, worker: int, now: float) -> None:
        if not self._room[worker]:
            self._full[worker] = True
            return
        for lesson in self._lessons[worker]:
            self.budget = learn(self.budget, lesson)
        self._lessons[worker].clear()
        self.budget, granted = grant(self.budget, self._room[worker], now)
        self.asked += 1
        self._room[worker] -= granted.permits
        self.granted += [now] * granted.permits
        for _ in range(granted.permits):
            self._at(now + self._latency * self._random.uniform(0.1, 0.5), partial(self._send, worker, now))
        self._at(now + (granted.wait or 0.001), partial(self._feed, worker))

    def _send(self, worker: int, sent_at: float, now: float) -> None:
        headers, refused_for = self.limiter.count(now)
        back = now + self._latency * self._random.uniform(0.5, 1.0)
        lesson = LimiterReply(at=back, rate=headers, throttled_for=refused_for, elapsed=back - sent_at)
        self._at(back, lambda _: self._answer(worker, lesson))

    def _answer(self, worker: int, lesson: LimiterReply) -> None:
        self._room[worker] += 1
        self._lessons[worker].append(lesson)
        if self._full[worker]:
            self._full[worker] = False
            self._feed(worker, lesson.at)

    def _other(self, now: float) -> None:
        _, refused_for = self.limiter.count(now)
        self.others_asked += 1
        self.others_refused += refused_for is not None
        self._at(now + self._random.expovariate(self._others), self._other)


WINDOWS = 10


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("latency", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("limit", [90, 200, 350, 1000])
def test_minutes_of_more_work_than_the_limit_allows(limit: int, workers: int, latency: float) -> None:
    """For each of Infisical's plans the limit is used, hardly anything refused, and the database asked rarely."""
    run = Run(Limiter(limit, 60.0), workers=workers, latency=latency)
    run.until(NOW + WINDOWS * 60)
    # After two windows of learning hardly a permit is lost.
    steady = [at for at in run.limiter.accepted if at >= NOW + 120]
    assert len(steady) >= 0.9 * limit * (WINDOWS - 2)
    # At the edge of a window a lot or two may come too early: two in a hundred at most, or two a window.
    assert len(run.limiter.refused) <= max(2 * WINDOWS, 0.02 * len(run.limiter.accepted))
    # No window grants more than its limit plus what the margin of the window lets through early.
    edge = 2 + limit / 60 * (1 + 2 * latency)  # reset has whole seconds, and answers are delayed
    granted = sorted(run.granted)
    for begin in range(0, 60 * (WINDOWS - 1), 5):
        there = bisect_left(granted, NOW + begin + 60) - bisect_left(granted, NOW + begin)
        assert there <= limit + 2 * edge
    # Each worker asks no more often than the pace, or a few times a second.
    often = max(2 * limit / 60 + 1, 2 / LOT_SECONDS) + PROBE_TIMEOUT / PROBE_POLL / (WINDOWS * 60)
    assert run.asked <= workers * often * WINDOWS * 60


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("seed", range(3))
def test_other_clients_get_most_of_their_half(workers: int, seed: int) -> None:
    """If others ask for half of the limit, all of it is used, and they get four fifths of what they ask for.

    The pace expects no others for the rest of the window, so the permits are used up in its last eighth.
    """
    run = Run(Limiter(200, 60.0), workers=workers, latency=0.5, others=100 / 60, seed=seed)
    run.until(NOW + WINDOWS * 60)
    assert len([at for at in run.limiter.accepted if at >= NOW + 120]) >= 0.9 * 200 * (WINDOWS - 2)
    assert run.others_refused <= 0.2 * run.others_asked
    assert len(run.limiter.refused) - run.others_refused <= 3 * WINDOWS


def test_a_fixed_limit_is_kept_without_a_word_from_the_server() -> None:
    """A limit from the settings holds in any stretch of time, but for one lot, though no answer has headers."""
    budget, now, times = fixed(20, 10.0), NOW, list[float]()
    while now < NOW + 100:
        budget, granted = grant(budget, 64, now)
        times += [now] * granted.permits
        for _ in range(granted.permits):
            budget = learn(budget, LimiterReply(at=now, rate=None))
        now += granted.wait or 0.001
    assert len(times) >= 0.9 * 20 * 10
    for begin in times:
        assert sum(begin <= at < begin + 10 for at in times) <= 20 + 2


@pytest.mark.parametrize("scenario", SCENARIOS[:8], ids=lambda scenario: scenario.name)
def test_in_virtual_time_the_budget_is_used_up(scenario: Scenario) -> None:
    """With one to sixty-four workers and any plan: 97 % of the permits at least, and hardly a refusal."""
    result, _ = simulate(scenario)
    assert result.used >= 0.97
    assert result.refused <= 1 / 500


@pytest.mark.parametrize("name", ["others take half", "others take half, evenly", "others come and go"])
def test_in_virtual_time_others_are_left_in_peace(name: str) -> None:
    """Another client that uses half of the address gets it, and the rest is ours."""
    result, _ = simulate(next(scenario for scenario in SCENARIOS if scenario.name == name))
    assert result.ours >= 0.95
    assert result.hurt <= 0.02
    assert result.refused <= 1 / 200


def test_in_virtual_time_two_fleets_share() -> None:
    """Two fleets of workers that know nothing of each other both come to their share."""
    result, _ = simulate(SCENARIOS[-1])
    assert result.used >= 0.95
    assert result.least >= 0.25


class TestAllowed:
    """An operator's limit while workers run."""

    @given(
        permits=st.integers(1, 6000),
        asked=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 50), st.integers(0, 50)), max_size=60),
        start=st.sampled_from([Budget(metered=False), fixed(6000, 60.0), fixed(60, 60.0)]),
    )
    def test_never_more_than_its_pace(self, permits: int, asked: list[tuple[float, int, int]], start: Budget) -> None:
        """With any calls and returns, use stays within the pace plus one lot."""
        allowance = Allowance(permits, 60.0)
        budget, now, used = start, NOW, 0
        for pause, wanted, unused in asked:
            now += pause
            budget, granted = grant(budget, wanted, now, allowance=allowance)
            assert granted.permits or 0.0 < granted.wait <= ALLOWANCE_POLL
            back = min(unused, granted.permits)
            budget = give_back(budget, back, allowance) if back else budget
            used += granted.permits - back
            assert used <= (now - NOW + LOT_SECONDS) / allowance.spacing + allowance.lot + 1e-6

    def test_its_pace_is_reached(self) -> None:
        """A worker that asks when told to gets all permits, if no limiter is slower."""
        budget, now, used, allowance = Budget(metered=False), NOW, 0, Allowance(600, 60.0)
        while now < NOW + 60.0:
            budget, granted = grant(budget, 64, now, allowance=allowance)
            used += granted.permits
            now += granted.wait + 0.01
        assert 590 <= used <= 606

    def test_a_slower_one_before_is_not_waited_for(self) -> None:
        """After one an hour, one a second gives a permit within a second."""
        budget, granted = grant(Budget(metered=False), 1, NOW, allowance=Allowance(1, 3600.0))
        assert granted.permits == 1
        assert grant(budget, 1, NOW + 1.0, allowance=Allowance(1, 3600.0))[1].permits == 0
        _, soon = grant(budget, 1, NOW + 1.0, allowance=Allowance(60, 60.0))
        assert soon.permits or soon.wait <= 1.0

    def test_the_limiter_is_never_exceeded(self) -> None:
        """The answers' limit bounds the grants, however much the operator allows."""
        budget, used, now = known(limit=60, remaining=59), 0, NOW
        while now < NOW + 59.0:
            budget, granted = grant(budget, 64, now, allowance=Allowance(6000, 60.0))
            used += granted.permits
            now += 0.05
        assert used <= 59
