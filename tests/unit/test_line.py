"""Retried requests go first, and never block the others for ever."""

from bisect import insort
from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st

from provisioner.core.line import ClaimRange, LineCursor
from provisioner.core.queue_values import FRONT, Claims, QueuePosition
from tests.support.builders import a_claim

LANE = -(10**12)


def place(rank: int, turn: int, id_: int) -> QueuePosition:
    """A place in line."""
    return QueuePosition(rank, turn, id_)


@dataclass(slots=True)
class World:
    """A line, and a worker that claims from it as directed."""

    standing: list[QueuePosition] = field(default_factory=list)
    line: LineCursor = field(default_factory=LineCursor)
    served: list[QueuePosition] = field(default_factory=list)

    def add(self, found: QueuePosition) -> None:
        """Somebody comes, and the worker hears of it."""
        insort(self.standing, found)
        self.line = self.line.hint(QueuePosition(found.rank, found.turn))

    def claim(self, limit: int) -> int:
        """Claim once, and learn the first position from a poll of the whole line."""
        part = self.line.part()
        taken = [found for found in self.standing if part.start <= found][:limit]
        if part.retried_only:
            taken = [found for found in taken if found.rank == part.start.rank and found.turn < 0]
        self.standing = [found for found in self.standing if found not in taken]
        self.served += taken
        brought = Claims(
            claims=[a_claim()] * len(taken),
            last=taken[-1] if taken else None,
            retried=sum(found.turn < 0 for found in taken),
        )
        self.line = self.line.after(part, brought, limit=limit)
        if self.standing:
            self.line = self.line.hint(self.standing[0])
        return len(taken)


PLACES = st.builds(
    place, st.sampled_from([-5, 0]), st.one_of(st.integers(LANE, LANE + 3), st.integers(0, 4)), st.integers(1, 10**6)
)


@given(st.lists(PLACES, unique=True, max_size=40), st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_everything_in_line_is_served(standing: list[QueuePosition], limits: list[int]) -> None:
    """Whatever the positions and sizes of claims, no request is passed over."""
    world = World()
    for found in standing:
        world.add(found)
    idle = 0
    while world.standing and idle < 3:
        idle = 0 if world.claim(limits[len(world.served) % len(limits)]) else idle + 1
    assert sorted(world.served) == sorted(standing)


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(0, 300), st.integers(0, 20))
def test_a_few_that_were_tried_before_go_before_hundreds(limit: int, served: int, tried: int) -> None:
    """However far the line has been served, they are through after about as many others."""
    world = World()
    for number in range(400):
        insort(world.standing, place(0, 1, number + 100))
    world.line = world.line.hint(place(0, 1, 0))
    while len(world.served) < served:
        world.claim(limit)
    before = len(world.served)
    for number in range(tried):
        world.add(place(0, LANE + 1, number))
    while any(found.turn < 0 for found in world.standing):
        assert world.claim(limit)
    others = sum(found.turn >= 0 for found in world.served[before:])
    assert others <= tried + 2 * limit


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(1, 5))
def test_a_flood_of_them_keeps_nobody_for_ever(limit: int, each: int) -> None:
    """While ever more retries arrive, the others get every other claim."""
    world = World()
    for number in range(50):
        world.add(place(0, 1, number + 10**6))
    number = 0
    while any(found.turn >= 0 for found in world.standing):
        for _ in range(each * limit):
            number += 1
            world.add(place(0, LANE + 1, number))
        assert world.claim(limit)
        assert number < 10**4
    retried = sum(found.turn < 0 for found in world.served)
    assert retried <= 50 + 2 * limit


def test_what_is_urgent_goes_before_what_was_tried_before() -> None:
    """Priorities come first, and retries within them."""
    world = World()
    for found in (place(0, LANE, 1), place(0, 1, 2), place(-5, 1, 3)):
        world.add(found)
    while world.standing:
        world.claim(1)
    assert [found.id for found in world.served] == [3, 1, 2]


def test_going_back_for_a_retry_passes_nothing_that_was_served() -> None:
    """A claim of retries alone ends where the others begin, because dead index entries may follow."""
    line = LineCursor(mark=place(0, 7, 7)).hint(place(0, LANE, 0))
    assert line.part() == ClaimRange(start=place(0, LANE, 0), retried_only=True)
    after = line.after(line.part(), Claims(claims=[a_claim()], last=place(0, LANE, 3), retried=1), limit=5)
    assert (after.part(), after.retried) == (ClaimRange(start=place(0, 7, 7)), None)
    assert LineCursor().hint(FRONT).part() == ClaimRange(start=FRONT)
