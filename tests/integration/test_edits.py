"""Each edit in each state: the table of `docs/changing.md`, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.support.builders import project
from tests.support.sessions import insert

if TYPE_CHECKING:
    from tests.support.sessions import Session

STATES = ("pending", "in flight", "in doubt", "succeeded", "failed", "removed")
REFUSED = "refused"
# Each edit with the request's live state afterwards, by the state before.
TABLE: dict[str, tuple[str, ...]] = {
    "name = 'new'": ("waiting", REFUSED, REFUSED, "updating", "failed", "removed"),
    "description = 'new'": ("waiting", REFUSED, REFUSED, "updating", "failed", "removed"),
    "credential = 'team-a'": ("ready", "in_flight", "waiting", "updating", "failed", "removed"),
    "target = 'eu'": ("waiting", REFUSED, REFUSED, REFUSED, "failed", "removed"),
    "project_id = gen_random_uuid()": ("waiting", REFUSED, REFUSED, REFUSED, "failed", "removed"),
    "wanted = 'absent'": ("removed", "removing", "removing", "removing", "removed", "removed"),
    "wanted = 'present'": ("ready", "in_flight", "waiting", "succeeded", "failed", "waiting"),
    "status = 'pending'": ("ready", "in_flight", "waiting", "updating", "waiting", "waiting"),
    "priority = 5": ("waiting", REFUSED, "waiting", "succeeded", "failed", "removed"),
    "not_before = now() + interval '1 hour'": ("waiting", REFUSED, "waiting", "succeeded", "failed", "removed"),
    "batch = 'another'": ("ready", "in_flight", "waiting", "succeeded", "failed", "removed"),
    "status = 'cancelled'": (REFUSED,) * 6,
    "connection_id = gen_random_uuid()": (REFUSED,) * 6,
    "key_fingerprint = 'x'": (REFUSED,) * 6,
    "attempts = 7": (REFUSED,) * 6,
}
GONE = "WITH gone AS (DELETE FROM provisioner.ready RETURNING *)"
ARRANGED = {
    "pending": "SELECT 1",
    "in flight": f"{GONE} INSERT INTO provisioner.in_flight (id, attempt, worker, target, rank, project_id, claimed_at)"
    " SELECT id, 1, 1, target, rank, project_id, now() FROM gone",
    "in doubt": f"{GONE} INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)"
    " SELECT id, now(), target, rank, project_id FROM gone;"
    " INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since)"
    " SELECT id, 1, 1, 0, now() FROM provisioner.connection_requests;"
    " INSERT INTO provisioner.sent_creates (id, sent_at, ended_at, target, project_id, name, description, exact)"
    " SELECT id, now(), now(), target, project_id, name, '', true FROM provisioner.connection_requests",
    "succeeded": "DELETE FROM provisioner.ready; UPDATE provisioner.connection_requests"
    " SET status = 'succeeded', connection_id = gen_random_uuid(), finished_at = now()",
    "failed": "DELETE FROM provisioner.ready; UPDATE provisioner.connection_requests"
    " SET status = 'failed', error_code = 'gave_up', finished_at = now()",
    "removed": "DELETE FROM provisioner.ready; UPDATE provisioner.connection_requests SET status = 'removed';"
    " ALTER TABLE provisioner.connection_requests DISABLE TRIGGER USER;"
    " UPDATE provisioner.connection_requests SET wanted = 'absent';"
    " ALTER TABLE provisioner.connection_requests ENABLE TRIGGER USER",
}


@pytest.mark.parametrize("edit", TABLE)
async def test_each_edit_in_each_state(session: Session, edit: str) -> None:
    """It has the documented effect, or is refused and changes nothing."""
    seen = []
    for number, state in enumerate(STATES, 1):
        await session.execute("SET provisioner.recording = 'on'")
        await session.execute("DELETE FROM provisioner.connection_requests")
        request = await insert(session, project_id=project(number))
        await session.execute(ARRANGED[state])
        await session.execute("SET provisioner.recording = 'off'")
        before = await session.fetchrow("SELECT * FROM provisioner.connection_requests WHERE id = $1", request)
        try:
            await session.execute(f"UPDATE provisioner.connection_requests SET {edit} WHERE id = $1", request)
        except (asyncpg.ObjectInUseError, asyncpg.ObjectNotInPrerequisiteStateError):
            after = await session.fetchrow("SELECT * FROM provisioner.connection_requests WHERE id = $1", request)
            assert after == before
            seen.append(REFUSED)
        else:
            seen.append(await session.fetchval("SELECT state FROM provisioner.request_status WHERE id = $1", request))
    assert dict(zip(STATES, seen, strict=True)) == dict(zip(STATES, TABLE[edit], strict=True))
