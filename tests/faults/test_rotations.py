"""Projects with a connection and a rotation each get one key each, whatever is lost, and no unknown keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest

from provisioner.sandbox.audit import audit_rotations
from provisioner.sandbox.simulator.options import Options
from tests.faults.test_answers import A_THIRD
from tests.faults.test_desired_state import LOST, SHORT
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-c")

# A third of all creates of rotations, before and after the key is issued.
OF_ROTATIONS: Final = {
    "cut-before-commit": 0.05,
    "cut-after-commit": 0.07,
    "late-commit": 0.06,
    "error-before-commit": 0.03,
    "error-after-commit": 0.05,
    "html-502": 0.03,
    "key-then-error": 0.03,
    "key-then-cut": 0.03,
}
ASKED: Final = """
INSERT INTO provisioner.rotation_requests (project_id, project_name, spend_limit)
SELECT p::uuid, 'project ' || n, 10 FROM unnest($1::text[]) WITH ORDINALITY AS u (p, n)
"""
ROWS: Final = "SELECT *, rotation_id::text, connection_id::text FROM provisioner.rotation_requests"


@pytest.mark.parametrize(
    ("projects", "seed"),
    [(25, 31), pytest.param(300, 3100, marks=(pytest.mark.soak, pytest.mark.timeout(900)))],
)
async def test_a_key_of_its_own_for_every_project(
    world: Callable[..., Fleet[Process]], projects: int, seed: int
) -> None:
    """As many connections, rotations, keys and secrets as projects; every other key is named in a row."""
    options = Options(
        mode="self-hosted",
        projects=projects,
        seed=seed,
        latency=0.01,
        upstream_pace=0.2,
        faults=A_THIRD,
        rotation_faults=OF_ROTATIONS,
        late_by=1.0,
        replica_lag=0.3,
    )
    async with world(options, **UNLIMITED) as it:
        await it.fetch(ASKED, it.simulator.projects)
        await it.insert(description="the same")
        workers = await it.start(2)
        await it.made(projects // 3)
        it.kill(workers[0])
        await it.start()
        await it.done(within=60 + projects)
        pending = "SELECT count(*) FROM provisioner.rotation_requests WHERE status = 'pending'"
        await it.until(pending, 0, within=60 + projects)
        await it.audit()
        rows = [dict(row) for row in await it.fetch(ROWS)]
        state = it.simulator.state()
        assert not audit_rotations(rows, state)
        assert {row["status"] for row in rows} == {"succeeded"}
        assert len(state["connections"]) == len(state["rotations"]) == len(state["secrets"]) == projects
        assert sum(key["rotationId"] is not None for key in state["keys"]) == projects
        assert not any("generated-credentials" in route for route in state["requests"])
        assert sum(state["rotationFaults"].values()) > projects // 8


EDITS: Final = (
    "interval_days = 1 + (random() * 300)::int",
    "description = 'edition ' || (random() * 1000)::int, spend_limit = 1 + (random() * 50)::int",
    "name = 'name-' || (random() * 1000)::int, secret_name = 'KEY_' || (random() * 1000)::int",
    "wanted = 'absent', with_secrets = true",
    "wanted = 'absent', with_secrets = true, revoke_keys = true",
    "wanted = 'present'",
    "status = 'pending'",
)


async def adversary(it: Fleet[Process], rounds: int) -> None:
    """Edit, cancel and retry rotations at random; refused actions change nothing."""
    ids = [each["id"] for each in await it.fetch("SELECT id FROM provisioner.rotation_requests")]
    for _ in range(rounds):
        edit, chosen = it.random.choice(EDITS), it.random.sample(ids, max(1, len(ids) // 6))
        for request in chosen:
            try:
                await it.fetch(f"UPDATE provisioner.rotation_requests SET {edit} WHERE id = $1", request)
            except (asyncpg.ObjectInUseError, asyncpg.ObjectNotInPrerequisiteStateError):
                it.tally["edits refused"] += 1
            else:
                it.tally["edits"] += 1
        if it.random.random() < 0.3:
            await it.fetch(f"SELECT provisioner.{it.random.choice(('cancel', 'retry'))}($1)", chosen[:1])
        await asyncio.sleep(it.random.uniform(0.02, 0.2))


@pytest.mark.parametrize(
    ("projects", "rounds", "seed"),
    [(16, 14, 37), pytest.param(300, 60, 3700, marks=(pytest.mark.soak, pytest.mark.timeout(900)))],
)
async def test_edited_and_removed_under_fire(
    world: Callable[..., Fleet[Process]], projects: int, rounds: int, seed: int
) -> None:
    """After quiet each rotation is as its row says, or gone with it, and every key is in use, revoked or named."""
    options = Options(
        mode="self-hosted",
        projects=projects,
        seed=seed,
        latency=0.01,
        upstream_pace=0.2,
        rotation_faults=OF_ROTATIONS,
        late_by=0.5,
    )
    async with world(options, **UNLIMITED, **SHORT) as it:
        it.simulator.configure(changeFaults=LOST)
        await it.fetch(ASKED, it.simulator.projects)
        await it.insert()
        workers = await it.start(2)
        made = "SELECT count(*) FROM provisioner.rotation_requests WHERE status = 'succeeded'"
        await it.until(made, lambda n: n >= projects // 2, within=60 + projects)
        editing = asyncio.create_task(adversary(it, rounds))
        while not editing.done():
            await asyncio.wait([editing], timeout=1.0)
            it.kill(workers.pop(0))
            workers += await it.start()
        await editing
        it.simulator.configure(changeFaults={}, rotationFaults={})
        pending = "SELECT count(*) FROM provisioner.rotation_requests WHERE status = 'pending'"
        ended = "SELECT array_agg(id) FROM provisioner.rotation_requests WHERE status NOT IN ('succeeded', 'removed')"
        for _ in range(2):  # a rotation that was cancelled last may end as cancelled after the first retry
            await it.fetch("SELECT provisioner.retry($1)", await it.value(ended) or [])
            await it.until(pending, 0, within=150 + projects)
        rows, state = [dict(row) for row in await it.fetch(ROWS)], it.simulator.state()
        assert not audit_rotations(rows, state)
        assert {(row["wanted"], row["status"]) for row in rows} <= {("present", "succeeded"), ("absent", "removed")}
        assert sum(state["changeFaults"].values()) > 0
        it.tally["changes that met a fault"] += sum(state["changeFaults"].values())
