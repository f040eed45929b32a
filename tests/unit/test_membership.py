"""A worker's claims are its own only under its number, under that attempt, and while its lease is valid."""

from datetime import UTC, datetime

from provisioner.worker.clock import DatabaseClock
from provisioner.worker.lease_state import LeaseState
from tests.support.builders import a_claim


def a_member() -> tuple[LeaseState, list[float]]:
    """A worker with a lease of ten seconds, and its monotonic time, to be set."""
    time = [100.0]
    member = LeaseState(DatabaseClock(wall=lambda: datetime.now(UTC), monotonic=lambda: time[0]), lease=10.0)
    member.enter(1)
    member.renewed(100.0)
    return member, time


def test_a_claim_is_held_while_the_lease_lasts() -> None:
    """Not a moment longer."""
    member, time = a_member()
    member.take([a_claim()])
    time[0] = 109.9
    assert member.holds(a_claim())
    time[0] = 110.0
    assert not member.holds(a_claim())


def test_another_number_holds_nothing() -> None:
    """Claims from before the lease was lost belong to others, even after a new lease."""
    member, _ = a_member()
    member.take([a_claim()])
    member.enter(2)
    assert not member.holds(a_claim())


def test_an_earlier_attempt_ends_alone() -> None:
    """When a call of an earlier attempt ends, the later attempt of the same request stays claimed."""
    member, _ = a_member()
    earlier, later = a_claim(attempt=1), a_claim(attempt=2)
    member.take([earlier])
    member.take([later])
    assert not member.holds(earlier)
    member.discard([earlier])
    assert member.holds(later)
    member.discard([later])
    assert not member.holds(later)
