"""The shared state of API keys: few requests try an unknown one, and the refusals of all count together."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from provisioner.core.key_health import FINGERPRINT_LENGTH, TrialPermit, fingerprint
from provisioner.core.secret import Secret
from provisioner.postgres.credential_health import SharedCredentialHealth
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.reports import read_status
from provisioner.postgres.shared import SharedIncidents
from tests.support.sessions import count, insert, insert_many, row_of

if TYPE_CHECKING:
    from tests.support.postgres import Database
    from tests.support.sessions import Session

KEY = ("team-a", "0123456789abcdef")


@pytest.fixture
def health(pool: Pool) -> SharedCredentialHealth:
    """Lend the shared knowledge of one target."""
    return SharedCredentialHealth(pool, target="default")


async def refuse(health: SharedCredentialHealth, times: int = 3) -> tuple[bool, bool]:
    """Refuse the key this often; returns the last result."""
    brought = [await health.refused(*KEY, "refused") for _ in range(times)]
    return brought[-1]


def test_a_fingerprint_leads_nowhere_back() -> None:
    """It distinguishes keys and databases, and contains nothing of the key."""
    fingerprints = {fingerprint(Secret(key), salt) for key in ("sk-or-v1-a", "sk-or-v1-b") for salt in ("one", "two")}
    assert len(fingerprints) == 4
    assert all(len(print_) == FINGERPRINT_LENGTH and "sk-" not in print_ for print_ in fingerprints)


async def test_all_workers_share_the_salt(health: SharedCredentialHealth) -> None:
    """The salt is the database's, so a key has one fingerprint everywhere."""
    assert await health.salt() == await health.salt() != ""


async def test_three_try_a_key_that_nobody_knows(health: SharedCredentialHealth) -> None:
    """However many ask at once, three may; when one of them learned nothing, one more may."""
    permits = await asyncio.gather(*(health.ask(*KEY, confirming=False) for _ in range(20)))
    assert sum(permit.granted for permit in permits) == 3
    await health.undecided(*KEY)
    permits = await asyncio.gather(*(health.ask(*KEY, confirming=False) for _ in range(20)))
    assert sum(permit.granted for permit in permits) == 1


async def test_a_lost_try_keeps_nobody_waiting(health: SharedCredentialHealth, session: Session) -> None:
    """When the tries of a killed worker say nothing for a few seconds, others may try."""
    for _ in range(3):
        await health.ask(*KEY, confirming=False)
    await session.execute("UPDATE provisioner.credential_health SET tried_at = now() - interval '6 seconds'")
    assert (await health.ask(*KEY, confirming=False)).granted


async def test_an_accepted_key_needs_no_permit(health: SharedCredentialHealth) -> None:
    """Once the key has worked anywhere, every worker that asks learns that, and how long ago."""
    await health.accepted(*KEY)
    permit = await health.ask(*KEY, confirming=False)
    assert (permit.granted, permit.quarantined) == (False, False)
    assert permit.accepted_for is not None
    assert permit.accepted_for < timedelta(seconds=5)


async def test_a_suspect_is_tried_like_an_unknown_key(health: SharedCredentialHealth) -> None:
    """A key that used to work and is refused needs a trial again."""
    await health.accepted(*KEY)
    await health.suspected(*KEY)
    assert await health.ask(*KEY, confirming=False) == TrialPermit(granted=True)


async def test_the_third_refusal_quarantines_it(health: SharedCredentialHealth) -> None:
    """Two refusals decide nothing; the third does, and only that one says so."""
    assert await refuse(health, 2) == (False, False)
    assert await refuse(health, 1) == (True, True)
    assert await refuse(health, 1) == (True, False)
    assert await health.ask(*KEY, confirming=False) == TrialPermit(granted=False, quarantined=True)
    assert [one.credential for one in await health.quarantined([])] == ["team-a"]


async def test_a_refused_key_costs_nine_creates_at_most(health: SharedCredentialHealth) -> None:
    """Requests that were refused with it may finish, but no more than nine tries are made in total."""
    tries = 0
    for _ in range(30):
        tries += (await health.ask(*KEY, confirming=True)).granted
        await health.refused(*KEY, "refused")
    assert tries == 9


async def test_who_stands_in_line_is_held_back(health: SharedCredentialHealth, session: Session) -> None:
    """Requests with that credential permit the line, however its name is written; others stay."""
    await insert(session, name="one", credential="Team_A")
    await insert(session, name="two", credential="team-a")
    await insert_many(session, 5)
    assert await health.hold_back("team-a") == 2
    assert await count(session, "ready") == 5
    assert (
        await session.fetchval("SELECT count(*) FROM provisioner.waiting WHERE quarantine = 'credential:team-a'") == 2
    )


async def test_one_probe_goes_out_when_its_time_has_come(health: SharedCredentialHealth, session: Session) -> None:
    """One of all waiting requests is put in line, and one may be sent; the next probe is later."""
    for name in ("one", "two", "three"):
        await insert(session, name=name, credential="team-a")
    await refuse(health)
    await health.hold_back("team-a")
    assert [one.probing for one in await health.quarantined([KEY])] == [False]
    await session.execute("UPDATE provisioner.credential_health SET probe_at = now()")
    assert [one.probing for one in await health.quarantined([KEY])] == [True]
    assert await session.fetchval("SELECT count(*) FROM provisioner.waiting WHERE run_at <= now()") == 1
    assert (await health.ask(*KEY, confirming=False)).granted
    assert not (await health.ask(*KEY, confirming=False)).granted
    await health.quarantined([KEY])
    assert await session.fetchval("SELECT count(*) FROM provisioner.waiting WHERE run_at <= now()") == 1


async def test_what_works_again_releases_all(health: SharedCredentialHealth, session: Session) -> None:
    """An accepted probe makes all requests that wait for the key due."""
    await insert(session, credential="team-a")
    await refuse(health)
    await health.hold_back("team-a")
    assert await health.accepted(*KEY)
    assert await session.fetchval("SELECT quarantine IS NULL AND run_at <= now() FROM provisioner.waiting")
    assert await health.quarantined([]) == []
    assert not await health.accepted(*KEY)


async def test_another_key_releases_all(health: SharedCredentialHealth, session: Session) -> None:
    """A key with another fingerprint has nothing held against it, and strikes the old one out."""
    await insert(session, credential="team-a")
    await refuse(health)
    await health.hold_back("team-a")
    assert await health.replaced("team-a", "another")
    assert await health.quarantined([]) == []
    assert await session.fetchval("SELECT quarantine IS NULL AND run_at <= now() FROM provisioner.waiting")


async def test_an_edited_credential_releases_its_request(health: SharedCredentialHealth, session: Session) -> None:
    """Another credential makes a waiting request due at once; any other edit leaves it waiting."""
    request = await insert(session, credential="team-a")
    await refuse(health)
    await health.hold_back("team-a")
    await session.execute("UPDATE provisioner.connection_requests SET description = 'x' WHERE id = $1", request)
    assert await session.fetchval("SELECT quarantine FROM provisioner.waiting") == "credential:team-a"
    await session.execute("UPDATE provisioner.connection_requests SET credential = 'b' WHERE id = $1", request)
    assert await session.fetchval("SELECT quarantine IS NULL AND run_at <= now() FROM provisioner.waiting")
    assert (await row_of(session, request))["status"] == "pending"


async def test_trouble_is_shown_since_it_began(database: Database, session: Session) -> None:
    """A new reason keeps the time, and a target that works shows none."""
    pool = Pool(database.url)
    incidents = SharedIncidents(pool, target="default", reporter="one")
    await incidents.report("away")
    since = await session.fetchval("SELECT since FROM provisioner.target_incidents")
    await incidents.report("still away")
    row = await session.fetchrow("SELECT reason, since FROM provisioner.target_incidents")
    assert row is not None
    assert tuple(row) == ("still away", since)
    await incidents.report(None)
    assert await session.fetchval("SELECT count(*) FROM provisioner.target_incidents") == 0
    await pool.close()


async def test_each_worker_tells_of_its_own_trouble(database: Database, session: Session) -> None:
    """One of two workers is in trouble: that is said, the other's fortune hides it not, and its death ends it."""
    pool = Pool(database.url)
    one, other = (SharedIncidents(pool, target="default", reporter=name) for name in ("one", "other"))
    await session.execute(
        "INSERT INTO provisioner.workers (name, version, targets, lease_until)"
        " SELECT n, '1', '{default}', now() + interval '1 hour' FROM unnest('{a,b}'::text[]) AS n"
    )

    async def seen() -> tuple[str | None, int, str]:
        (target,) = (await read_status(pool)).targets
        return target.trouble, target.troubled, target.partly

    await one.report("away")
    await other.report("away")
    assert await seen() == ("away", 2, "")
    await other.report(None)
    assert await seen() == ("away", 1, " for 1 of 2 workers")
    await session.execute("UPDATE provisioner.target_incidents SET reported_at = now() - interval '1 hour'")
    assert await seen() == (None, 0, "")
    await other.report(None)
    assert await session.fetchval("SELECT count(*) FROM provisioner.target_incidents") == 0
    await pool.close()


async def test_ten_thousand_bad_sealed_keys_are_read_by_nobody_and_forgotten(
    health: SharedCredentialHealth, session: Session
) -> None:
    """Refused sealed keys concern only the worker that has them, and are forgotten when nothing waits for them."""
    await session.execute(
        "INSERT INTO provisioner.credential_health"
        " (target, credential, fingerprint, refusals, tried_at, quarantined_since, probe_at)"
        " SELECT 'default', 'sealed-' || n, n, 3, now() - interval '2 hours', now(), now()"
        " FROM generate_series(1, 10000) AS n"
    )
    assert await health.quarantined([KEY]) == []
    assert [one.credential for one in await health.quarantined([KEY, ("sealed-7", "7")])] == ["sealed-7"]
    request = await insert(session, credential="team-a")
    await health.hold_back("team-a")
    await session.execute("UPDATE provisioner.waiting SET quarantine = 'credential:sealed-7' WHERE id = $1", request)
    for _ in range(10):
        await health.forget()
    kept = await session.fetch("SELECT credential FROM provisioner.credential_health")
    assert [row["credential"] for row in kept] == ["sealed-7"]


async def test_a_named_quarantined_key_is_not_forgotten(health: SharedCredentialHealth, session: Session) -> None:
    """The state of a configured credential's key stays until the key is accepted or replaced."""
    await refuse(health)
    await session.execute("UPDATE provisioner.credential_health SET tried_at = now() - interval '9 days'")
    await health.forget()
    assert [one.credential for one in await health.quarantined([])] == ["team-a"]


async def test_a_retry_hurries_the_next_probe(health: SharedCredentialHealth, session: Session) -> None:
    """Retrying a request that waits for a quarantined key puts it in line, and the key may be probed at once."""
    request, other = [await insert(session, name=name, credential="team-a") for name in ("one", "two")]
    await refuse(health)
    await health.hold_back("team-a")
    retried = await session.fetch("SELECT * FROM provisioner.retry($1)", [request])
    assert [tuple(row) for row in retried] == [(request, "quarantined")]
    assert await session.fetchval("SELECT quarantine IS NULL FROM provisioner.waiting WHERE id = $1", request)
    assert await session.fetchval("SELECT quarantine IS NOT NULL FROM provisioner.waiting WHERE id = $1", other)
    assert [one.probing for one in await health.quarantined([KEY])] == [True]
