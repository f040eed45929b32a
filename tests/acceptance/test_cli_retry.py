"""`provisioner retry`: requests are tried again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import provisioner, query
from tests.support.operators import ask, finish, one_of_each, states

if TYPE_CHECKING:
    from tests.support.postgres import Database

DUE = "SELECT id FROM provisioner.waiting WHERE run_at <= now() ORDER BY id"


def test_failed_and_cancelled_ones_begin_again_and_waiting_ones_are_hurried(database: Database) -> None:
    """`--all` changes exactly what can be tried again, and says how many of each kind."""
    ids = one_of_each(database)
    done = provisioner("retry", "--all", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 failed: will be retried with a fresh set of attempts" in done.stdout
    assert "1 cancelled: will be retried" in done.stdout
    assert "1 waiting for their next attempt: retried at once" in done.stdout
    assert "3 unchanged (1 ready, 1 in flight, 1 succeeded)" in " ".join(done.stdout.split())
    assert query(database, DUE).split() == [str(ids[state]) for state in ("failed", "cancelled", "retrying")]
    assert states(database)[ids["succeeded"]] == "succeeded"


def test_a_filter_chooses(database: Database) -> None:
    """Only matches of the filter are retried; programs get counts."""
    ours, theirs = ask(database, batch="'ours'"), ask(database, batch="'theirs'")
    finish(database, ours + theirs, "failed", "permission_denied")
    done = provisioner("retry", "--batch", "ours", "--error", "permission_denied", "--json", database=database)
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["matched"], said["changed"], said["unchanged"]) == ({"failed": 1}, {"failed": 1}, 0)
    assert states(database) == {ours[0]: "waiting", theirs[0]: "failed"}


def test_a_dry_run_changes_nothing(database: Database) -> None:
    """`--dry-run` says what would be changed, and does nothing."""
    ids = one_of_each(database)
    (scheduled,) = ask(database, not_before="now() + interval '1 day'")
    before = states(database)
    done = provisioner("retry", "--all", "--dry-run", database=database)
    assert done.returncode == 0
    assert done.stdout.startswith("would be retried: 3 (1 failed, 1 cancelled, 1 retrying); nothing was changed")
    assert states(database) == before
    assert query(database, DUE) == ""
    assert {ids["retrying"], scheduled} <= before.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "select requests by ids, by filters, or with --all"),
        (["--all", "--state", "failed"], "--all cannot be combined with ids or filters"),
    ],
)
def test_everything_has_to_be_meant(database: Database, arguments: list[str], said: str) -> None:
    """Without a filter nothing is changed, unless `--all` says so."""
    finish(database, ask(database), "failed", "gave_up")
    done = provisioner("retry", *arguments, database=database)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert set(states(database).values()) == {"failed"}


def test_ids_that_cannot_be_tried_again_are_exit_status_one(database: Database) -> None:
    """An unknown id is named, and a succeeded request is not retried."""
    (request,) = ask(database)
    finish(database, [request])
    done = provisioner("retry", str(request), database=database)
    assert done.returncode == 1
    assert "1 unchanged (1 succeeded)" in done.stdout
    done = provisioner("retry", "4711", database=database)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: there is no request 4711\n")


def test_a_filter_that_matches_nothing_is_no_failure(database: Database) -> None:
    """A script may retry what failed without looking first whether anything did."""
    done = provisioner("retry", "--state", "failed", database=database)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no request matches\n", "")
