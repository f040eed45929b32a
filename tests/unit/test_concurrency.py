"""As many calls at once as help, and never more than allowed."""

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from provisioner.core.concurrency import START, Pressure


def work(pressure: Pressure, latency: Callable[[int], float], *, seconds: float, now: float = 0.0) -> float:
    """Keep a server busy that answers so many calls at once after so long; returns the time."""
    end = now + seconds
    while now < end:
        took = latency(pressure.limit)
        now += took
        for _ in range(pressure.limit):
            pressure.note(took, now)
    return now


@pytest.mark.parametrize("latency", [0.0001, 0.007, 0.05, 2.0])
@pytest.mark.parametrize("most", [1, 16, 64])
def test_a_server_that_copes_costs_nothing(latency: float, most: int) -> None:
    """Up to 64 in flight, all are in flight from the first call on, for as long as nothing goes wrong."""
    pressure = Pressure(most)
    work(pressure, lambda _: latency, seconds=500 * latency)
    assert pressure.limit == most


def test_noise_is_not_distress() -> None:
    """A pause of ours now and then, many times the usual latency, changes nothing."""
    pressure, now = Pressure(64), 0.0
    for number in range(200):
        took = 0.3 if number % 10 == 5 else 0.007
        now += took
        for _ in range(64):
            pressure.note(took, now)
        assert pressure.limit == 64


def test_a_growing_latency_halves_it() -> None:
    """A server that takes ever longer gets fewer calls at a time."""
    pressure = Pressure(64)
    now = work(pressure, lambda _: 0.2, seconds=2)
    work(pressure, lambda _: 2.0, seconds=4, now=now)
    assert pressure.limit <= 32


def test_failures_halve_it_down_to_one_and_successes_bring_it_back() -> None:
    """Timeouts and 5xx halve it round by round; when they end it climbs again."""
    pressure, limits = Pressure(64), []
    for _ in range(64 * 6):
        pressure.note(0.1, 1.0, failed=True)
        limits.append(pressure.limit)
    assert sorted(set(limits), reverse=True) == [64, 32, 16, 8, 4, 2, 1]
    work(pressure, lambda _: 0.05, seconds=60, now=2.0)
    assert pressure.limit == 64


def test_a_few_failures_are_bad_luck() -> None:
    """A third of the calls failing for no reason of load leaves the concurrency as it is."""
    pressure = Pressure(64)
    for number in range(6400):
        pressure.note(0.05, number * 0.001, failed=number % 3 == 0)
    assert pressure.limit == 64


def test_it_climbs_beyond_the_start_only_while_that_brings_more() -> None:
    """A server for a hundred at once gets about a hundred, however many the settings allow."""
    pressure = Pressure(1024)
    assert pressure.limit == START
    work(pressure, lambda limit: 0.05 * max(1.0, limit / 100), seconds=60)
    assert 90 <= pressure.limit <= 130


def test_a_server_without_bounds_gets_all_that_is_allowed() -> None:
    """Where more always brings more, the settings are the bound."""
    pressure = Pressure(512)
    work(pressure, lambda _: 0.05, seconds=60)
    assert pressure.limit == 512


def test_an_idle_target_learns_nothing() -> None:
    """Calls one by one say nothing about how many could be in flight."""
    pressure = Pressure(512)
    for number in range(1000):
        pressure.note(0.01, float(number))
    assert pressure.limit == START


def test_it_gets_used_to_what_lasts() -> None:
    """A server that has become slow for good is not throttled for ever."""
    pressure = Pressure(64)
    now = work(pressure, lambda _: 0.1, seconds=2)
    now = work(pressure, lambda _: 1.0, seconds=2000, now=now)
    assert pressure.limit == 64


@given(st.integers(1, 4096), st.lists(st.tuples(st.floats(0, 60), st.floats(0, 10), st.booleans()), max_size=300))
def test_it_stays_within_its_bounds(most: int, calls: list[tuple[float, float, bool]]) -> None:
    """Whatever the calls were like: at least one, never more than allowed."""
    pressure, now = Pressure(most), 0.0
    for elapsed, later, failed in calls:
        now += later
        pressure.note(elapsed, now, failed=failed)
        assert 1 <= pressure.limit <= most
