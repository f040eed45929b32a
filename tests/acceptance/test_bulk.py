"""Files of a hundred thousand lines: exact counts, and memory that does not grow with the file."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support.cli import SCRIPT, environment, query
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.postgres import Database

GROWTH = 24  # MiB that a command may need more for a file of ten times the size; reading uses 8 of them
PACE = 3_000  # rows a second that `submit` loads at the very least, on a busy machine


def run(*arguments: str | Path, into: Path, told: Mapping[str, str]) -> int:
    """Run a command with its output into a file; returns the most memory that it held, in MiB."""
    with into.open("wb") as output, subprocess.Popen([SCRIPT, *arguments], env=told, stdout=output) as process:  # noqa: S603  # ours
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss // 1024


def journey(database: Database, folder: Path, count: int, infisical: Mapping[str, str]) -> dict[str, int]:
    """Plan, submit, cancel one half and export this many lines; returns the memory of each command."""
    told = environment(database, **infisical, PROVISIONER_TARGETS__DEFAULT__READ_LIMIT="none")
    file, output = folder / "projects.csv", folder / "output"
    with file.open("w") as lines:
        lines.write("project_id,description,batch\n")
        for number in range(count):
            half = "first" if number < count // 2 else "second"
            lines.write(f"{UUID(int=count * 10 + number)},number {number},{half} {count}\n")
    memory = {"plan": run("plan", file, "--json", into=output, told=told)}
    assert json.loads(output.read_text())["counts"]["create"] == count
    began = time.monotonic()
    memory["submit"] = run("submit", file, "--json", into=output, told=told)
    assert count / (time.monotonic() - began) > PACE
    assert json.loads(output.read_text())["inserted"] == count
    memory["cancel"] = run("cancel", "--batch", f"second {count}", "--json", into=output, told=told)
    assert json.loads(output.read_text())["changed"] == {"cancelled": count // 2}
    batches = [f"--batch={half} {count}" for half in ("first", "second")]
    memory["export"] = run("export", *batches, into=output, told=told)
    with output.open() as rows:
        assert sum(1 for _ in rows) == count + 1
    states = f"SELECT status, count(*) FROM provisioner.connection_requests WHERE batch LIKE '% {count}' GROUP BY 1"
    assert set(query(database, states).split()) == {f"pending|{count // 2}", f"cancelled|{count // 2}"}
    return memory


@pytest.mark.soak
def test_memory_does_not_grow_with_the_file(database: Database, tmp_path: Path) -> None:
    """A hundred thousand lines are planned, submitted, half cancelled and exported in the memory of ten thousand."""
    with simulated("--any-project", "--mode", "self-hosted") as infisical:
        small = journey(database, tmp_path, 10_000, infisical.variables)
        large = journey(database, tmp_path, 100_000, infisical.variables)
    assert {name: large[name] - small[name] for name in small if large[name] - small[name] > GROWTH} == {}
