"""All workers mean the same when they say now: the database's time."""

from datetime import datetime, timedelta

from provisioner.worker.clock import LATE, DatabaseClock
from tests.support.builders import NOON, at


class Wall:
    """A host's clock, with an error of its own."""

    def __init__(self) -> None:
        self.time = NOON - timedelta(hours=3)

    def __call__(self) -> datetime:
        """What it shows."""
        return self.time


def clock_on(wall: Wall) -> DatabaseClock:
    """A clock that nobody has set."""
    return DatabaseClock(wall=wall, monotonic=lambda: 0.0)


def test_it_shows_the_databases_time() -> None:
    """However wrong the host's clock is, and as that goes on; an answer is taken to be half its call's time old."""
    wall = Wall()
    clock = clock_on(wall)
    clock.set_by(at(10), took=0.4)
    assert clock.now() == at(10.2)
    wall.time += timedelta(seconds=5)
    assert clock.now() == at(15.2)


def test_a_late_answer_does_not_set_it() -> None:
    """What was said before this process stood still says less than what is known."""
    wall = Wall()
    clock = clock_on(wall)
    clock.set_by(at(0), took=0.1)
    clock.set_by(at(0), took=60.0)
    assert clock.now() == at(0.05)
    clock.set_by(at(9), took=LATE)
    assert clock.now() == at(9 + LATE / 2)


def test_a_first_answer_that_was_late_is_better_than_none() -> None:
    """It sets the clock until an answer comes that was less late, and no later one spoils it."""
    clock = clock_on(Wall())
    clock.set_by(at(0), took=4.0)
    assert clock.now() == at(2)
    clock.set_by(at(1), took=2.0)
    assert clock.now() == at(2)
    clock.set_by(at(50), took=3.0)
    assert clock.now() == at(2)
