"""A user's trigger, index or constraint on one row ends no worker, stops no other row and loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from provisioner.core.model import Result
from provisioner.core.queue_values import FRONT, Wiped
from provisioner.worker import settler
from tests.support import eventually
from tests.support.builders import an_observation, project
from tests.support.sessions import SEALED, connected, count, insert, insert_many, places
from tests.support.small_world import SmallWorld

if TYPE_CHECKING:
    from tests.support.postgres import Database

TRIGGER = """
CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.name = 'bad' AND new.status <> 'pending' THEN {body} END IF;
    RETURN {returned};
END $$;
CREATE {kind} TRIGGER audit {when} UPDATE ON provisioner.connection_requests {deferred}
FOR EACH ROW EXECUTE FUNCTION public.audit();
"""
RAISE = "RAISE EXCEPTION 'the books are closed';"


def trigger(body: str = RAISE, *, when: str = "AFTER", returned: str = "new", deferred: bool = False) -> str:
    """A trigger of the user's that acts on the request with the name `bad`."""
    late = "DEFERRABLE INITIALLY DEFERRED" if deferred else ""
    kind = "CONSTRAINT" if deferred else ""
    return TRIGGER.format(body=body, when=when, returned=returned, deferred=late, kind=kind)


# The user's additions to our table, how to remove them, and a word of the resulting message.
OBSTACLES = {
    "a trigger that raises": (trigger(), "the books are closed"),
    "a trigger before": (trigger(when="BEFORE"), "the books are closed"),
    "a deferred trigger": (trigger(deferred=True), "the books are closed"),
    "a trigger that skips": (trigger("RETURN NULL;", when="BEFORE"), "keeps request"),
    "a trigger without a table": (trigger("PERFORM * FROM public.gone;"), "public.gone"),
    "a trigger that divides by zero": (trigger("PERFORM 1 / 0;"), "division by zero"),
    "a trigger that says deadlock": (trigger("RAISE EXCEPTION 'd' USING ERRCODE = '40P01';"), "40P01"),
    "a trigger that says shutdown": (trigger("RAISE EXCEPTION 'd' USING ERRCODE = '57P01';"), "57P01"),
    "a trigger that says read-only": (trigger("RAISE EXCEPTION 'd' USING ERRCODE = '25006';"), "25006"),
    "a CHECK": (
        "ALTER TABLE provisioner.connection_requests ADD CONSTRAINT audit CHECK (name <> 'bad' OR status = 'pending')",
        "audit",
    ),
}
REMOVE = """
DROP TRIGGER IF EXISTS audit ON provisioner.connection_requests;
ALTER TABLE provisioner.connection_requests DROP CONSTRAINT IF EXISTS audit;
"""


async def aside(it: SmallWorld) -> Any:
    """The one outcome that was set aside, if there is one."""
    return await it.session.fetchrow("SELECT * FROM provisioner.unrecorded")


class TestObstacle:
    """The user's additions to our table, and their effects."""

    @pytest.mark.parametrize("obstacle", OBSTACLES)
    async def test_one_row_is_set_aside(self, database: Database, obstacle: str) -> None:
        """The others are recorded, the bad one is kept with its connection and the reason, and recorded in the end."""
        made, reason = OBSTACLES[obstacle]
        async with SmallWorld(database) as it:
            await it.session.execute(made)
            await insert_many(it.session, 12)
            request = await insert(it.session, name="bad", project_id=project(99))
            await it.start()
            await eventually(lambda: aside(it), within=20)
            assert reason in (await aside(it))["reason"]
            assert (await aside(it))["connection_id"] == it.server.made[project(99)].id
            await it.comes_to({"succeeded": 12, "pending": 1})
            assert await places(it.session) == {"in_flight": 1}
            await insert_many(it.session, 3, first=50)
            await it.session.execute(REMOVE)
            await it.done(within=20)
            row = await it.row(request)
            assert (row["status"], str(row["connection_id"])) == ("succeeded", it.server.made[project(99)].id)
            assert await count(it.session, "unrecorded") == 0
            assert it.server.creates == 16
            assert await count(it.session, "attempts") == 16

    async def test_a_unique_index_on_the_result(self, database: Database) -> None:
        """If two rows record one connection, the second is set aside, and delays nothing."""
        async with SmallWorld(database) as it:
            await it.session.execute("CREATE UNIQUE INDEX audit ON provisioner.connection_requests (connection_id)")
            await insert_many(it.session, 6)  # the little server gives all connections one id
            await it.start()
            await eventually(lambda: aside(it))
            await it.until("SELECT count(*) FROM provisioner.unrecorded", 5)
            assert "duplicate key" in (await aside(it))["reason"]
            await it.session.execute("DROP INDEX provisioner.audit")
            await it.done(within=20)
            assert it.server.creates == 6

    @pytest.mark.parametrize("seen", [Result.INVALID, Result.UNKNOWN])
    async def test_failures_and_retries_too(self, database: Database, seen: Result) -> None:
        """A failure that cannot be recorded is set aside too; a retry does not touch the user's row."""
        async with SmallWorld(database) as it:
            await it.session.execute(trigger())
            it.server.answer = an_observation(seen, status=422, message="no")
            request = await insert(it.session, name="bad")
            await it.start()
            if seen is Result.UNKNOWN:
                await it.until("SELECT count(*) FROM provisioner.waiting", 1)
                return
            await eventually(lambda: aside(it))
            await it.session.execute(REMOVE)
            await it.done(within=20)
            assert (await it.row(request))["status"] == "failed"


class TestAside:
    """An outcome that was set aside."""

    async def test_is_nobodys_to_rescue_while_it_is_kept(self, database: Database) -> None:
        """No worker makes the connection a second time, also when the one that made it is gone."""
        async with SmallWorld(database) as it:
            await it.session.execute(trigger())
            await insert(it.session, name="bad")
            await it.start()
            await eventually(lambda: aside(it))
            await it.session.execute("UPDATE provisioner.workers SET lease_until = now() - interval '1 second'")
            await it.queue.rescue(pause=0.0)
            assert await places(it.session) == {"in_flight": 1}
            await it.session.execute("DELETE FROM provisioner.unrecorded")
            assert (await it.queue.rescue(pause=60.0)).requests == 1
            assert await it.session.fetchval("SELECT count(*) FROM provisioner.sent_creates") == 1

    async def test_goes_with_its_request(self, database: Database) -> None:
        """Deleting the request deletes what was set aside for it."""
        async with SmallWorld(database) as it:
            await it.session.execute(trigger())
            await insert(it.session, name="bad")
            await it.start()
            await eventually(lambda: aside(it))
            await it.session.execute("DELETE FROM provisioner.connection_requests")
            assert await places(it.session) == {}
            assert await aside(it) is None

    async def test_ends_no_drain(self, database: Database) -> None:
        """A drain does not wait for it."""
        async with SmallWorld(database) as it:
            await it.session.execute(trigger())
            await insert(it.session, name="bad")
            await it.start()
            await eventually(lambda: aside(it))
            assert not await it.queue.work_left(["default"])


async def test_a_slow_trigger_shrinks_the_batches(database: Database) -> None:
    """Batches become as small as the statement's time asks, and everything is recorded."""
    slow = trigger("NULL; END IF; IF new.status <> 'pending' THEN PERFORM pg_sleep(0.2);")
    async with SmallWorld(database, timeout=0.9) as it:
        await it.session.execute(slow)
        await insert_many(it.session, 16)
        await it.start()
        await it.done(within=30)
        assert it.server.creates == 16
        assert await count(it.session, "unrecorded") == 0


async def test_a_row_that_somebody_locks(database: Database) -> None:
    """A transaction that is left open on one request keeps its outcome waiting, and no other."""
    async with SmallWorld(database, timeout=0.5) as it, connected(database.url, recount=False) as user:
        await insert_many(it.session, 6)
        request = await insert(it.session, name="locked", project_id=project(99))
        transaction = user.transaction()
        await transaction.start()
        await user.execute("SELECT FROM provisioner.connection_requests WHERE id = $1 FOR UPDATE", request)
        await it.start()
        await eventually(lambda: aside(it), within=20)
        await it.comes_to({"succeeded": 6, "pending": 1})
        await transaction.rollback()
        await it.done(within=20)
        assert it.server.creates == 7


# Every SQLSTATE that a trigger can raise, except for those that are not errors.
SAID = sorted(
    {
        error.sqlstate
        for error in vars(asyncpg.exceptions).values()
        if isinstance(getattr(error, "sqlstate", None), str) and error.sqlstate[:2] not in {"00", "01", "02"}
    }
)


@pytest.mark.parametrize("said", [SAID[::24], pytest.param(SAID, marks=pytest.mark.soak)], ids=["some", "all"])
async def test_whatever_a_trigger_says(database: Database, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """An outcome is set aside for every SQLSTATE that a trigger can raise, and no worker ends for one."""
    monkeypatch.setattr(settler, "TRIES", 2)
    async with SmallWorld(database) as it:
        await it.session.execute(trigger("RAISE EXCEPTION 'no' USING ERRCODE = new.batch;"))
        await it.session.execute(
            "INSERT INTO provisioner.connection_requests (project_id, name, batch)"
            " SELECT gen_random_uuid(), 'bad', code FROM unnest($1::text[]) AS code",
            said,
        )
        await it.start()
        codes = "SELECT array_agg(DISTINCT substring(reason FROM '.*[(](.....)[)]')) FROM provisioner.unrecorded"

        async def heard() -> Any:
            assert set(await it.session.fetchval(codes) or ()) == set(said)
            return True

        await eventually(heard, within=60)
        await it.session.execute(REMOVE)
        await it.session.execute("UPDATE provisioner.unrecorded SET retry_at = now()")
        await it.done(within=60)
        assert it.server.creates == len(said)


class TestUpkeep:
    """Statements over many rows, one of which somebody's trigger refuses."""

    @pytest.mark.parametrize("made", [trigger(), trigger(deferred=True), trigger("RETURN NULL;", when="BEFORE")])
    async def test_wiping_goes_on(self, database: Database, made: str) -> None:
        """The other sealed keys are wiped; that one is tried again in an hour."""
        async with SmallWorld(database) as it:
            for name in ("one", "bad", "two"):
                await insert(it.session, name=name, credential=SEALED)
            await it.session.execute("UPDATE provisioner.connection_requests SET status = 'failed'")
            await it.session.execute(made)
            await it.session.execute("UPDATE provisioner.failed_boxes SET failed_at = now() - interval '2 days'")
            assert await it.queue.wipe(10, keep=86400.0) == Wiped(keys=2)
            kept = "SELECT name FROM provisioner.connection_requests WHERE credential NOT LIKE '%:wiped'"
            assert [row["name"] for row in await it.session.fetch(kept)] == ["bad"]
            assert await it.queue.wipe(10, keep=86400.0) == Wiped()
            assert await count(it.session, "failed_boxes") == 1
            await it.start()

    @pytest.mark.parametrize("made", [trigger(), trigger(deferred=True), trigger("RETURN NULL;", when="BEFORE")])
    async def test_disowning_goes_on(self, database: Database, made: str) -> None:
        """The other requests for an unknown target fail; that one leaves the line for a while."""
        async with SmallWorld(database) as it:
            for name in ("one", "bad", "two"):
                await insert(it.session, name=name, target="nowhere")
            await it.session.execute(made)
            assert len(await it.queue.fail_unknown_targets(10)) == 2
            assert await it.queue.fail_unknown_targets(10) == []
            assert await places(it.session) == {"waiting": 1}
            await it.start()

    async def test_giving_back_goes_on(self, database: Database) -> None:
        """Claims are given back beside one that was cancelled and cannot be recorded as that; it is rescued."""
        async with SmallWorld(database) as it:
            await it.session.execute(trigger())
            ids = [await insert(it.session, name=name) for name in ("one", "bad", "two")]
            worker = await it.queue.register(name="w", targets=["default"], lease=60.0)
            claims = (await it.queue.claim(worker, target="default", start=FRONT, limit=3)).claims
            await it.session.execute("SELECT provisioner.cancel(ARRAY [$1::bigint])", ids[1])
            await it.queue.release(worker, claims)
            assert await places(it.session) == {"ready": 2, "in_flight": 1}
            assert (await it.queue.rescue(pause=0.0)).requests == 1
            await it.start()
