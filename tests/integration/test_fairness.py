"""Nobody waits for another project's thousands. Real workers, a simulated Infisical."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.builders import project
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from tests.support.postgres import Database

SETTINGS = {
    "PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": "16",
    "PROVISIONER_CREDENTIALS__BAD__VALUE": "sk-or-v1-bad-mode-401",
    "PROVISIONER_RETRY__BASE": "0.2",
}
# Without the pool: the queue decides the order, and thousands must be done within the test's time.
FAR = Options(mode="self-hosted", latency=0.02, any_project=True, pool=0)
CROWD = """
INSERT INTO provisioner.connection_requests (project_id, name, credential, priority, not_before)
SELECT $1::uuid, $2 || '-' || n, $3, $4, $5 FROM generate_series(1, $6::int) AS n
"""
EACH = (
    "INSERT INTO provisioner.connection_requests (project_id, priority) SELECT p::uuid, $2 FROM unnest($1::text[]) AS p"
)
SOON = """
INSERT INTO provisioner.connection_requests (project_id, name, not_before)
SELECT p::uuid, 'few-' || n, $3 FROM unnest($1::text[]) AS p, generate_series(1, $2::int) AS n
"""
FIRST = """
SELECT min(a.started_at) FROM provisioner.attempts AS a JOIN provisioner.connection_requests AS q ON q.id = a.request_id
WHERE q.name LIKE $1
"""
# Creates of the crowd that were sent between a time and the last one of those that came after it.
BETWEEN = """
WITH sent AS (
    SELECT q.name, a.started_at
    FROM provisioner.attempts AS a JOIN provisioner.connection_requests AS q ON q.id = a.request_id
)
SELECT count(*) FROM sent
WHERE name LIKE 'crowd%' AND started_at > $1 AND started_at < (SELECT max(started_at) FROM sent WHERE name LIKE $2)
"""


async def crowd(
    fleet: Fleet, name: str, count: int, *, credential: str = "default", priority: int = 0, later: bool = False
) -> None:
    """Let one project ask for thousands."""
    when = await fleet.session.fetchval("SELECT CASE WHEN $1 THEN now() + interval '1 hour' END", later)
    await fleet.session.execute(CROWD, project(0), name, credential, priority, when, count)


async def test_forty_projects_are_not_delayed_by_one_with_thousands(database: Database) -> None:
    """With 20 000 requests of one project in line, one request of each of forty others goes before nearly all."""
    async with Fleet(database.url, FAR, settings=SETTINGS) as fleet:
        await crowd(fleet, "crowd", 20_000)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 100)
        await fleet.session.execute(EACH, [project(number) for number in range(1, 41)], 0)
        came = await fleet.session.fetchval("SELECT clock_timestamp()")
        await fleet.done("name = 'openrouter'", within=30)
        # Requests claimed before they came, and the crowd's own turns: one for each of theirs.
        assert await fleet.session.fetchval(BETWEEN, came, "openrouter") <= 16 * 4 + 40


@pytest.mark.parametrize("each", [1, 10])
async def test_forty_projects_are_not_delayed_by_thousands_that_come_due(database: Database, each: int) -> None:
    """When 20 000 of one project come due at once, and a few of forty others after them, these go before nearly all."""
    async with Fleet(database.url, FAR, settings=SETTINGS) as fleet:
        await crowd(fleet, "crowd", 20_000, later=True)
        await fleet.start()
        await fleet.session.execute("UPDATE provisioner.waiting SET run_at = now()")
        await eventually(lambda: fleet.created() >= 100)
        due = await fleet.session.fetchval("SELECT now() + interval '0.2 seconds'")
        await fleet.session.execute(SOON, [project(number) for number in range(1, 41)], each, due)
        await fleet.done("name LIKE 'few%'", within=30)
        # The crowd continues until the first of them is due; then it gets one turn for each of theirs, besides what was
        # claimed before.
        first = await fleet.session.fetchval(FIRST, "few%")
        assert await fleet.session.fetchval(BETWEEN, first, "few%") <= 16 * 4 + 40 * each
        assert (await fleet.states("name LIKE 'crowd%'"))["pending"] > 15_000


# Put requests in the state after a failed attempt, due now.
TRIED = """
WITH gone AS (DELETE FROM provisioner.ready WHERE id = ANY ($1::bigint[]) RETURNING *),
told AS (
    INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_message)
    SELECT id, 1, 1, 1, now(), 'no' FROM gone
)
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
SELECT id, now(), target, rank, project_id FROM gone
"""
INSERTED = (
    "INSERT INTO provisioner.connection_requests (project_id, name)"
    " SELECT md5($1 || n)::uuid, $1 FROM generate_series(1, $2::int) AS n RETURNING id"
)


async def test_twenty_retries_go_before_five_thousand_that_were_never_tried(database: Database) -> None:
    """All of other projects, so that one turn holds them all: only about as many others go between."""
    async with Fleet(database.url, FAR, settings=SETTINGS) as fleet:
        await fleet.session.execute(INSERTED, "crowd", 5_000)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 100)
        ids = [row["id"] for row in await fleet.session.fetch(INSERTED, "tried", 20)]
        await fleet.session.execute(TRIED, ids)
        await fleet.done("name = 'tried'", within=30)
        # The crowd continues until they are noticed.
        first = await fleet.session.fetchval(FIRST, "tried")
        assert await fleet.session.fetchval(BETWEEN, first, "tried") <= 20 + 16 * 4
        assert (await fleet.states("name = 'crowd'"))["pending"] > 3_000


async def test_two_thousand_retries_do_not_keep_forty_others_waiting(database: Database) -> None:
    """Untried requests get every other claim, so they are done after about as many retries."""
    async with Fleet(database.url, FAR, settings=SETTINGS) as fleet:
        ids = [row["id"] for row in await fleet.session.fetch(INSERTED, "crowd", 2_000)]
        await fleet.session.execute(TRIED, ids)
        await fleet.start()
        await eventually(lambda: fleet.created() >= 100)
        await fleet.session.execute(INSERTED, "few", 40)
        came = await fleet.session.fetchval("SELECT clock_timestamp()")
        await fleet.done("name = 'few'", within=30)
        assert await fleet.session.fetchval(BETWEEN, came, "few") <= 16 * 4 + 40 + 16


async def test_priorities_and_schedules_hold_under_load(database: Database) -> None:
    """Urgent requests overtake all, scheduled ones do not start, and broken or paused targets stop nobody."""
    async with Fleet(database.url, FAR, settings=SETTINGS) as fleet:
        await crowd(fleet, "crowd", 5_000)
        await crowd(fleet, "later", 1_000, priority=9, later=True)
        await crowd(fleet, "broken", 1_000, credential="bad", priority=5)
        await fleet.session.execute(
            "INSERT INTO provisioner.connection_requests (target, project_id) VALUES ('paused', $1)", project(0)
        )
        await fleet.session.execute("SELECT provisioner.pause('paused')")
        await fleet.start()
        await eventually(lambda: fleet.created() >= 100)
        await fleet.session.execute(EACH, [project(number) for number in range(1, 41)], 3)
        came = await fleet.session.fetchval("SELECT clock_timestamp()")
        await fleet.done("name = 'openrouter' AND priority = 3", within=30)
        assert await fleet.states("name LIKE 'later%'") == {"pending": 1_000}
        assert (await fleet.states("name LIKE 'crowd%'"))["pending"] > 3_000
        between = await fleet.session.fetchval(BETWEEN, came, "openrouter")
        assert between <= 16 * 4  # requests claimed before they came
