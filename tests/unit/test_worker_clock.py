"""All workers mean the same when they say now: the database's time."""

from datetime import datetime, timedelta

from hypothesis import given, strategies as st

from provisioner.worker.clock import DRIFT, DatabaseClock
from tests.support.builders import NOON, at


class Host:
    """A host's clocks: the wall's has an error of its own, and the other never jumps."""

    def __init__(self) -> None:
        self.error = timedelta(hours=-3)
        self.passed = 0.0

    def wall(self) -> datetime:
        """The wall clock's time."""
        return NOON + self.error + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        """Seconds since some time."""
        return 1000.0 + self.passed


def clock_on(host: Host) -> DatabaseClock:
    """A clock that was never set."""
    return DatabaseClock(wall=host.wall, monotonic=host.monotonic)


def test_it_shows_the_databases_time() -> None:
    """However wrong the host's clock is; an answer is assumed to be half its call's duration old."""
    host = Host()
    clock = clock_on(host)
    assert clock.now() == host.wall()
    clock.set_by(at(10), took=0.4)
    assert clock.now() == at(10.2)
    host.passed += 5
    assert clock.now() == at(15.2)
    assert clock.at(host.monotonic() - 4) == at(11.2)


@given(st.floats(-1e6, 1e6))
def test_the_walls_clock_may_step(step: float) -> None:
    """Whatever an administrator or NTP does to this host, the times of creates do not move."""
    host = Host()
    clock = clock_on(host)
    clock.set_by(at(0), took=0.1)
    host.error += timedelta(seconds=step)
    host.passed += 1
    assert clock.now() == at(1.05)


def test_a_late_answer_does_not_set_it() -> None:
    """An answer from before this process was frozen says less than what is known."""
    host = Host()
    clock = clock_on(host)
    clock.set_by(at(0), took=0.1)
    host.passed += 60
    clock.set_by(at(0.2), took=60.0)
    assert clock.now() == at(60.05)
    clock.set_by(at(60.06), took=0.02)
    assert clock.now() == at(60.07)


def test_a_first_answer_that_was_late_is_better_than_none() -> None:
    """It sets the clock until an answer comes that was less late, and no later one spoils it."""
    clock = clock_on(Host())
    clock.set_by(at(0), took=4.0)
    assert clock.now() == at(2)
    clock.set_by(at(1), took=2.0)
    assert clock.now() == at(2)
    clock.set_by(at(0.6), took=3.0)
    assert clock.now() == at(2)


def test_a_database_whose_clock_was_set_is_followed() -> None:
    """After a failover to a host with another clock, what contradicts all that was known is believed."""
    clock = clock_on(Host())
    clock.set_by(at(0), took=0.01)
    clock.set_by(at(-7), took=0.4)
    assert clock.now() == at(-6.8)


def test_old_knowledge_is_replaced() -> None:
    """Clocks drift apart, so that in time an answer that took longer says more."""
    host = Host()
    clock = clock_on(host)
    clock.set_by(at(0), took=0.0)
    host.passed += 0.1 / DRIFT
    clock.set_by(at(host.passed + 0.05), took=0.2)
    assert clock.now() == at(host.passed + 0.15)
