"""`provisioner doctor` on a database in which something holds up the clean-up."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.cli.setup.checks_database import check_database
from provisioner.postgres.condition import holders
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.postgres import PostgresServer
from tests.support import majors
from tests.support.cli import provisioner, query
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Database

SECRET = "planted-4711"


@pytest.fixture(scope="module")
def replicating() -> Iterator[PostgresServer]:
    """Run a server that has replication slots and two-phase commit."""
    settings = {"wal_level": "logical", "max_wal_senders": "2", "max_prepared_transactions": "2", "fsync": "off"}
    with PostgresServer(settings=settings, bin_directory=majors.chosen()) as server:
        provisioner("migrate", more={"PROVISIONER_DATABASE_URL": server.url()})
        yield server


def clean_up(url: str) -> str:
    """`doctor` about what blocks vacuum."""
    done = provisioner("doctor", "--json", more={"PROVISIONER_DATABASE_URL": url})
    checks: list[dict[str, Any]] = json.loads(done.stdout)["checks"]
    assert {each["verdict"] for each in checks if each["name"] == "clean-up"} <= {"ok", "warning"}
    return "\n".join(f"{each['said']}; {each['remedy']}" for each in checks if each["name"] == "clean-up")


async def test_an_old_transaction_is_named_without_its_literals(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process, role, application, age, how the statement begins and how to end it; nothing of what may be secret."""
    session = await asyncpg.connect(database.url, server_settings={"application_name": "nightly report"})
    pool = Pool(database.url, size=1)
    try:
        async with session.transaction(isolation="repeatable_read"):
            await session.fetch(f"SELECT /* why */ id\n FROM provisioner.ready WHERE target = '{SECRET}' AND id = 815")
            (found,) = await holders(pool, older_than=0.0)
            assert list(await holders(pool, older_than=60.0)) == []
            # The result of `doctor`, with everything that is a moment old considered old.
            monkeypatch.setattr("provisioner.cli.setup.checks_database.OLD", 0.0)
            said = [str(check) async for check in check_database(pool) if check.name == "clean-up"]
    finally:
        await pool.close()
        await session.close()
    pid = session_pid(found.what)
    assert found.remedy == f"SELECT pg_terminate_backend({pid})"
    assert (found.role, found.application) == ("provisioner", "nightly report")
    assert found.query.strip() == "SELECT /* why */ id FROM provisioner.ready WHERE target ="
    assert len(said) == 1
    assert f"session {pid} (provisioner, nightly report) blocks vacuum for " in said[0]
    assert "last statement: SELECT /* why */ id FROM" in said[0]
    assert SECRET not in said[0]
    assert "815" not in said[0]


def session_pid(what: str) -> int:
    """The process id in the finding."""
    return int(what.removeprefix("session "))


@pytest.mark.parametrize("plugin", [None, "pgoutput"])
async def test_an_abandoned_slot_is_told_with_what_it_keeps(replicating: PostgresServer, plugin: str | None) -> None:
    """An unused slot, physical or logical, is a warning that says what it costs and how to drop it."""
    make = (
        "pg_create_logical_replication_slot('left', 'pgoutput')"
        if plugin
        else ("pg_create_physical_replication_slot('left', true)")
    )
    async with connected(replicating.url()) as session:
        await session.execute(f"SELECT {make}")
        try:
            said = clean_up(replicating.url())
        finally:
            await session.execute("SELECT pg_drop_replication_slot('left')")
    assert "replication slot left (not in use) keeps " in said
    assert "MiB of WAL" in said
    assert "SELECT pg_drop_replication_slot('left')" in said


async def test_a_forgotten_prepared_transaction_is_told(replicating: PostgresServer) -> None:
    """A prepared transaction is named with the statement that ends it."""
    pool = Pool(replicating.url(), size=1)
    async with connected(replicating.url()) as session:
        await session.execute("BEGIN; CREATE TABLE forgotten (); PREPARE TRANSACTION 'it''s left'")
        try:
            (found,) = await holders(pool, older_than=0.0)
        finally:
            await session.execute("ROLLBACK PREPARED 'it''s left'")
            await pool.close()
    assert (found.what, found.role) == ("prepared transaction it's left", "provisioner")
    assert found.remedy == "ROLLBACK PREPARED 'it''s left'"


def shifted(by: float) -> float:
    """A clock that is wrong."""
    return time.time() + by


async def test_a_clock_that_differs_is_told(database: Database) -> None:
    """A host whose clock is off by minutes is reported with the difference; less than two seconds is not."""
    for shift, verdict in ((0.0, "ok"), (1.0, "ok"), (-240.0, "warning"), (240.0, "warning")):
        pool = Pool(database.url, size=1)
        checks = [check async for check in check_database(pool, wall=partial(shifted, shift))]
        await pool.close()
        (clock,) = [check for check in checks if check.name == "clock"]
        assert clock.verdict == verdict
        assert ("by 4" in clock.said) is (verdict == "warning")


def checks_of(database: Database, **more: str) -> dict[str, dict[str, Any]]:
    """The result of `doctor` for a check."""
    done = provisioner("doctor", "--json", database=database, more=more)
    return {each["name"]: each for each in json.loads(done.stdout)["checks"]}


def test_what_others_have_set_and_published_is_told(database: Database) -> None:
    """Defaults of role and database that our sessions override, publications, and a server that may forget."""
    query(
        database,
        f"ALTER DATABASE {database.name} SET synchronous_commit = off;"
        f"ALTER DATABASE {database.name} SET work_mem = '5MB';"
        "SET client_min_messages = error; CREATE PUBLICATION everything FOR ALL TABLES",
    )
    checks = checks_of(database)
    assert checks["defaults"]["verdict"] == "ok"
    assert "synchronous_commit=off" in checks["defaults"]["said"]
    assert "work_mem" not in checks["defaults"]["said"]
    assert checks["publication"]["verdict"] == "ok"
    assert "everything publishes" in checks["publication"]["said"]
    assert checks["durability"]["verdict"] == "warning"  # the tests' server has fsync off
    query(database, "ALTER TABLE provisioner.waiting REPLICA IDENTITY NOTHING")
    bare = checks_of(database)["publication"]
    assert (bare["verdict"], "provisioner.waiting" in bare["remedy"]) == ("problem", True)


def test_how_many_creates_a_target_bears_is_told(database: Database) -> None:
    """The limit that was learned, and as a warning the number that stopped the server, with what to set."""
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid());"
        "INSERT INTO provisioner.concurrency (target, address, in_flight_limit)"
        " VALUES ('default', 'https://infisical.example', 8)",
    )
    learned = checks_of(database)["in flight"]
    assert (learned["verdict"], learned["said"]) == ("ok", "default gets at most 8 creates at once")
    query(database, "UPDATE provisioner.concurrency SET in_flight_limit = 6, cliff = 8, cliff_at = 1790000000, bar = 6")
    stopped = checks_of(database)["in flight"]
    assert stopped["verdict"] == "warning"
    assert "default stalled with 8 creates in flight" in stopped["said"]
    assert stopped["remedy"] == "the limit is 6 for now; set max_in_flight below 8"
    query(database, "UPDATE provisioner.concurrency SET memory = 600")
    assert checks_of(database)["in flight"]["verdict"] == "ok"  # it is only suspected


def test_rotations_that_cannot_go_on_are_told(database: Database) -> None:
    """Rotations whose connection has no request, and those without a place; after both are fixed, all is well."""
    project = "8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11"
    said = "the connection of every pending one is requested"
    assert checks_of(database)["rotations"]["said"] == said
    query(
        database,
        "INSERT INTO provisioner.rotation_requests (project_id, name, connection)"
        f" VALUES ('{project}', 'one', 'mine'), ('{project}', 'two', 'mine')",
    )
    oldest = query(database, "SELECT min(id) FROM provisioner.rotation_requests")
    check = checks_of(database)["rotations"]
    assert check["verdict"] == "warning"
    assert check["said"] == (
        f"2 rotations wait for a connection that nobody has requested, for example {oldest} for mine"
    )
    assert f"`provisioner cancel {oldest}`" in check["remedy"]
    query(database, f"INSERT INTO provisioner.connection_requests (project_id, name) VALUES ('{project}', 'mine')")
    assert checks_of(database)["rotations"]["said"] == said
    query(database, f"DELETE FROM provisioner.waiting WHERE id = {oldest}")
    check = checks_of(database)["requests"]
    assert check["said"].startswith(f"1 pending request has no place in the queue, for example {oldest}")


def test_a_password_file_that_is_ignored_is_told(database: Database, tmp_path: Path) -> None:
    """Others may read it, so it is not used: if the login works all the same, that is a warning."""
    file = tmp_path / "passwords"
    file.write_text("*:*:*:*:planted\n", encoding="utf-8")
    file.chmod(0o644)
    socketless = re.sub(r":[^:@]+@", "@", database.url)
    done = provisioner("status", more={"PROVISIONER_DATABASE_URL": socketless, "PGPASSFILE": str(file)})
    assert done.returncode == 1
    assert "chmod 0600" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_operators_limit_is_told_before_infisicals_is_known(database: Database) -> None:
    """Whoever slows a target down before its first create sees that it holds."""
    assert provisioner("limit", "default", "--writes", "60/min", database=database).returncode == 0
    done = provisioner("doctor", "--json", database=database)
    (limit,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "limit"]
    assert limit["verdict"] == "ok"
    assert limit["said"] == "default is limited to 60 writes in 60 s by provisioner"
