"""Workers that are told to stop, once, twice, or by `kill -9` in the middle of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from provisioner.sandbox.simulator.options import Options
from tests.support import eventually
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-a")

EXPIRE = "UPDATE provisioner.workers SET lease_until = now() - interval '1 second'"


async def test_told_once_under_load(world: Callable[..., Fleet[Process]]) -> None:
    """Exit status 0; every create that was sent is recorded, nothing is left in flight, and nothing is sent again."""
    options = Options(mode="self-hosted", projects=80, latency=0.5, seed=51)
    async with world(options, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8", **UNLIMITED) as it:
        await it.insert()
        for enough, number in ((10, signal.SIGTERM), (40, signal.SIGHUP)):
            (worker,) = await it.start()
            await it.made(enough)
            assert await worker.ends(number) == 0
            rows = await it.read(
                "SELECT connection_id::text FROM provisioner.connection_requests WHERE connection_id IS NOT NULL"
            )
            assert {row["connection_id"] for row in rows} == set(it.simulator.world.connections)
            assert await it.value("SELECT count(*) FROM provisioner.in_flight") == 0
            assert await it.value("SELECT count(*) FROM provisioner.workers") == 0
            it.tally["stops"] += 1
        await it.start()
        await it.done(within=30)
        found = await it.audit()
        assert (found.creates, found.made, found.adopted) == (80, 80, 0)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.soak),
        pytest.param(signal.SIGKILL, id="SIGKILL"),
    ],
)
async def test_told_twice(world: Callable[..., Fleet[Process]], second: signal.Signals) -> None:
    """The second signal ends it at once, whatever is in flight; others find what it has made."""
    options = Options(mode="self-hosted", projects=24, seed=52)
    slow = {"PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-slow-mode-delay1"}
    async with world(options, **slow, PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="8", **UNLIMITED) as it:
        await it.insert()
        (worker,) = await it.start()
        await it.simulator.until(lambda: len(it.simulator.world.creates) >= 3)
        worker.signal(signal.SIGTERM)
        await eventually(lambda: "worker_stopping" in worker.log())
        status = await worker.ends(second)
        assert status == (-signal.SIGKILL if second is signal.SIGKILL else 128 + second)
        it.tally["stops"] += 1
        await it.fetch(EXPIRE)
        await it.start()
        await it.done(within=30)
        found = await it.audit()
        assert (found.states, found.made) == ({"succeeded": 24}, 24)


async def test_the_grace_ends_before_the_answers_come(world: Callable[..., Fleet[Process]]) -> None:
    """Unanswered calls are recorded as unknown, in the attempt log too, and their results are found by others."""
    options = Options(mode="self-hosted", projects=3, seed=53, upstream_pace=0.01)
    slow = {"PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-slow-mode-delay4"}
    async with world(options, **slow, PROVISIONER_WORKER__GRACE="1", **UNLIMITED) as it:
        await it.insert(name="first")  # in unknown projects few creates are in flight at once
        (worker,) = await it.start()
        await it.done(within=20)
        it.simulator.configure(upstream_pace=1.0)
        await it.insert()
        await it.simulator.until(lambda: len(it.simulator.world.creates) == 6)
        assert await worker.ends() == 0
        assert await it.value("SELECT count(*) FROM provisioner.in_flight") == 0
        assert await it.value("SELECT count(*) FROM provisioner.sent_creates") == 3
        it.simulator.configure(upstream_pace=0.01)
        await it.start()
        await it.done(within=30)
        found = await it.audit()
        assert (found.states, found.made) == ({"succeeded": 6}, 6)
