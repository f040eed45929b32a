"""Lost and misleading answers: everything made is found, nothing is made twice, and nothing of others is taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from provisioner.sandbox.simulator.options import Options, SettingsError
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-b")

# A third of all creates.
A_THIRD: Final = {
    "cut-before-commit": 0.05,
    "cut-after-commit": 0.07,
    "late-commit": 0.07,
    "error-before-commit": 0.04,
    "error-after-commit": 0.05,
    "html-502": 0.03,
    "html-503": 0.02,
    "token-expired": 0.003,
}


async def _plant(it: Fleet[Process], *, description: str | None, stop: asyncio.Event) -> None:
    """Act as somebody else, who makes connections of the same name in some of the projects, at any time."""
    free = it.random.sample(it.simulator.projects, len(it.simulator.projects) // 6)
    while free and not stop.is_set():
        await asyncio.sleep(0.02)
        plant = {"name": "openrouter", "projectId": free.pop(), "description": description}
        try:
            it.simulator.configure(plant=[plant])
            it.tally["planted by others"] += 1
        except SettingsError:
            continue  # we were quicker


@pytest.mark.parametrize("marker", [False, True], ids=["unmarked", "marked"])
@pytest.mark.parametrize(
    ("requests", "seed", "clock_offset"),
    [
        (80, 21, 200.0),
        *[
            pytest.param(1200, 2100 + number, offset, marks=(pytest.mark.soak, pytest.mark.timeout(600)))
            for number, offset in enumerate((-300.0, 0.0, 90.0))
        ],
    ],
)
async def test_a_third_of_all_answers_lost_or_misleading(
    world: Callable[..., Fleet[Process]], requests: int, seed: int, clock_offset: float, *, marker: bool
) -> None:
    """All of ours is recorded, once; a connection that somebody else planted meanwhile is never taken for ours."""
    options = Options(
        mode="self-hosted",
        projects=requests,
        seed=seed,
        latency=0.02,
        faults=A_THIRD,
        late_by=1.5,
        replica_lag=0.7,
        clock_offset=clock_offset,
    )
    marked = {"PROVISIONER_TARGETS__DEFAULT__MARKER": "true"} if marker else {}
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="4", **marked, **UNLIMITED) as it:
        await it.insert(description="the same")
        workers = await it.start(2)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            # Without the marker, only another description certainly shows somebody else's connection.
            planting = _plant(it, description="the same" if marker else "another", stop=stop)
            group.create_task(planting, name="somebody else")
            await it.done(within=requests / 4)
            stop.set()
        assert [await worker.ends() for worker in workers] == [0, 0]
        found = await it.audit()
        it.tally["misleading answers"] += sum(it.simulator.state()["faults"].values())
        assert set(found.states) <= {"succeeded", "failed"}
        assert found.answers_lost > requests / 10
        assert it.said("creator_failed") == 0


async def test_sockets_cut_by_the_server_while_it_works_on(world: Callable[..., Fleet[Process]]) -> None:
    """A create that the server stops answering and commits later is found later, and not repeated."""
    options = Options(mode="self-hosted", projects=12, seed=23, cut_after=0.3, latency=0.0, replica_lag=0.3)
    async with world(options, PROVISIONER_CREDENTIALS__DEFAULT__VALUE="sk-or-v1-slow-mode-delay1", **UNLIMITED) as it:
        await it.insert()
        await it.start()
        await it.done(within=30)
        found = await it.audit()
        assert (found.states, found.made, found.adopted, found.found_again) == ({"succeeded": 12}, 12, 0, 12)
