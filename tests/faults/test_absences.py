"""The database goes away and comes back: so do the workers, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from provisioner.sandbox.simulator.options import Options
from tests.faults.proxy import Proxy
from tests.support import eventually
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.sandbox.postgres import PostgresServer, StopMode
    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-b")

SOAK = (pytest.mark.soak, pytest.mark.timeout(600))
# Started, logged in, stopping and stopped; and two reports of the outage, its beginning and its end.
QUIET = 5
EACH = 6


def _options(requests: int, seed: int) -> Options:
    return Options(mode="self-hosted", projects=requests, latency=0.25, seed=seed)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize(("requests", "restarts"), [(160, 2), pytest.param(600, 6, marks=SOAK)])
async def test_a_restart_under_load(
    world: Callable[..., Fleet[Process]], durable_server: PostgresServer, mode: StopMode, requests: int, restarts: int
) -> None:
    """The workers recover by themselves within seconds, log a line or two, and nothing is lost."""
    options = _options(requests, 31)
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8", **UNLIMITED) as it:
        await it.insert()
        workers = await it.start(2)
        for number in range(restarts):
            await it.made(requests * (2 * number + 1) // (2 * restarts + 1))
            await asyncio.to_thread(durable_server.stop, mode)
            # The outage begins when it is noticed; repetitions within a minute are not logged.
            await eventually(lambda: it.said("database_lost") >= 1, within=10)
            await asyncio.to_thread(durable_server.start)
            it.tally[f"restarts, {mode}"] += 1
            # The requests in hand when it is back, and as many again.
            made = len(it.simulator.world.connections)
            await it.finished(min(made + 16, requests), within=10)
        await it.done(within=60)
        assert [await worker.ends() for worker in workers] == [0, 0]
        found = await it.audit()
        assert found.states == {"succeeded": requests}
        assert it.calm(lines=QUIET + EACH * restarts)
        assert it.said("database_lost") >= 1
        assert it.said("database_lost") == it.said("database_back")


@pytest.mark.parametrize(("requests", "cuts"), [(160, 2), pytest.param(1200, 15, marks=SOAK)])
async def test_the_connection_is_cut(
    world: Callable[..., Fleet[Process]], durable_server: PostgresServer, requests: int, cuts: int
) -> None:
    """Statements that were cut in the middle, carried out or not, are neither lost nor taken for done."""
    options = _options(requests, 32)
    async with (
        world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8", **UNLIMITED) as it,
        Proxy(durable_server.port) as proxy,
    ):
        await it.insert()
        workers = await it.start(2, PROVISIONER_DATABASE_URL=proxy.url(it.url))
        for number in range(cuts):
            await it.made(requests * (2 * number + 1) // (2 * cuts + 1))
            refuse = it.random.random() < 0.5
            proxy.cut(refuse=refuse)
            it.tally["cuts"] += 1
            if refuse:
                await it.made(min(requests, len(it.simulator.world.connections) + 4))
                proxy.mend()
        await it.done(within=60)
        assert [await worker.ends() for worker in workers] == [0, 0]
        found = await it.audit()
        assert found.states == {"succeeded": requests}
        assert it.calm(lines=QUIET + EACH * cuts)


@pytest.mark.parametrize(("requests", "holes"), [pytest.param(300, 2, marks=SOAK)])
async def test_the_connection_is_swallowed(
    world: Callable[..., Fleet[Process]], durable_server: PostgresServer, requests: int, holes: int
) -> None:
    """Connections that die silently are given up, and work continues over new ones."""
    options = _options(requests, 33)
    async with (
        world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8", **UNLIMITED) as it,
        Proxy(durable_server.port) as proxy,
    ):
        await it.insert()
        workers = await it.start(2, PROVISIONER_DATABASE_URL=proxy.url(it.url))
        for number in range(holes):
            await it.made(requests * (2 * number + 1) // (2 * holes + 1))
            lost = it.said("database_lost") + 2
            proxy.swallow()
            it.tally["black holes"] += 1
            await _noticed(it, lost)
            proxy.mend()
        await it.done(within=60)
        assert [await worker.ends() for worker in workers] == [0, 0]
        found = await it.audit()
        assert found.states == {"succeeded": requests}
        assert it.calm(lines=QUIET + 2 * EACH * holes)


async def _noticed(it: Fleet[Process], times: int) -> None:
    await eventually(lambda: it.said("database_lost") >= times, within=40)
