"""`--json` of every command is one JSON document with stable keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.cli import load_command
from provisioner.cli.commands import COMMANDS
from tests.support.cli import provisioner
from tests.support.infisical import simulated
from tests.support.operators import one_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

REQUEST = (
    "id target project_id name description credential on_conflict priority batch not_before requested_by created_at"
    " state attempts connection_id org_id credentials_hash adopted error_code error_message next_attempt_at finished_at"
)
DETAIL = (
    " now unknown cancel_requested failures quarantine claimed_at worker place workers pace paused_at paused_by tried"
)
CHANGE = "operation dry_run matched would_change changed unknown unchanged"
HELD = "target paused changed paused_at paused_by"
REPORT = (
    "file dry_run lines accepted inserted already_there already different first_different repeated skipped problems"
    " workers seconds_left ends_why"
)
# Each command with its arguments, its exit status, and the keys of its output (for an array: of its elements).
# Programs depend on these: add keys, and neither take one away nor rename it without a word in the changelog.
CALLS: Mapping[str, tuple[int, str]] = {
    "migrate": (0, "applied outstanding"),
    "keys list": (0, "key_id"),
    "grant --reader pg_monitor --dry-run": (0, "grants revokes dry_run statements warnings"),
    "submit -": (0, REPORT),
    "plan -": (0, "file lines by_name skipped problems counts conflicts gone not_asked wrong_keys seconds_left"),
    "status": (1, "now progress batches more_batches targets workers failures crew concerns old_keys"),
    "list": (0, REQUEST),
    "show 1": (0, REQUEST + DETAIL),
    "retry --all --dry-run": (0, CHANGE),
    "cancel --all --dry-run": (0, CHANGE),
    "remove --all --dry-run": (0, "operation dry_run would_change changed unchanged"),
    "rekey --all --dry-run": (0, "operation dry_run would_change changed unchanged remarks"),
    "pause default": (0, HELD),
    "resume default": (0, HELD),
    "rotations": (0, ""),  # there is none
    "limit default --in-flight 4": (0, ""),
    "verify": (1, "compared projects differences not_compared keys_not_compared repaired"),
    "doctor": (0, "ok checks"),
    "settings": (0, "database.url targets.default.url retry.max_attempts log.level"),
}


def keys(document: Any) -> set[str]:
    """The keys of a document, or of the elements of an array."""
    if isinstance(document, list):
        return {key for each in document for key in each}
    return set(document)


def speaking(command: Any, path: str) -> Iterator[str]:
    """The commands that have --json, with the names of their groups."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from speaking(inner, f"{path} {name}")
    if any("--json" in parameter.opts for parameter in command.params):
        yield path


@pytest.fixture
def infisical() -> Iterator[Infisical]:
    """Serve one project without limits."""
    with simulated("--mode", "self-hosted", "--projects", "1") as served:
        yield served


def test_every_command_that_has_json_is_here() -> None:
    """A new command's JSON is tested, too."""
    found = {path for name in COMMANDS for path in speaking(load_command(name), name)}
    assert [path for path in found if not any(f"{call} ".startswith(f"{path} ") for call in CALLS)] == []


def test_json_has_the_keys_that_programs_know(database: Database, infisical: Infisical, tmp_path: Path) -> None:
    """Each prints one document with at least these keys, and nothing else."""
    one_of_each(database)
    given = f'{{"project_id": "{infisical.projects[0]}"}}\n'.encode()
    told = {**infisical.variables, "PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "keys")}
    assert provisioner("keys", "generate", database=database, more=told).returncode == 0
    for call, (status, expected) in CALLS.items():
        done = provisioner(*call.split(), "--json", database=database, more=told, given=given)
        assert done.returncode == status, (call, done.stderr)
        assert keys(json.loads(done.stdout)) >= set(expected.split()), call
