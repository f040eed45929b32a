"""When it ends, as the core decides it: places in line, paces, and why there is no forecast."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, strategies as st

from provisioner.core.forecast import (
    LONGEST,
    MIN_PERMIT_SHARE,
    MOST,
    BatchInFront,
    BatchPart,
    Forecast,
    LineSample,
    LineState,
    Measured,
    NoForecast,
    Pace,
    Waits,
    estimated_places,
    forecast_part,
    measure,
    pace_of,
    rate_of,
)
from provisioner.core.pacing import Allowance, Budget
from provisioner.core.queue_values import QueuePosition

NOW = 1_000_000.0
LIMITED = Budget(metered=True, permits=60, period=60.0)
UNLIMITED = Budget(metered=False)
STEADY = Pace(rate=1.0)
ONE = Waits(requests=1, first=5.0, last=5.0)

lines = st.lists(st.sampled_from("abcde"), min_size=1, max_size=120)


def survey(line: list[str], head: int, every: int = 1) -> LineSample:
    """Return the sample of a line with these batches, in which every n-th request behind the front is known."""
    front: dict[str, BatchInFront] = {}
    for place, batch in enumerate(line[:head], start=1):
        front[batch] = BatchInFront(front[batch].requests + 1 if batch in front else 1, place)
    spots = [(QueuePosition(0, place), batch) for place, batch in enumerate(line, start=1)]
    return LineSample(
        length=len(line),
        head=head,
        front=front,
        edge=spots[head - 1][0] if head < len(line) else None,
        sample=spots[head::every],
        newest={batch: spot for spot, batch in spots},
    )


class TestPlaces:
    """The position of each batch's last request."""

    @given(lines)
    def test_in_the_front_they_are_exact(self, line: list[str]) -> None:
        """In the front, each batch ends at its last request."""
        last = {batch: place for place, batch in enumerate(line, start=1)}
        assert estimated_places(survey(line, len(line)), {batch: line.count(batch) for batch in last}) == last

    @given(lines, st.integers(1, 119), st.integers(1, 9))
    def test_behind_it_they_are_near(self, line: list[str], head: int, every: int) -> None:
        """No estimate exceeds the line or lies in the known front; if the newest is last, it is nearly exact."""
        last = {batch: place for place, batch in enumerate(line, start=1)}
        counted = {batch: line.count(batch) for batch in last}
        found = estimated_places(survey(line, min(head, len(line)), every), counted)
        for batch, place in found.items():
            assert 1 <= place <= len(line)
            if last[batch] <= head:
                assert place == last[batch]
            else:
                assert place >= last[batch] - 2 * every

    def test_a_batch_of_which_nothing_was_seen_ends_with_the_line(self) -> None:
        """No hit and no newest request: nothing later than the line's end can be true."""
        blind = LineSample(length=9000, head=5000, front={}, edge=QueuePosition(0, 7))
        assert estimated_places(blind, {"a": 3}) == {"a": 9000}

    def test_a_whale_that_came_first_is_seen_by_its_hits(self) -> None:
        """A newest request that came with a small project misleads, but the sample corrects it."""
        line = ["small"] * 10 + ["whale"] * 990
        seen = survey(line, 10, 10)
        misled = LineSample(
            length=1000,
            head=10,
            front=seen.front,
            edge=seen.edge,
            sample=seen.sample,
            newest={"whale": QueuePosition(0, 1)},
        )
        assert estimated_places(misled, {"whale": 990})["whale"] == pytest.approx(1000, rel=0.02)


class TestPace:
    """How long a number of requests takes."""

    @given(
        st.floats(0.1, 100),
        st.floats(0, 500),
        st.floats(0, 60),
        st.floats(0, 60),
        st.floats(MIN_PERMIT_SHARE, MOST),
        st.integers(0, 5000),
    )
    def test_more_requests_never_take_less_time(
        self, rate: float, first: float, span: float, wait: float, share: float, requests: int
    ) -> None:
        """Nothing is done before the wait is over, and one request more takes no less."""
        pace = Pace(rate=rate, first=first, span=span, wait=wait, share=share)
        assert wait <= pace.seconds(requests) <= pace.seconds(requests + 1) + 1e-6

    @pytest.mark.parametrize(
        ("pace", "requests", "seconds"),
        [
            (STEADY, 10, 10.0),
            (Pace(rate=1.0, share=0.5), 10, 20.0),
            (Pace(rate=1.0, first=20.0, span=10.0), 10, 5.0),  # twice as many permits as seconds are left
            (Pace(rate=1.0, first=5.0, span=10.0), 10, 15.0),
            (Pace(rate=1.0, wait=30.0), 10, 40.0),
            (Pace(rate=1e-9), 10**9, LONGEST),
        ],
    )
    def test_what_is_left_of_the_window_goes_first(self, pace: Pace, requests: int, seconds: float) -> None:
        """Permits of this window, then of those after it; a refusal's time before all."""
        assert pace.seconds(requests) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        ("budget", "allowance", "measured", "ended"),
        [
            (Budget(), None, Measured(), None),
            (LIMITED, None, Measured(), 1.0),
            (LIMITED, Allowance(6, 60.0), Measured(), 0.1),
            (LIMITED, Allowance(600, 60.0), Measured(), 1.0),
            (LIMITED, None, Measured(seconds=1e6, permits=1e6, got=5e5), 0.5),
            (LIMITED, None, Measured(seconds=1e6, permits=1e6, got=0.0), MIN_PERMIT_SHARE),
            (LIMITED, None, Measured(seconds=1e6, permits=1e6, got=1e9), MOST),
            (UNLIMITED, None, Measured(), None),
            (UNLIMITED, None, Measured(seconds=10.0, got=50.0), 5.0),
            (UNLIMITED, Allowance(60, 60.0), Measured(seconds=10.0, got=50.0), 1.0),
            (UNLIMITED, Allowance(60, 60.0), Measured(), None),
            (Budget(), Allowance(60, 60.0), Measured(), 1.0),
        ],
    )
    def test_the_limit_rules_and_what_came_of_it(
        self, budget: Budget, allowance: Allowance | None, measured: Measured, ended: float | None
    ) -> None:
        """The lower of the limiter's and the operator's rate, times what a permit achieved; else the recent pace."""
        pace = pace_of(budget, NOW, allowance, measured)
        assert (pace and pace.ended) == (ended and pytest.approx(ended, rel=1e-3))

    def test_a_refusal_is_waited_for(self) -> None:
        """While the budget is blocked nothing ends."""
        blocked = Budget(metered=True, permits=60, period=60.0, blocked_until=NOW + 30)
        pace = pace_of(blocked, NOW, None, Measured())
        assert pace is not None
        assert pace.seconds(10) == pytest.approx(40.0)

    def test_what_others_took_of_this_window_is_missing(self) -> None:
        """With 50 of 60 permits used and half of the window left, a request waits three seconds, until it is over."""
        budget = Budget(metered=True, permits=60, period=60.0, starts_at=NOW - 30, ends_at=NOW + 30, used=50)
        pace = pace_of(budget, NOW, None, Measured())
        assert pace is not None
        assert [pace.seconds(n) for n in (5, 10, 20)] == pytest.approx([15.0, 30.0, 40.0])


class TestMeasure:
    """Measurements between two observations."""

    BUSY = Measured(seen_at=NOW, ended=100, busy=True)

    def test_what_ended_between_two_looks_counts(self) -> None:
        """Two seconds, two permits, one request."""
        after = measure(self.BUSY, now=NOW + 2, ended=101, busy=True, budget=LIMITED, rate=1.0)
        assert after.seconds == 2.0
        faded = 3.0 * math.exp(-2 / 60)  # at first a twentieth of a window is taken to have gone well
        assert (after.permits, after.got) == pytest.approx((faded + 2, faded + 1))
        assert measure(self.BUSY, now=NOW + 2, ended=101, busy=True, budget=UNLIMITED, rate=None).pace == 0.5

    @pytest.mark.parametrize(
        ("before", "busy", "ended", "passed"),
        [
            (BUSY, False, 101, 2.0),  # nothing is in line now
            (Measured(seen_at=NOW, ended=100), True, 101, 2.0),  # nothing was
            (BUSY, True, 99, 2.0),  # somebody retried, or deleted
            (BUSY, True, 101, 3600.0),  # no observation for an hour
            (BUSY, True, 101, 0.0),
        ],
    )
    def test_idle_time_tells_nothing(self, before: Measured, busy: bool, ended: int, passed: float) -> None:
        """Time without work, or without an observation, does not lower the pace."""
        after = measure(before, now=NOW + passed, ended=ended, busy=busy, budget=LIMITED, rate=1.0)
        assert (after.seconds, after.got) == (0.0, 0.0)
        assert (after.seen_at, after.ended, after.busy) == (NOW + passed, ended, busy)

    @given(st.floats(0.05, 1.0), st.integers(60, 200))
    def test_it_comes_to_the_truth_within_a_few_windows(self, share: float, looks: int) -> None:
        """Whatever a permit brings, after three windows the measure is nearly that."""
        measured, budget = self.BUSY, Budget(metered=True, permits=600, period=60.0)
        for look in range(1, 3 * looks):
            now, ended = NOW + look * 2, 100 + int(look * 2 * 10 * share)
            measured = measure(measured, now=now, ended=ended, busy=True, budget=budget, rate=10.0)
        assert measured.share == pytest.approx(share, rel=0.15, abs=0.02)

    def test_others_are_heeded_while_they_are_there(self) -> None:
        """What others used within the last window is not ours, but a quarter always is."""
        rates = [
            rate_of(Budget(metered=True, permits=60, period=60.0, their_pace=theirs, seen_at=NOW - ago), NOW, None)
            for theirs, ago in ((0.5, 10), (0.5, 90), (9.0, 10))
        ]
        assert rates == [0.5, 1.0, 0.25]


class TestForesee:
    """The seconds until the end, or why that is unknown."""

    def test_the_first_reason_that_holds_is_told(self) -> None:
        """Every combination of obstacles: the first one is the reason, and without any there is a forecast."""
        for paused, workers, troubled, held, ready, again, flying, later, pace in product(
            (False, True),
            (0, 1),
            (False, True),
            (None, NoForecast.KEY, NoForecast.PROJECT, NoForecast.CONNECTION),
            (0, 3),
            (Waits(), ONE),
            (0, 1),
            (Waits(), ONE),
            (None, STEADY),
        ):
            line = LineState(
                paused=paused, workers=workers, troubled=troubled, ready=ready, in_flight=flying, pace=pace
            )
            part = BatchPart(ready=ready, in_flight=flying, place=ready, held=held, again=again, later=later)
            true = {
                NoForecast.PAUSED: paused,
                NoForecast.NOBODY: not workers,
                NoForecast.TROUBLE: troubled,
                **({held: True} if held else {}),
                NoForecast.SCHEDULED: bool(later.requests) and not (ready or flying or again.requests),
                NoForecast.PACE: pace is None,
            }
            told = forecast_part(line, part)
            assert told.why == next((why for why in NoForecast if true.get(why)), None)
            assert (told.seconds is None) == (told.why is not None)

    @pytest.mark.parametrize(
        ("part", "seconds"),
        [
            (BatchPart(ready=5, place=7), 9.0),  # two are in flight before it
            (BatchPart(in_flight=2), 2.0),
            (
                BatchPart(again=Waits(requests=1, first=20.0, last=20.0)),
                21.0,
            ),  # requests in line do not go before it
            (BatchPart(again=Waits(requests=9, first=20.0, last=20.0)), 29.0),
            (BatchPart(again=Waits(requests=2, first=0.0, last=50.0)), 51.0),
            (BatchPart(ready=1, place=1, again=Waits(requests=1, first=20.0, last=20.0)), 21.0),
            (BatchPart(ready=1, place=1, later=Waits(requests=1, first=20.0, last=20.0)), 103.0),
            (BatchPart(ready=1, place=1, later=Waits(requests=3, first=900.0, last=900.0)), 903.0),
        ],
    )
    def test_the_last_request_of_a_batch_tells(self, part: BatchPart, seconds: float) -> None:
        """Requests in line, retries and scheduled ones each end at some time, and the latest counts."""
        assert forecast_part(LineState(in_flight=2, ready=100, pace=STEADY), part) == Forecast(seconds)

    @given(st.integers(0, 500), st.integers(1, 500), st.floats(0.1, 10))
    def test_a_batch_never_ends_after_its_line(self, ready: int, place: int, rate: float) -> None:
        """Whatever its position, a request in line ends no later than the line."""
        line = LineState(ready=max(ready, place), pace=Pace(rate=rate))
        part, whole = BatchPart(ready=1, place=place), BatchPart(ready=line.ready, place=line.ready)
        assert (forecast_part(line, part).seconds or 0) <= (forecast_part(line, whole).seconds or 0)
