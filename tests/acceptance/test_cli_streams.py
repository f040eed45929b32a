"""Full, closed and broken outputs: one line if there is room for it, and never a traceback."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import SCRIPT, environment, forked, query
from tests.support.machines import little_room
from tests.support.operators import one_of_each

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

ONE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
FULL = "/dev/full"
CLOSED = "closed"
PRINTING = [
    ["--help"],
    ["--version"],
    ["migrate", "--check"],
    ["submit", "FILE", "--dry-run"],
    ["submit", "FILE", "--json"],
    ["status"],
    ["status", "--json"],
    ["list"],
    ["list", "--json"],
    ["show", "1"],
    ["show", "1", "--json"],
    ["export"],
    ["export", "--format", "jsonl"],
    ["doctor"],
    ["doctor", "--json"],
    ["keys", "list"],
    ["keys", "list", "--json"],
    ["settings"],
    ["settings", "--json"],
    ["retry", "--state", "failed", "--dry-run", "--json"],
    ["cancel", "--state", "ready", "--dry-run"],
    ["pause", "default"],
    ["run", "--help"],
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Make a file that `submit` takes."""
    path = tmp_path / "projects.csv"
    path.write_text(f"project_id\n{ONE}\n")
    return str(path)


def asked(arguments: list[str], file: str) -> list[str]:
    """Put the file in its place."""
    return [file if argument == "FILE" else argument for argument in arguments]


@pytest.mark.parametrize("place", [FULL, CLOSED])
def test_an_output_that_takes_nothing_is_one_line_and_one(database: Database, file: str, place: str) -> None:
    """Whatever a command prints, a full output is reported in one line of standard error, with exit status 1."""
    one_of_each(database)
    reason = {FULL: "No space left on device", CLOSED: "Bad file descriptor"}[place]
    for arguments in PRINTING:
        done = forked(asked(arguments, file), environment(database), instead={"stdout": place})
        said = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
        assert (done.returncode, said[-1:]) == (1, [f"error: standard output cannot be written: {reason}"]), arguments
        assert len(said) == 1, arguments


@pytest.mark.parametrize("place", [FULL, CLOSED])
def test_errors_that_cannot_be_told_change_no_exit_status(database: Database, file: str, place: str) -> None:
    """Without standard error, exit status and standard output are the same."""
    for arguments in [
        ["sbumit"],
        ["show", "4711"],
        ["status", "--wacth"],
        ["submit", "/nowhere"],
        ["export"],
        ["list"],
    ]:
        usual = forked(asked(arguments, file), environment(database))
        done = forked(asked(arguments, file), environment(database), instead={"stderr": place})
        assert (done.returncode, done.stdout) == (usual.returncode, usual.stdout), arguments


@pytest.mark.parametrize("place", [FULL, CLOSED])
def test_no_stream_at_all_ends_in_a_status(database: Database, file: str, place: str) -> None:
    """With nowhere to print, a command still ends with its status, and no stream becomes the database's connection."""
    nowhere = {"stdin": CLOSED, "stdout": place, "stderr": place}
    for arguments in PRINTING:
        assert forked(asked(arguments, file), environment(database), instead=nowhere).returncode == 1, arguments
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests") == "1"


def test_a_closed_standard_input_is_told(database: Database) -> None:
    """A closed input is reported by name."""
    for arguments in (["submit", "-"], ["plan", "-"]):
        done = forked(arguments, environment(database), instead={"stdin": CLOSED})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: standard input cannot be read: Bad file descriptor")
        assert done.stderr.count("\n") == 1
    done = forked(["seal", "--project", ONE], environment(database), instead={"stdin": CLOSED})
    assert done.returncode in {1, 2}
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ('"$0" settings >/dev/full', 1, "error: standard output cannot be written: No space left on device\n"),
        ('"$0" settings >&-', 1, "error: standard output cannot be written: Bad file descriptor\n"),
        (
            'PYTHONUNBUFFERED=1 "$0" settings >/dev/full',
            1,
            "error: standard output cannot be written: No space left on device\n",
        ),
        ('"$0" simulate --port 0 >/dev/full', 1, "error: standard output cannot be written: No space left on device\n"),
        ('"$0" settings >&- 2>&-', 1, ""),
        ('"$0" show x 2>/dev/full', 2, ""),
        ('"$0" settings <&- >/dev/null 2>&-', 0, ""),
        ('"$0" settings --json | head -1 >/dev/null; exit "${PIPESTATUS[0]}"', None, ""),
    ],
)
def test_the_script_itself_ends_as_well(shell: str, status: int | None, said: str) -> None:
    """The console script, Python's own end included, adds neither a line nor another status."""
    done = subprocess.run(  # noqa: S603  # our own arguments
        ["/bin/bash", "-c", shell, SCRIPT], capture_output=True, check=False, text=True, env=environment()
    )
    assert done.returncode in ({status} if status is not None else {0, 1})
    assert done.stderr == said


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_full_disk_leaves_the_old_file(database: Database, tmp_path: Path, name: str) -> None:
    """If there is no room for a file, its old contents stay, and nothing is left beside it."""
    one_of_each(database)
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id, description)"
        " SELECT gen_random_uuid(), repeat('x', 200) FROM generate_series(1, 500)",
    )
    file = tmp_path / name
    file.write_text("old")

    done = forked(["export", "-o", str(file)], environment(database), prepare=partial(little_room, 4096))
    assert done.returncode == 1
    assert done.stderr == f"error: {file} cannot be written: File too large\n"
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208  # names are all that matters
