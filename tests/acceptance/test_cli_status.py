"""`provisioner status`: what people and scripts see."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import SCRIPT, environment, provisioner, query
from tests.support.operators import foresee

if TYPE_CHECKING:
    from tests.support.postgres import Database

ASK = (
    "INSERT INTO provisioner.connection_requests (project_id, batch)"
    " SELECT gen_random_uuid(), {} FROM generate_series(1, {})"
)
PAUSE = "INSERT INTO provisioner.targets (target, paused_at, paused_by) VALUES ('default', now(), 'ann')"
LIMIT = "INSERT INTO provisioner.permits (target, kind, metered, permits) VALUES ('default', 'write', true, 1)"
WORKER = (
    "INSERT INTO provisioner.workers (name, version, targets, lease_until, pace)"
    " VALUES ('w', '1', '{default}', now() + interval '1 hour', 2)"
)
FINISH = (
    "WITH gone AS (DELETE FROM provisioner.ready RETURNING id)"
    " UPDATE provisioner.connection_requests AS q SET status = '{}', error_code = {},"
    " error_message = 'because of [this]', finished_at = now() FROM gone WHERE gone.id = q.id"
)


def ask(database: Database, count: int, batch: str | None = None) -> None:
    """Insert this many requests."""
    query(database, ASK.format(f"'{batch}'" if batch else "NULL", count))


def finish(database: Database, state: str = "succeeded", code: str | None = None) -> None:
    """End everything that is ready."""
    query(database, FINISH.format(state, f"'{code}'" if code else "NULL"))


def test_before_the_first_request_it_says_how_to_begin(database: Database) -> None:
    """An empty table is no trouble."""
    done = provisioner("status", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert "provisioner submit FILE" in done.stdout


def test_work_that_goes_on_is_no_concern(database: Database) -> None:
    """While a worker is at it, the exit status is 0, and everything about it is on the page, in plain text."""
    ask(database, 2, "old")
    finish(database)
    query(database, WORKER)
    query(
        database,
        "INSERT INTO provisioner.permits (target, kind, metered, permits) VALUES ('default', 'write', true, 1)",
    )
    ask(database, 2, "new")
    foresee(database)
    done = provisioner("status", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:4] == ["batch", "done", "requests", "succeeded"]
    assert ["everything", "50", "%", "4", "2", *["0"] * 6, "2", *["0"] * 3] in [line[:15] for line in lines]
    assert ["new", "0", "%", "2"] in [line[:4] for line in lines]
    assert ["old", "100", "%", "2"] in [line[:4] for line in lines]
    assert "in 2 min (" in done.stdout
    assert ["default", "2", "1", "1", "creates/min", "working"] in lines
    assert "1 worker is running; 2.0 creates/s recently" in done.stdout
    assert "\x1b" not in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


def test_how_many_may_be_in_flight_is_told(database: Database) -> None:
    """Beside a target's limit are the creates that all workers may have in flight, and the number that was too many."""
    ask(database, 1, "some")
    query(database, WORKER)
    query(
        database,
        "INSERT INTO provisioner.concurrency (target, address, in_flight_limit, cliff, cliff_at, bar, stalled_at)"
        " VALUES ('default', 'https://infisical.example', 1, 8, 1790000000, 6, 1790000000)",
    )
    told = provisioner("status", database=database).stdout
    assert "1 in flight (8 stalled the server)" in told
    assert "too many creates were in flight" in told


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT 1", "no worker serves target default: `provisioner run` starts one"),
        (
            f"{WORKER}; {PAUSE}",
            "target default is paused and 3 requests wait for it: `provisioner resume default` resumes it",
        ),
    ],
)
def test_what_needs_a_person_is_exit_status_one(database: Database, statement: str, said: str) -> None:
    """Work without a worker, and requests for a paused target, are shown with advice."""
    ask(database, 3)
    query(database, statement)
    done = provisioner("status", database=database)
    assert done.returncode == 1
    assert f"! {said}\n" in done.stdout
    document = json.loads(provisioner("status", "--json", database=database).stdout)
    assert document["concerns"] == [said]


def test_failures_are_explained(database: Database) -> None:
    """Failed requests are shown by code with an example and advice, and the exit status is 1."""
    ask(database, 1200, "all")
    finish(database, "failed", "project_not_found")
    done = provisioner("status", "--batch", "all", database=database)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("project_not_found")]
    assert "1,200" in line
    assert "because of [this]" in line
    assert "compare project_id with the ID in the project's settings in Infisical" in line
    assert (
        "! 1,200 requests have failed: fix the cause, then run `provisioner retry --error project_not_found`\n"
        in done.stdout
    )


def test_one_batch_is_shown_alone(database: Database) -> None:
    """Other batches' trouble does not concern a batch."""
    ask(database, 1, "theirs")
    finish(database, "failed", "gave_up")
    ask(database, 2, "ours")
    finish(database)
    done = provisioner("status", "--batch", "ours", "--json", database=database)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert (document["progress"]["batch"], document["progress"]["succeeded"]) == ("ours", 2)
    assert (document["failures"], document["concerns"]) == ([], [])


def test_an_unknown_batch_is_told(database: Database) -> None:
    """A misspelt batch is not taken for an empty one."""
    ask(database, 1, "ours")
    done = provisioner("status", "--batch", "oursy", database=database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no request belongs to the batch 'oursy'; `provisioner status` lists the batches\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_watching_ends_with_the_work(database: Database, form: str) -> None:
    """`--watch` without a terminal writes a line when something has changed, and ends when all is finished."""
    ask(database, 3)
    arguments = [str(SCRIPT), "status", "--watch", *(["--json"] if form == "json" else [])]
    with subprocess.Popen(  # noqa: S603  # our own arguments
        arguments, stdout=subprocess.PIPE, env=environment(database), text=True
    ) as process:
        assert process.stdout
        first = process.stdout.readline()
        finish(database)
        last = process.stdout.read()
    assert process.returncode == 0
    if form == "json":
        assert json.loads(first)["progress"]["ready"] == 3
        assert json.loads(last.splitlines()[-1])["progress"]["succeeded"] == 3
    else:
        assert first == "0 of 3 finished, nobody at work\n"
        assert "everything  100 %" in last


def test_watching_ends_by_interrupt(database: Database) -> None:
    """Ctrl-C ends `--watch` without a traceback."""
    ask(database, 3)
    with subprocess.Popen(  # noqa: S603  # our own arguments
        [SCRIPT, "status", "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(database),
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "0 of 3 finished, nobody at work\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == 130


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_bars_and_colour_unless_told_otherwise(database: Database, variables: dict[str, str]) -> None:
    """On a terminal there are bars, and colour unless NO_COLOR says no."""
    ask(database, 2)
    finish(database, "failed", "gave_up")
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm-256color", "COLUMNS": "140"} | variables
    with subprocess.Popen(  # noqa: S603  # our own arguments
        [SCRIPT, "status"], stdout=theirs, stdin=theirs, env=environment(database, **more)
    ) as process:
        os.close(theirs)
        shown = b""
        while not shown.rstrip().endswith(b"--error gave_up`\x1b[0m") and not shown.rstrip().endswith(
            b"--error gave_up`"
        ):
            shown += os.read(ours, 65536)
    os.close(ours)
    assert process.returncode == 1
    assert "━" in shown.decode()
    assert (b"\x1b[1;31m" in shown) is not bool(variables)


def test_one_target_is_looked_at_alone(database: Database) -> None:
    """Its counts, its batches, its failures and its alerts; a target that nothing is for is named."""
    ask(database, 2, "ours")
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id, target, batch)"
        " SELECT gen_random_uuid(), 'eu', b FROM unnest(ARRAY ['ours', 'theirs', 'theirs']) AS b",
    )
    done = provisioner("status", "--target", "eu", "--json", database=database)
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    assert (seen["progress"]["requests"], seen["progress"]["ready"]) == (3, 3)
    assert {each["batch"]: each["requests"] for each in seen["batches"]} == {"ours": 1, "theirs": 2}
    assert [each["target"] for each in seen["targets"]] == ["eu"]
    both = provisioner("status", "--target", "eu", "--batch", "theirs", "--json", database=database)
    assert json.loads(both.stdout)["progress"]["requests"] == 2
    none = provisioner("status", "--target", "us", database=database)
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr == "error: no request is for target 'us'; `provisioner status` lists the targets\n"
