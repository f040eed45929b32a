"""The Dockerfile, without building it: what a linter says, and what an image of it will be."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.deploy import TOP, UID, is_command

TEXT = (TOP / "Dockerfile").read_text()
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
FINAL = LINES[[n for n, line in enumerate(LINES) if line.startswith("FROM ")][-1] :]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def said(word: str) -> str:
    """The last instruction of this name in the final stage."""
    return [line for line in FINAL if line.startswith(f"{word} ")][-1].removeprefix(f"{word} ").strip()


def test_the_linter_is_content() -> None:
    """Hadolint finds nothing to say."""
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not to be had for this machine")
    done = subprocess.run([hadolint, TOP / "Dockerfile"], capture_output=True, text=True, check=False)  # noqa: S603  # our own arguments
    assert (done.returncode, done.stdout) == (0, "")


def test_the_final_stage_runs_nothing_and_needs_no_shell() -> None:
    """Programs are started as they are, by words, and nothing is run while the final stage is made."""
    entrypoint, command = json.loads(said("ENTRYPOINT")), json.loads(said("CMD"))
    probe = json.loads(said("HEALTHCHECK").partition(" CMD ")[2])
    assert entrypoint == ["provisioner"] == probe[:1]
    assert is_command(command)
    assert is_command(probe[1:])
    assert [line for line in FINAL if line.startswith(("RUN", "SHELL", "ADD"))] == []


def test_it_is_not_root_and_stops_as_the_daemon_wants_to() -> None:
    """The user is told by number, and the signal is the one that ends a worker cleanly."""
    assert (said("USER"), said("STOPSIGNAL")) == (f"{UID}:{UID}", "SIGTERM")


def test_everything_installed_was_checked_by_its_hash() -> None:
    """Only one step fetches packages, and that one checks the hashes of the lock."""
    steps = [line for line in LINES if line.startswith("RUN")]
    pips = [call for line in steps for call in re.findall(r"-m pip .*?(?=&&|$)", line)]
    fetching = [call for call in pips if "--no-index" not in call]
    assert len(pips) >= 4
    assert len(fetching) == 1
    assert "--require-hashes --requirement requirements.lock" in fetching[0]


def test_the_label_has_the_version_of_the_package() -> None:
    """An image says which version it is."""
    assert f"ARG VERSION={PROJECT['version']}" in FINAL
    assert 'org.opencontainers.image.version="${VERSION}"' in said("LABEL")
    assert PROJECT["description"] in said("LABEL")


def test_what_is_copied_is_sent_and_nothing_else() -> None:
    """The ignore file lets through what the Dockerfile copies; keys and settings lying about never get in."""
    rules = [line for line in (TOP / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = {
        word for line in LINES if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    assert sent == copied
    assert all((TOP / name).exists() for name in sent)
    assert [
        name for name in (".git", ".venv", "config", "tests") if any(fnmatch.fnmatch(name, one) for one in sent)
    ] == []
