"""Rotations in the journey of connections: when they start, how they end, and what may be done with them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from provisioner.core.alerts import Kind, find_alerts, incidents
from provisioner.core.explain import Formatters, explain
from provisioner.postgres import kinds
from provisioner.postgres.detail import read_detail
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.reports import read_status
from provisioner.sandbox.audit import audit_rotations
from tests.support import eventually
from tests.support.rotations import CREATE, ROUTE, ask, connect, fleet
from tests.support.sessions import connected

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from tests.support.postgres import Database


async def test_it_waits_for_its_connection_at_no_cost_and_starts_at_once(database: Database) -> None:
    """Nothing is sent before the connection is recorded, and the first call leaves within a second of that."""
    async with fleet(database) as it:
        request = await ask(it, spend_limit=12.5, limit_reset="monthly", project_name="Billing")
        await it.start()
        state = "SELECT state, waits_for, next_attempt_at FROM provisioner.rotation_status WHERE id = $1"
        assert (await it.one(state, request)) == ("waiting", "openrouter", None)
        assert not any(ROUTE in route for route in it.simulator.world.requests)
        connection = await connect(it)
        made = await it.becomes(request, "succeeded")
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
    """The rotation fails with its connection, says so, and continues by itself once that has been retried."""
    async with fleet(database) as it:
        await it.start()
        connection = await connect(it, credential="nobody-has-it")
        request = await ask(it)
        failed = await it.becomes(request, "failed")
        assert failed["error_code"] == "connection_failed"
        assert f"(request {connection}) failed with credential_unknown" in failed["error_message"]
        late = await ask(it, name="late")  # asked for when the connection has failed already
        assert (await it.row(late))["error_code"] == "connection_failed"
        fix = "UPDATE provisioner.connection_requests SET credential = 'default', status = 'pending' WHERE id = $1"
        await it.session.execute(fix, connection)
        await it.becomes(request, "succeeded")
        assert (await it.becomes(late, "failed"))["error_code"] == "secret_exists"


async def test_a_plan_without_rotations_holds_all_and_spends_no_row(database: Database) -> None:
    """One answer opens the line's breaker: it is reported once, connections continue, and no rotation has failed."""
    async with fleet(database, projects=6) as it:
        it.simulator.configure(planRestricted=True)
        for project in range(6):
            await connect(it, project)
            await ask(it, project)
        await it.start()
        told = (
            "SELECT reason LIKE '%plan restriction%' FROM provisioner.target_incidents WHERE target LIKE '%/rotations'"
        )
        await it.until(told, True)
        count = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await it.until(count, 6)
        assert sum(it.simulator.world.requests[CREATE].values()) <= 2  # as many as may be in flight
        states = await it.session.fetch("SELECT DISTINCT status, attempts FROM provisioner.rotation_requests")
        assert [tuple(each) for each in states] == [("pending", 0)]
        pool = Pool(database.url, size=1)
        try:
            looks = [await read_status(pool, target=target) for target in (None, "default", "default/rotations")]
            request = await it.session.fetchval("SELECT min(id) FROM provisioner.rotation_requests")
            detail = await read_detail(pool, request)
        finally:
            await pool.close()
        for seen in looks:
            assert [(each.kind, each.subject, each.requests) for each in find_alerts(seen)] == [
                (Kind.HELD, "default/rotations", 6)
            ]
            assert incidents(seen) == ()
        assert [look.progress.requests if look.progress else 0 for look in looks] == [12, 12, 6]
        assert detail is not None
        advice = explain(detail, Formatters(str, str))
        assert "the plan of Infisical at default has no secret rotations: change the plan" in advice[-1]
        spent = "SELECT coalesce(sum(failures), 0) FROM provisioner.attempt_state"
        assert await it.session.fetchval(spent) == 0


async def test_refusals_have_their_codes(database: Database) -> None:
    """A refusal of Infisical or OpenRouter ends the row with its own code, and leaves no key behind."""
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
        assert (await it.becomes(secret, "failed"))["error_code"] == "secret_exists"
        assert (await it.becomes(folder, "failed"))["error_code"] == "folder_not_found"
        assert (await it.becomes(refused, "failed"))["error_code"] == "key_not_issued"
        assert it.simulator.state()["keys"] == []


async def test_somebody_elses_rotation_is_left_alone(database: Database) -> None:
    """`fail` reports the existing rotation, `adopt` records it; neither makes a key."""
    async with fleet(database, projects=2) as it:
        for project in range(2):
            await connect(it, project)
        await it.start()
        count = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await it.until(count, 2)
        first = [await it.becomes(await ask(it, project), "succeeded") for project in range(2)]
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        conflict, adopted = await ask(it, 0), await ask(it, 1, on_conflict="adopt")
        assert (await it.becomes(conflict, "failed"))["error_code"] == "name_conflict"
        taken = await it.becomes(adopted, "succeeded")
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
        made = await it.becomes(request, "succeeded")
        world = it.simulator.state()
        assert len(world["keys"]) >= 2
        assert not audit_rotations([made], world)
        assert f'"{world["keys"][0]["name"]}"' in made["left_behind"]


async def test_operators_and_edits(database: Database) -> None:
    """Cancel and retry work for rotations; they can be edited until something may have been made."""
    async with fleet(database) as it:
        request = await ask(it)
        cancelled = await it.session.fetch("SELECT * FROM provisioner.cancel($1)", [request])
        assert [tuple(each) for each in cancelled] == [(request, "cancelled")]
        assert [tuple(each) for each in await it.session.fetch("SELECT * FROM provisioner.retry($1)", [request])] == [
            (request, "cancelled")
        ]
        await it.session.execute("UPDATE provisioner.rotation_requests SET secret_name = 'KEY', priority = 3")
        waiting = "SELECT rank, quarantine FROM provisioner.waiting WHERE id = $1"
        assert (await it.one(waiting, request)) == (-3, "connection")
        await connect(it)
        await it.start()
        await it.becomes(request, "succeeded")
        assert it.simulator.state()["secrets"][0]["name"] == "KEY"
        progress = "SELECT requests, succeeded FROM provisioner.batch_progress WHERE total"
        assert (await it.one(progress)) == (2, 2)
        assert await it.session.fetch("SELECT * FROM provisioner.miscounted") == []


@pytest.mark.parametrize(("taking", "left"), [("", (1, 1)), (", with_secrets = true, revoke_keys = true", (0, 0))])
async def test_removing_a_connection_removes_its_rotation_first(
    database: Database, taking: str, left: tuple[int, int]
) -> None:
    """In that order, because Infisical does not delete what is in use; secret and keys stay unless requested."""
    async with fleet(database) as it:
        connection, request = await connect(it), await ask(it)
        await it.start()
        await it.becomes(request, "succeeded")
        if taking:
            await it.session.execute(f"UPDATE provisioner.rotation_requests SET{taking.removeprefix(',')}")
        await it.session.execute("SELECT provisioner.remove($1)", [connection])
        await it.becomes(request, "removed")
        await it.until("SELECT status FROM provisioner.connection_requests", "removed")
        state = it.simulator.state()
        assert (state["rotations"], state["connections"]) == ([], [])
        assert (len(state["keys"]), len(state["secrets"])) == left
        refused = "SELECT count(*) FROM provisioner.attempts WHERE outcome = 'in_use'"
        assert await it.session.fetchval(refused) == 0
        if not taking:
            return
        await it.session.execute("UPDATE provisioner.rotation_requests SET wanted = 'present'")
        await it.session.execute("UPDATE provisioner.connection_requests SET wanted = 'present'")
        made = await it.becomes(request, "succeeded")
        assert not audit_rotations([made], it.simulator.state())


async def test_rotations_go_with_a_connection_that_is_renamed(database: Database) -> None:
    """Made or waiting, rotations follow the new name; the connection's removal still removes them first."""
    async with fleet(database, projects=2) as it:
        connection, unmade = await connect(it), await connect(it, 1)
        waiting = await ask(it, 1, connection="main")
        made = await ask(it)
        await it.session.execute("UPDATE provisioner.connection_requests SET name = 'main' WHERE id = $1", unmade)
        assert (await it.row(waiting))["connection"] == "main"
        await it.start()
        await it.becomes(made, "succeeded")
        await it.becomes(waiting, "succeeded")
        await it.session.execute(
            "UPDATE provisioner.connection_requests SET name = 'renamed' WHERE id = $1", connection
        )
        await it.done()
        assert (await it.row(made))["connection"] == "renamed"
        await it.session.execute("SELECT provisioner.remove(ARRAY [$1::bigint])", connection)
        await it.becomes(made, "removed")
        await it.done()
        assert await it.states() == {"removed": 1, "succeeded": 1}
        assert [found.name for found in it.simulator.world.connections.values()] == ["main"]


async def test_what_was_never_made_is_removed_at_once(database: Database) -> None:
    """Nothing has to be done while it waits; a rotation that somebody else made is let go, not deleted."""
    async with fleet(database, projects=2) as it:
        request = await ask(it)
        await it.session.execute("UPDATE provisioner.rotation_requests SET wanted = 'absent'")
        assert (await it.row(request))["status"] == "removed"
        assert await it.one("SELECT count(*) FROM provisioner.waiting") == (0,)
        await connect(it, 1)
        await it.start()
        await it.becomes(await ask(it, 1), "succeeded")
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        adopted = await ask(it, 1, on_conflict="adopt")
        await it.becomes(adopted, "succeeded")
        await it.session.execute("UPDATE provisioner.rotation_requests SET wanted = 'absent'")
        await it.becomes(adopted, "removed")
        assert len(it.simulator.state()["rotations"]) == 1


@pytest.mark.parametrize("also", ["priority = 5", "name = name, description = description", "connection = 'other'"])
async def test_a_removal_with_other_columns_is_a_removal(database: Database, also: str) -> None:
    """Whatever else the same statement writes, as some libraries write every column, it is not wanted any more."""
    async with fleet(database) as it:
        request = await ask(it)
        await it.session.execute(f"UPDATE provisioner.rotation_requests SET wanted = 'absent', {also}")
        row = await it.row(request)
        assert (row["status"], row["wanted"]) == ("removed", "absent")
        assert await it.one("SELECT count(*) FROM provisioner.waiting") == (0,)


async def test_a_cancelled_rotation_in_doubt_is_looked_up_whatever_its_connection_does(database: Database) -> None:
    """A connection that is edited, and fails, neither delays the look-up nor makes the cancellation forgotten."""
    async with fleet(database) as it:
        connection, request = await connect(it), await ask(it)
        await it.session.execute("SELECT set_config('provisioner.recording', 'on', false)")
        settled = "UPDATE provisioner.connection_requests SET status = $2, error_code = $3 WHERE id = $1"
        await it.session.execute(settled, connection, "succeeded", None)
        await it.session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_code, error_message)"
            " VALUES ($1, 1, 1, 0, now(), 'outcome_unknown', '')",
            request,
        )
        await it.session.execute(
            "INSERT INTO provisioner.sent_creates"
            " (id, sent_at, ended_at, proof, target, project_id, name, description, exact)"
            " SELECT id, now(), now(), 'none', target, project_id, name, '', true"
            " FROM provisioner.rotation_requests WHERE id = $1",
            request,
        )
        await it.session.execute(
            "UPDATE provisioner.waiting SET run_at = now() + interval '1 min' WHERE id = $1", request
        )
        assert await it.one("SELECT outcome FROM provisioner.cancel($1)", [request]) == ("ending",)
        await it.session.execute("SELECT set_config('provisioner.recording', '', false)")
        await it.session.execute("UPDATE provisioner.connection_requests SET credential = 'other'")
        await it.session.execute("SELECT set_config('provisioner.recording', 'on', false)")
        await it.session.execute(settled, connection, "failed", "credential_refused")
        assert (await it.row(request))["status"] == "pending"
        place = "SELECT run_at <= now(), quarantine FROM provisioner.waiting WHERE id = $1"
        assert await it.one(place, request) == (True, None)
        assert await it.one("SELECT cancelled FROM provisioner.attempt_state WHERE id = $1", request) == (True,)


async def test_another_connection_ends_a_quarantine_for_the_old_one(database: Database) -> None:
    """A rotation that waited for its old project, or its key, waits for its new connection."""
    async with fleet(database) as it:
        request = await ask(it)
        await it.session.execute(
            "UPDATE provisioner.waiting SET quarantine = 'project:' || $1::text, run_at = now() + interval '1 hour'",
            it.simulator.projects[0],
        )
        await it.session.execute("UPDATE provisioner.rotation_requests SET connection = 'other'")
        place = "SELECT run_at = 'infinity', quarantine FROM provisioner.waiting WHERE id = $1"
        assert await it.one(place, request) == (True, "connection")


async def test_putting_aside_keeps_when_it_failed(database: Database) -> None:
    """A failed request that is put aside ended when it failed."""
    async with fleet(database) as it:
        request = await ask(it)
        await it.session.execute("SELECT set_config('provisioner.recording', 'on', false)")
        await it.session.execute(
            "UPDATE provisioner.rotation_requests SET status = 'failed', finished_at = '2026-01-01 00:00Z'"
        )
        await it.session.execute("SELECT provisioner.cancel($1)", [request])
        row = await it.row(request)
        assert (row["status"], row["finished_at"].year, row["finished_at"].month) == ("cancelled", 2026, 1)


async def test_pausing_the_target_pauses_its_rotations(database: Database) -> None:
    """Users need not know that rotations have their own line."""
    async with fleet(database) as it:
        await connect(it)
        await it.start()
        count = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        await it.until(count, 1)
        await it.session.execute("SELECT provisioner.pause('default')")
        worker = it.workers[0]
        await eventually(lambda: all(target.paused for target in worker.vitals().targets))
        request = await ask(it)
        ready = "SELECT count(*) FROM provisioner.ready WHERE target = 'default/rotations'"
        await it.until(ready, 1)
        assert (await it.row(request))["status"] == "pending"
        await it.session.execute("SELECT provisioner.resume('default')")
        await it.becomes(request, "succeeded")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "file", ["browse", "candidates", "claim", "detail", "recorded", "reports", "settle", "verifying"]
)
async def test_every_statement_is_for_its_own_table(database: Database, file: str, kind: kinds.Kind, own: bool) -> None:
    """PostgreSQL accepts each statement for each kind and role, and changes go to the kind's own table."""
    other = next(each for each in kinds.KINDS if each is not kind)
    async with connected(database.url) as session:
        for name, sql in kind.sql(file, own=own).items():
            if name != "leave_behind":  # only rotations leave anything behind
                assert f"UPDATE provisioner.{other.words.requests}" not in sql, name
            await session.prepare(sql)


async def test_rotations_outlive_the_table_of_connections(database: Database) -> None:
    """Their places and the evidence of their creates stay: otherwise a key could exist that nobody knows."""
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
            assert await it.one(f"SELECT array_agg(id) FROM provisioner.{table}") == ([request],)
        assert await it.one("SELECT count(*) FROM provisioner.ready") == (0,)
        assert await it.one("SELECT target, requests FROM provisioner.request_counts") == ("default/rotations", 1)


async def removed(it: Fleet, ids: list[int], *, adopted: bool = False) -> list[str]:
    """Remove requests; returns the expected outcome of each."""
    rows = await it.session.fetch("SELECT outcome FROM provisioner.remove($1, $2) ORDER BY id", ids, adopted)
    return [row["outcome"] for row in rows]


async def adopting(it: Fleet) -> int:
    """A rotation that somebody made, and that a request has adopted."""
    await connect(it)
    await it.start()
    await it.becomes(await ask(it), "succeeded")
    await it.session.execute("DELETE FROM provisioner.rotation_requests")
    request = await ask(it, on_conflict="adopt")
    await it.becomes(request, "succeeded")
    return request


@pytest.mark.parametrize("secrets", [True, False])
@pytest.mark.parametrize("revoke", [True, False])
async def test_what_a_removal_takes_with_it(database: Database, secrets: bool, revoke: bool) -> None:
    """The secret and the keys, each only if that was asked for; a key that stays is named."""
    async with fleet(database) as it:
        await connect(it)
        request = await ask(it, with_secrets=secrets, revoke_keys=revoke)
        await it.start()
        made = await it.becomes(request, "succeeded")
        assert await removed(it, [request]) == ["removing"]
        gone = await it.becomes(request, "removed")
        state = it.simulator.state()
        assert (len(state["rotations"]), len(state["secrets"]), len(state["keys"])) == (0, not secrets, not revoke)
        assert (gone["rotation_id"], gone["key_issued"], gone["adopted"]) == (None, None, False)
        assert not audit_rotations([gone], state)
        if revoke:
            assert gone["left_behind"] is None
        else:
            assert f'delete the key named "{made["key_issued"]}" there once nothing uses it' in gone["left_behind"]
        assert await removed(it, [request]) == []
        retried = await it.session.fetch("SELECT was FROM provisioner.retry($1)", [request])
        assert [one["was"] for one in retried] == ["removed"]
        again = await it.becomes(request, "succeeded" if secrets else "failed")
        assert (again["wanted"], again["error_code"]) == ("present", None if secrets else "secret_exists")
        assert again["left_behind"] == gone["left_behind"]


async def test_what_was_adopted_is_let_go_or_deleted(database: Database) -> None:
    """Let go, it stays with its key and its secret; it is only deleted on explicit request."""
    async with fleet(database) as it:
        request = await adopting(it)
        assert await removed(it, [request]) == ["let go"]
        gone = await it.becomes(request, "removed")
        assert (gone["rotation_id"], gone["left_behind"]) == (None, None)
        state = it.simulator.state()
        assert (len(state["rotations"]), len(state["secrets"]), len(state["keys"])) == (1, 1, 1)
        await it.session.fetch("SELECT provisioner.retry($1)", [request])
        await it.becomes(request, "succeeded")
        assert await removed(it, [request], adopted=True) == ["removing"]
        gone = await it.becomes(request, "removed")
        assert it.simulator.state()["rotations"] == []
        assert "its key stays at OpenRouter" in gone["left_behind"]


async def test_a_connection_with_an_adopted_rotation_is_in_use(database: Database) -> None:
    """The error names the rotation that uses it; on explicit request both are deleted, the rotation first."""
    async with fleet(database) as it:
        request = await adopting(it)
        connection = int(await it.session.fetchval("SELECT id FROM provisioner.connection_requests"))
        assert await removed(it, [connection]) == ["removing"]
        await it.until("SELECT status FROM provisioner.connection_requests", "failed")
        code, message = await it.one("SELECT error_code, error_message FROM provisioner.connection_requests")
        assert code == "in_use"
        assert "secret rotation 'openrouter' in prod:/" in str(message)
        assert (await it.row(request))["status"] == "succeeded"
        assert await removed(it, [connection], adopted=True) == ["removing"]
        await it.becomes(request, "removed")
        await it.until("SELECT status FROM provisioner.connection_requests", "removed")
        refused = "SELECT count(*) FROM provisioner.attempts WHERE outcome = 'in_use'"
        assert await it.session.fetchval(refused) == 1


async def test_a_connection_that_a_strangers_rotation_uses(database: Database) -> None:
    """Nothing of others is touched, and the request says what prevents the removal."""
    async with fleet(database) as it:
        await adopting(it)
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        connection = int(await it.session.fetchval("SELECT id FROM provisioner.connection_requests"))
        await removed(it, [connection], adopted=True)
        await it.until("SELECT error_code FROM provisioner.connection_requests", "in_use")
        (message,) = await it.one("SELECT error_message FROM provisioner.connection_requests")
        assert "existing connections. Remove them and try again: secret rotation 'openrouter' in prod:/" in str(message)
        state = it.simulator.state()
        assert (len(state["rotations"]), len(state["connections"])) == (1, 1)


@pytest.mark.parametrize("way", ["wanted = 'present'", None])
async def test_a_connection_does_not_wait_for_ever(database: Database, way: str | None) -> None:
    """A rotation that is wanted again, or whose row is deleted, lets the connection's removal continue."""
    async with fleet(database) as it:
        connection, request = await connect(it), await ask(it)
        await it.start()
        await it.becomes(request, "succeeded")
        await it.session.execute("SELECT provisioner.pause('default')")
        await eventually(lambda: all(target.paused for target in it.workers[0].vitals().targets))
        await removed(it, [connection])
        waiting = "SELECT quarantine FROM provisioner.waiting WHERE id = $1"
        assert await it.one(waiting, connection) == ("rotations",)
        await it.session.execute(
            f"UPDATE provisioner.rotation_requests SET {way}" if way else "DELETE FROM provisioner.rotation_requests"
        )
        await it.session.execute("SELECT provisioner.resume('default')")
        await it.until("SELECT error_code FROM provisioner.connection_requests", "in_use")


async def test_cancelled_retried_and_put_aside(database: Database) -> None:
    """As for connections: a failed one can be cancelled, and a cancelled edit leaves the rotation unchanged."""
    async with fleet(database, projects=2) as it:
        await connect(it, 0)
        request, hopeless = await ask(it, 0), await ask(it, 0, name="other", secret_path="/nowhere")
        await it.start()
        await it.becomes(request, "succeeded")
        await it.becomes(hopeless, "failed")
        rows = await it.session.fetch("SELECT id, outcome FROM provisioner.cancel($1)", [hopeless])
        assert [tuple(each) for each in rows] == [(hopeless, "put aside")]
        assert (await it.row(hopeless))["status"] == "cancelled"
        await it.session.execute("SELECT provisioner.pause('default')")
        await eventually(lambda: all(target.paused for target in it.workers[0].vitals().targets))
        await it.session.execute("UPDATE provisioner.rotation_requests SET interval_days = 5 WHERE id = $1", request)
        rows = await it.session.fetch("SELECT id, outcome FROM provisioner.cancel($1)", [request])
        assert [tuple(each) for each in rows] == [(request, "cancelled")]
        await it.session.execute("SELECT provisioner.resume('default')")
        called_off = await it.row(request)
        assert (called_off["status"], called_off["rotation_id"] is not None) == ("cancelled", True)
        assert it.simulator.state()["rotations"][0]["rotationInterval"] == 30
        await it.session.fetch("SELECT provisioner.retry($1)", [request])
        await it.becomes(request, "succeeded")
        assert it.simulator.state()["rotations"][0]["rotationInterval"] == 5


async def test_a_connection_that_gets_another_key_keeps_its_rotation(database: Database) -> None:
    """A rekeyed, failed or cancelled connection takes nothing from a rotation that was made."""
    async with fleet(database) as it:
        connection, request = await connect(it), await ask(it)
        await it.start()
        made = await it.becomes(request, "succeeded")
        await it.session.execute("SELECT provisioner.rekey($1)", [connection])
        await it.until("SELECT count(*) FROM provisioner.edits", 0)
        await it.until("SELECT status FROM provisioner.connection_requests", "succeeded")
        edited = "UPDATE provisioner.connection_requests SET credential = 'nobody-has-it' WHERE id = $1"
        await it.session.execute(edited, connection)
        await it.until("SELECT status FROM provisioner.connection_requests", "failed")
        assert await it.row(request) == made
        await it.session.execute("UPDATE provisioner.rotation_requests SET interval_days = 3")
        await it.becomes(request, "succeeded")
        assert it.simulator.state()["rotations"][0]["rotationInterval"] == 3


async def test_a_connection_that_is_made_again(database: Database) -> None:
    """Its rotation stays removed until it is wanted again, waits for the connection then, and has the new one."""
    async with fleet(database) as it:
        connection, request = await connect(it), await ask(it, with_secrets=True, revoke_keys=True)
        await it.start()
        first = await it.becomes(request, "succeeded")
        await removed(it, [connection])
        await it.until("SELECT status FROM provisioner.connection_requests", "removed")
        await it.session.execute("SELECT provisioner.retry($1)", [request])
        waits = "SELECT state, waits_for FROM provisioner.rotation_status WHERE id = $1"
        failed = await it.becomes(request, "failed")
        assert failed["error_code"] == "connection_failed"
        assert await it.one(waits, request) == ("failed", None)
        await it.session.execute("SELECT provisioner.retry($1)", [connection])
        again = await it.becomes(request, "succeeded")
        assert again["connection_id"] != first["connection_id"]
        assert not audit_rotations([again], it.simulator.state())


async def test_keys_cannot_be_revoked_while_openrouter_is_away(database: Database) -> None:
    """Nothing goes without its keys, no request has lost anything, and afterwards all of it goes."""
    async with fleet(database) as it:
        await connect(it)
        request = await ask(it, with_secrets=True, revoke_keys=True)
        await it.start()
        await it.becomes(request, "succeeded")
        it.simulator.configure(openRouter="down")
        await removed(it, [request])
        tried = "SELECT count(*) > 0 FROM provisioner.attempts WHERE action = 'delete'"
        await it.until(tried, True)
        state = it.simulator.state()
        assert (len(state["rotations"]), len(state["secrets"]), len(state["keys"])) == (1, 1, 1)
        assert await it.one("SELECT coalesce(sum(failures), 0) FROM provisioner.attempt_state") == (0,)
        it.simulator.configure(openRouter="ok")
        gone = await it.becomes(request, "removed", within=30)
        state = it.simulator.state()
        assert (len(state["rotations"]), len(state["secrets"]), len(state["keys"])) == (0, 0, 0)
        assert gone["left_behind"] is None


@pytest.mark.parametrize(("ends", "becomes"), [("succeeded", "succeeded"), ("failed", "failed")])
async def test_a_connection_that_ends_at_the_same_moment(database: Database, ends: str, becomes: str) -> None:
    """Two transactions that do not see each other leave the rotation waiting; a worker lets it follow, even a drain."""
    async with fleet(database) as it, connected(database.url) as other:
        connection = await connect(it)
        async with it.session.transaction():
            request = await ask(it)
            # The worker that makes the connection has ended it before this transaction is committed.
            made = it.simulator.world.insert(
                name="openrouter", description=None, project_id=it.simulator.projects[0], api_key="sk-or-v1-good"
            )
            await other.execute("DELETE FROM provisioner.waiting WHERE id = $1", connection)
            await other.execute(
                "UPDATE provisioner.connection_requests SET status = $2, connection_id = $3 WHERE id = $1",
                connection,
                ends,
                made.id,
            )
        state = "SELECT state, waits_for FROM provisioner.rotation_status"
        assert await it.one(state) == ("waiting", "openrouter")
        await it.start()
        assert (await it.becomes(request, becomes))["error_code"] == (
            None if ends == "succeeded" else "connection_failed"
        )


async def test_two_rotations_that_end_at_the_same_moment(database: Database) -> None:
    """Neither transaction sees that it is the last one; the removal of their connection goes on all the same."""
    async with fleet(database) as it, connected(database.url) as other:
        connection = await connect(it)
        await it.start()
        await it.until("SELECT status FROM provisioner.connection_requests", "succeeded")
        await it.stop()
        one, two = [
            await ask(it, environment=environment, status="succeeded", rotation_id=uuid4())
            for environment in ("dev", "prod")
        ]
        await it.session.execute("SELECT provisioner.remove(ARRAY [$1::bigint])", connection)
        ended = "UPDATE provisioner.rotation_requests SET status = 'removed', rotation_id = NULL WHERE id = $1"
        await it.session.execute("DELETE FROM provisioner.waiting WHERE id >= $1", one)
        async with it.session.transaction(), other.transaction():
            await it.session.execute(ended, one)
            await other.execute(ended, two)
        waits = "SELECT quarantine FROM provisioner.waiting"
        assert await it.one(waits) == ("rotations",)
        # As the sweep does, once it comes by.
        assert await it.value("SELECT provisioner.put_in_line(m.ids) FROM provisioner.misplaced(0, 100) AS m") == 1
        await it.start()
        await it.until("SELECT status FROM provisioner.connection_requests", "removed")
