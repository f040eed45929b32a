"""Real workers use a whole unknown budget, and leave others theirs. Windows are shorter than in reality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import pytest

from provisioner.sandbox.simulator import Options
from provisioner.sandbox.simulator.limits import Verdict
from tests.support import eventually
from tests.support.fleet import CREATE, Fleet, Stranger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.postgres import Database

# How much of a budget is used is a matter of milliseconds: it needs a machine to itself, as `make soak` has it.
pytestmark = pytest.mark.soak


Tell: TypeAlias = "Callable[[str], None]"


@dataclass(frozen=True, slots=True)
class Count:
    """The limiter's counts in some windows: our creates, our refusals, and another client's requests."""

    made: int
    refused: int
    asked: int
    lost: int
    windows: float = 0.0

    def since(self, before: Count, windows: float) -> Count:
        """The difference from an earlier count."""
        return Count(
            made=self.made - before.made,
            refused=self.refused - before.refused,
            asked=self.asked - before.asked,
            lost=self.lost - before.lost,
            windows=windows,
        )


def began(fleet: Fleet) -> float:
    """When the limiter's present window for creates began, on its own clock."""
    windows = fleet.simulator.world.limiter._windows
    return max((window.started for (_, route), window in windows.items() if route == CREATE), default=0.0)


async def watched(fleet: Fleet, windows: int, stranger: Stranger | None = None) -> Count:
    """Count from the beginning of a window to the beginning of a later one."""

    def count() -> Count:
        asked, lost = (stranger.asked, stranger.refused) if stranger else (0, 0)
        answers = fleet.requests()
        return Count(answers.get("200", 0) - asked + lost, answers.get("429", 0) - lost, asked, lost)

    length = fleet.simulator.options.window

    async def next_window(last: float) -> float:
        await eventually(lambda: began(fleet) > last, within=2 * length + 5)
        return began(fleet)

    first = await next_window(began(fleet))
    before, last = count(), first
    for _ in range(windows):
        last = await next_window(last)
    return count().since(before, (last - first) / length)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Tell:
    """Return a function that shows a figure during the soak, which is its purpose."""

    def show(words: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {words}")  # noqa: T201 - for whoever watches the soak

    return show


async def at_work(fleet: Fleet, requests: int) -> None:
    """Start with this much to do, and wait until the first window has begun."""
    await fleet.insert(requests)
    await fleet.start()
    await eventually(lambda: fleet.created() >= 3)


@pytest.mark.parametrize("workers", [1, 3, 8])
async def test_nearly_every_permit_ends_in_a_create(database: Database, workers: int, tell: Tell) -> None:
    """However many workers share it, at least 97 % of the permits are used and at most one create in 500 is refused."""
    await uses_all(database, tell, workers=workers, limit=60, window=2.0, windows=2, latency=0.01)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize(("limit", "window", "windows"), [(100, 10.0, 6), (200, 60.0, 3)])
async def test_nearly_every_permit_ends_in_a_create_for_minutes(
    database: Database, workers: int, limit: int, window: float, windows: int, tell: Tell
) -> None:
    """The same with windows as long as in life."""
    await uses_all(database, tell, workers=workers, limit=limit, window=window, windows=windows, latency=0.05)


async def uses_all(
    database: Database, tell: Tell, *, workers: int, limit: int, window: float, windows: int, latency: float
) -> None:
    """Let workers have the budget to themselves, and see how much of it they use."""
    options = Options(projects=limit * (windows + 4), write_limit=limit, window=window, latency=latency)
    async with Fleet(database.url, options, workers=workers) as fleet:
        await at_work(fleet, limit * (windows + 4))
        counted = await watched(fleet, windows)
        tell(f"{counted.made / (limit * counted.windows):.1%} used, {counted.refused} of {counted.made} refused")
        assert counted.made >= 0.97 * limit * counted.windows
        assert counted.refused <= counted.made / 500


async def leaves_room(database: Database, tell: Tell, *, workers: int, limit: int, window: float, windows: int) -> None:
    """Another client uses half of the budget, and both get their share."""
    options = Options(projects=limit * (windows + 2), write_limit=limit, window=window, latency=0.02)
    async with (
        Fleet(database.url, options, workers=workers) as fleet,
        Stranger(fleet.simulator, pace=limit / 2 / window) as stranger,
    ):
        await at_work(fleet, limit * (windows + 2))
        counted = await watched(fleet, windows, stranger)
        room = limit * counted.windows - counted.asked
        ours = counted.made - counted.lost
        tell(f"{ours / room:.1%} of the rest used, {counted.lost} of the stranger's {counted.asked} refused")
        assert ours >= 0.95 * room
        assert counted.lost <= 0.05 * counted.asked + 1


async def test_a_stranger_gets_its_half(database: Database, tell: Tell) -> None:
    """Another client takes half: we use 95 % of the rest, its refusals counted against us, and it hardly meets any."""
    await leaves_room(database, tell, workers=2, limit=60, window=6.0, windows=1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize(("limit", "window", "windows"), [(100, 10.0, 6), (200, 60.0, 3)])
async def test_a_stranger_gets_its_half_for_minutes(
    database: Database, workers: int, limit: int, window: float, windows: int, tell: Tell
) -> None:
    """The same with windows as long as in life."""
    await leaves_room(database, tell, workers=workers, limit=limit, window=window, windows=windows)


async def test_a_limit_that_no_answer_names_is_kept_to(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a proxy strips the headers, a refusal blocks all workers for its duration, and no request suffers."""
    monkeypatch.setattr(Verdict, "headers", lambda _: {})
    options = Options(projects=104, write_limit=100, window=2.0, latency=0.02)
    async with Fleet(database.url, options, workers=2) as fleet:
        await fleet.insert(104)
        await fleet.start()
        await fleet.done(within=20)
        assert await fleet.states() == {"succeeded": 104}
        assert 1 <= fleet.requests()["429"] <= 2 * 64
        row = await fleet.session.fetchrow("SELECT metered, searching FROM provisioner.permits WHERE kind = 'write'")
        assert row is not None
        assert (row["metered"], row["searching"]) == (True, True)
