"""A root file system that is read-only, and no place for temporary files: what our own deployments run in."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support.cli import SCRIPT, environment, forked, query
from tests.support.machines import little_memory, little_room, namespace, read_only

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

pytestmark = pytest.mark.skipif(namespace() is None, reason="mounts of one's own are forbidden here")

LINES = 100_000
LONG = 40_000  # lines of some 240 characters
COUNT = "SELECT count(*) FROM provisioner.connection_requests"


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Make a file that is too large to be kept in memory before it goes to the disk."""
    file = tmp_path / "projects.csv"
    with file.open("w") as stream:
        stream.write("project_id,description\n")
        stream.writelines(f"{UUID(int=number)},{'x' * 200}\n" for number in range(LONG))
    return file


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_a_large_file_is_submitted_without_a_place_for_temporary_files(
    database: Database, large_file: Path, through: str
) -> None:
    """Nothing has to be written on the machine, whether the lines come from a file or through a pipe."""
    command = read_only([str(SCRIPT), "submit", str(large_file) if through == "file" else "-", "--json"])
    with large_file.open("rb") as given:
        done = subprocess.run(  # noqa: S603  # our own arguments
            command, stdin=given, capture_output=True, check=False, text=True, env=environment(database)
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["inserted"] == LONG
    assert query(database, COUNT) == str(LONG)


def test_a_full_disk_of_temporary_files_is_told(database: Database, large_file: Path) -> None:
    """A temporary file without room is reported as such, and not as trouble with the input."""
    done = forked(["submit", str(large_file)], environment(database), prepare=partial(little_room, 9 << 20))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {large_file} needs a temporary file, which cannot be written: File too large; "
        "set TMPDIR to a directory with more space; nothing was loaded\n"
    )


@pytest.mark.soak  # memory taken by the interpreter determines what is reported first
def test_a_file_larger_than_the_memory_is_told(database: Database, large_file: Path) -> None:
    """With neither disk nor memory for it, the message says what to do."""
    # Line by line: what is freed here would be room for the copy of this process, whatever its limit.
    # Several times what a process that ran many tests has free without asking for more.
    noise = os.urandom(1 << 20).hex()
    with large_file.open("w") as stream:
        stream.write("project_id,description\n")
        for number in range(400_000):
            at = number * 997 % (len(noise) - 240)
            stream.write(f"{UUID(int=number)},{noise[at : at + 240]}\n")
    done = forked(
        ["submit", str(large_file), "--dry-run"], environment(database), prepare=partial(little_memory, 20 << 20)
    )
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"error: {large_file} needs more memory than is available; set TMPDIR to a directory")
    assert done.stderr.count("\n") == 1


def test_a_file_is_planned_without_a_place_for_temporary_files(database: Database, tmp_path: Path) -> None:
    """`plan` sorts its lines, and needs no disk for that either."""
    file = tmp_path / "projects.csv"
    file.write_text("project_id,target\n" + "".join(f"{UUID(int=number)},nowhere\n" for number in range(LINES)))
    done = subprocess.run(  # noqa: S603  # our own arguments
        read_only([str(SCRIPT), "plan", str(file)]),
        capture_output=True,
        check=False,
        text=True,
        env=environment(database),
    )
    assert "target nowhere is not in the settings of this host" in done.stdout + done.stderr
    assert "unexpected error" not in done.stderr
