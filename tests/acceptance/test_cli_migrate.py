"""`provisioner migrate` on a real database."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from provisioner.postgres.migrations import known_migrations
from tests.support.cli import provisioner, query

if TYPE_CHECKING:
    from tests.support.postgres import Database

STEPS = [str(step) for step in known_migrations()]


def test_it_applies_each_step_once(empty_database: Database) -> None:
    """The first run lists each step; the second has nothing to do."""
    first = provisioner("migrate", database=empty_database)
    assert (first.returncode, first.stdout) == (0, "".join(f"applied {step}\n" for step in STEPS))
    second = provisioner("migrate", database=empty_database)
    assert (second.returncode, second.stdout) == (0, "the schema is up to date\n")


def test_check_only_tells(empty_database: Database) -> None:
    """`--check` lists the outstanding steps and exits 1, without applying them; afterwards it exits 0."""
    before = provisioner("migrate", "--check", database=empty_database)
    assert (before.returncode, before.stdout) == (1, "".join(f"outstanding: {step}\n" for step in STEPS))
    assert query(empty_database, "SELECT to_regnamespace('provisioner')") == ""
    assert provisioner("migrate", database=empty_database).returncode == 0
    after = provisioner("migrate", "--check", database=empty_database)
    assert (after.returncode, after.stdout) == (0, "the schema is up to date\n")


def test_programs_get_json(empty_database: Database) -> None:
    """`--json` has the same for programs."""
    checked = provisioner("migrate", "--check", "--json", database=empty_database)
    assert (checked.returncode, json.loads(checked.stdout)) == (1, {"applied": [], "outstanding": STEPS})
    applied = provisioner("migrate", "--json", database=empty_database)
    assert (applied.returncode, json.loads(applied.stdout)) == (0, {"applied": STEPS, "outstanding": []})


def test_several_at_once_share_the_work(empty_database: Database) -> None:
    """Two hosts that start together both succeed, and each step is applied once."""
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: provisioner("migrate", database=empty_database), range(2)))
    assert [run.returncode for run in runs] == [0, 0]
    lines = [line for run in runs for line in run.stdout.splitlines() if line.startswith("applied")]
    assert sorted(lines) == [f"applied {step}" for step in STEPS]


def test_a_newer_schema_is_left_alone(database: Database) -> None:
    """An older program says that it is the one to upgrade."""
    query(database, "INSERT INTO provisioner.migrations VALUES (9999, 'future', 'x')")
    for arguments in (["migrate"], ["migrate", "--check"]):
        done = provisioner(*arguments, database=database)
        assert done.returncode == 1
        assert "9999_future" in done.stderr
        assert "upgrade provisioner on this host" in done.stderr
