"""`provisioner grant`: rights are given and taken back, and with them alone the whole product works."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import eventually
from tests.support.cli import provisioner, query, started
from tests.support.infisical import Infisical, simulated
from tests.support.operators import one_of_each
from tests.support.roles import granted, name_of, roles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.forking import Forked
    from tests.support.postgres import Database
    from tests.support.roles import Cast

COUNT = "SELECT status, count(*) FROM provisioner.connection_requests GROUP BY status ORDER BY status"


@pytest.fixture
def cast(database: Database) -> Iterator[Cast]:
    """Lend the database as each kind of role sees it."""
    with granted(database) as cast:
        yield cast


def test_rights_are_given_listed_and_taken_back(database: Database) -> None:
    """Granting twice is harmless, `--list` shows the rights, and `--revoke` leaves none."""
    with roles(database, "app") as (app,):
        name = name_of(app)
        for _ in range(2):
            done = provisioner("grant", "--requester", name, "--worker", name, database=database)
            assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (f"{name} may request connections and see its own requests, may run workers\n")
        listed = provisioner("grant", "--list", "--json", database=database)
        assert json.loads(listed.stdout) == {name: ["requester", "worker"]}
        assert provisioner("grant", "--list", database=database).stdout.endswith("a requester, a worker\n")
        assert provisioner("grant", "--revoke", name, database=database).returncode == 0
        assert json.loads(provisioner("grant", "--list", "--json", database=database).stdout) == {}
        query(database, f"DROP ROLE {name}; CREATE ROLE {name}")  # nothing depends on it any more


def test_a_dry_run_prints_what_psql_can_run(database: Database) -> None:
    """`--dry-run` changes nothing; its output does what the command would have done."""
    with roles(database, "app") as (app,):
        done = provisioner("grant", "--reader", name_of(app), "--dry-run", database=database)
        assert done.stdout.startswith("BEGIN;\nGRANT USAGE ON SCHEMA provisioner TO ")
        assert provisioner("status", database=app).returncode == 1
        query(database, done.stdout)
        assert provisioner("status", database=app).returncode == 0
        said = json.loads(
            provisioner("grant", "--revoke", name_of(app), "--dry-run", "--json", database=database).stdout
        )
        assert (said["dry_run"], said["grants"], said["revokes"]) == (True, {}, [name_of(app)])
        assert provisioner("status", database=app).returncode == 0


def test_what_cannot_be_granted_is_told(database: Database) -> None:
    """A missing role, the owner, and a user who owns nothing: one line each that says what to do."""
    with roles(database, "app") as (app,):
        for arguments, caller, said in (
            (
                ("--reader", "no one"),
                database,
                'there is no role no one; create it first, for example with CREATE ROLE "no one"',
            ),
            (
                ("--revoke", "provisioner"),
                database,
                "role provisioner owns the schema provisioner and already has every right",
            ),
            (("--reader", "public"), database, "there is no role public"),
        ):
            done = provisioner("grant", *arguments, database=caller)
            assert (done.returncode, done.stdout) == (1, "")
            assert said in done.stderr
        provisioner("grant", "--reader", name_of(app), database=database)
        done = provisioner("grant", "--worker", name_of(app), database=app)
        assert done.returncode == 1
        assert (
            "does not own the schema provisioner and cannot grant rights in it; connect as provisioner" in done.stderr
        )
    for wrong in ((), ("--list", "--reader", "x")):
        assert provisioner("grant", *wrong, database=database).returncode == 2


def test_a_role_that_no_right_limits_is_pointed_out(database: Database) -> None:
    """A superuser gets its rights, with a warning that they limit nothing; so does a role that may not connect."""
    with roles(database, "root") as (root,):
        query(database, f"ALTER ROLE {name_of(root)} SUPERUSER")
        done = provisioner("grant", "--reader", name_of(root), database=database)
        assert done.returncode == 0
        assert "warning: role" in done.stderr
        assert "is a superuser or has BYPASSRLS" in done.stderr
        query(database, f"ALTER ROLE {name_of(root)} NOSUPERUSER; REVOKE ALL ON DATABASE {database.name} FROM PUBLIC")
        done = provisioner("grant", "--requester", name_of(root), database=database)
        assert f"GRANT CONNECT ON DATABASE {database.name} TO " in done.stderr
        assert f"GRANT TEMPORARY ON DATABASE {database.name} TO " in done.stderr


def test_an_owner_without_privileges_can_migrate_and_grant(empty_database: Database) -> None:
    """Neither a superuser nor CREATEROLE is needed: owning the database is enough."""
    with roles(empty_database, "owner", "app") as (owner, app):
        query(empty_database, f"ALTER DATABASE {empty_database.name} OWNER TO {name_of(owner)}")
        assert provisioner("migrate", database=owner).returncode == 0
        assert provisioner("grant", "--reader", name_of(app), database=owner).returncode == 0
        assert provisioner("status", database=app).returncode == 0
        query(owner, "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid())")
        assert query(owner, "SELECT count(*) FROM provisioner.request_status") == "1"
        query(empty_database, f"ALTER DATABASE {empty_database.name} OWNER TO provisioner")


def test_a_reader_runs_what_reads_and_nothing_that_writes(database: Database, cast: Cast) -> None:
    """Every read-only command works for a reader; all others name the missing right in one line."""
    ids = one_of_each(database)
    query(database, "INSERT INTO provisioner.connection_requests (project_id, credential) VALUES (gen_random_uuid(), "
          f"'sealed:key-1:{'QUJD' * 40}')")  # fmt: skip
    request = str(ids["failed"])
    with simulated("--any-project") as infisical:
        for arguments, status in (
            (("status",), 1), (("list",), 0), (("show", request), 0), (("export",), 0), (("verify",), 1),
            (("keys", "list"), 0), (("migrate", "--check"), 0),
        ):  # fmt: skip
            done = provisioner(*arguments, database=cast.reader, more=infisical.variables)
            assert (done.returncode, "permission" in done.stderr) == (status, False), done.stderr
            assert "QUJD" not in done.stdout
        for operation, right in (
            (("cancel", str(ids["ready"])), "permission denied for function cancel"),
            (("retry", request), "permission denied for function retry"),
            (("pause",), "permission denied for function pause"),
            (("resume",), "permission denied for function resume"),
            (("run", "--drain", "--listen", "off"), "UPDATE (credential, status"),
        ):
            done = provisioner(*operation, database=cast.reader, more=infisical.variables)
            assert (done.returncode, done.stdout) == (1, "")
            assert right in done.stderr
            assert "`provisioner " in done.stderr
            assert done.stderr.count("\n") == 1
    line = b"project_id\n8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11\n"
    done = provisioner("submit", "-", database=cast.reader, given=line)
    assert done.returncode == 1
    assert f"lacks INSERT on connection_requests; `provisioner grant --requester {name_of(cast.reader)}`" in done.stderr


def test_a_requester_submits_and_hears_honestly_of_others(database: Database, cast: Cast) -> None:
    """`submit` distinguishes its own requests from others', even with sealed keys, and may be repeated."""
    provisioner("keys", "generate", "--stdout", database=database)
    projects = [f"8d7e2b34-6d3c-4d5e-9f4b-{number:012d}" for number in range(4)]
    query(database, f"INSERT INTO provisioner.connection_requests (project_id) VALUES ('{projects[0]}')")
    given = "\n".join(
        ["project_id,api_key", *(f"{each},sk-or-v1-planted{n}" for n, each in enumerate(projects))]
    ).encode()
    rehearsed = provisioner("submit", "--dry-run", "-", database=cast.requester, given=given)
    assert "this role cannot see what others have requested" in rehearsed.stdout
    first = provisioner("submit", "-", database=cast.requester, given=given)
    assert (first.returncode, first.stderr) == (0, "")
    assert "inserted      3\n" in first.stdout
    assert "already there 1 (1 requested by others)" in first.stdout
    second = provisioner("submit", "--json", "-", database=cast.requester, given=given)
    report = json.loads(second.stdout)
    assert (report["inserted"], report["already_there"], report["of_others"]) == (0, 4, 1)
    assert report["already"]["pending"] == 3
    assert query(cast.requester, "SELECT count(*) FROM provisioner.request_status") == "3"


@contextmanager
def daemon(seen: Database, infisical: Infisical, **more: str) -> Iterator[Forked]:
    """A worker, killed at the end if it still runs."""
    told = {**infisical.variables, "PROVISIONER_LISTEN__ADDRESS": "off", **more}
    process = started("run", database=seen, more=told, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_the_whole_journey_with_least_privilege(database: Database, cast: Cast) -> None:
    """A requester inserts, workers retry, one is lost and rescued, the log rotates; forged notifications do no harm."""
    haste = {"PROVISIONER_RETRY__BASE": "0.1", "PROVISIONER_WORKER__LEASE": "5", "PROVISIONER_WORKER__POLL": "0.1"}
    faults = "cut-after-commit=0.1,html-502=0.1"
    options = ("--mode", "self-hosted", "--any-project", "--latency", "0.05", "--seed", "3", "--faults", faults)
    days = "FROM pg_class WHERE relname ~ '^attempts_[0-9]{8}$'"
    query(database, "DROP TABLE " + query(database, f"SELECT string_agg('provisioner.' || relname, ', ') {days}"))
    with simulated(*options) as infisical, daemon(cast.worker, infisical, **haste) as first:
        await eventually(lambda: query(database, "SELECT count(*) FROM provisioner.workers") == "1")
        query(cast.requester, "SELECT pg_notify('provisioner', 'default,-99999999999,' || repeat('9', 40))")
        query(
            cast.requester,
            "INSERT INTO provisioner.connection_requests (project_id)"
            " SELECT gen_random_uuid() FROM generate_series(1, 200)",
        )
        await eventually(lambda: query(database, "SELECT count(*) > 0 FROM provisioner.in_flight") == "t")
        first.kill()
        first.wait()
        assert query(database, "SELECT count(*) > 0 FROM provisioner.in_flight") == "t"
        with daemon(cast.worker, infisical, **haste) as second:
            await eventually(lambda: query(cast.reader, COUNT) == "succeeded|200", within=60)
            second.send_signal(signal.SIGTERM)
            _, said = second.communicate(timeout=20)
        assert second.returncode == 0, said
        assert "permission denied" not in said
        assert "row-level" not in said
        creates = [one for one in infisical.state()["creates"] if one.get("status") == 200]
    assert query(cast.requester, "SELECT count(*) FROM provisioner.request_status WHERE state = 'succeeded'") == "200"
    assert len(creates) <= 200
    assert query(database, "SELECT count(*) FROM provisioner.attempts WHERE outcome = 'unknown'") != "0"
    assert query(database, f"SELECT count(*) {days}") != "0"
