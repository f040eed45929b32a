"""Rotations that are edited after they were made: what is sent or refused, and the effect of a lost answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.sandbox.audit import audit_rotations
from tests.support import eventually
from tests.support.rotations import ROUTE, ask, connect, fleet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.fleet import Fleet
    from tests.support.postgres import Database

PATCH = f"PATCH {ROUTE}/{{rotationId}}"


def patches(it: Fleet) -> Mapping[str, int]:
    """The PATCHes that arrived, by what came of them."""
    return dict(it.simulator.state()["requests"].get(PATCH, {}))


def there(it: Fleet) -> dict[str, Any]:
    """The only rotation that Infisical has."""
    (found,) = it.simulator.state()["rotations"]
    return dict(found)


async def made(it: Fleet, **columns: Any) -> int:
    """A rotation that is recorded."""
    await connect(it)
    request = await ask(it, **columns)
    await it.start()
    await it.becomes(request, "succeeded")
    return request


async def edit(it: Fleet, assignments: str) -> None:
    """Edit the only rotation."""
    await it.session.execute(f"UPDATE provisioner.rotation_requests SET {assignments}")


async def test_what_is_edited_is_sent_and_nothing_else(database: Database) -> None:
    """Name, description, secret and schedule change at once, the spending of the next key; the key stays the same."""
    async with fleet(database) as it:
        request = await made(it, spend_limit=10, description="for chat")
        before, was = await it.row(request), there(it)
        await edit(it, "interval_days = 7")
        assert (await it.row(request))["status"] == "pending"
        state = "SELECT state FROM provisioner.rotation_status"
        assert await it.session.fetchval(state) in {"updating", "succeeded"}
        await it.becomes(request, "succeeded")
        assert {field for field, value in there(it).items() if was[field] != value} <= {
            *("rotationInterval", "nextRotationAt", "updatedAt"),
        }
        await edit(
            it,
            "name = 'renamed', description = NULL, secret_name = 'NEW', rotate_at = '04:30', spend_limit = 25.5,"
            " limit_reset = 'weekly', include_byok = true",
        )
        after = await it.becomes(request, "succeeded")
        found = there(it)
        assert (found["name"], found["description"] or None, found["rotationInterval"]) == ("renamed", None, 7)
        assert found["rotateAtUtc"] == {"hours": 4, "minutes": 30}
        assert found["secretsMapping"] == {"apiKey": "NEW"}
        spending = {"limit": 25.5, "limitReset": "weekly", "includeByokInLimit": True}
        assert found["parameters"] == {"name": before["key_issued"], **spending}
        assert [secret["name"] for secret in it.simulator.state()["secrets"]] == ["NEW"]
        kept = ("rotation_id", "connection_id", "key_issued", "attempts", "left_behind")
        assert [after[column] for column in kept] == [before[column] for column in kept]
        assert patches(it) == {"200": 2}
        assert not audit_rotations([after], it.simulator.state())
        assert await it.session.fetchval("SELECT count(*) FROM provisioner.edits") == 0


@pytest.mark.parametrize(
    ("assignment", "column"),
    [
        ("key_name = 'other'", "key_name"),
        ("connection = 'other'", "connection"),
        ("environment = 'dev'", "environment"),
        ("secret_path = '/a'", "secret_path"),
        ("target = 'other', project_id = gen_random_uuid()", "project_id, target"),
    ],
)
async def test_what_it_was_made_with_stays(database: Database, assignment: str, column: str) -> None:
    """The refusal names the column, and what to do instead."""
    async with fleet(database) as it:
        await made(it)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=f"created with its {column}:") as refused:
            await edit(it, assignment)
        assert "Insert another request" in str(refused.value.hint)


async def test_what_workers_record_is_theirs(database: Database) -> None:
    """Only workers write which rotation is recorded; people may say that a key left behind was deleted."""
    async with fleet(database) as it:
        await made(it)
        await it.session.execute("SET provisioner.recording = 'off'")  # tests may write what workers record
        for column in ("rotation_id = gen_random_uuid()", "status = 'failed'", "left_behind = 'a key'", "attempts = 9"):
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="only workers may change"):
                await edit(it, column)
        async with it.session.transaction():
            await it.session.execute("SET LOCAL provisioner.recording = 'on'")
            await edit(it, "left_behind = 'a key'")
        await edit(it, "left_behind = NULL")


@pytest.mark.parametrize(("fault", "sent"), [("cut-after-commit", 1), ("cut-before-commit", 2)])
async def test_a_lost_answer_is_found_out_by_a_read(database: Database, fault: str, sent: int) -> None:
    """An edit that has reached Infisical is not sent again, and one that has not is."""
    async with fleet(database) as it:
        request = await made(it)
        it.simulator.configure(changeFaults={fault: 1.0})
        await edit(it, "interval_days = 7, description = 'new'")
        await eventually(lambda: it.simulator.state()["changeFaults"])
        it.simulator.configure(changeFaults={})
        await it.becomes(request, "succeeded")
        assert (there(it)["rotationInterval"], there(it)["description"]) == (7, "new")
        assert sum(patches(it).values()) == sent
        log = "SELECT string_agg(action || ' ' || outcome, ', ' ORDER BY started_at) FROM provisioner.attempts"
        found = await it.session.fetchval(f"{log} WHERE request_id = $1 AND action IN ('update', 'confirm')", request)
        again = "" if sent == 1 else ", update updated"
        assert found == f"update unknown, confirm found{again}"


async def test_an_edit_that_is_refused_can_be_corrected(database: Database) -> None:
    """A secret that is taken fails the request, whose rotation stays as it was until another secret is chosen."""
    async with fleet(database) as it:
        request = await made(it)
        place = {"projectId": it.simulator.projects[0], "environment": "prod", "path": "/"}
        it.simulator.configure(secrets=[{**place, "name": "TAKEN", "value": "x"}])
        await edit(it, "secret_name = 'TAKEN', interval_days = 9")
        failed = await it.becomes(request, "failed")
        assert failed["error_code"] == "secret_exists"
        assert (failed["rotation_id"] is not None, there(it)["rotationInterval"]) == (True, 30)
        # A retry sends a refused edit again at once; another edit waits until nothing can overtake it.
        await it.session.execute("UPDATE provisioner.attempt_state SET updated_at = now() - interval '1 minute'")
        await edit(it, "secret_name = 'FREE'")
        await it.becomes(request, "succeeded")
        assert (there(it)["secretsMapping"], there(it)["rotationInterval"]) == ({"apiKey": "FREE"}, 9)


async def test_a_name_that_another_rotation_has(database: Database) -> None:
    """It keeps the name that it has, and the message says what to choose."""
    async with fleet(database) as it:
        request = await made(it)
        other = await ask(it, name="other", secret_name="OTHER")
        await it.becomes(other, "succeeded")
        await it.session.execute("DELETE FROM provisioner.rotation_requests WHERE id = $1", other)
        await edit(it, "name = 'other'")
        failed = await it.becomes(request, "failed")
        assert failed["error_code"] == "name_conflict"
        assert "already has another rotation 'other'" in failed["error_message"]


async def test_one_that_is_gone_is_made_again(database: Database) -> None:
    """An edit, or a retry, of what somebody deleted in Infisical makes it anew; its old key is named."""
    async with fleet(database) as it:
        request = await made(it)
        before = await it.row(request)
        world = it.simulator.world
        for rotation in list(world.rotations.values()):
            world.remove_rotation(rotation)
        await it.session.execute("DELETE FROM provisioner.attempts")
        world.release_secret((it.simulator.projects[0], "prod", "/", "OPENROUTER_API_KEY"), delete=True)
        await edit(it, "interval_days = 7")
        await it.until(f"SELECT rotation_id <> '{before['rotation_id']}' FROM provisioner.rotation_requests", True)
        after = await it.becomes(request, "succeeded")
        assert f'"{before["key_issued"]}"' in after["left_behind"]
        assert there(it)["rotationInterval"] == 7
        assert after["key_issued"] != before["key_issued"]


async def test_what_was_adopted_is_not_changed(database: Database) -> None:
    """It is somebody else's, and the refusal says which column would have changed it."""
    async with fleet(database) as it:
        await made(it)
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        await it.becomes(await ask(it, on_conflict="adopt"), "succeeded")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="its interval_days, name cannot be"):
            await edit(it, "interval_days = 7, name = 'mine'")
        await edit(it, "batch = 'b', priority = 3")
        assert patches(it) == {}


async def test_nothing_is_edited_while_a_create_is_in_doubt(database: Database) -> None:
    """Fields that were sent, or that name the key of a lost create, cannot be edited; all others can."""
    async with fleet(database) as it:
        request = await ask(it)
        await it.session.execute(
            "INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since) VALUES ($1, 1, 1, 0, now())",
            request,
        )
        await it.session.execute(
            "INSERT INTO provisioner.sent_creates (id, sent_at, ended_at, target, project_id, name, description, exact)"
            " VALUES ($1, now(), now(), 'default', gen_random_uuid(), 'openrouter', '', true)",
            request,
        )
        for assignment in ("interval_days = 7", "environment = 'dev'", "project_name = 'Other'"):
            column = assignment.partition(" ")[0]
            with pytest.raises(asyncpg.ObjectInUseError, match=f"so its {column} cannot be changed now"):
                await edit(it, assignment)
        await edit(it, "priority = 2, batch = 'b'")


async def test_a_worker_that_is_lost_over_an_edit_leaves_no_doubt(database: Database) -> None:
    """A claim of a recorded rotation never creates, so no key is left behind, and the edit is sent."""
    async with fleet(database) as it:
        request = await made(it)
        await it.session.execute("SELECT provisioner.pause('default')")
        await eventually(lambda: all(target.paused for target in it.workers[0].vitals().targets))
        await edit(it, "interval_days = 7")
        await it.session.execute(
            "WITH unlined AS (DELETE FROM provisioner.ready), unscheduled AS (DELETE FROM provisioner.waiting)"
            " INSERT INTO provisioner.in_flight (id, worker, fence, claimed_at, attempt, rank, project_id, target)"
            " SELECT id, 999999, 1, now(), 1, 0, project_id, 'default/rotations' FROM provisioner.rotation_requests"
        )
        await it.until("SELECT count(*) FROM provisioner.in_flight", 0)
        assert await it.session.fetchval("SELECT count(*) FROM provisioner.attempt_state") == 1
        assert await it.session.fetchval("SELECT count(*) FROM provisioner.sent_creates") == 0
        await it.session.execute("SELECT provisioner.resume('default')")
        after = await it.becomes(request, "succeeded")
        assert (after["left_behind"], there(it)["rotationInterval"]) == (None, 7)
        assert len(it.simulator.state()["keys"]) == 1
