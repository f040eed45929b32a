"""Any interleaving of claims, sends, commits, answers, settlements, lost leases, rescues, cancellations and retries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.machine import Journey

if TYPE_CHECKING:
    from collections import Counter

    from tests.support.postgres import Database

EXAMPLES = 40

pytestmark = pytest.mark.xdist_group("faults-b")


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(0, 24), pytest.param(120, 80, marks=(pytest.mark.soak, pytest.mark.timeout(600)))],
)
def test_whatever_comes_between(database: Database, tally: Counter[str], seconds: float, steps: int) -> None:
    """Each request is in one place at any time, ends once, and each connection of ours is recorded in the end."""

    class Here(Journey):
        url = database.url

    ends = time.monotonic() + seconds
    while not tally or time.monotonic() < ends:
        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=steps,
                suppress_health_check=list(HealthCheck),
            ),
        )
        tally["interleavings"] += EXAMPLES
        tally["steps of them"] += EXAMPLES * steps
