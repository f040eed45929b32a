"""`provisioner limit`: a target is limited while workers run, and the limit is lifted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import provisioner, query
from tests.support.operators import ask

if TYPE_CHECKING:
    from tests.support.postgres import Database

SET = (
    "SELECT target, writes_limit, writes_period, in_flight_limit FROM provisioner.targets WHERE limited_at IS NOT NULL"
)


def test_a_limit_is_set_shown_and_lifted(database: Database) -> None:
    """Limits that are not named stay; `status` shows limits and their author; lifting them leaves nothing."""
    ask(database)
    one = provisioner("limit", "default", "--writes", "60/min", database=database)
    assert (one.returncode, one.stdout) == (
        0,
        "target default is limited to 60/min writes; `provisioner limit default --as-configured` lifts it\n",
    )
    both = provisioner("limit", "--in-flight", "16", database=database)
    assert "is limited to 60/min writes and 16 creates in flight; " in both.stdout
    assert query(database, SET) == "default|60|60|16"
    shown = " ".join(provisioner("status", database=database).stdout.split())
    assert "limited to 60 writes in 60 s and 16 in flight by provisioner since 20" in shown
    (target,) = json.loads(provisioner("status", "--json", database=database).stdout)["targets"]
    assert (target["allowed_writes"], target["allowed_period"], target["allowed_in_flight"]) == (60, 60.0, 16)
    assert target["limited_by"] == "provisioner"
    lifted = provisioner("limit", "default", "--as-configured", database=database)
    assert (lifted.returncode, lifted.stdout) == (0, "target default is limited as configured\n")
    assert query(database, SET) == ""
    assert "limited to" not in provisioner("status", database=database).stdout


def test_programs_learn_what_holds_now(database: Database) -> None:
    """`--json` has all limits, since when and by whom."""
    said = json.loads(provisioner("limit", "--writes", "20/10s", "--json", database=database).stdout)
    assert said.pop("limited_at").startswith("20")
    assert said == {
        "target": "default",
        "writes": 20,
        "period": 10.0,
        "in_flight": None,
        "limited_by": "provisioner",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "give --writes, --in-flight, or --as-configured"),
        (["--writes", "sixty"], "must be a number per time, such as 60/min, 5/s or 20/10s"),
        (["--writes", "0/min"], "must be a number per time, such as 60/min, 5/s or 20/10s"),
        (["--writes", "auto"], "--as-configured lifts the limit"),
        (["--in-flight", "0"], "must be greater than or equal to 1"),
        (["--writes", "1/s", "--as-configured"], "--as-configured cannot be combined with --writes or --in-flight"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(database: Database, given: list[str], said: str) -> None:
    """A bad or missing limit is exit status 2 with the permitted forms, and nothing changes."""
    done = provisioner("limit", "default", *given, database=database)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert query(database, SET) == ""


def test_an_unknown_target_is_told(database: Database) -> None:
    """A misspelt target is exit status 1, and the known ones are named."""
    done = provisioner("limit", "ue", "--in-flight", "3", database=database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is no target 'ue'; known targets: default\n"
    assert query(database, SET) == ""
