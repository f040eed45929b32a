"""The database side of operators' commands: selection, counts and changes, quick with many rows."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from asyncpg import PostgresError

from provisioner.core.errors import DatabaseUnusable
from provisioner.core.requests import State
from provisioner.postgres import search
from provisioner.postgres.access import Kind, lacking
from provisioner.postgres.browse import COLUMNS, count, exporting, unknown_ids
from provisioner.postgres.condition import holders, read_server
from provisioner.postgres.detail import read_detail
from provisioner.postgres.filters import Filter
from provisioner.postgres.operations import carry_out, changeable, known_targets, pause, resume
from provisioner.postgres.queries import statements
from provisioner.postgres.recorded import PAGE, asked_for, recorded_by_project
from provisioner.postgres.search import page
from tests.support.builders import project
from tests.support.operators import ask, one_of_each, postpone
from tests.support.sessions import connected, opened

if TYPE_CHECKING:
    from tests.support.postgres import Database as Lent

FILL = """
INSERT INTO provisioner.connection_requests (project_id, name, batch, status)
SELECT md5((i % 500)::text)::uuid, 'n-' || i, 'b-' || i % 10, CASE WHEN i % 2 = 0 THEN 'pending' ELSE 'succeeded' END
FROM generate_series(1, 20000) AS i
"""


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan and all that is below it."""
    return [plan, *(each for child in plan.get("Plans", []) for each in nodes(child))]


CHANGING = {State.UPDATING, State.REMOVING, State.REMOVED}  # requests that have had a connection before


class TestBrowsing:
    """Listing, counting, exporting."""

    async def test_counts_are_in_order_and_know_what_is_tried_again(self, database: Lent) -> None:
        """Each state that occurs is counted; what waits for its first time is not being retried."""
        one_of_each(database)
        ask(database, not_before="now() + interval '1 day'")
        async with opened(database) as ours:
            found = await count(ours, Filter())
            none = await count(ours, Filter(batches=["other"]))
        assert list(found.items()) == [(state, 1) for state in State if state not in {State.QUARANTINED, *CHANGING}]
        assert none == {}

    async def test_a_page_ends_where_the_next_begins(self, database: Lent) -> None:
        """Pages follow one another without gap or overlap, and each knows how many are left."""
        ids = ask(database, 5)
        async with opened(database) as ours:
            first = await page(ours, Filter(), limit=2)
            second = await page(ours, Filter(), limit=3, before=first.requests[-1].id)
        assert [each.id for each in (*first.requests, *second.requests)] == ids[::-1]
        assert (first.more, second.more) == (3, 0)

    async def test_no_more_is_counted_than_anybody_reads(self, database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
        """How many are left is counted up to a bound; an answer above the bound says that there are more."""
        monkeypatch.setattr(search, "COUNTED", 2)
        ids = ask(database, 6)
        async with opened(database) as ours:
            more = await page(ours, Filter(), limit=1)
            two = await page(ours, Filter(), limit=1, before=ids[3])
            rest = await page(ours, Filter(), limit=1, after=ids[2], oldest_first=True)
        assert [(each.more, each.is_all) for each in (more, two, rest)] == [(3, False), (2, True), (2, True)]

    async def test_an_export_is_of_one_moment(self, database: Lent) -> None:
        """Rows inserted while it runs are not included."""
        ids = ask(database, 3)
        async with opened(database) as ours, exporting(ours, Filter()) as snapshot:
            rows = snapshot.rows
            found = [(await anext(rows))[COLUMNS.index("id")]]
            ask(database, 3)
            found += [row[COLUMNS.index("id")] async for row in rows]
        assert found == ids

    async def test_unknown_ids_are_found(self, database: Lent) -> None:
        """Only the ids that no request has, in the order in which they were asked for."""
        (known,) = ask(database)
        async with opened(database) as ours:
            assert await unknown_ids(ours, [99, known, 98]) == [99, 98]
            assert await unknown_ids(ours, []) == []

    @pytest.mark.parametrize(("newest_first", "direction"), [(True, "Backward"), (False, "Forward")])
    async def test_a_list_reads_no_more_than_it_shows(self, database: Lent, newest_first: bool, direction: str) -> None:
        """Without a filter the plan walks along the ids from one end, and stops; nothing is sorted but tiny tables."""
        async with connected(database.url) as session:
            await session.execute(FILL)
            await session.execute("ANALYZE provisioner.connection_requests, provisioner.ready, provisioner.waiting")
            (row,) = await session.fetch(
                "EXPLAIN (FORMAT JSON, ANALYZE) " + statements("browse")["requests"],
                *([None] * 8),
                50,
                newest_first,
            )
        (plan,) = json.loads(row[0])
        (wide,) = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "connection_requests"]
        assert (wide["Index Name"], wide["Scan Direction"]) == ("connection_requests_pkey", direction)
        assert wide["Actual Rows"] <= 51

    async def test_a_long_line_is_not_numbered_to_its_end(self, database: Lent) -> None:
        """The first thousand of a line have a position; showing one row reads no more of the line than those."""
        places = "SELECT queue_position FROM provisioner.request_status WHERE state = 'ready' ORDER BY 1"
        async with connected(database.url) as session:
            await session.execute(FILL)
            await session.execute("ANALYZE provisioner.connection_requests, provisioner.ready, provisioner.waiting")
            assert [row[0] for row in await session.fetch(places)] == [*range(1, 1_001), *[None] * 9_000]
            (row,) = await session.fetch(
                "EXPLAIN (FORMAT JSON, ANALYZE) SELECT * FROM provisioner.request_status WHERE id = 9000"
            )
        (plan,) = json.loads(row[0])
        assert max(node["Actual Rows"] * node["Actual Loops"] for node in nodes(plan["Plan"])) <= 1_001


class TestDetail:
    """One request."""

    async def test_the_place_is_counted_along_the_queue_only(self, database: Lent) -> None:
        """However long the queue, no request behind is read to find a position."""
        async with connected(database.url) as session:
            await session.execute(FILL)
            await session.execute("ANALYZE provisioner.connection_requests, provisioner.ready")
            request = await session.fetchval(
                "SELECT id FROM provisioner.ready ORDER BY rank, turn, id OFFSET 20 LIMIT 1"
            )
            (row,) = await session.fetch("EXPLAIN (FORMAT JSON, ANALYZE) " + statements("detail")["standing"], request)
        (plan,) = json.loads(row[0])
        read = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "ready"]
        assert read
        assert max(node["Actual Rows"] for node in read) <= 100
        async with opened(database) as ours:
            found = await read_detail(ours, request)
        assert found is not None
        assert found.place == 21

    async def test_there_may_be_none(self, database: Lent) -> None:
        """An unknown id yields nothing."""
        async with opened(database) as ours:
            assert await read_detail(ours, 1) is None


class TestDeeds:
    """Cancelling and retrying many."""

    async def test_batches_are_reported_one_by_one(self, database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each batch reports how many it checked and changed, and together they cover everything."""
        monkeypatch.setattr("provisioner.postgres.operations.BATCH", 2)
        ids = ask(database, 5)
        postpone(database, ids[1], unknown=True)
        async with opened(database) as ours:
            steps = [step async for step in carry_out(ours, "cancel", Filter())]
            again = [step async for step in carry_out(ours, "cancel", Filter(states=[State.READY]))]
        assert [step.seen for step in steps] == [2, 2, 1]
        assert sum((Counter(step.changed) for step in steps), Counter()) == {"cancelled": 4, "ending": 1}
        assert again == []

    @pytest.mark.parametrize(
        ("states", "left"),
        [
            ((), (State.FAILED, State.CANCELLED, State.REMOVED, State.RETRYING, State.QUARANTINED)),
            ((State.FAILED, State.READY), (State.FAILED,)),
            ((State.SUCCEEDED,), None),
        ],
    )
    def test_only_what_can_change_is_looked_at(self, states: tuple[State, ...], left: tuple[State, ...] | None) -> None:
        """Whatever the filter says, finished work is not read for a retry."""
        found = changeable("retry", Filter(states=states))
        assert (found.states if found else None) == left

    async def test_pausing_tells_who_was_first(self, database: Lent) -> None:
        """The second to pause learns of the first; the target is known then."""
        async with opened(database) as ours:
            first, second = await pause(ours, "eu"), await pause(ours, "eu")
            known = await known_targets(ours)
            freed, none = await resume(ours, "eu"), await resume(ours, "eu")
        assert (first.changed, second.changed, freed.changed, none.changed) == (True, False, True, False)
        assert first.paused_at == second.paused_at == freed.paused_at
        assert (second.paused_by, none.paused_at) == ("provisioner", None)
        assert known == {"eu"}

    async def test_every_target_of_the_table_is_known(self, database: Lent) -> None:
        """Targets of requests and of workers."""
        for target in ("us", "eu", "us"):
            ask(database, target=f"'{target}'")
        async with opened(database) as ours:
            await ours.execute(
                "INSERT INTO provisioner.workers (name, version, targets, lease_until)"
                " VALUES ('w', '1', '{asia}', now())"
            )
            assert await known_targets(ours) == {"asia", "eu", "us"}


class TestRecorded:
    """What is compared with Infisical."""

    async def test_no_project_is_on_two_pages(self, database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each project comes once and whole, unless it alone has more than a page."""
        monkeypatch.setattr("provisioner.postgres.recorded.PAGE", 4)
        assert PAGE > 4
        async with opened(database) as ours:
            for number, size in ((1, 3), (2, 3), (3, 6), (4, 1)):
                await ours.execute(
                    "INSERT INTO provisioner.connection_requests (project_id, name, status, connection_id)"
                    " SELECT $1, 'n-' || i, 'succeeded', gen_random_uuid() FROM generate_series(1, $2::int) AS i",
                    project(number),
                    size,
                )
            pages = [page async for page in recorded_by_project(ours, Filter())]
        told = [(place[1], len(recorded)) for page in pages for place, recorded in page.items()]
        assert told == [(project(1), 3), (project(2), 3), (project(3), 4), (project(3), 2), (project(4), 1)]

    async def test_what_was_asked_for_before_is_found(self, database: Lent) -> None:
        """By target, project and name together."""
        async with opened(database) as ours:
            await ours.execute(
                "INSERT INTO provisioner.connection_requests (target, project_id, name)"
                " VALUES ('eu', $1, 'a'), ('eu', $2, 'b'), ('us', $1, 'b')",
                project(1),
                project(2),
            )
            found = await asked_for(ours, "eu", [(project(1), "a"), (project(1), "b"), (project(2), "b")])
        assert {place: each.status for place, each in found.items()} == {
            (project(1), "a"): "pending",
            (project(2), "b"): "pending",
        }


class TestCondition:
    """The checks of doctor."""

    async def test_the_server_tells_what_it_is(self, database: Lent) -> None:
        """A plain server is neither a standby nor behind a pooler, and keeps prepared statements."""
        async with opened(database) as ours:
            server = await read_server(ours)
        assert server.major >= 14
        assert (server.standby, server.read_only, server.pooled, server.keeps_statements) == (False, False, False, True)
        assert (server.role, server.sees_all) == ("provisioner", True)

    async def test_an_old_transaction_is_named(self, database: Lent) -> None:
        """A transaction with a snapshot is reported with its process, role and application, a younger one is not."""
        async with opened(database) as ours, connected(database.url) as other:
            await other.execute("SET application_name = 'forgotten'")
            async with other.transaction(isolation="repeatable_read"):
                pid = await other.fetchval("SELECT pg_backend_pid()")
                (found,) = await holders(ours, older_than=0)
                assert await holders(ours, older_than=60) == []
            assert (found.what, found.role, found.application) == (f"session {pid}", "provisioner", "forgotten")
            assert found.remedy == f"SELECT pg_terminate_backend({pid})"
            assert found.seconds is not None
            assert await holders(ours, older_than=0) == []

    async def test_missing_rights_are_named(self, database: Lent) -> None:
        """A role sees each right that it lacks for a worker's work; the owner lacks none."""
        role = f"{database.name}_stranger"
        async with opened(database) as ours, connected(database.url) as other:
            assert await lacking(ours, Kind.WORKER) == []
            await other.execute(f"CREATE ROLE {role}")
            try:
                assert "USAGE on the schema provisioner" in await lacking(ours, Kind.WORKER, role)
                await other.execute(f"GRANT USAGE ON SCHEMA provisioner TO {role}")
                await other.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA provisioner TO {role}")
                missing = await lacking(ours, Kind.WORKER, role)
            finally:
                await other.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        assert any(each.startswith("UPDATE (credential, status, ") for each in missing)
        assert "DELETE on ready" in missing
        assert "EXECUTE on turn_attempt_log(interval)" in missing
        assert not any(each.startswith(("SELECT", "INSERT")) for each in missing)


async def test_a_missing_schema_is_told(empty_database: Lent) -> None:
    """Before `migrate` every question says what to do."""
    async with opened(empty_database) as ours:
        with pytest.raises(DatabaseUnusable, match="run `provisioner migrate`"):
            await page(ours, Filter(), limit=1)


REFUSING = """
CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.name = 'bad' AND new.status <> old.status THEN {body} END IF;
    RETURN new;
END $$;
CREATE TRIGGER audit BEFORE UPDATE ON provisioner.connection_requests FOR EACH ROW EXECUTE FUNCTION public.audit()
"""
BODIES = {
    "raises": "RAISE EXCEPTION 'the books are closed';",
    "skips": "RETURN NULL;",
    "divides by zero": "PERFORM 1 / 0;",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("operation", ["cancel", "retry"])
async def test_a_trigger_that_refuses_one_keeps_no_other(database: Lent, operation: str, body: str) -> None:
    """A row that somebody's trigger refuses is named and left alone, in its place too; the others are changed."""
    async with connected(database.url) as session:
        told: list[str] = []
        session.add_log_listener(lambda _, said: told.append(str(said)))
        ids = ask(database, 3)
        bad = ids[1]
        await session.execute("UPDATE provisioner.connection_requests SET name = 'bad' WHERE id = $1", bad)
        if operation == "retry":
            await session.fetch("SELECT * FROM provisioner.cancel($1)", ids)
        await session.execute(REFUSING.format(body=body))
        places = "SELECT id FROM provisioner.ready UNION ALL SELECT id FROM provisioner.waiting"
        before = {row["id"] for row in await session.fetch(places)}
        rows = await session.fetch(f"SELECT * FROM provisioner.{operation}($1)", ids)
        alone = await session.fetch(f"SELECT * FROM provisioner.{operation}($1)", [bad])
        after = {row["id"] for row in await session.fetch(places)}
        found = await session.fetch("SELECT id, status FROM provisioner.connection_requests")
        states = {row["id"]: row["status"] for row in found}
    assert [row["id"] for row in rows] == [one for one in ids if one != bad]
    assert alone == []
    assert [f"request {bad} is left as it is" in line for line in told] == [True, True]
    kept, changed = ("pending", "cancelled") if operation == "cancel" else ("cancelled", "pending")
    assert states == {one: kept if one == bad else changed for one in ids}
    assert (bad in after) is (bad in before)


async def test_what_is_about_all_is_not_tried_one_by_one(database: Lent) -> None:
    """A trouble of the database itself is raised at once."""
    ids = ask(database, 3)
    async with connected(database.url) as session:
        await session.execute(REFUSING.format(body="RAISE EXCEPTION 'x' USING ERRCODE = '53100';"))
        await session.execute("UPDATE provisioner.connection_requests SET name = 'bad' WHERE id = $1", ids[0])
        with pytest.raises(PostgresError, match="x"):
            await session.fetch("SELECT * FROM provisioner.cancel($1)", ids)
        pending = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'pending'"
        assert await session.fetchval(pending) == 3
