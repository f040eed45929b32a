"""The table that users write to: any client, any statement."""

import io
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.core.queue_values import QueuePosition
from provisioner.postgres.listener import CHANNEL, read_payload
from tests.support import eventually
from tests.support.builders import project
from tests.support.operators import finish, postpone
from tests.support.postgres import Database
from tests.support.sessions import TABLE, count, insert, places, take

if TYPE_CHECKING:
    from tests.support.sessions import Session

# interface.md §2, by name, type and default.
COLUMNS = {
    "id": ("bigint", None),
    "target": ("text", "'default'::text"),
    "project_id": ("uuid", None),
    "name": ("text", "'openrouter'::text"),
    "description": ("text", None),
    "credential": ("text", "'default'::text"),
    "on_conflict": ("text", "'fail'::text"),
    "priority": ("smallint", "0"),
    "batch": ("text", None),
    "project_name": ("text", None),
    "wanted": ("text", "'present'::text"),
    "not_before": ("timestamp with time zone", None),
    "requested_by": ("text", "CURRENT_USER"),
    "created_at": ("timestamp with time zone", "now()"),
    "status": ("text", "'pending'::text"),
    "connection_id": ("uuid", None),
    "org_id": ("uuid", None),
    "credentials_hash": ("text", None),
    "adopted": ("boolean", "false"),
    "key_fingerprint": ("text", None),
    "attempts": ("integer", "0"),
    "error_code": ("text", None),
    "error_message": ("text", None),
    "finished_at": ("timestamp with time zone", None),
}


@pytest.fixture
async def heard(database: Database) -> AsyncIterator[list[str]]:
    """Lend the payloads of the notifications that were sent so far."""
    connection = await asyncpg.connect(database.url)
    payloads: list[str] = []
    await connection.add_listener(CHANNEL, lambda *said: payloads.append(str(said[-1])))
    yield payloads
    await connection.close()


async def fence(session: "Session", heard: list[str]) -> list[str]:
    """The notifications so far, in the order of their commits."""
    mark = f"mark {len(heard)}"
    await session.execute("SELECT pg_notify($1, $2)", CHANNEL, mark)
    await eventually(lambda: mark in heard)
    return [payload for payload in heard if not payload.startswith("mark")]


class TestColumns:
    """The documented table."""

    async def test_are_those_that_were_promised(self, session: "Session") -> None:
        """Each column has its name, its type and its default, and there is no other."""
        rows = await session.fetch(
            "SELECT column_name, data_type, column_default FROM information_schema.columns"
            " WHERE table_schema = 'provisioner' AND table_name = $1",
            TABLE,
        )
        assert {row["column_name"]: (row["data_type"], row["column_default"]) for row in rows} == COLUMNS

    async def test_a_project_is_all_that_it_takes(self, session: "Session") -> None:
        """The rest of a row comes from the defaults."""
        row = await session.fetchrow(
            "INSERT INTO provisioner.connection_requests (project_id) VALUES ($1) RETURNING *", project(1)
        )
        assert row is not None
        assert row["id"] > 0
        assert row["requested_by"] == "provisioner"
        assert (row["target"], row["name"], row["status"], row["on_conflict"]) == (
            "default",
            "openrouter",
            "pending",
            "fail",
        )
        assert row["created_at"] is not None

    async def test_an_id_may_be_given(self, session: "Session") -> None:
        """Rows may be moved from elsewhere with their ids, when it is said that this is meant."""
        moved = (
            "INSERT INTO provisioner.connection_requests (id, project_id) OVERRIDING SYSTEM VALUE"
            " VALUES (4711, gen_random_uuid()) RETURNING id"
        )
        assert await session.fetchval(moved) == 4711

    async def test_every_row_can_be_identified(self, session: "Session") -> None:
        """Every table has a primary key, without which a publication of all tables refuses updates and deletes."""
        bare = await session.fetch(
            "SELECT c.relname FROM pg_class AS c"
            " WHERE c.relnamespace = 'provisioner'::regnamespace AND c.relkind IN ('r', 'p')"
            " AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)"
        )
        assert bare == []

    async def test_what_is_updated_is_not_indexed(self, session: "Session") -> None:
        """No column that a worker writes is in an index or its condition, so each update is a HOT one."""
        rows = await session.fetch(
            "SELECT DISTINCT a.attname FROM pg_depend AS d"
            " JOIN pg_index AS i ON i.indexrelid = d.objid"
            " JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
            " WHERE d.classid = 'pg_class'::regclass AND i.indrelid = $1::text::regclass",
            f"provisioner.{TABLE}",
        )
        indexed = {row["attname"] for row in rows} | {"id", "target", "project_id", "name"}
        assert indexed == {"id", "target", "project_id", "name", "batch", "project_name"}


class TestInserting:
    """Every way of writing rows."""

    async def test_many_rows_by_one_statement(self, session: "Session", heard: list[str]) -> None:
        """`INSERT … SELECT` puts all of them in line, and notifies once."""
        await session.execute(
            "INSERT INTO provisioner.connection_requests (project_id)"
            " SELECT gen_random_uuid() FROM generate_series(1, 500)"
        )
        assert (await places(session))["ready"] == 500
        assert len(await fence(session, heard)) == 1

    async def test_inserting_again_is_harmless(self, session: "Session", heard: list[str]) -> None:
        """`ON CONFLICT DO NOTHING` adds new rows, and notifies of nothing if there are none."""
        statement = (
            "INSERT INTO provisioner.connection_requests (project_id)"
            " SELECT p::uuid FROM unnest($1::text[]) AS p ON CONFLICT DO NOTHING"
        )
        await session.execute(statement, [project(1), project(2)])
        await session.execute(statement, [project(1), project(2), project(2)])
        assert len(await fence(session, heard)) == 1
        await session.execute(statement, [project(1), project(3)])
        assert await count(session, TABLE) == (await places(session))["ready"] == 3
        assert len(await fence(session, heard)) == 2

    async def test_the_same_connection_cannot_be_wanted_twice(self, session: "Session") -> None:
        """Target, project and name are unique together, and each of them makes another request."""
        await insert(session)
        with pytest.raises(asyncpg.UniqueViolationError):
            await insert(session)
        await insert(session, name="another")
        await insert(session, target="another")
        await insert(session, project_id=project(2))
        assert (await places(session))["ready"] == 4

    async def test_copy_takes_a_hundred_thousand(self, session: "Session", heard: list[str]) -> None:
        """A large COPY is put in line like anything else, with one notification."""
        lines = "".join(f"{project(n)}\n" for n in range(100_000)).encode()
        await session.copy_to_table(TABLE, schema_name="provisioner", columns=["project_id"], source=io.BytesIO(lines))
        assert await places(session) == {"ready": 100_000}
        assert await session.fetchval("SELECT max(turn) FROM provisioner.ready") == 1
        assert len(await fence(session, heard)) == 1

    async def test_a_rollback_leaves_nothing(self, session: "Session", heard: list[str]) -> None:
        """Rows of a rolled back transaction never existed, and nobody was notified."""
        transaction = session.transaction()
        await transaction.start()
        await insert(session)
        await transaction.rollback()
        assert await count(session, TABLE) == 0
        assert await places(session) == {}
        assert await fence(session, heard) == []

    async def test_a_statement_of_a_transaction_counts(self, session: "Session", heard: list[str]) -> None:
        """A transaction's notifications arrive when it commits and not earlier."""
        async with session.transaction():
            await insert(session)
        assert len(await fence(session, heard)) == 1

    async def test_the_notification_says_where_the_newcomers_stand(self, session: "Session", heard: list[str]) -> None:
        """The payload names the first position of each target, so that no worker has to search for it."""
        await session.execute(
            "INSERT INTO provisioner.connection_requests (target, project_id, name, priority)"
            " VALUES ('eu', $1, 'a', 0), ('eu', $1, 'b', 0), ('eu', $1, 'c', 7), ('us', $1, 'a', -3)",
            project(1),
        )
        (payload,) = await fence(session, heard)
        assert read_payload(payload) == {"eu": QueuePosition(-7, 1), "us": QueuePosition(3, 1)}

    async def test_a_payload_that_would_be_too_long_says_everything(self, session: "Session", heard: list[str]) -> None:
        """Hundreds of targets in one statement fit into no notification: it then means all of them."""
        await session.execute(
            "INSERT INTO provisioner.connection_requests (target, project_id)"
            " SELECT 'target-number-' || n, $1 FROM generate_series(1, 600) AS n",
            project(1),
        )
        (payload,) = await fence(session, heard)
        assert read_payload(payload) == {}

    async def test_a_time_to_come_is_waited_for(self, session: "Session", heard: list[str]) -> None:
        """A `not_before` in the future waits, one in the past does not, and the view shows which."""
        now = await session.fetchval("SELECT now()")
        later = now + timedelta(hours=1)
        scheduled = await insert(session, not_before=later)
        due = await insert(session, name="due", not_before=now - timedelta(hours=1))
        assert await places(session) == {"ready": 1, "waiting": 1}
        rows = await session.fetch("SELECT id, state, next_attempt_at FROM provisioner.request_status")
        assert {tuple(row) for row in rows} == {(scheduled, "waiting", later), (due, "ready", None)}
        assert len(await fence(session, heard)) == 1

    async def test_what_is_finished_already_is_not_put_in_line(self, session: "Session") -> None:
        """Rows inserted as history stay where they are."""
        await insert(session, status="succeeded")
        assert await places(session) == {}

    async def test_whoever_may_insert_needs_no_other_right(self, database: Database, session: "Session") -> None:
        """A role with INSERT on the one table reaches the queue behind it, and cannot read it."""
        role = f"requester_of_{database.name}"
        await session.execute(f"CREATE ROLE {role}")
        await session.execute(f"GRANT USAGE ON SCHEMA provisioner TO {role}")
        await session.execute(f"GRANT INSERT ON provisioner.connection_requests TO {role}")
        try:
            await session.execute(f"SET ROLE {role}")
            await session.execute("INSERT INTO provisioner.connection_requests (project_id) VALUES ($1)", project(1))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await places(session)
            await session.execute("RESET ROLE")
            assert (await places(session))["ready"] == 1
        finally:
            await session.execute("RESET ROLE")
            await session.execute(f"DROP OWNED BY {role}")
            await session.execute(f"DROP ROLE {role}")


class TestEditing:
    """Rows that are edited while they are pending."""

    async def test_a_new_priority_is_a_new_place(self, session: "Session") -> None:
        """The request waits for a moment and comes back with its new rank, once."""
        request = await insert(session)
        await session.execute("UPDATE provisioner.connection_requests SET priority = 5 WHERE id = $1", request)
        assert await places(session) == {"waiting": 1}
        row = await session.fetchrow("SELECT rank, run_at <= now() FROM provisioner.waiting WHERE id = $1", request)
        assert tuple(row or ()) == (-5, True)

    async def test_a_new_time_is_kept(self, session: "Session") -> None:
        """A later `not_before` takes it out of the line, an earlier one brings it back."""
        request = await insert(session)
        later = await session.fetchval("SELECT now() + interval '1 hour'")
        for time in (later, later - timedelta(hours=2), None):
            await session.execute("UPDATE provisioner.connection_requests SET not_before = $1", time)
            due = await session.fetchval("SELECT run_at FROM provisioner.waiting WHERE id = $1", request)
            assert due == time or (time is None and due is not None)
        assert await places(session) == {"waiting": 1}

    async def test_another_target_or_project_is_another_line(self, session: "Session") -> None:
        """The request moves with everything that determines its position."""
        await insert(session)
        await session.execute("UPDATE provisioner.connection_requests SET target = 'eu', project_id = $1", project(2))
        row = await session.fetchrow("SELECT target, project_id::text FROM provisioner.waiting")
        assert tuple(row or ()) == ("eu", project(2))
        assert await places(session) == {"waiting": 1}

    @pytest.mark.parametrize(
        ("column", "value"),
        [("credential", "team-a"), ("on_conflict", "adopt"), ("batch", "b"), ("project_name", "B")],
    )
    async def test_the_rest_changes_no_place(self, session: "Session", column: str, value: str) -> None:
        """Other columns can be edited at any time, even in flight, without further effects."""
        request = await insert(session)
        statement = f"UPDATE provisioner.connection_requests SET {column} = $1"
        await session.execute(statement, value)
        assert await places(session) == {"ready": 1}
        await take(session, request)
        await session.execute(statement, f"{value}-2" if column != "on_conflict" else "replace")
        assert await places(session) == {"in_flight": 1}

    @pytest.mark.parametrize("column", ["name", "description"])
    async def test_a_new_name_takes_it_out_of_its_place(self, session: "Session", column: str) -> None:
        """A worker that claims it meanwhile would send the old values; a retry keeps waiting."""
        request = await insert(session)
        await session.execute(f"UPDATE provisioner.connection_requests SET {column} = 'new'")
        assert await places(session) == {"waiting": 1}
        await session.execute("UPDATE provisioner.waiting SET run_at = run_at + interval '1 hour'")
        await session.execute(f"UPDATE provisioner.connection_requests SET {column} = 'newer'")
        assert await session.fetchval("SELECT run_at > now() FROM provisioner.waiting WHERE id = $1", request)

    @pytest.mark.parametrize("column", ["target", "project_id", "name", "description", "priority", "not_before"])
    async def test_not_while_it_is_in_flight(self, session: "Session", column: str) -> None:
        """A request in flight stays as it is sent, and the error says what to do."""
        request = await insert(session)
        await take(session, request)
        with pytest.raises(asyncpg.ObjectInUseError, match="in flight") as refused:
            await session.execute(f"UPDATE provisioner.connection_requests SET {column} = {EDITED[column]}")
        assert "Cancel it" in str(refused.value.hint)
        assert await places(session) == {"in_flight": 1}

    @pytest.mark.parametrize("column", ["target", "project_id", "name", "description"])
    @pytest.mark.parametrize("code", [None, "outcome_unknown"])
    async def test_not_while_a_create_is_in_doubt(
        self, session: "Session", database: Database, column: str, code: str | None
    ) -> None:
        """An earlier create's result would be recorded nowhere; the error says how to find out."""
        request = await insert(session)
        postpone(database, request, unknown=True)
        if code:
            finish(database, [request], "failed", code)
        with pytest.raises(asyncpg.ObjectInUseError, match="may have made its connection") as refused:
            await session.execute(f"UPDATE provisioner.connection_requests SET {column} = {EDITED[column]}")
        assert "Retry it" in str(refused.value.hint)
        await session.execute("UPDATE provisioner.connection_requests SET priority = 7, batch = 'b'")

    async def test_a_conflict_can_be_renamed(self, session: "Session", database: Database) -> None:
        """Somebody else has the name, so that no create of ours is behind it; the doubt goes with the name."""
        request = await insert(session)
        postpone(database, request, unknown=True)
        finish(database, [request], "failed", "name_conflict")
        await session.execute("UPDATE provisioner.connection_requests SET name = 'another'")
        assert await count(session, "sent_creates") == 0

    @pytest.mark.parametrize("column", ["target", "project_id"])
    async def test_the_project_of_a_connection_is_not_another(self, session: "Session", column: str) -> None:
        """A connection that was recorded does not move."""
        await insert(session, status="succeeded", connection_id=project(9))
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="already has a connection"):
            await session.execute(f"UPDATE provisioner.connection_requests SET {column} = {EDITED[column]}")


EDITED = {
    "target": "'eu'",
    "project_id": f"'{project(7)}'",
    "name": "'another'",
    "description": "'another'",
    "priority": "5",
    "not_before": "now()",
}


class TestRemoving:
    """Rows that are deleted."""

    @pytest.mark.parametrize(
        "statement", ["DELETE FROM provisioner.connection_requests", "TRUNCATE provisioner.connection_requests"]
    )
    async def test_leaves_nothing_behind(self, session: "Session", statement: str) -> None:
        """Wherever the requests stood, the queue forgets them."""
        later = await session.fetchval("SELECT now() + interval '1 hour'")
        await insert(session, name="ready")
        await insert(session, name="waiting", not_before=later)
        flying = await insert(session, name="flying")
        await take(session, flying)
        await session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since) VALUES ($1, 1, 1, 1, now())",
            flying,
        )
        assert await places(session) == {"ready": 1, "waiting": 1, "in_flight": 1, "attempt_state": 1}
        await session.execute(statement)
        assert await places(session) == {}

    async def test_leaves_the_others_alone(self, session: "Session") -> None:
        """Only the deleted rows are forgotten."""
        kept = await insert(session, name="kept")
        await session.execute("DELETE FROM provisioner.connection_requests WHERE id = $1", await insert(session))
        assert await session.fetchval("SELECT array_agg(id) FROM provisioner.ready") == [kept]
