"""`provisioner cancel`: requests are cancelled."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import SCRIPT, environment, provisioner
from tests.support.operators import ask, finish, one_of_each, postpone, states

if TYPE_CHECKING:
    from tests.support.postgres import Database


def test_what_is_not_finished_is_called_off(database: Database) -> None:
    """Requests in line are cancelled at once, those in flight or in doubt end first, failed ones too; all reported."""
    ids = one_of_each(database)
    (doubted,) = ask(database)
    postpone(database, doubted, code="outcome_unknown", unknown=True)
    done = provisioner("cancel", "--all", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["2", "cancelled"],
        ["2", "in"],
        ["1", "failed:"],
        ["2", "unchanged"],
    ]
    after = states(database)
    assert [after[ids[state]] for state in ids] == [
        *("succeeded", "cancelled", "cancelled", "cancelled", "in_flight", "cancelled")
    ]
    assert after[doubted] == "waiting"


def test_programs_get_counts(database: Database) -> None:
    """`--json` has what matched, changed and stayed."""
    ids = one_of_each(database)
    done = provisioner("cancel", "--batch", "mixed", "--json", database=database)
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert said["changed"] == {"cancelled": 2, "ending": 1, "put aside": 1}
    assert (sum(said["matched"].values()), said["unchanged"], said["unknown"]) == (len(ids), 2, [])


def test_a_dry_run_changes_nothing(database: Database) -> None:
    """`--dry-run` reports what would be cancelled."""
    one_of_each(database)
    before = states(database)
    done = provisioner("cancel", "--state", "pending", "--dry-run", database=database)
    assert done.stdout == "would be cancelled: 3 (1 retrying, 1 ready, 1 in flight); nothing was changed (--dry-run)\n"
    assert states(database) == before


def test_ids_and_filters_narrow_down(database: Database) -> None:
    """Of the ids only those that also match the filter are cancelled."""
    first, second = ask(database, 2)
    (third,) = ask(database, batch="'b'")
    done = provisioner("cancel", str(first), str(third), "--batch", "b", database=database)
    assert done.returncode == 0
    assert states(database) == {first: "ready", second: "ready", third: "cancelled"}


def test_what_has_ended_cannot_be_called_off(database: Database) -> None:
    """Calling off a finished request by its id is exit status 1."""
    (request,) = ask(database)
    finish(database, [request])
    done = provisioner("cancel", str(request), database=database)
    assert done.returncode == 1
    assert states(database) == {request: "succeeded"}


@pytest.mark.parametrize(
    ("answer", "status", "left"), [(b"n\n", 1, {"ready"}), (b"y\n", 0, {"cancelled"}), (b"\x04", 130, {"ready"})]
)
def test_a_terminal_is_asked_before_many_are_changed(
    database: Database, answer: bytes, status: int, left: set[str]
) -> None:
    """On a terminal more than twenty are cancelled only after a yes."""
    ask(database, 21)
    ours, theirs = pty.openpty()
    told = environment(database, TERM="xterm-256color", NO_COLOR="1")
    with subprocess.Popen([SCRIPT, "cancel", "--all"], stdin=theirs, stdout=theirs, stderr=theirs, env=told) as process:  # noqa: S603  # ours
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 65536)
        os.write(ours, answer)
        process.wait(20)
    os.close(theirs)
    os.close(ours)
    assert b"Cancel 21 requests?" in shown
    assert process.returncode == status
    assert set(states(database).values()) == left


@pytest.mark.parametrize(("count", "option"), [(20, "--json"), (21, "--yes")])
def test_a_terminal_is_not_asked_for_few_or_after_yes(database: Database, count: int, option: str) -> None:
    """Twenty are cancelled without a question, more of them with `--yes`."""
    ask(database, count)
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603  # ours
        [SCRIPT, "cancel", "--all", option],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(database, TERM="xterm-256color"),
    ) as process:
        process.wait(20)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 0
    assert set(states(database).values()) == {"cancelled"}


def test_many_are_called_off_in_batches(database: Database) -> None:
    """More requests than fit into one transaction are all cancelled, and counted together."""
    ask(database, 10_050, batch="'many'")
    (kept,) = ask(database)
    done = provisioner("cancel", "--batch", "many", "--json", database=database)
    assert done.returncode == 0
    assert json.loads(done.stdout)["changed"] == {"cancelled": 10_050}
    left = states(database)
    assert left.pop(kept) == "ready"
    assert set(left.values()) == {"cancelled"}
