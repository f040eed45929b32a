"""`provisioner run --drain`: its exit status and its summary are correct."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from provisioner.cli.serve.run import exit_status, told
from provisioner.core.reports import Leftovers
from tests.support import eventually
from tests.support.cli import SCRIPT, environment, provisioner, query
from tests.support.infisical import Infisical, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database

DRAIN = ("run", "--drain", "--listen", "off")
KEY = "PROVISIONER_CREDENTIALS__DEFAULT__VALUE"


@pytest.fixture(scope="module")
def infisical() -> Iterator[Infisical]:
    """Run one simulated Infisical for the tests of this file."""
    with simulated("--mode", "self-hosted", "--any-project", "--latency", "0.01") as infisical:
        yield infisical


def ask_for(database: Database, count: int, **columns: str) -> None:
    """Request connections in this many projects."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    query(
        database,
        f"INSERT INTO provisioner.connection_requests (project_id{names})"
        f" SELECT gen_random_uuid(){values} FROM generate_series(1, {count})",
    )


def drained(database: Database, infisical: Infisical, **more: str) -> tuple[int, list[str]]:
    """The exit status and the summary."""
    done = provisioner(*DRAIN, database=database, more={**infisical.variables, **more})
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


def test_all_done(database: Database, infisical: Infisical) -> None:
    """It exits with 0, and scheduled requests do not count against it."""
    ask_for(database, 3)
    ask_for(database, 1, name="'later'", not_before="now() + interval '1 day'")
    assert drained(database, infisical) == (
        0,
        ["3 succeeded, 0 failed, 1 left", "1 request waits for its time: not_before is later"],
    )
    ask_for(database, 1, name="'even-later'", not_before="now() + interval '1 day'")
    assert drained(database, infisical)[1][1:] == ["2 requests wait for their time: not_before is later"]


def test_some_failed(database: Database, infisical: Infisical) -> None:
    """It exits with 3, and says what failed, why, and what to do."""
    ask_for(database, 2)
    ask_for(database, 1, name="'other'", credential="'nobody'")
    status, lines = drained(database, infisical)
    assert (status, lines[0]) == (3, "2 succeeded, 1 failed, 0 left")
    assert lines[1].startswith("1 failed with credential_unknown: add the credential to the workers' settings")
    assert "provisioner retry --error credential_unknown" in lines[1]


def test_a_paused_target(database: Database, infisical: Infisical) -> None:
    """It exits with 1, and names the target and the command that resumes it."""
    ask_for(database, 2)
    query(database, "SELECT provisioner.pause('default')")
    assert drained(database, infisical) == (
        1,
        [
            "0 succeeded, 0 failed, 2 left",
            "2 requests wait for target default, which is paused; `provisioner resume default` resumes it",
        ],
    )


def test_a_quarantined_key(database: Database, infisical: Infisical) -> None:
    """It exits with 1, and names the credential."""
    ask_for(database, 20)
    status, lines = drained(database, infisical, **{KEY: "sk-or-v1-wrong-mode-401", "PROVISIONER_RETRY__BASE": "0.1"})
    assert (status, lines[0]) == (1, "0 succeeded, 3 failed, 17 left")
    assert lines[1].startswith("3 failed with credential_refused")
    assert lines[2].startswith("17 requests wait for the API key of credential default, which OpenRouter refuses")


def test_outcomes_that_were_set_aside(database: Database, infisical: Infisical) -> None:
    """All outcomes that may be recorded by now are, before it ends, and they count as this run's."""
    query(
        database,
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the books are closed'; END $$;"
        " CREATE TRIGGER refuse AFTER UPDATE ON provisioner.connection_requests"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    )
    ask_for(database, 25)  # more than are checked in a second
    status, lines = drained(database, infisical)
    assert (status, lines[0]) == (1, "0 succeeded, 0 failed, 25 left")
    query(database, "DROP TRIGGER refuse ON provisioner.connection_requests")
    query(database, "UPDATE provisioner.unrecorded SET retry_at = now()")
    assert drained(database, infisical) == (0, ["25 succeeded, 0 failed, 0 left"])


def test_what_ended_earlier_is_not_counted(database: Database, infisical: Infisical) -> None:
    """The summary and the exit status are about this run."""
    ask_for(database, 1, name="'other'", credential="'nobody'")
    assert drained(database, infisical)[0] == 3
    ask_for(database, 1)
    assert drained(database, infisical) == (0, ["1 succeeded, 0 failed, 0 left"])
    query(database, "UPDATE provisioner.connection_requests SET wanted = 'absent' WHERE status = 'succeeded'")
    assert drained(database, infisical) == (0, ["0 succeeded, 0 failed, 1 removed, 0 left"])


async def test_a_stop_before_the_end(database: Database) -> None:
    """A run that is stopped early says so and exits with 1."""
    with simulated("--any-project", "--write-limit", "5", "--window", "600") as infisical:
        ask_for(database, 20)
        process = subprocess.Popen(  # noqa: ASYNC220, S603  # returns at once; our own arguments
            [SCRIPT, *DRAIN],
            env=environment(database, **infisical.variables),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        done = "SELECT count(*) > 0 FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await eventually(lambda: query(database, done) == "t")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode == 1
    assert "the run was stopped before everything was done" in said


@pytest.mark.parametrize(
    ("left", "status"),
    [
        (Leftovers(), 0),
        (Leftovers(succeeded=5, scheduled=2), 0),
        (Leftovers(failed={"gave_up": 1}), 3),
        (Leftovers(failed={"gave_up": 1}, paused={"default": 1}), 1),
        (Leftovers(quarantined={"default": 1}), 1),
        (Leftovers(unfinished=1), 1),
    ],
)
def test_the_exit_status_is_the_worst_that_is_left(left: Leftovers, status: int) -> None:
    """What could not be done outweighs failures, and every cause has its line."""
    assert exit_status(left) == status
    causes = [*left.failed, *left.paused, *left.quarantined, *filter(None, (left.scheduled, left.unfinished))]
    assert len(list(told(left))) == 1 + len(causes)
