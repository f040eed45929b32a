"""The forecast of one minute after the start comes true, or says why there is none; minutes are shortened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.forecast.scenarios import REASONS, SCENARIOS, play

if TYPE_CHECKING:
    from tests.support.postgres import Database

# The slow scenarios, which need an idle machine, are for `make soak`; this one has no end to wait for.
QUICK = ("an outage",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in SCENARIOS]
)
async def test_what_was_foreseen_comes_true(database: Database, name: str) -> None:
    """Forecasts are within 15 % of the actual time, or give the reason why there is none."""
    outcomes = await play(database.url, name)
    assert outcomes
    assert [one for one in outcomes if not one.good] == []
    for one in outcomes:
        assert one.why is None or one.why == REASONS[name, one.batch]
