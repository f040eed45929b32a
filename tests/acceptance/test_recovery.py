"""A database that was restored from a backup: what docs/recovering.md promises."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.support.cli import provisioner, query
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

INSERT = "INSERT INTO provisioner.connection_requests (project_id, description)"
STATES = (
    "SELECT id, status, coalesce(error_code, ''), adopted, attempts FROM provisioner.connection_requests ORDER BY id"
)
CLAIM = (
    "WITH gone AS (DELETE FROM provisioner.ready WHERE id = 3 RETURNING *), worker AS ("
    " INSERT INTO provisioner.workers (name, version, targets, lease_until, pace)"
    " VALUES ('lost', '1', '{default}', now(), 0) RETURNING id)"
    " INSERT INTO provisioner.in_flight (id, attempt, worker, target, rank, project_id, claimed_at)"
    " SELECT g.id, 1, w.id, g.target, g.rank, g.project_id, now() FROM gone AS g, worker AS w"
)


def drain(database: Database, infisical: Infisical, more: Mapping[str, str] | None = None, *, status: int = 0) -> None:
    """Let a worker do everything that is to be done."""
    done = provisioner(
        "run", "--drain", "--listen", "off", database=database, more={**infisical.variables, **(more or {})}
    )
    assert done.returncode == status, done.stderr


def copy(source: Database, restored: Database) -> None:
    """Back one database up, and restore it as another."""
    dump = subprocess.run(  # noqa: S603  # our own arguments
        [source.server.psql.parent / "pg_dump", "--no-owner", source.url], capture_output=True, check=True
    )
    subprocess.run(  # noqa: S603  # our own arguments
        [source.server.psql, "-XqAt", "--set=ON_ERROR_STOP=1", "--single-transaction", restored.url],
        input=dump.stdout,
        capture_output=True,
        check=True,
    )


def test_a_restored_database_finds_what_was_made_after_the_backup(database: Database, empty_database: Database) -> None:
    """Requests in flight are recognised as ours; pending ones conflict until adopted; nothing is made twice.

    Each taken name costs one create, even right after another program has used the read budget.
    """
    with simulated("--mode", "self-hosted", "--projects", "4") as infisical:
        one, two, three, four = infisical.projects
        query(database, f"{INSERT} VALUES ('{one}', 'before')")
        drain(database, infisical)
        query(database, f"{INSERT} VALUES ('{two}', 'pending'), ('{three}', 'in flight')")
        query(database, CLAIM)
        copy(database, empty_database)
        query(database, f"{INSERT} VALUES ('{four}', 'after')")
        drain(database, infisical)
        made = {each["projectId"]: each["id"] for each in infisical.state()["connections"]}
        assert len(made) == 4

        restored = empty_database
        assert provisioner("migrate", "--check", database=restored).returncode == 0
        assert provisioner("doctor", database=restored, more=infisical.variables).returncode == 0
        drain(restored, infisical, status=3)
        assert query(restored, STATES).splitlines() == [
            "1|succeeded||f|1",
            "2|failed|name_conflict|f|1",
            "3|succeeded||f|1",
        ]
        # As documented.
        changed = (
            "UPDATE provisioner.connection_requests SET on_conflict = 'adopt'"
            " WHERE status = 'failed' AND error_code = 'name_conflict'"
        )
        query(restored, changed)
        query(restored, f"{INSERT.replace('description', 'on_conflict')} VALUES ('{four}', 'adopt')")
        assert provisioner("retry", "--error", "name_conflict", database=restored).returncode == 0
        drain(restored, infisical)
        assert {*query(restored, "SELECT project_id, connection_id FROM provisioner.connection_requests").split()} == {
            f"{project}|{connection}" for project, connection in made.items()
        }
        assert provisioner("verify", database=restored, more=infisical.variables).returncode == 0
        assert {each["id"] for each in infisical.state()["connections"]} == {*made.values()}


def test_marked_connections_are_recognised_in_a_restored_database(database: Database, empty_database: Database) -> None:
    """With markers, requests that were pending at the backup find what they have made since."""
    marker = {"PROVISIONER_TARGETS__DEFAULT__MARKER": "true"}
    with simulated("--mode", "self-hosted", "--projects", "1") as infisical:
        query(database, f"{INSERT} VALUES ('{infisical.projects[0]}', 'pending')")
        copy(database, empty_database)
        drain(database, infisical, marker)
        drain(empty_database, infisical, marker)
        assert query(empty_database, STATES) == "1|succeeded||f|1"
        assert len(infisical.state()["connections"]) == 1


def test_what_is_pending_may_be_told_to_adopt_before_a_worker_starts(
    database: Database, empty_database: Database
) -> None:
    """After a restore, one statement makes all pending requests adopt existing connections."""
    with simulated("--mode", "self-hosted", "--projects", "1") as infisical:
        query(database, f"{INSERT} VALUES ('{infisical.projects[0]}', 'pending')")
        copy(database, empty_database)
        drain(database, infisical)
        query(
            empty_database,
            "UPDATE provisioner.connection_requests SET on_conflict = 'adopt'"
            " WHERE status = 'pending' AND on_conflict = 'fail'",
        )
        drain(empty_database, infisical)
        assert query(empty_database, STATES) == "1|succeeded||t|1"
