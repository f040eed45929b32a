"""Whole journeys through real processes: rows in, connections made, ids and hashes back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.postgres.queries import statements
from provisioner.sandbox.audit import audit
from tests.support import eventually
from tests.support.cli import provisioner, query, started
from tests.support.infisical import Infisical, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.forking import Forked
    from tests.support.postgres import Database

OPENED = "status_port_opened"
INSERT = "INSERT INTO provisioner.connection_requests (project_id, name) "
COUNT = "SELECT status, count(*) FROM provisioner.connection_requests GROUP BY status ORDER BY status"


async def rows(database: Database) -> list[dict[str, Any]]:
    """The table, as the auditor wants it."""
    connection = await asyncpg.connect(database.url)
    try:
        return [dict(row) for row in await connection.fetch(statements("demo")["rows"])]
    finally:
        await connection.close()


@contextmanager
def worker(database: Database, infisical: Infisical, **more: str) -> Iterator[Forked]:
    """A daemon, killed at the end if it still runs."""
    told = {**infisical.variables, **more}
    process = started("run", "--listen", "off", database=database, more=told, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_hundreds_of_requests_are_drained_by_one_worker(database: Database) -> None:
    """500 rows for 100 projects by plain SQL: 500 creates, no more, and every row has the server's id and hash."""
    with simulated("--mode", "self-hosted", "--projects", "100") as infisical:
        listed = ",".join(f"('{project}'::uuid)" for project in infisical.projects)
        some = f"SELECT p, 'connection-' || g FROM (VALUES {listed}) AS v (p), generate_series(1, 5) AS g"
        query(database, INSERT + some)
        done = provisioner("run", "--drain", "--listen", "off", database=database, more=infisical.variables)
        assert done.returncode == 0, done.stderr
        found = audit(await rows(database), infisical.state())
    assert list(found.problems) == []
    assert (found.creates, found.made, dict(found.states)) == (500, 500, {"succeeded": 500})
    assert query(database, "SELECT count(*) FROM provisioner.attempts") == "500"
    assert query(database, "SELECT count(*) FROM provisioner.in_flight") == "0"


async def test_draining_begins_with_the_keys_as_they_are_now(database: Database) -> None:
    """After a run with a wrong key, a run with the right one carries out what waited for it."""
    name = "PROVISIONER_CREDENTIALS__DEFAULT__VALUE"
    with simulated("--mode", "self-hosted", "--projects", "40") as infisical:
        listed = ",".join(f"('{project}'::uuid)" for project in infisical.projects)
        query(database, f"{INSERT} SELECT p, 'a' FROM (VALUES {listed}) AS v (p)")
        drain = ("run", "--drain", "--listen", "off")
        wrong = {**infisical.variables, name: "sk-or-v1-wrong-mode-401", "PROVISIONER_RETRY__BASE": "0.1"}
        provisioner(*drain, database=database, more=wrong)
        assert query(database, COUNT) == "failed|3\npending|37"
        provisioner(*drain, database=database, more={**infisical.variables, name: "sk-or-v1-right"})
        assert query(database, COUNT) == "failed|3\nsucceeded|37"


async def test_two_daemons_share_the_table(database: Database) -> None:
    """Two daemons are notified of rows that are committed while they run, share them, and stop cleanly when told to."""
    with (
        simulated("--mode", "self-hosted", "--any-project", "--latency", "0.02") as infisical,
        worker(database, infisical) as one,
        worker(database, infisical) as two,
    ):
        await eventually(lambda: query(database, "SELECT count(*) FROM provisioner.workers") == "2")
        query(database, INSERT + "SELECT gen_random_uuid(), 'a' FROM generate_series(1, 300)")
        await eventually(lambda: query(database, COUNT) == "succeeded|300", within=30)
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
        assert [one.wait(20), two.wait(20)] == [0, 0]
        found = audit(await rows(database), infisical.state())
    assert list(found.problems) == []
    assert found.creates == 300
    assert query(database, "SELECT count(DISTINCT worker) FROM provisioner.attempts") == "2"
    assert query(database, "SELECT count(*) FROM provisioner.workers") == "0"


async def test_a_rolled_back_insert_leaves_nothing(database: Database) -> None:
    """Rolled back rows are never created, and rows that are inserted again are created once."""
    project = "7d3f6f0e-8a39-4a6e-9d3f-0d2f4a1b5c6d"
    with simulated("--mode", "self-hosted", "--any-project") as infisical:
        query(database, f"BEGIN; {INSERT} VALUES ('{project}', 'never'); ROLLBACK")
        for _ in range(2):
            query(database, f"{INSERT} VALUES ('{project}', 'once') ON CONFLICT DO NOTHING")
            provisioner("run", "--drain", "--listen", "off", database=database, more=infisical.variables)
        assert [create["name"] for create in infisical.state()["creates"]] == ["once"]


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [("target", "nowhere", "target_unknown"), ("credential", "nobodys", "credential_unknown")],
)
async def test_an_unknown_name_fails_that_row_alone(database: Database, column: str, value: str, code: str) -> None:
    """A row with an unknown target or credential fails with its code; the row beside it succeeds."""
    with simulated("--mode", "self-hosted", "--any-project") as infisical:
        query(database, INSERT + "VALUES (gen_random_uuid(), 'good')")
        query(
            database,
            f"INSERT INTO provisioner.connection_requests (project_id, name, {column})"
            f" VALUES (gen_random_uuid(), 'bad', '{value}')",
        )
        with worker(database, infisical):
            await eventually(lambda: query(database, COUNT) == "failed|1\nsucceeded|1")
        assert len(infisical.state()["creates"]) == 1
    told = "SELECT error_code, error_message FROM provisioner.connection_requests WHERE name = 'bad'"
    assert query(database, told).startswith(f"{code}|")
    assert value in query(database, told)


def test_two_workers_on_a_host_need_two_addresses(database: Database) -> None:
    """A second worker on the same port learns what to set; port 0 takes any free port, which the log names."""
    with simulated("--projects", "1") as infisical, socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = provisioner("run", "--drain", "--listen", address, database=database, more=infisical.variables)
        assert done.returncode == 1
        assert f"cannot listen on {address}: Address already in use; each worker on a host needs" in done.stderr
        assert "--listen" in done.stderr
        done = provisioner("run", "--drain", "--listen", "127.0.0.1:0", database=database, more=infisical.variables)
        assert done.returncode == 0
        opened = next(event for line in done.stderr.splitlines() if (event := json.loads(line))["event"] == OPENED)
        assert opened["port"] > 0
