"""A role that may only connect to the database cannot prevent anybody's work."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from provisioner.postgres.listener import CHANNEL, Listener
from provisioner.postgres.migrations import migrate
from tests.support import eventually
from tests.support.cli import provisioner
from tests.support.roles import name_of, roles
from tests.support.sessions import connected, insert_many
from tests.support.small_world import SmallWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database

OLD_LOCKS = (
    "SELECT pg_advisory_lock(hashtextextended('provisioner.grant', 0))",
    "SELECT pg_advisory_lock(hashtextextended('provisioner.turn_attempt_log', 0))",
    "SELECT pg_advisory_lock(x'70726F766973'::bigint)",
    "SELECT pg_advisory_lock(n) FROM generate_series(0, 1000) AS n",
)


@pytest.fixture
def stranger(database: Database) -> Iterator[Database]:
    """Lend the database as a role sees it that has no rights at all."""
    with roles(database, "stranger") as (one,):
        yield one


async def test_locks_of_a_stranger(database: Database, stranger: Database) -> None:
    """A session that holds every advisory lock that we might use blocks neither rights nor the schema nor the log."""
    async with connected(stranger.url) as theirs, connected(database.url) as ours:
        for lock in OLD_LOCKS:
            await theirs.execute(lock)
        async with asyncio.timeout(30):
            assert await migrate(database.url) == []
            granting = asyncio.to_thread(provisioner, "grant", "--reader", name_of(stranger), database=database)
            assert (await granting).returncode == 0
        day = await ours.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 days', 'YYYYMMDD')")
        await ours.execute(f"DROP TABLE provisioner.attempts_{day}")
        assert await ours.fetchval("SELECT provisioner.turn_attempt_log(interval '30 days')")
        assert await ours.fetchval("SELECT to_regclass($1) IS NOT NULL", f"provisioner.attempts_{day}")
        await ours.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA provisioner FROM {name_of(stranger)}")


@pytest.mark.parametrize(
    "payload",
    ["'rubbish ' || n", "'default,-2147483648,-9223372036854775808'", "''", "repeat('x', 7999)", "'default,0,' || n"],
)
async def test_notifications_of_a_stranger(database: Database, stranger: Database, payload: str) -> None:
    """However often it notifies, work continues, and a worker's rounds depend on its own work."""
    async with SmallWorld(database) as it, connected(stranger.url) as theirs:
        sent = 0

        async def shout() -> None:
            nonlocal sent
            while True:
                await theirs.execute(f"SELECT pg_notify('{CHANNEL}', {payload}) FROM generate_series(1, 20) AS n")
                sent += 20

        listening = asyncio.create_task(Listener(it.pool, hear=it.worker.hear).run())
        shouting = asyncio.create_task(shout())
        try:
            await it.start()
            await it.idle()
            await eventually(lambda: sent > 2000)
            quiet = it.queue.asked
            await insert_many(it.session, 100)
            await it.done(within=30)
        finally:
            for task in (shouting, listening):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        assert it.server.creates == 100
        assert quiet < 200  # of more than two thousand notifications


async def test_a_log_that_somebody_reads(database: Database) -> None:
    """Rotating the attempt log waits for no lock, so no settlement waits behind it; it is rotated later."""
    async with connected(database.url) as dumping, connected(database.url) as ours:
        day = await ours.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 days', 'YYYYMMDD')")
        await ours.execute(f"DROP TABLE provisioner.attempts_{day}")
        transaction = dumping.transaction()
        await transaction.start()
        await dumping.execute("LOCK TABLE provisioner.attempts, provisioner.attempts_other IN ACCESS SHARE MODE")
        assert not await ours.fetchval("SELECT provisioner.turn_attempt_log(interval '30 days')")
        await ours.execute(
            "INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, outcome)"
            " SELECT 1, 1, 1, 'create', now(), now() + interval '2 days', 'created'"
        )
        await transaction.rollback()
        assert await ours.fetchval("SELECT provisioner.turn_attempt_log(interval '30 days')")
        assert await ours.fetchval(f"SELECT count(*) FROM provisioner.attempts_{day}") == 1


async def test_a_due_request_that_somebody_edits(database: Database) -> None:
    """An open transaction on a due request costs one poll per period, not as many as fit into a second."""
    async with SmallWorld(database) as it, connected(database.url, recount=False) as user:
        await it.session.execute(
            "INSERT INTO provisioner.connection_requests (project_id, not_before)"
            " VALUES (gen_random_uuid(), now() + interval '1 hour')"
        )
        await it.session.execute("UPDATE provisioner.waiting SET run_at = now()")
        transaction = user.transaction()
        await transaction.start()
        await user.execute("UPDATE provisioner.connection_requests SET priority = 1")
        looks = 0

        def count() -> None:
            nonlocal looks
            looks += 1

        it.queue.before_look = count
        began = it.time.monotonic()
        await it.start()
        await it.idle()
        # Ten polls of a tenth of a second; the polls that accompany vain promotions are counted.
        await eventually(lambda: looks >= 10, within=20)
        assert it.queue.promotions <= looks
        assert it.time.monotonic() - began > 0.5 * looks * 0.1
        await transaction.rollback()
        await it.done()
