"""Rows that are edited, removed and wanted again while answers are lost and workers are killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.sandbox.simulator.options import Options
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-b")

LOST = {
    "cut-after-commit": 0.08,
    "cut-before-commit": 0.05,
    "error-after-commit": 0.08,
    "error-before-commit": 0.05,
    "html-502": 0.05,
    "late-commit": 0.03,
}
EDITS = (
    "description = 'edition ' || (random() * 1000)::int",
    "wanted = 'absent'",
    "wanted = 'present'",
    "name = 'name-' || (random() * 1000)::int",
    "status = 'pending'",
)
SHORT = {"PROVISIONER_RETRY__BASE": "0.1", "PROVISIONER_RETRY__CAP": "1", "PROVISIONER_RETRY__MAX_ATTEMPTS": "50"}


async def adversary(it: Fleet[Process], rounds: int) -> None:
    """Edit rows at random; refused edits change nothing."""
    ids = [each["id"] for each in await it.fetch("SELECT id FROM provisioner.connection_requests")]
    for _ in range(rounds):
        edit = it.random.choice(EDITS)
        chosen = it.random.sample(ids, max(1, len(ids) // 10))
        for request in chosen:
            try:
                await it.fetch(f"UPDATE provisioner.connection_requests SET {edit} WHERE id = $1", request)
            except (asyncpg.ObjectInUseError, asyncpg.ObjectNotInPrerequisiteStateError):
                it.tally["edits refused"] += 1
            else:
                it.tally["edits"] += 1
        if it.random.random() < 0.4:
            await it.fetch("SELECT provisioner.rekey($1)", chosen)
        await asyncio.sleep(it.random.uniform(0.02, 0.15))


async def agree(it: Fleet[Process]) -> list[str]:
    """Where the table and Infisical differ, in words."""
    there = dict(it.simulator.world.connections)
    wrong = []
    for row in await it.fetch("SELECT * FROM provisioner.connection_requests"):
        connection = there.pop(str(row["connection_id"]), None)
        who = f"request {row['id']} ({row['status']}, wanted {row['wanted']})"
        if row["wanted"] == "absent":
            wrong += [f"{who} still has {row['connection_id']}"] if connection or row["status"] != "removed" else []
        elif row["status"] != "succeeded" or connection is None:
            wrong.append(f"{who} has no connection: {row['error_code']} {row['error_message']}")
        elif (connection.name, connection.description or None) != (row["name"], row["description"]):
            wrong.append(f"{who} is {connection.name!r}, {connection.description!r} instead of {row['name']!r}")
    return wrong + [
        f"{each.name} in {each.project_id} is known to no row" for each in there.values() if not each.planted
    ]


@pytest.mark.parametrize(
    ("projects", "rounds", "seed"), [(16, 8, 71), pytest.param(1000, 30, 72, marks=pytest.mark.soak)]
)
async def test_after_quiet_the_table_and_infisical_agree(
    world: Callable[..., Fleet[Process]], projects: int, rounds: int, seed: int
) -> None:
    """Whatever was lost, killed and edited, Infisical has exactly what the rows want, and nothing unknown."""
    options = Options(mode="self-hosted", projects=projects, faults=LOST, seed=seed, late_by=0.3)
    async with world(options, **UNLIMITED, **SHORT) as it:
        it.simulator.configure(change_faults=LOST)
        await it.insert(description="first")
        workers = await it.start(2)
        await it.finished(projects // 3, within=60)
        editing = asyncio.create_task(adversary(it, rounds))
        while not editing.done():
            await asyncio.wait([editing], timeout=1.0)
            victim = workers.pop(0)
            it.kill(victim)
            workers += await it.start()
        await editing
        it.simulator.configure(change_faults={}, faults={})
        # Requests that could not be retried, or lost a name that two rows wanted, are retried once.
        await it.fetch("UPDATE provisioner.connection_requests SET status = 'pending' WHERE status = 'failed'")
        await it.done(within=150)
        assert await agree(it) == []
        state: dict[str, Any] = it.simulator.state()
        it.tally["changes that met a fault"] += sum(state["changeFaults"].values())
