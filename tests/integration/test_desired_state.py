"""A row is desired state: edits, removals and missing connections are corrected by real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.sandbox.simulator.options import Options
from tests.support import eventually
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.support.postgres import Database

PATCH = "PATCH /api/v1/app-connections/open-router/{connectionId}"
DELETE = "DELETE /api/v1/app-connections/open-router/{connectionId}"
OLD = "2024-01-01T00:00:00.000Z"


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    """Lend a worker at work on a self-hosted Infisical with six projects."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=6)) as it:
        await it.start()
        yield it


async def made(fleet: Fleet, count: int = 1, **columns: object) -> list[Mapping[str, Any]]:
    """Have connections made, and return their rows."""
    ids = await fleet.insert(count, **columns)
    await fleet.done()
    return [await fleet.row(each) for each in ids]


async def edit(fleet: Fleet, request: int, **columns: object) -> Mapping[str, Any]:
    """Edit a row as anybody does, wait until the workers have done what that means, and return it."""
    sets = ", ".join(f"{name} = ${place}" for place, name in enumerate(columns, 2))
    await fleet.session.execute("SET provisioner.recording = 'off'")
    await fleet.session.execute(
        f"UPDATE provisioner.connection_requests SET {sets} WHERE id = $1", request, *columns.values()
    )
    await fleet.done()
    return await fleet.row(request)


def there(fleet: Fleet, connection_id: object) -> Any:
    """A connection as the server has it; None when it is gone."""
    return fleet.simulator.world.connections.get(str(connection_id))


async def test_an_edit_changes_the_connection(fleet: Fleet) -> None:
    """A description, a name and a key are each sent by one PATCH of the id, and nothing is created."""
    (before,) = await made(fleet, description="old")
    after = await edit(fleet, before["id"], description="new")
    assert (after["status"], after["connection_id"]) == ("succeeded", before["connection_id"])
    assert there(fleet, before["connection_id"]).description == "new"
    assert after["credentials_hash"] == before["credentials_hash"]
    after = await edit(fleet, before["id"], name="renamed")
    assert there(fleet, before["connection_id"]).name == "renamed"
    after = await edit(fleet, before["id"], description=None)
    assert not there(fleet, before["connection_id"]).description
    assert (fleet.created(), fleet.requests(PATCH)) == (1, {"200": 3})
    assert after["attempts"] == 1
    assert await fleet.session.fetchval("SELECT count(*) FROM provisioner.edits") == 0


async def test_two_edits_are_one_change(fleet: Fleet) -> None:
    """A name and a status edited together rename the connection; they never make a second one."""
    (before,) = await made(fleet)
    after = await edit(fleet, before["id"], name="renamed", status="pending", description="both")
    connection = there(fleet, after["connection_id"])
    assert (connection.name, connection.description) == ("renamed", "both")
    assert (fleet.created(), fleet.requests(PATCH)) == (1, {"200": 1})


async def test_a_key_and_a_description_are_one_change(fleet: Fleet) -> None:
    """Edits made together are sent together."""
    (before,) = await made(fleet, description="old")
    async with fleet.session.transaction():
        await fleet.session.execute("UPDATE provisioner.connection_requests SET description = 'new'")
        await fleet.session.fetch("SELECT * FROM provisioner.rekey($1)", [before["id"]])
    await fleet.done()
    assert there(fleet, before["connection_id"]).description == "new"
    assert fleet.requests(PATCH) == {"200": 1}


async def test_rekeying_sends_the_present_key(fleet: Fleet) -> None:
    """Each connection costs one PATCH; an adopted one that is left alone costs none."""
    rows = await made(fleet, 5)
    fleet.simulator.configure(plant=[{"name": "theirs", "projectId": fleet.simulator.projects[5], "createdAt": OLD}])
    (theirs,) = await fleet.session.fetch(
        "INSERT INTO provisioner.connection_requests (project_id, name, on_conflict) VALUES ($1, 'theirs', 'adopt')"
        " RETURNING id",
        fleet.simulator.projects[5],
    )
    await fleet.done()
    assert len({each["key_fingerprint"] for each in rows}) == 1
    assert rows[0]["key_fingerprint"]
    ids = [each["id"] for each in rows]
    sent = await fleet.session.fetch("SELECT * FROM provisioner.rekey($1)", [*ids, theirs["id"]])
    assert sorted(each["id"] for each in sent) == sorted(ids)
    await fleet.done()
    assert (fleet.created(), fleet.requests(PATCH)) == (5, {"200": 5})
    assert (await fleet.row(ids[0]))["key_fingerprint"] == rows[0]["key_fingerprint"]


async def test_what_is_not_wanted_is_deleted_and_made_again(fleet: Fleet) -> None:
    """Absent means deleted by its id; present, or a retry, makes another one."""
    (before,) = await made(fleet)
    gone = await edit(fleet, before["id"], wanted="absent")
    assert (gone["status"], gone["connection_id"], gone["key_fingerprint"]) == ("removed", None, None)
    assert there(fleet, before["connection_id"]) is None
    again = await edit(fleet, before["id"], wanted="present")
    assert again["status"] == "succeeded"
    assert there(fleet, again["connection_id"]) is not None
    (removed,) = await fleet.session.fetch("SELECT * FROM provisioner.remove($1)", [before["id"]])
    assert tuple(removed) == (before["id"], "removing")
    await fleet.done()
    await fleet.session.fetch("SELECT * FROM provisioner.retry($1)", [before["id"]])
    await fleet.done()
    last = await fleet.row(before["id"])
    assert (last["status"], last["wanted"]) == ("succeeded", "present")
    assert (fleet.created(), fleet.requests(DELETE)) == (3, {"200": 2})


async def test_what_was_adopted_is_let_go(fleet: Fleet) -> None:
    """Somebody else's connection stays, unless its removal is requested explicitly."""
    project = fleet.simulator.projects[0]
    fleet.simulator.configure(plant=[{"name": "openrouter", "projectId": project, "createdAt": OLD}])
    (theirs,) = await made(fleet, on_conflict="adopt")
    assert theirs["adopted"]
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="adopted somebody else's connection"):
        await edit(fleet, theirs["id"], description="ours now")
    (said,) = await fleet.session.fetch("SELECT * FROM provisioner.remove($1)", [theirs["id"]])
    assert said["outcome"] == "let go"
    await fleet.done()
    assert (await fleet.row(theirs["id"]))["status"] == "removed"
    assert there(fleet, theirs["connection_id"]) is not None
    await edit(fleet, theirs["id"], wanted="present")
    await fleet.session.fetch("SELECT * FROM provisioner.remove($1, true)", [theirs["id"]])
    await fleet.done()
    assert there(fleet, theirs["connection_id"]) is None
    assert fleet.requests(PATCH) == {}


async def test_what_is_in_use_needs_a_person(fleet: Fleet) -> None:
    """Infisical refuses to delete what something uses: the row says so, and a retry deletes it later."""
    (before,) = await made(fleet)
    connection = there(fleet, before["connection_id"])
    connection.used_by = 1
    kept = await edit(fleet, before["id"], wanted="absent")
    assert (kept["status"], kept["error_code"], kept["connection_id"]) == ("failed", "in_use", before["connection_id"])
    connection.used_by = 0
    await fleet.session.fetch("SELECT * FROM provisioner.retry($1)", [before["id"]])
    await fleet.done()
    assert (await fleet.row(before["id"]))["status"] == "removed"


async def test_what_somebody_deleted_is_made_again(fleet: Fleet) -> None:
    """A retry of a succeeded row checks its connection, and makes it again if it is gone; so does an edit."""
    first, second = await made(fleet, 2)
    store = fleet.simulator.world
    for each in (first, second):
        store.remove(store.connections[str(each["connection_id"])])
    again = await edit(fleet, first["id"], status="pending")
    assert (again["status"], there(fleet, again["connection_id"]).name) == ("succeeded", "openrouter")
    again = await edit(fleet, second["id"], description="new")
    assert there(fleet, again["connection_id"]).description == "new"
    assert again["attempts"] == 2


async def test_nothing_wanted_and_nothing_made_ends_at_once(database: Database) -> None:
    """Without a worker, a request that was never sent is removed at once, even by its author."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=2)) as it:
        (request,) = await it.insert(1)
        (said,) = await it.session.fetch("SELECT * FROM provisioner.remove($1)", [request])
        assert said["outcome"] == "removed"
        assert (await it.row(request))["status"] == "removed"
        assert await it.session.fetchval("SELECT count(*) FROM provisioner.ready") == 0


async def test_a_wish_that_changes_in_flight_is_kept(fleet: Fleet) -> None:
    """If it is cancelled while its create is running, the connection is deleted afterwards."""
    fleet.simulator.configure(latency=0.5)
    (request,) = await fleet.insert(1)
    await eventually(lambda: fleet.session.fetchval("SELECT count(*) = 1 FROM provisioner.in_flight"))
    await fleet.session.execute("UPDATE provisioner.connection_requests SET wanted = 'absent' WHERE id = $1", request)
    await fleet.done()
    assert (await fleet.row(request))["status"] == "removed"
    assert fleet.simulator.world.connections == {}
    assert fleet.created() == 1


async def test_a_key_that_is_named_in_flight_is_sent_afterwards(database: Database) -> None:
    """The create ends with its original key, and the connection gets the new one."""
    settings = {"PROVISIONER_CREDENTIALS__TEAM_A__VALUE": "sk-or-v1-of-team-a"}
    async with Fleet(database.url, Options(mode="self-hosted", projects=1, latency=0.3), settings=settings) as it:
        await it.start()
        (request,) = await it.insert(1)
        await eventually(lambda: it.session.fetchval("SELECT count(*) = 1 FROM provisioner.in_flight"))
        await it.session.execute("UPDATE provisioner.connection_requests SET credential = 'team-a'")
        await it.done()
        assert (it.created(), it.requests(PATCH)) == (1, {"200": 1})
        assert (await it.row(request))["status"] == "succeeded"
        assert await it.session.fetchval("SELECT count(*) FROM provisioner.edits") == 0


async def test_a_failed_request_is_put_aside(fleet: Fleet) -> None:
    """`cancel` of failed requests leaves nothing that needs a person."""
    await fleet.session.execute(
        "INSERT INTO provisioner.connection_requests (project_id, credential) VALUES ($1, 'nobody-knows-it')",
        fleet.simulator.projects[0],
    )
    await fleet.done()
    assert await fleet.states() == {"failed": 1}
    rows = await fleet.session.fetch(
        "SELECT * FROM provisioner.cancel(ARRAY (SELECT id FROM provisioner.request_status))"
    )
    assert [each["outcome"] for each in rows] == ["put aside"]
    assert await fleet.states() == {"cancelled": 1}


@pytest.mark.parametrize(
    "change",
    [
        "status = 'succeeded'",
        "connection_id = gen_random_uuid()",
        "adopted = true",
        "attempts = 7",
        "key_fingerprint = 'x'",
        "error_code = 'x'",
        "finished_at = now()",
    ],
)
async def test_what_workers_record_nobody_else_writes(database: Database, change: str) -> None:
    """A wrong id in a row would have somebody else's connection changed or deleted."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=1)) as it:
        await it.insert(1)
        await it.session.execute("RESET provisioner.recording")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="only workers may change"):
            await it.session.execute(f"UPDATE provisioner.connection_requests SET {change}")


@pytest.mark.parametrize("fault", ["error-after-commit", "error-before-commit", "cut-after-commit", "html-502"])
@pytest.mark.parametrize("change", [{"description": "new"}, {"wanted": "absent"}])
async def test_a_lost_answer_loses_nothing(database: Database, fault: str, change: dict[str, str]) -> None:
    """A PATCH or DELETE whose answer is lost or misleading is repeated by id until it is certain."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=1, seed=3)) as it:
        await it.start()
        (before,) = await made(it)
        it.simulator.configure(change_faults={fault: 1.0})
        sets = ", ".join(f"{name} = '{value}'" for name, value in change.items())
        await it.session.execute(f"UPDATE provisioner.connection_requests SET {sets}")
        await eventually(lambda: it.simulator.world.change_faults.struck)
        it.simulator.configure(change_faults={})
        await it.done()
        after = await it.row(before["id"])
        connections = it.simulator.world.connections
        if "wanted" in change:
            assert (after["status"], connections) == ("removed", {})
        else:
            (connection,) = connections.values()
            assert (connection.description, connection.id) == ("new", str(after["connection_id"]))
        assert it.created() == 1
