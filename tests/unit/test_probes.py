"""When is a worker well, and when is it ready: the judgement behind the probes and systemd's watchdog."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provisioner.core.vitals import Vitals
from provisioner.observe.health import Health

WELL = Vitals(worker=7, last_round_at=100.0, lease_good=True, database_away=False, stopping=False)


def health(now: float = 101.0, *, poll: float = 1.0, **changes: Any) -> Health:
    """The health of a worker that is well but for the changes; its keeper came round at 100."""
    return Health(lambda: replace(WELL, **changes), monotonic=lambda: now, poll=poll)


def test_a_worker_at_work_is_well_and_ready() -> None:
    """Nothing ails it and nothing is missing."""
    assert (health().ailment(), health().absence()) == ("", "")


def test_a_keeper_that_stopped_is_an_ailment() -> None:
    """Several polls without a round of the keeper mean that the worker has to be restarted."""
    assert health(114.0).ailment() == ""
    assert health(116.0).ailment() == "maintenance has not run for 16 s"
    assert health(116.0).absence() == "maintenance has not run for 16 s"


def test_a_leisurely_keeper_is_given_its_time() -> None:
    """With long polls the keeper may be silent for longer."""
    assert health(140.0, poll=10.0).ailment() == ""
    assert health(151.0, poll=10.0).ailment() != ""


def test_a_database_that_is_away_is_no_ailment() -> None:
    """Restarting does not bring a database back: the worker lives on, whatever else stands still, but is not ready."""
    gone = health(1000.0, database_away=True, lease_good=False)
    assert gone.ailment() == ""
    assert gone.absence() == "the database cannot be reached; trying again"


def test_a_lease_that_ran_out_is_an_ailment() -> None:
    """A worker that reaches the database and has no lease does not do its work."""
    assert health(lease_good=False).ailment() == "the lease has expired and was not renewed"


@pytest.mark.parametrize("lease_good", [True, False])
def test_a_worker_that_stops_is_well_and_not_ready(lease_good: bool) -> None:
    """Nobody kills a worker that lets its last requests end."""
    stopping = health(stopping=True, lease_good=lease_good)
    assert (stopping.ailment(), stopping.absence()) == ("", "stopping")


def test_a_worker_that_starts_is_well_and_not_ready() -> None:
    """Before it is in the list of workers it has neither a lease nor a keeper."""
    starting = health(1000.0, worker=0, lease_good=False)
    assert (starting.ailment(), starting.absence()) == ("", "starting")
