"""Everything works through a pooler that switches sessions at every commit, and nothing is slower without one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from provisioner.core.errors import DatabaseUnavailable
from provisioner.postgres.connector import is_pooled, translates_names
from provisioner.postgres.listener import Listener
from provisioner.postgres.pool import Database as Pool
from tests.support.cli import provisioner, query
from tests.support.infisical import simulated
from tests.support.poolers import needs_pgbouncer, pgbouncer
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Database

INSERT = "INSERT INTO provisioner.connection_requests (project_id) VALUES "


@pytest.fixture
def pooled(empty_database: Database, reachable_directory: Path) -> Iterator[Database]:
    """Provide an empty database behind a pooler in transaction mode."""
    with pgbouncer(empty_database.url, reachable_directory) as url:
        yield replace(empty_database, url=url)


@needs_pgbouncer
def test_a_whole_journey_goes_through_it(pooled: Database, empty_database: Database) -> None:
    """Migrate, submit, two workers at once, status, list and export all work through the pooler."""
    with simulated("--mode", "self-hosted", "--projects", "40") as infisical:
        assert provisioner("migrate", database=pooled).stderr == ""
        lines = "\n".join(["project_id", *infisical.projects]).encode()
        submitted = provisioner("submit", "-", database=pooled, given=lines)
        assert (submitted.returncode, submitted.stderr) == (0, "")
        done = provisioner("run", "--drain", "--listen", "off", database=pooled, more=infisical.variables)
        assert done.returncode == 0, done.stderr
        status = provisioner("status", "--json", database=pooled)
        assert json.loads(status.stdout)["progress"]["succeeded"] == 40
        for _ in range(3):  # each as another client of the same few sessions
            exported = provisioner("export", "--state", "succeeded", database=pooled)
            assert (exported.returncode, exported.stdout.count("\n")) == (0, 41), exported.stderr
        assert len(infisical.state()["creates"]) == 40
    assert (
        query(empty_database, "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'") == "40"
    )


@needs_pgbouncer
async def test_statements_of_many_clients_do_not_mix(pooled: Database) -> None:
    """Several clients with different statements, in turn on few sessions: each gets its own answers."""
    pools = [Pool(pooled.url, size=2) for _ in range(3)]

    async def ask(number: int) -> None:
        for round_ in range(20):
            row = await pools[number].fetchrow(f"SELECT $1::int + {number} AS said", round_)
            assert row is not None
            assert row["said"] == round_ + number

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(len(pools)):
                group.create_task(ask(number))
                group.create_task(ask(number))
    finally:
        for pool in pools:
            await pool.close()


@needs_pgbouncer
async def test_sessions_that_open_at_once_all_learn_of_the_pooler(pooled: Database) -> None:
    """What one session finds out about names does not spare another one that began with names the look for itself."""
    for _ in range(5):
        pool = Pool(pooled.url, size=8)

        async def ask(number: int, pool: Pool = pool) -> None:
            for round_ in range(4):
                row = await pool.fetchrow(f"SELECT $1::int + {number} AS said", round_)
                assert row is not None
                assert row["said"] == round_ + number

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(ask(number))
        finally:
            await pool.close()


@needs_pgbouncer
async def test_listening_gives_way_to_polling(pooled: Database) -> None:
    """If notifications cannot arrive, that is logged once and the listener ends; nothing waits for it."""
    pool = Pool(pooled.url)
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await Listener(pool, hear=lambda *_: None).run()
    await pool.close()
    assert [(line["event"], line["log_level"]) for line in logs] == [("listening_refused", "warning")]
    assert "pooler shares sessions" in logs[0]["error"]


@needs_pgbouncer
async def test_a_pooler_of_sessions_lets_notifications_through(
    empty_database: Database, reachable_directory: Path
) -> None:
    """Listening works through a pooler that gives each client its own session."""
    heard = asyncio.Event()
    with pgbouncer(empty_database.url, reachable_directory, mode="session", size=5) as url:
        pool = Pool(url)
        task = asyncio.create_task(Listener(pool, hear=lambda *_: heard.set()).run())
        async with asyncio.timeout(10):
            await heard.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pool.close()


@needs_pgbouncer
def test_doctor_names_it(pooled: Database) -> None:
    """A pooler leads to a warning, with a faster alternative."""
    provisioner("migrate", database=pooled)
    done = provisioner("doctor", "--json", database=pooled)
    checks = json.loads(done.stdout)["checks"]
    said = [check for check in checks if check["name"] == "pooler"]
    assert {check["verdict"] for check in said} == {"warning"}
    assert "notifications do not arrive" in said[0]["said"]
    assert "each one is planned every time" in said[0]["said"]
    assert "SET jit = off" in said[1]["remedy"]


async def test_without_a_pooler_statements_are_prepared_once(empty_database: Database) -> None:
    """The same statement twice is prepared once, by name."""
    pool = Pool(empty_database.url, size=1)
    for _ in range(3):
        await pool.fetch("SELECT $1::int AS kept", 1)
    rows = await pool.fetch("SELECT count(*) AS n FROM pg_prepared_statements WHERE statement LIKE '%AS kept'")
    await pool.close()
    assert rows[0]["n"] == 1


async def test_a_server_is_no_pooler(empty_database: Database) -> None:
    """A direct server is not taken for a pooler, nor for one that renames statements."""
    async with connected(empty_database.url) as session:
        assert not await is_pooled(session)
        assert not await translates_names(session)


async def test_a_lost_statement_is_prepared_anew_by_the_next_call(empty_database: Database) -> None:
    """An undetected pooler is detected at its first lost statement: the call may be repeated, and then works."""
    pool = Pool(empty_database.url, size=1)
    await pool.fetch("SELECT $1::int", 1)
    await pool.execute("DEALLOCATE ALL")
    with pytest.raises(DatabaseUnavailable, match="a pooler in between lost a prepared statement"):
        await pool.fetch("SELECT $1::int", 1)
    assert await pool.fetch("SELECT $1::int", 1)
    rows = await pool.fetch("SELECT count(*) AS n FROM pg_prepared_statements")
    await pool.close()
    assert rows[0]["n"] == 0
