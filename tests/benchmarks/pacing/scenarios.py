"""The situations that are simulated, and what came of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tests.benchmarks.pacing.world import NOON, Scenario, Stranger, World, between

if TYPE_CHECKING:
    from collections.abc import Iterator

_HALF: Final = Stranger(pace=100 / 60)
SCENARIOS: Final = (
    *(Scenario(name=f"{workers} workers", workers=workers) for workers in (1, 3, 8, 64)),
    *(Scenario(name=f"{limit} in 60 s", limit=limit) for limit in (90, 350, 2000)),
    Scenario(name="100 in 10 s", limit=100, window=10.0, latency=0.05, windows=20),
    Scenario(name="slow answers, 3 s", latency=3.0),
    Scenario(name="clocks 0.5 s apart", workers=8, skew=0.5),
    Scenario(name="a tenth without headers", lost=0.1),
    Scenario(name="no answer has headers", lost=1.0, windows=20),
    Scenario(name="others take half", strangers=(_HALF,)),
    Scenario(name="others take half, evenly", workers=8, strangers=(replace(_HALF, even=True),)),
    Scenario(name="others come and go", strangers=(replace(_HALF, begins=150.0, ends=400.0),)),
    Scenario(name="others burst at 300 s", strangers=(Stranger(pace=20.0, begins=300.0, ends=304.0),)),
    Scenario(name="others take all", strangers=(Stranger(pace=200 / 60),)),
    Scenario(name="two fleets like us", fleets=2, windows=20),
)
WARM_UP: Final = 2  # windows until the limit is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a scenario after the first windows; shares of one.

    `used`: of the limit, by anybody. `ours`: of what others left us. `refused`: of our requests, `hurt`: of others'.
    `questions`: to the database a second, from each worker. `least`: the smallest fleet's share of all fleets' creates.
    """

    name: str
    used: float
    ours: float
    refused: float
    hurt: float
    questions: float
    least: float


def simulate(scenario: Scenario) -> tuple[Result, World]:
    """Run one scenario."""
    world = World(scenario)
    world.run()
    begin = NOON + WARM_UP * scenario.window
    end = NOON + scenario.windows * scenario.window
    room = scenario.limit * (scenario.windows - WARM_UP)
    made = [between(tally.made, begin, end) for tally in world.ours]
    asked = sum(tally.asked(begin, end) for tally in world.ours)
    theirs, wanted = between(world.theirs.made, begin, end), world.theirs.asked(begin, end)
    seconds = scenario.window * scenario.windows * scenario.workers * scenario.fleets
    return (
        Result(
            name=scenario.name,
            used=(sum(made) + theirs) / room,
            ours=sum(made) / (room - wanted) if room > wanted * 1.2 else math.nan,
            refused=(asked - sum(made)) / max(1, asked),
            hurt=(wanted - theirs) / max(1, wanted),
            questions=world.asked / seconds,
            least=min(made) / max(1, sum(made)),
        ),
        world,
    )


def bars(world: World, step: float) -> Iterator[dict[str, int]]:
    """How many requests of whom there were, in steps of so many seconds."""
    length = world.scenario.window * world.scenario.windows
    for n in range(int(length / step)):
        begin, end = NOON + n * step, NOON + (n + 1) * step
        yield {
            "ours": sum(between(tally.made, begin, end) for tally in world.ours),
            "theirs": between(world.theirs.made, begin, end),
            "refused": sum(between(tally.refused, begin, end) for tally in (*world.ours, world.theirs)),
        }
