"""Least privilege: each role can do its work, and everything else is tried and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.postgres.access import RIGHTS, SEEN, Kind
from tests.support.builders import project
from tests.support.cli import query
from tests.support.operators import one_of_each
from tests.support.roles import Cast, granted, name_of
from tests.support.sessions import SEALED, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.support.postgres import Database
    from tests.support.sessions import Session

INSERT = "INSERT INTO provisioner.connection_requests"
REFUSED = (asyncpg.InsufficientPrivilegeError,)


@pytest.fixture
def cast(database: Database) -> Iterator[Cast]:
    """Lend the database as each kind of role sees it, with requests of the owner's in every state."""
    one_of_each(database)
    query(
        database,
        f"{INSERT} (project_id, name, credential, batch) VALUES (gen_random_uuid(), 'theirs', '{SEALED}', 'theirs')",
    )
    with granted(database) as cast:
        yield cast


@pytest.fixture
async def requester(cast: Cast) -> AsyncIterator[Session]:
    """Lend a requester's session."""
    async with connected(cast.requester.url) as session:
        yield session


def url_of(cast: Cast, kind: Kind) -> str:
    """The address of the role of that kind."""
    return {Kind.REQUESTER: cast.requester, Kind.READER: cast.reader, Kind.WORKER: cast.worker}[kind].url


async def refused(session: Session, statement: str) -> bool:
    """Whether the statement is refused for want of a right."""
    transaction = session.transaction()
    await transaction.start()
    try:
        await session.execute(statement)
    except REFUSED as error:
        return "planted" not in str(error.as_dict())
    except asyncpg.PostgresError:
        return False
    else:
        return False
    finally:
        await transaction.rollback()


def allowed(kind: Kind) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """The rights of a kind: by object and privilege the columns, or none for all of them."""
    return {(right.on, privilege): right.columns for right in RIGHTS[kind] for privilege in right.privileges}


async def attempts(session: Session, kind: Kind) -> list[str]:
    """Every statement on every table, view, column and function of the schema that the kind has no right to."""
    may = allowed(kind)
    rows = await session.fetch(
        "SELECT c.relname::text AS name, c.relkind IN ('v') AS view, array_agg(a.attname::text) AS columns"
        " FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE c.relnamespace = 'provisioner'::regnamespace AND c.relkind IN ('r', 'p', 'v') GROUP BY 1, 2"
    )
    found = []
    for row in rows:
        name, table, columns = row["name"], f"provisioner.{row['name']}", row["columns"]
        for column in columns:
            can = {p: not may[name, p] or column in may[name, p] for p in ("SELECT", "UPDATE") if (name, p) in may}
            if not can.get("SELECT"):
                found += [f"SELECT {column} FROM {table}", f"COPY {table} ({column}) TO STDOUT"]
            if not can.get("UPDATE") and not row["view"]:
                found.append(f"UPDATE {table} SET {column} = DEFAULT")
            can_insert = (name, "INSERT") in may and (not may[name, "INSERT"] or column in may[name, "INSERT"])
            if not can_insert and not row["view"]:
                found.append(f"INSERT INTO {table} ({column}) VALUES (DEFAULT)")
        if (name, "DELETE") not in may and not row["view"]:  # others take no DELETE
            found.append(f"DELETE FROM {table}")
        if not row["view"]:
            found += [f"TRUNCATE {table}", f"CREATE INDEX ON {table} ({columns[0]})"]
        found += [f"DROP {'VIEW' if row['view'] else 'TABLE'} {table}", f"ALTER TABLE {table} RENAME TO gone"]
    functions = await session.fetch(
        "SELECT p.oid::regprocedure::text AS name, p.proname, p.proargtypes::regtype[] AS types"
        " FROM pg_proc AS p WHERE p.pronamespace = 'provisioner'::regnamespace AND p.prorettype <> 'trigger'::regtype"
    )
    for row in functions:
        if (row["name"].removeprefix("provisioner."), "EXECUTE") not in may:
            nothing = ", ".join(f"NULL::{each}" for each in row["types"])
            found.append(f"SELECT provisioner.{row['proname']}({nothing})")
    return found


GENERAL = (
    "CREATE TABLE provisioner.mine (x int)",
    "CREATE FUNCTION provisioner.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP SCHEMA provisioner CASCADE",
    "CREATE TRIGGER mine AFTER INSERT ON provisioner.ready EXECUTE FUNCTION provisioner.requests_inserted()",
    "CREATE POLICY mine ON provisioner.connection_requests USING (true)",
    "ALTER TABLE provisioner.connection_requests DISABLE ROW LEVEL SECURITY",
    "SET ROLE provisioner",
    "SET SESSION AUTHORIZATION provisioner",
    "SET session_replication_role = replica",
    "SELECT * FROM provisioner.attempts_other",
    "SELECT nextval('provisioner.connection_requests_id_seq')",
    "SELECT setval('provisioner.connection_requests_id_seq', 1)",
    "LOCK TABLE provisioner.connection_requests IN ACCESS EXCLUSIVE MODE",
    "GRANT SELECT ON provisioner.salt TO PUBLIC",
    "CREATE ROLE mine",
)


@pytest.mark.parametrize("kind", Kind)
async def test_everything_else_is_refused(cast: Cast, kind: Kind) -> None:
    """Every column of every table, every function and every change of the schema is out of reach unless it is given."""
    async with connected(url_of(cast, kind)) as session:
        tried = [*await attempts(session, kind), *GENERAL]
        # A role without the grant option only gets a warning, and has granted nothing.
        tolerated = [each for each in tried if not await refused(session, each)]
        tolerated = [each for each in tolerated if not each.startswith("GRANT")]
    assert len(tried) > 150
    assert tolerated == []
    assert query(cast.requester, "SELECT has_table_privilege('public', 'provisioner.salt', 'SELECT')") == "f"


@pytest.mark.parametrize("kind", Kind)
async def test_everything_given_works(cast: Cast, kind: Kind) -> None:
    """Each named right exists."""
    async with connected(url_of(cast, kind)) as session:
        for (name, privilege), columns in allowed(kind).items():
            if privilege == "SELECT":
                await session.fetch(f"SELECT {', '.join(columns) or '*'} FROM provisioner.{name}")
            elif privilege == "DELETE":
                assert not await refused(session, f"DELETE FROM provisioner.{name} WHERE false")


def test_a_reader_sees_every_column_but_one(database: Database) -> None:
    """No column of the users' table is forgotten; `credential` is left out."""
    columns = query(
        database,
        "SELECT string_agg(attname, ',' ORDER BY attname) FROM pg_attribute"
        " WHERE attrelid = 'provisioner.connection_requests'::regclass AND attnum > 0 AND NOT attisdropped",
    )
    assert sorted((*SEEN, "credential")) == columns.split(",")


class TestRequester:
    """Asks in its own name, and sees what became of that."""

    async def test_it_asks_and_sees_its_own(self, cast: Cast, requester: Session) -> None:
        """An insert with RETURNING works, repeated too; its rows are shown in the table and the views, others' not."""
        wish = f"{INSERT} (project_id, name, credential, batch) VALUES ($1, 'mine', $2, 'b')"
        made = await requester.fetchval(f"{wish} RETURNING id", project(1), SEALED)
        again = await requester.fetch(
            f"{wish} ON CONFLICT (target, project_id, name) DO NOTHING RETURNING id", project(1), SEALED
        )
        assert (made > 0, again) == (True, [])
        listed = await requester.fetch("SELECT id, requested_by FROM provisioner.connection_requests")
        assert [tuple(row) for row in listed] == [(made, name_of(cast.requester))]
        assert [row["id"] for row in await requester.fetch("SELECT id FROM provisioner.request_status")] == [made]
        progress = await requester.fetch("SELECT batch, requests FROM provisioner.batch_progress ORDER BY total")
        assert [tuple(row) for row in progress] == [("b", 1), (None, 1)]
        counts = "SELECT requested_by, requests FROM provisioner.request_counts"
        assert [tuple(row) for row in await requester.fetch(counts)] == [(name_of(cast.requester), 1)]
        async with connected(cast.other.url) as other:
            assert await other.fetchval("SELECT count(*) FROM provisioner.connection_requests") == 0
            assert await other.fetchval("SELECT count(*) FROM provisioner.request_status") == 0
            nothing = await other.fetch("SELECT total, requests FROM provisioner.batch_progress")
            assert [tuple(row) for row in nothing] == [(True, 0)]
            assert await other.fetch(counts) == []

    async def test_it_asks_in_no_other_name(self, requester: Session) -> None:
        """`requested_by` is the role's own, whatever is written; nor can a finished request be made up."""
        for column, value in (("requested_by", "'ann'"), ("status", "'succeeded'"), ("attempts", "7")):
            assert await refused(requester, f"{INSERT} (project_id, {column}) VALUES (gen_random_uuid(), {value})")

    async def test_even_with_more_rights_by_hand_it_asks_in_its_own_name(
        self, database: Database, cast: Cast, requester: Session
    ) -> None:
        """Row-level security refuses a forged name where a privilege on the column was given, and shows no key."""
        query(database, f"GRANT INSERT ON provisioner.connection_requests TO {name_of(cast.requester)}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security") as error:
            await requester.execute(
                f"{INSERT} (project_id, requested_by, credential) VALUES ($1, 'ann', $2)", project(1), SEALED
            )
        assert SEALED not in str(error.value.as_dict())

    async def test_others_requests_stay_hidden_behind_a_collision(self, database: Database, requester: Session) -> None:
        """Asking for what another asked for is harmless, and an error names neither the row nor its owner."""
        query(database, f"{INSERT} (project_id, credential) VALUES ('{project(1)}', '{SEALED}')")
        wish = f"{INSERT} (project_id) VALUES ('{project(1)}')"
        assert await requester.fetch(f"{wish} ON CONFLICT (target, project_id, name) DO NOTHING RETURNING id") == []
        with pytest.raises(asyncpg.UniqueViolationError) as error:
            await requester.execute(wish)
        assert error.value.detail is None

    async def test_no_function_of_its_own_is_shown_others_rows(self, requester: Session) -> None:
        """A cheap function in WHERE that leaks its arguments is not called for other people's rows."""
        await requester.execute(
            "CREATE FUNCTION pg_temp.leak(name text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
            " $$ BEGIN IF name IS NOT NULL THEN RAISE EXCEPTION 'seen %', name; END IF; RETURN true; END $$"
        )
        for source in ("connection_requests", "request_status"):
            await requester.fetch(f"SELECT id FROM provisioner.{source} AS s WHERE pg_temp.leak(s.name)")
        for source in ("batch_progress", "request_counts"):
            await requester.fetch(f"SELECT batch FROM provisioner.{source} AS s WHERE pg_temp.leak(s.batch)")

    async def test_bulk_goes_through_a_temporary_table(self, requester: Session) -> None:
        """PostgreSQL refuses COPY into the table itself; COPY beside it and one INSERT do the same."""
        columns = ["project_id", "name"]
        rows = [(project(number), "bulk") for number in range(1, 501)]
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="COPY FROM not supported with row-level security"):
            await requester.copy_records_to_table(
                "connection_requests", schema_name="provisioner", columns=columns, records=rows
            )
        async with requester.transaction():
            await requester.execute("CREATE TEMPORARY TABLE wanted (project_id uuid, name text) ON COMMIT DROP")
            await requester.copy_records_to_table("wanted", columns=columns, records=rows)
            await requester.execute(f"{INSERT} ({', '.join(columns)}) SELECT * FROM wanted ON CONFLICT DO NOTHING")
        assert await requester.fetchval("SELECT count(*) FROM provisioner.request_status") == 500

    async def test_a_member_of_a_granted_role_asks_in_its_own_name(self, database: Database, cast: Cast) -> None:
        """A role serves as a group: its members have its rights, and each sees its own requests."""
        query(database, f"GRANT {name_of(cast.requester)} TO {name_of(cast.other)}")
        async with connected(cast.requester.url) as group, connected(cast.other.url) as member:
            await member.execute(f"{INSERT} (project_id) VALUES ('{project(1)}')")
            assert await member.fetchval("SELECT requested_by FROM provisioner.request_status") == name_of(cast.other)
            assert await group.fetchval("SELECT count(*) FROM provisioner.request_status") == 0


async def test_rotations_are_requested_and_recorded(cast: Cast) -> None:
    """The rules of a rotation's columns run with the rights of the role that writes: a requester's, then a worker's."""
    async with connected(cast.requester.url) as requester:
        await requester.execute(
            "INSERT INTO provisioner.rotation_requests (project_id, description) VALUES (gen_random_uuid(), 'mine')"
        )
    async with connected(cast.worker.url) as worker:
        await worker.execute("SELECT set_config('provisioner.recording', 'on', false)")
        recorded = await worker.execute(
            "UPDATE provisioner.rotation_requests SET status = 'succeeded', rotation_id = gen_random_uuid()"
        )
    assert recorded == "UPDATE 1"


async def test_a_reader_sees_all_rows_and_which_credential_they_name(cast: Cast) -> None:
    """Every request is shown, and of a sealed credential only its key's id."""
    async with connected(cast.reader.url) as reader:
        assert await reader.fetchval("SELECT count(*) FROM provisioner.connection_requests") == 7
        assert await reader.fetchval("SELECT count(*) FROM provisioner.request_status") == 7
        found = await reader.fetch("SELECT DISTINCT credential, sealed_by FROM provisioner.listed_requests ORDER BY 1")
        assert [tuple(row) for row in found] == [("default", None), ("sealed:key-1", "key-1")]
        await reader.execute(
            "CREATE FUNCTION pg_temp.leak(said text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
            " $$ BEGIN IF said LIKE '%QUJD%' THEN RAISE EXCEPTION 'seen %', said; END IF; RETURN true; END $$"
        )
        await reader.fetch("SELECT id FROM provisioner.listed_requests AS c WHERE pg_temp.leak(c::text)")


async def test_rights_given_by_hand_lose_nothing(database: Database, cast: Cast) -> None:
    """A role that may take requests out of the line sees all of them, however it got its rights."""
    role = name_of(cast.other)
    query(database, f"GRANT ALL ON ALL TABLES IN SCHEMA provisioner TO {role}")
    async with connected(cast.other.url) as other:
        assert await other.fetchval("SELECT count(*) FROM provisioner.connection_requests") == 7
    query(database, f"REVOKE SELECT ON provisioner.ready FROM {role}")
    async with connected(cast.other.url) as other:
        assert await other.fetchval("SELECT count(*) FROM provisioner.connection_requests") == 0
        assert await refused(other, "DELETE FROM provisioner.ready WHERE id = 1")


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_worker_claims_by_the_owners_plan(database: Database, cast: Cast, mode: str) -> None:
    """Row-level security changes nothing in how a claim is planned, so it costs next to nothing."""
    from provisioner.postgres.queries import statements

    query(database, f"{INSERT} (project_id) SELECT gen_random_uuid() FROM generate_series(1, 5000); ANALYZE")
    shapes = []
    for url in (database.url, cast.worker.url):
        async with connected(url) as session:
            await session.execute(f"SET plan_cache_mode = {mode}; SET enable_indexonlyscan = off")
            await session.execute(
                f"PREPARE claim (text, int, bigint, int, bigint, bigint, bigint) AS {statements('claim')['claim']}"
            )
            rows = await session.fetch("EXPLAIN (COSTS OFF) EXECUTE claim('default', -100, 0, 200, 1, 0, 1)")
        nodes = [row[0].strip() for row in rows]
        shapes.append([each for each in nodes if each.startswith("->") and "Result" not in each])
    assert shapes[0] == shapes[1]
    assert not any("Seq Scan on connection_requests" in each for each in shapes[1])
