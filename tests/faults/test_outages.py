"""Infisical fails and recovers: no request fails because of it, and none loses attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from provisioner.sandbox.simulator.options import Options
from tests.support import eventually
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-b")

SOAK = (pytest.mark.soak, pytest.mark.timeout(300))
# Refused by a proxy, reset, or in maintenance: then Infisical reads, but does not write.
OUTAGES: Final[dict[str, dict[str, Any]]] = {
    "refuse": {"outage": "refuse"},
    "reset": {"outage": "reset"},
    "maintenance": {"maintenance": True},
}
FAILURES = "SELECT coalesce(max(greatest(failures, streak)), 0) FROM provisioner.attempt_state"
MOST_CREATES = 60
WITHIN = 8.0  # seconds in which the work resumes


def _held(worker: Process) -> bool:
    log = worker.log()
    return log.rfind("breaker_opened") > log.rfind("breaker_closed")


def _arrived(it: Fleet[Process]) -> int:
    return sum(sum(outcomes.values()) for outcomes in it.simulator.world.requests.values())


@pytest.mark.parametrize(
    ("outage", "requests", "outages"),
    [
        ("reset", 150, 1),
        ("maintenance", 150, 1),
        *[pytest.param(outage, 600, 4, marks=SOAK, id=f"{outage}-whole") for outage in OUTAGES],
    ],
)
async def test_an_outage_costs_nobody_anything(
    world: Callable[..., Fleet[Process]], outage: str, requests: int, outages: int
) -> None:
    """No request fails and no counted attempt is spent; single probes go out, and the work resumes within seconds."""
    options = Options(mode="self-hosted", projects=requests, latency=0.1, seed=41)
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8", **UNLIMITED) as it:
        await it.insert()
        workers = await it.start(2)
        for number in range(outages):
            await it.made(requests * (2 * number + 1) // (2 * outages + 1))
            store = it.simulator.world
            creates = len(store.creates)
            it.simulator.configure(**OUTAGES[outage])
            it.tally["outages"] += 1
            await eventually(lambda: all(_held(worker) for worker in workers))
            probed = _arrived(it) + 10
            await it.simulator.until(lambda: _arrived(it) >= probed, within=30)  # noqa: B023 - in this turn only
            # Requests in flight, and single probes; there is work for many more.
            assert len(store.creates) - creates <= MOST_CREATES
            assert await it.value(FAILURES) == 0
            made = len(store.connections)
            it.simulator.configure(outage="none", maintenance=False)
            await it.made(made + 1, within=WITHIN)
        await it.done(within=60)
        assert [await worker.ends() for worker in workers] == [0, 0]
        found = await it.audit()
        assert found.states == {"succeeded": requests}


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_an_outage_without_a_word(world: Callable[..., Fleet[Process]]) -> None:
    """Infisical takes requests and never answers: each is given up in its time, and found or made afterwards."""
    options = Options(mode="self-hosted", projects=40, latency=0.1, seed=42)
    settings = {"PROVISIONER_TARGETS__DEFAULT__TIMEOUT": "31"}
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="4", **settings, **UNLIMITED) as it:
        await it.insert()
        await it.start()
        await it.made(10)
        it.simulator.configure(outage="hang")
        await eventually(lambda: it.said("breaker_opened") >= 1, within=120)
        assert await it.value(FAILURES) == 0
        it.simulator.configure(outage="none")
        await it.done(within=120)
        found = await it.audit()
        assert found.states == {"succeeded": 40}
