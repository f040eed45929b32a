"""`provisioner rotations`: the requested rotations, their keys, and what waits, failed or was left behind."""

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
    again = provisioner("submit", file, "--with-rotation", "--rotation", "environment=dev", database=database)
    assert "rotations     1, 1 inserted" in again.stdout
    listed = provisioner("rotations", database=database)
    assert listed.stdout.count("waits for connection openrouter") == 2
    assert "dev:/OPENROUTER_API_KEY" in listed.stdout
    (row,) = json.loads(provisioner("rotations", str(FIRST), "--json", database=database).stdout)
    assert (row["state"], row["waits_for"], row["environment"]) == ("waiting", "openrouter", "prod")
    file.write_text(f"project_id,rotation_spend_limit\n{PROJECT},-1\n")
    bad = provisioner("submit", file, database=database)
    assert bad.returncode == 1
    assert "rotation_spend_limit: must be a number of credits, at least 0.000001" in bad.stderr
    for option in ("spend_limit=nothing", "colour=red", "spend_limit"):
        assert provisioner("submit", file, "--rotation", option, database=database).returncode == 2


def one_that_left_a_key(database: Database) -> None:
    """A rotation that succeeded after a lost answer, and another one that waits."""
    query(
        database,
        "INSERT INTO provisioner.rotation_requests"
        " (project_id, project_name, batch, status, key_issued, left_behind, rotation_id)"
        f" VALUES ('{PROJECT}', 'Billing', 'pilot', 'succeeded', 'Billing prod #1.2', 'look for \"Billing prod #1.1\"',"
        f" '{PROJECT}')",
    )
    query(database, f"INSERT INTO provisioner.rotation_requests (project_id, name) VALUES ('{PROJECT}', 'other')")


def test_one_is_shown_whole_and_operated_on(database: Database) -> None:
    """By its id: what may be left behind, what it waits for, and what to do; cancel and retry accept it too."""
    one_that_left_a_key(database)
    one = provisioner("show", str(FIRST), database=database).stdout
    assert "secret  prod:/OPENROUTER_API_KEY" in one
    assert 'left behind  look for "Billing prod #1.1"' in one
    assert f"`provisioner rotations {FIRST} --deleted`" in one
    other = provisioner("show", str(FIRST + 1), database=database).stdout
    assert "which nobody has requested: request it" in other
    assert "1 cancelled" in provisioner("cancel", str(FIRST + 1), database=database).stdout
    assert "1 cancelled: will be retried" in provisioner("retry", "--state", "cancelled", database=database).stdout
    query(database, f"UPDATE provisioner.rotation_requests SET status = 'failed' WHERE id = {FIRST + 1}")
    assert "1 failed: now cancelled" in provisioner("cancel", str(FIRST + 1), database=database).stdout
    nobody = provisioner("retry", str(FIRST + 7), database=database)
    assert nobody.returncode == 1
    assert str(FIRST + 7) in nobody.stderr
    assert provisioner("rotations", "7", database=database).returncode == 1


def test_keys_that_are_deleted_are_named_no_more(database: Database) -> None:
    """After keys left behind were reported as deleted, nobody is told to look for them again."""
    one_that_left_a_key(database)
    assert "a key may be left behind" in provisioner("list", "--batch", "pilot", database=database).stdout
    told = provisioner("status", "--batch", "pilot", database=database)
    assert told.returncode == 1
    assert "1 rotation may have left keys behind at OpenRouter" in " ".join(told.stdout.split())
    named = provisioner("rotations", "--left-behind", database=database)
    assert f'{FIRST}: look for "Billing prod #1.1"' in named.stderr
    assert str(FIRST + 1) not in named.stdout
    assert provisioner("rotations", "--deleted", database=database).returncode == 2
    assert "noted for 1 rotation" in provisioner("rotations", str(FIRST), "--deleted", database=database).stdout
    assert provisioner("rotations", str(FIRST), "--deleted", database=database).returncode == 1
    assert provisioner("status", "--batch", "pilot", database=database).returncode == 0
    assert "no rotation matches" in provisioner("rotations", "--left-behind", database=database).stdout


def test_both_kinds_are_listed_and_removed(database: Database) -> None:
    """Commands on requests apply to both kinds, and a removal reports the outcome of each."""
    one_that_left_a_key(database)
    query(database, f"INSERT INTO provisioner.connection_requests (project_id) VALUES ('{PROJECT}')")
    listed = json.loads(provisioner("list", "--project", PROJECT, "--json", database=database).stdout)
    assert [(each["id"], each["kind"]) for each in listed] == [
        (FIRST + 1, "rotation"),
        (FIRST, "rotation"),
        (1, "connection"),
    ]
    paged = json.loads(provisioner("list", "--limit", "1", "--before", str(FIRST), "--json", database=database).stdout)
    assert [each["id"] for each in paged] == [1]
    rekeyed = provisioner("rekey", str(FIRST), database=database)
    assert "1 skipped: Infisical makes and replaces the keys of rotations" in rekeyed.stdout
    foreseen = provisioner("remove", "--project", PROJECT, "--dry-run", database=database).stdout
    assert "1 would be deleted from Infisical" in foreseen
    assert "2 with nothing in Infisical" in foreseen
    done = provisioner("remove", str(FIRST), "--with-secrets", database=database)
    assert "1 will be deleted from Infisical by the workers" in done.stdout
    asked = "SELECT with_secrets, wanted FROM provisioner.rotation_requests ORDER BY id LIMIT 1"
    assert query(database, asked) == "t|absent"
    removing = json.loads(provisioner("list", "--state", "removing", "--json", database=database).stdout)
    assert [each["id"] for each in removing] == [FIRST]


def test_an_export_is_taken_back(database: Database, tmp_path: Path) -> None:
    """As CSV and as JSON Lines, into an empty table: every requested column is as before."""
    columns = (
        "target, project_id, name, connection, environment, secret_path, secret_name, interval_days, rotate_at,"
        " key_name, spend_limit, limit_reset, include_byok, description, on_conflict, priority, batch, project_name,"
        " not_before"
    )
    query(
        database,
        f"INSERT INTO provisioner.rotation_requests ({columns}) VALUES"
        f" ('default', '{PROJECT}', 'other', 'openrouter', 'dev', '/apps', 'KEY', 7, '03:30', 'k {{environment}}', 2.5,"
        " 'daily', true, '=1+1', 'adopt', 3, 'pilot', 'Zürich', '2100-01-01T00:00:00Z')",
    )
    query(database, f"INSERT INTO provisioner.rotation_requests (project_id) VALUES ('{PROJECT}')")
    asked = f"SELECT {columns} FROM provisioner.rotation_requests ORDER BY name"
    before = query(database, asked)
    for name in ("x.csv", "x.jsonl"):
        file = tmp_path / name
        assert provisioner("export", "--rotations", "-o", file, database=database).returncode == 0
        assert "submit --rotations" in provisioner("submit", file, database=database).stderr
        query(database, "DELETE FROM provisioner.rotation_requests")
        loaded = provisioner("submit", "--rotations", file, database=database)
        assert loaded.returncode == 0, loaded.stderr
        assert "rotations     2, 2 inserted" in loaded.stdout
        assert query(database, asked) == before
        assert not query(database, "SELECT FROM provisioner.connection_requests")
    both = provisioner("export", database=database)
    assert "2 rotations match too: `provisioner export --rotations` writes them" in both.stderr
    page = provisioner("export", "--format", "html", database=database).stdout
    assert "dev:/apps/KEY" in page


def test_bad_lines_of_rotations_are_named_as_their_columns_are_called(database: Database, tmp_path: Path) -> None:
    """With the column of the file, contradictory lines, and existing rotations with other values."""
    file = tmp_path / "rotations.csv"
    file.write_text(f"project_id,spend_limit\n{PROJECT},-1\n")
    assert "spend_limit: must be a number" in provisioner("submit", "--rotations", file, database=database).stderr
    file.write_text(f"project_id,credential\n{PROJECT},x\n")
    assert (
        "'credential' is no column of rotations" in provisioner("submit", "--rotations", file, database=database).stderr
    )
    file.write_text(f"project_id,spend_limit\n{PROJECT},1\n{PROJECT},2\n")
    twice = provisioner("submit", "--rotations", file, database=database)
    assert "line 3: asks for the same rotation as line 2, with another spend_limit" in twice.stderr
    file.write_text(f"project_id,spend_limit\n{PROJECT},1\n")
    assert provisioner("submit", "--rotations", file, database=database).returncode == 0
    file.write_text(f"project_id,spend_limit\n{PROJECT},2\n")
    other = provisioner("submit", "--rotations", file, database=database).stdout
    assert "1 of the rotations already there has other values and was not changed (the first: line 2)" in other
