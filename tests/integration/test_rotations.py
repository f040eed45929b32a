"""Rotations in the journey of connections: when they start, how they end, and what may be done with them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from provisioner.postgres.kinds import ROTATIONS
from provisioner.sandbox.audit import audit_rotations
from tests.support import eventually
from tests.support.rotations import CREATE, ROUTE, ask, becomes, comes_to, connect, fleet, one, row
from tests.support.sessions import connected

if TYPE_CHECKING:
    from tests.support.postgres import Database


async def test_it_waits_for_its_connection_at_no_cost_and_starts_at_once(database: Database) -> None:
    """Nothing is sent before the connection is recorded, and the first call leaves within a second of that."""
    async with fleet(database) as it:
        request = await ask(it, spend_limit=12.5, limit_reset="monthly", project_name="Billing")
        await it.start()
        state = "SELECT state, waits_for, next_attempt_at FROM provisioner.rotation_status WHERE id = $1"
        assert (await one(it, state, request)) == ("waiting", "openrouter", None)
        assert not any(ROUTE in route for route in it.simulator.world.requests)
        connection = await connect(it)
        made = await becomes(it, request, "succeeded")
        began = await it.session.fetchval(
            "SELECT min(started_at) FROM provisioner.attempts WHERE request_id = $1", request
        )
        done = await it.session.fetchval(
            "SELECT finished_at FROM provisioner.connection_requests WHERE id = $1", connection
        )
        assert began - done < timedelta(seconds=1)
        world = it.simulator.state()
        assert not audit_rotations([made], world)
        key = world["keys"][0]
        assert key["name"] == made["key_issued"]
        assert key["name"].startswith(f"Billing prod #{request}.1-")
        assert (key["limit"], key["limitReset"]) == (12.5, "monthly")
        assert (made["attempts"], made["left_behind"], str(made["connection_id"])) == (
            1,
            None,
            world["connections"][0]["id"],
        )


async def test_a_failed_connection_fails_its_rotation_and_revives_it(database: Database) -> None:
    """The rotation fails with its connection, says so, and goes on by itself once that has been retried."""
    async with fleet(database) as it:
        await it.start()
        connection = await connect(it, credential="nobody-has-it")
        request = await ask(it)
        failed = await becomes(it, request, "failed")
        assert failed["error_code"] == "connection_failed"
        assert f"(request {connection}) failed with credential_unknown" in failed["error_message"]
        late = await ask(it, name="late")  # asked for when the connection has failed already
        assert (await row(it, late))["error_code"] == "connection_failed"
        fix = "UPDATE provisioner.connection_requests SET credential = 'default', status = 'pending' WHERE id = $1"
        await it.session.execute(fix, connection)
        await becomes(it, request, "succeeded")
        assert (await becomes(it, late, "failed"))["error_code"] == "secret_exists"


async def test_a_plan_without_rotations_holds_all_and_spends_no_row(database: Database) -> None:
    """One answer opens the line's breaker: it is told once, connections go on, and no rotation has lost anything."""
    async with fleet(database, projects=6) as it:
        it.simulator.configure(planRestricted=True)
        for project in range(6):
            await connect(it, project)
            await ask(it, project)
        await it.start()
        told = (
            "SELECT reason LIKE '%plan restriction%' FROM provisioner.target_incidents WHERE target LIKE '%/rotations'"
        )
        await comes_to(it, True, told)
        count = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await comes_to(it, 6, count)
        assert sum(it.simulator.world.requests[CREATE].values()) <= 2  # as many as may be in flight
        states = await it.session.fetch("SELECT DISTINCT status, attempts FROM provisioner.rotation_requests")
        assert [tuple(each) for each in states] == [("pending", 0)]
        spent = "SELECT coalesce(sum(failures), 0) FROM provisioner.attempt_state"
        assert await it.session.fetchval(spent) == 0


async def test_refusals_have_their_codes(database: Database) -> None:
    """What Infisical or OpenRouter refuses ends the row with its own code, and leaves no key behind."""
    async with fleet(database, projects=3) as it:
        place = {"projectId": it.simulator.projects[1], "environment": "prod", "path": "/"}
        it.simulator.configure(
            secrets=[{**place, "name": "OPENROUTER_API_KEY", "value": "taken"}], rotationFaults={"key-refused": 1.0}
        )
        for project in range(3):
            await connect(it, project)
        await it.start()
        refused = await ask(it, 0)
        secret = await ask(it, 1)
        folder = await ask(it, 2, secret_path="/nowhere")
        assert (await becomes(it, secret, "failed"))["error_code"] == "secret_exists"
        assert (await becomes(it, folder, "failed"))["error_code"] == "folder_not_found"
        assert (await becomes(it, refused, "failed"))["error_code"] == "key_not_issued"
        assert it.simulator.state()["keys"] == []


async def test_somebody_elses_rotation_is_left_alone(database: Database) -> None:
    """`fail` says that it is there, `adopt` records it; neither makes a key."""
    async with fleet(database, projects=2) as it:
        for project in range(2):
            await connect(it, project)
        await it.start()
        count = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await comes_to(it, 2, count)
        first = [await becomes(it, await ask(it, project), "succeeded") for project in range(2)]
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        conflict, adopted = await ask(it, 0), await ask(it, 1, on_conflict="adopt")
        assert (await becomes(it, conflict, "failed"))["error_code"] == "name_conflict"
        taken = await becomes(it, adopted, "succeeded")
        assert (taken["adopted"], taken["rotation_id"], taken["key_issued"]) == (
            True,
            first[1]["rotation_id"],
            first[1]["key_issued"],
        )
        assert len(it.simulator.state()["keys"]) == 2


async def test_what_may_have_been_left_behind_is_told(database: Database) -> None:
    """A key whose rotation never came about is named by the row that succeeded after it."""
    async with fleet(database, rotation_faults={"key-then-error": 1.0}) as it:
        await connect(it)
        request = await ask(it)
        await it.start()
        await eventually(lambda: bool(it.simulator.state()["rotationFaults"]))
        it.simulator.configure(rotationFaults={})
        made = await becomes(it, request, "succeeded")
        world = it.simulator.state()
        assert len(world["keys"]) >= 2
        assert not audit_rotations([made], world)
        assert f'"{world["keys"][0]["name"]}"' in made["left_behind"]


async def test_operators_and_edits(database: Database) -> None:
    """Cancel and retry know rotations; what is sent can be edited until something may have been made of it."""
    async with fleet(database) as it:
        request = await ask(it)
        cancelled = await it.session.fetch("SELECT * FROM provisioner.cancel($1)", [request])
        assert [tuple(each) for each in cancelled] == [(request, "cancelled")]
        assert [tuple(each) for each in await it.session.fetch("SELECT * FROM provisioner.retry($1)", [request])] == [
            (request, "cancelled")
        ]
        await it.session.execute("UPDATE provisioner.rotation_requests SET secret_name = 'KEY', priority = 3")
        waiting = "SELECT rank, quarantine FROM provisioner.waiting WHERE id = $1"
        assert (await one(it, waiting, request)) == (-3, "connection")
        await connect(it)
        await it.start()
        await becomes(it, request, "succeeded")
        assert it.simulator.state()["secrets"][0]["name"] == "KEY"
        progress = "SELECT requests, succeeded FROM provisioner.batch_progress WHERE total"
        assert (await one(it, progress)) == (2, 2)
        assert await it.session.fetch("SELECT * FROM provisioner.miscounted") == []


@pytest.mark.parametrize(("taking", "left"), [("", (1, 1)), (", with_secrets = true, revoke_keys = true", (0, 0))])
async def test_removing_a_connection_removes_its_rotation_first(
    database: Database, taking: str, left: tuple[int, int]
) -> None:
    """In that order, for Infisical does not delete what is in use; secret and keys stay unless the wish takes them."""
    async with fleet(database) as it:
        connection, request = await connect(it), await ask(it)
        await it.start()
        await becomes(it, request, "succeeded")
        if taking:
            await it.session.execute(f"UPDATE provisioner.rotation_requests SET{taking.removeprefix(',')}")
        await it.session.execute("SELECT provisioner.remove($1)", [connection])
        await becomes(it, request, "removed")
        await comes_to(it, "removed", "SELECT status FROM provisioner.connection_requests")
        state = it.simulator.state()
        assert (state["rotations"], state["connections"]) == ([], [])
        assert (len(state["keys"]), len(state["secrets"])) == left
        refused = "SELECT count(*) FROM provisioner.attempts WHERE outcome = 'in_use'"
        assert await it.session.fetchval(refused) == 0
        if not taking:
            return
        await it.session.execute("UPDATE provisioner.rotation_requests SET wanted = 'present'")
        await it.session.execute("UPDATE provisioner.connection_requests SET wanted = 'present'")
        made = await becomes(it, request, "succeeded")
        assert not audit_rotations([made], it.simulator.state())


async def test_what_was_never_made_is_removed_at_once(database: Database) -> None:
    """While it waits nothing has to be done; and what somebody else made is let go, not deleted."""
    async with fleet(database, projects=2) as it:
        request = await ask(it)
        await it.session.execute("UPDATE provisioner.rotation_requests SET wanted = 'absent'")
        assert (await row(it, request))["status"] == "removed"
        assert await one(it, "SELECT count(*) FROM provisioner.waiting") == (0,)
        await connect(it, 1)
        await it.start()
        await becomes(it, await ask(it, 1), "succeeded")
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        adopted = await ask(it, 1, on_conflict="adopt")
        await becomes(it, adopted, "succeeded")
        await it.session.execute("UPDATE provisioner.rotation_requests SET wanted = 'absent'")
        await becomes(it, adopted, "removed")
        assert len(it.simulator.state()["rotations"]) == 1


async def test_pausing_the_target_pauses_its_rotations(database: Database) -> None:
    """Nobody has to know that rotations stand in a line of their own."""
    async with fleet(database) as it:
        await connect(it)
        await it.start()
        count = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await comes_to(it, 1, count)
        await it.session.execute("SELECT provisioner.pause('default')")
        worker = it.workers[0]
        await eventually(lambda: all(target.paused for target in worker.vitals().targets))
        request = await ask(it)
        ready = "SELECT count(*) FROM provisioner.ready WHERE target = 'default/rotations'"
        await comes_to(it, 1, ready)
        assert (await row(it, request))["status"] == "pending"
        await it.session.execute("SELECT provisioner.resume('default')")
        await becomes(it, request, "succeeded")


@pytest.mark.parametrize("file", ["claim", "settle"])
async def test_every_statement_is_for_its_own_table(database: Database, file: str) -> None:
    """What is taken over from connections names the table of rotations, and PostgreSQL accepts it."""
    async with connected(database.url) as session:
        for name, sql in ROTATIONS.sql(file).items():
            assert "UPDATE provisioner.connection_requests" not in sql, name
            assert "credential = " not in sql, name
            await session.prepare(sql)


async def test_rotations_outlive_the_table_of_connections(database: Database) -> None:
    """Their places and the evidence of their creates stay: without it a key that was made would be known to nobody."""
    async with fleet(database, projects=1) as it:
        await connect(it)
        request = await ask(it)
        await it.session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since)"
            " SELECT id, 1, 1, 0, now() FROM provisioner.requests"
        )
        await it.session.execute(
            "INSERT INTO provisioner.sent_creates (id, sent_at, ended_at, target, project_id, name, description, exact)"
            " SELECT s.id, now(), now(), 'default', gen_random_uuid(), 'openrouter', '', true"
            " FROM provisioner.attempt_state AS s"
        )
        await it.session.execute("TRUNCATE provisioner.connection_requests")
        for table in ("waiting", "attempt_state", "sent_creates"):
            assert await one(it, f"SELECT array_agg(id) FROM provisioner.{table}") == ([request],)
        assert await one(it, "SELECT count(*) FROM provisioner.ready") == (0,)
        assert await one(it, "SELECT target, requests FROM provisioner.request_counts") == ("default/rotations", 1)
