"""`provisioner rotations`: what was asked for, which key each has, and what waits, failed or was left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.cli import provisioner, query

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

PROJECT = "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d"
FIRST = 1_000_000_000_001


def test_a_file_asks_for_both(database: Database, tmp_path: Path) -> None:
    """Columns of rotations and the option ask for them, they wait for their connection, and bad values are named."""
    file = tmp_path / "projects.csv"
    file.write_text(f"project_id,project_name,rotation_spend_limit\n{PROJECT},Billing,10\n")
    done = provisioner("submit", file, database=database)
    assert done.returncode == 0, done.stderr
    assert "rotations     1, 1 inserted" in done.stdout
    again = provisioner("submit", file, "--rotations", "--rotation", "environment=dev", database=database)
    assert "rotations     1, 1 inserted" in again.stdout
    listed = provisioner("rotations", database=database)
    assert listed.stdout.count("waits for connection openrouter") == 2
    assert "dev:/OPENROUTER_API_KEY" in listed.stdout
    (row,) = json.loads(provisioner("rotations", str(FIRST), "--json", database=database).stdout)
    assert (row["state"], row["waits_for"], row["environment"]) == ("waiting", "openrouter", "prod")
    file.write_text(f"project_id,rotation_spend_limit\n{PROJECT},-1\n")
    bad = provisioner("submit", file, database=database)
    assert bad.returncode == 1
    assert "rotation_spend_limit: must be a number of credits above 0" in bad.stderr
    for option in ("spend_limit=nothing", "colour=red", "spend_limit"):
        assert provisioner("submit", file, "--rotation", option, database=database).returncode == 2


def test_one_is_shown_whole_and_operated_on(database: Database) -> None:
    """By its id, with what may be left behind; cancel and retry take it as they take a connection's."""
    query(
        database,
        "INSERT INTO provisioner.rotation_requests (project_id, project_name, status, key_issued, left_behind)"
        f" VALUES ('{PROJECT}', 'Billing', 'succeeded', 'Billing prod #1.2', 'look for \"Billing prod #1.1\"')",
    )
    query(database, f"INSERT INTO provisioner.rotation_requests (project_id, name) VALUES ('{PROJECT}', 'other')")
    one = provisioner("rotations", str(FIRST), database=database).stdout
    assert "secret  prod:/OPENROUTER_API_KEY" in one
    assert 'left behind  look for "Billing prod #1.1"' in one
    assert "a key may be left behind" in provisioner("rotations", "--left-behind", database=database).stdout
    assert "1 cancelled" in provisioner("cancel", str(FIRST + 1), database=database).stdout
    assert "1 had been cancelled" in provisioner("retry", "--state", "cancelled", database=database).stdout
    nobody = provisioner("retry", str(FIRST + 7), database=database)
    assert nobody.returncode == 1
    assert str(FIRST + 7) in nobody.stderr
    assert provisioner("rotations", "7", database=database).returncode == 1
