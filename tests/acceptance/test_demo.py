"""The demo, a newcomer's first impression."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cli import provisioner


@pytest.mark.xdist_group("heavy")
def test_ends_by_itself_with_a_proof() -> None:
    """The demo ends with exit status 0, a report in which every request is accounted for, and nothing left running."""
    done = provisioner("demo", "--requests", "60", "--workers", "2", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requests  60: 57 succeeded, 3 failed\n" in done.stdout, done.stdout
    assert "Infisical has  57 connections of ours" in done.stdout
    assert "at OpenRouter, one for each of 57 rotations" in done.stdout
    assert "kill -9" in done.stdout
    assert "proven" in done.stdout
    assert "wrong" not in done.stdout.replace("went wrong", "")
    port = re.search(r"on port (\d+)", done.stdout)
    assert port is not None
    assert not [line for line in _commands() if f"port={port[1]}" in line or f":{port[1]}" in line]


def _commands() -> list[str]:
    """The command lines of everything that runs on this machine."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
