"""Databases with their own defaults, publications and encodings: all works, or one line says what is missing."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from provisioner.core.errors import DatabaseUnusable
from provisioner.postgres.pool import Database as Pool
from tests.support.cli import provisioner, query
from tests.support.infisical import simulated
from tests.support.poolers import needs_pgbouncer, pgbouncer
from tests.support.postgres import ask
from tests.support.roles import granted
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.postgres import Database, Databases

# The strangest defaults that roles and databases may have.
ODD: Final[Mapping[str, str]] = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "50ms",
    "transaction_timeout": "2s",
    "search_path": "odd, pg_catalog",
    "row_security": "off",
    "jit": "on",
    "jit_above_cost": "0",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kolkata",
    "client_encoding": "LATIN1",
    "default_tablespace": "not_there",
    "session_replication_role": "replica",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_indexscan": "off",
    "client_min_messages": "error",
    "quote_all_identifiers": "on",
    "constraint_exclusion": "on",
    "xmloption": "document",
    "lo_compat_privileges": "on",
}
# Where a pooler shares sessions, nothing can be said before a time limit begins.
POOLED: Final = {
    **ODD,
    **{name: "2s" for name in ODD if name.endswith("_timeout")},
    "session_replication_role": "origin",
}


def give(database: Database, settings: Mapping[str, str]) -> None:
    """Give a database these defaults, as far as its server has them."""
    known = ask(database.server, "SELECT string_agg(lower(name), ' ') FROM pg_settings").split()
    statements = ["CREATE SCHEMA odd", "CREATE FUNCTION odd.now() RETURNS text LANGUAGE sql AS 'SELECT ''odd'''"]
    statements += [
        f"ALTER DATABASE {database.name} SET {name} = {value if name == 'search_path' else repr(value)}"
        for name, value in settings.items()
        if name in known
    ]
    query(database, ";".join(statements))


def journey(database: Database) -> None:
    """Migrate, submit, work, read and export all work, and no worker was considered lost."""
    with simulated("--mode", "self-hosted", "--projects", "12") as infisical:
        migrated = provisioner("migrate", database=database)
        assert migrated.stderr == ""
        lines = "\n".join(["project_id", *infisical.projects]).encode()
        submitted = provisioner("submit", "-", database=database, given=lines)
        assert (submitted.returncode, submitted.stderr) == (0, "")
        done = provisioner("run", "--drain", "--listen", "off", database=database, more=infisical.variables)
        assert done.returncode == 0, done.stderr
        assert "database_lost" not in done.stderr
        assert "statement_refused" not in done.stderr
        status = provisioner("status", "--json", database=database)
        assert json.loads(status.stdout)["progress"]["succeeded"] == 12, status.stderr
        exported = provisioner("export", "--state", "succeeded", database=database)
        assert (exported.returncode, exported.stdout.count("\n")) == (0, 13), exported.stderr
        assert provisioner("show", "1", database=database).returncode == 0
        assert len(infisical.state()["creates"]) == 12


async def shown(url: str, *names: str) -> dict[str, str]:
    """The settings in one of our statements."""
    pool = Pool(url, size=1)
    try:
        columns = ", ".join(f"current_setting('{name}') AS {name}" for name in names)
        (row,) = await pool.fetch(f"SELECT {columns}")
        return dict(row)
    finally:
        await pool.close()


def test_whatever_the_defaults_are(empty_database: Database) -> None:
    """A session sets what it needs, whatever the defaults of role and database."""
    give(empty_database, ODD)
    journey(empty_database)


@needs_pgbouncer
def test_through_a_pooler_that_shares_sessions(empty_database: Database, reachable_directory: Path) -> None:
    """There, each transaction does."""
    give(empty_database, POOLED)
    with pgbouncer(empty_database.url, reachable_directory) as url:
        journey(replace(empty_database, url=url))


@needs_pgbouncer
async def test_what_is_recorded_is_on_the_disk(empty_database: Database, reachable_directory: Path) -> None:
    """`synchronous_commit = off` and `serializable` do not count for our statements; stricter than ours is left."""
    names = ("synchronous_commit", "transaction_isolation")
    give(empty_database, ODD)
    right = {"synchronous_commit": "on", "transaction_isolation": "read committed"}
    assert await shown(empty_database.url, *names) == right
    query(empty_database, f"ALTER DATABASE {empty_database.name} RESET ALL")
    give_again = {"synchronous_commit": "off", "default_transaction_isolation": "serializable"}
    for name, value in give_again.items():
        query(empty_database, f"ALTER DATABASE {empty_database.name} SET {name} = '{value}'")
    with pgbouncer(empty_database.url, reachable_directory) as url:
        assert await shown(url, *names) == right
    query(empty_database, f"ALTER DATABASE {empty_database.name} SET synchronous_commit = 'remote_apply'")
    assert (await shown(empty_database.url, *names))["synchronous_commit"] == "remote_apply"


async def test_a_role_whose_triggers_do_not_fire(database: Database) -> None:
    """If our role may not set `session_replication_role`, one line says what a person has to do."""
    with granted(database) as cast:
        role = re.findall(r"//([^:]+):", cast.worker.url)[0]
        query(database, f"ALTER ROLE {role} IN DATABASE {database.name} SET session_replication_role = replica")
        pool = Pool(cast.worker.url, size=1)
        with pytest.raises(DatabaseUnusable, match="RESET session_replication_role"):
            await pool.fetch("SELECT 1")
        await pool.close()


async def test_two_that_collide_are_not_taken_for_a_lost_database(database: Database) -> None:
    """A statement that met another's changes is made again at once."""
    pool = Pool(database.url, size=1)
    async with connected(database.url) as session:
        # It fails the first time as a serialization failure does.
        await session.execute("CREATE SEQUENCE public.odd_tries")
        await session.execute(
            "CREATE FUNCTION public.odd_collision() RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('public.odd_tries') < 4 THEN RAISE EXCEPTION 'collided' USING ERRCODE = '40001'; END IF;"
            " RETURN 7; END $$"
        )
        (row,) = await pool.fetch("SELECT public.odd_collision() AS got")
        assert row["got"] == 7
    await pool.close()


def test_a_publication_of_all_tables(empty_database: Database) -> None:
    """With every table published, workers work: PostgreSQL can identify the changed rows of all our tables."""
    query(empty_database, "SET client_min_messages = error; CREATE PUBLICATION everything FOR ALL TABLES")
    journey(empty_database)


async def test_every_table_has_a_primary_key(database: Database) -> None:
    """The effects of a publication of all tables, and what a person expects."""
    async with connected(database.url) as session:
        bare = await session.fetch(
            "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'provisioner'::regnamespace"
            " AND c.relkind IN ('r', 'p')"
            " AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)"
        )
    assert [row["relname"] for row in bare] == []


@contextmanager
def stored_as(databases: Databases, database: Database, encoding: str) -> Iterator[Database]:
    """A database in another encoding."""
    name = f"{database.name}_{encoding.lower()}"
    databases.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        yield replace(database, name=name, url=database.server.url(name))
    finally:
        databases.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_another_encoding_is_refused(databases: Databases, empty_database: Database, encoding: str) -> None:
    """`migrate`, `run` and `doctor` demand UTF8, in words."""
    with stored_as(databases, empty_database, encoding) as odd:
        for command in (("migrate",), ("run", "--drain", "--listen", "off")):
            keys = {"INFISICAL_TOKEN": "x", "OPENROUTER_PROVISIONING_KEY": "sk-or-v1-x"}
            done = provisioner(*command, database=odd, more=keys)
            assert done.returncode == 1
            assert f"stores text as {encoding}" in done.stderr
            assert done.stderr.count("\n") == 1
        doctor = provisioner("doctor", "--json", database=odd)
        checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
        assert checks["encoding"]["verdict"] == "problem"
        assert "--encoding UTF8" in checks["encoding"]["remedy"]


async def test_a_foreign_byte_stops_nobody(databases: Databases, database: Database) -> None:
    """A schema that was restored into such a database can still be read, invalid bytes included."""
    with stored_as(databases, database, "SQL_ASCII") as odd:
        query(odd, r"CREATE TABLE said AS SELECT E'gr\xfc\xdfe'::text AS what")
        pool = Pool(odd.url, size=1)
        (row,) = await pool.fetch("SELECT what, $1::text AS ours FROM public.said", "ü")
        await pool.close()
    assert (row["what"], row["ours"]) == ("gr\ufffd\ufffde", "ü")
