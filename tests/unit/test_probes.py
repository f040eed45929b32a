"""When is a worker well, and when is it ready: the judgement behind the probes and systemd's watchdog."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from provisioner.core.vitals import Vitals
from provisioner.observe.health import PATIENCE, Health
from tests.support.virtual_time import in_virtual_time

WELL = Vitals(worker=7, moves=100, lease_good=True, database_away=False, stopping=False)


def health(silent: int = 1, *, poll: float = 1.0, **changes: Any) -> Health:
    """The health of a worker after a number of observations without any progress."""
    seen = Health(lambda: replace(WELL, **changes), poll=poll)
    for _ in range(silent + 1):
        seen.look()
    return seen


def test_a_worker_at_work_is_well_and_ready() -> None:
    """Everything is fine, even before the first observation."""
    assert (health().ailment(), health().absence()) == ("", "")
    assert Health(lambda: WELL, poll=1.0).ailment() == ""


def test_maintenance_that_stopped_is_an_ailment() -> None:
    """Half a minute of observations without progress means that the worker must be restarted."""
    assert health(30).ailment() == ""
    assert health(31).ailment() == "maintenance has not run for 31 s"
    assert health(31).absence() == "maintenance has not run for 31 s"


def test_whatever_maintenance_does_is_a_sign_of_life() -> None:
    """A round that takes minutes because its statements are slow is no reason for a restart."""
    vitals = WELL
    seen = Health(lambda: vitals, poll=1.0)
    for number in range(300):
        seen.look()
        assert seen.ailment() == ""
        if number % 25 == 0:
            vitals = replace(vitals, moves=vitals.moves + 1)
    for _ in range(31):
        seen.look()
    assert seen.ailment() != ""
    vitals = replace(vitals, moves=vitals.moves + 1)
    seen.look()
    assert seen.ailment() == ""


@in_virtual_time
async def test_it_looks_each_second() -> None:
    """Only observations count: a process that was frozen is healthy when it is asked the moment it continues."""
    seen = Health(lambda: WELL, poll=1.0)
    looking = asyncio.create_task(seen.watch())
    await asyncio.sleep(30.5)
    assert seen.ailment() == ""
    await asyncio.sleep(1)
    assert seen.ailment() != ""
    looking.cancel()


def test_leisurely_maintenance_is_given_its_time() -> None:
    """With long polls maintenance may be silent for longer."""
    assert health(100, poll=20.0).ailment() == ""
    assert health(101, poll=20.0).ailment() != ""


def test_a_database_that_is_away_is_no_ailment() -> None:
    """A restart does not bring a database back: the worker stays alive, but is not ready."""
    gone = health(1000, database_away=True, lease_good=False)
    assert gone.ailment() == ""
    assert gone.absence() == "the database cannot be reached; trying again"


def test_an_absence_gives_maintenance_its_time_anew() -> None:
    """If maintenance paused while the database was away, its silence starts counting when the database is back."""
    vitals = WELL
    seen = Health(lambda: vitals, poll=1.0)
    for away in (False, True, False):
        vitals = replace(vitals, database_away=away)
        for _ in range(int(PATIENCE)):
            seen.look()
    assert seen.ailment() == ""


def test_a_lease_that_ran_out_is_no_ailment() -> None:
    """A worker that had no time to renew its lease takes a new one without a restart, and nothing before that."""
    late = health(lease_good=False)
    assert (late.ailment(), late.absence()) == ("", "the lease has expired and was not renewed")


@pytest.mark.parametrize("lease_good", [True, False])
def test_a_worker_that_stops_is_well_and_not_ready(lease_good: bool) -> None:
    """A worker that finishes its last requests is not killed."""
    stopping = health(stopping=True, lease_good=lease_good)
    assert (stopping.ailment(), stopping.absence()) == ("", "stopping")


def test_a_worker_that_starts_is_well_and_not_ready() -> None:
    """Before it is in the list of workers it has neither a lease nor maintenance."""
    starting = health(1000, worker=0, lease_good=False)
    assert (starting.ailment(), starting.absence()) == ("", "starting")
