"""Projects that get a connection and a rotation each: a key for each, whatever is lost, and none that nobody names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from provisioner.sandbox.audit import audit_rotations
from provisioner.sandbox.simulator.options import Options
from tests.faults.test_answers import A_THIRD
from tests.faults.world import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.world import World

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
async def test_a_key_of_its_own_for_every_project(world: Callable[..., World], projects: int, seed: int) -> None:
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
    async with world(options, seed=seed, **UNLIMITED) as it:
        await it.fetch(ASKED, it.simulator.projects)
        await it.request(description="the same")
        workers = [it.work(), it.work()]
        await it.made(projects // 3)
        it.kill(workers[0])
        it.work()
        await it.done(within=60 + projects)
        pending = "SELECT count(*) FROM provisioner.rotation_requests WHERE status = 'pending'"
        await it.until(lambda: it.value(pending), lambda n: n == 0, within=60 + projects)
        await it.audit()
        rows = [dict(row) for row in await it.fetch(ROWS)]
        state = it.simulator.state()
        assert not audit_rotations(rows, state)
        assert {row["status"] for row in rows} == {"succeeded"}
        assert len(state["connections"]) == len(state["rotations"]) == len(state["secrets"]) == projects
        assert sum(key["rotationId"] is not None for key in state["keys"]) == projects
        assert not any("generated-credentials" in route for route in state["requests"])
        assert sum(state["rotationFaults"].values()) > projects // 8
