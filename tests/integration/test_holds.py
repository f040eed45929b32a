"""What the workers know together about API keys: few try an unknown one, and one refusal too many holds it for all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from provisioner.core.holds import FINGERPRINT_LENGTH, Leave, fingerprint
from provisioner.core.secret import Secret
from provisioner.postgres.holds import SharedHolds
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.reports import read_status
from tests.support.sessions import connected, count, insert, insert_many, row_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database
    from tests.support.sessions import Session

KEY = ("team-a", "0123456789abcdef")


@pytest.fixture
async def session(database: Database) -> AsyncIterator[Session]:
    """Lend a connection as any client has one."""
    async with connected(database.url) as session:
        yield session


@pytest.fixture
async def holds(database: Database) -> AsyncIterator[SharedHolds]:
    """Lend the holds of one target."""
    pool = Pool(database.url)
    yield SharedHolds(pool, target="default", teller="one")
    await pool.close()


async def refuse(holds: SharedHolds, times: int = 3) -> tuple[bool, bool]:
    """Refuse the key so often; returns what the last one brought."""
    brought = [await holds.refused(*KEY, "refused") for _ in range(times)]
    return brought[-1]


def test_a_fingerprint_leads_nowhere_back() -> None:
    """It tells keys and databases apart, and holds nothing of the key."""
    prints = {fingerprint(Secret(key), salt) for key in ("sk-or-v1-a", "sk-or-v1-b") for salt in ("one", "two")}
    assert len(prints) == 4
    assert all(len(print_) == FINGERPRINT_LENGTH and "sk-" not in print_ for print_ in prints)


async def test_all_workers_share_the_salt(holds: SharedHolds) -> None:
    """The salt is the database's, so a key has one fingerprint everywhere."""
    assert await holds.salt() == await holds.salt() != ""


async def test_three_try_a_key_that_nobody_knows(holds: SharedHolds) -> None:
    """However many ask at once, three may; when one of them learned nothing, one more may."""
    leaves = await asyncio.gather(*(holds.ask(*KEY, confirming=False) for _ in range(20)))
    assert sum(leave.granted for leave in leaves) == 3
    await holds.undecided(*KEY)
    leaves = await asyncio.gather(*(holds.ask(*KEY, confirming=False) for _ in range(20)))
    assert sum(leave.granted for leave in leaves) == 1


async def test_a_lost_try_keeps_nobody_waiting(holds: SharedHolds, session: Session) -> None:
    """When the tries of a killed worker say nothing for a few seconds, others may try."""
    for _ in range(3):
        await holds.ask(*KEY, confirming=False)
    await session.execute("UPDATE provisioner.credential_health SET tried_at = now() - interval '6 seconds'")
    assert (await holds.ask(*KEY, confirming=False)).granted


async def test_an_accepted_key_needs_no_leave(holds: SharedHolds) -> None:
    """Once anybody saw it work, whoever asks hears so, and how long ago."""
    await holds.accepted(*KEY)
    leave = await holds.ask(*KEY, confirming=False)
    assert (leave.granted, leave.held) == (False, False)
    assert leave.accepted_ago == pytest.approx(0.0, abs=5.0)


async def test_a_suspect_is_tried_like_an_unknown_key(holds: SharedHolds) -> None:
    """A key that worked and is refused needs leave again."""
    await holds.accepted(*KEY)
    await holds.suspect(*KEY)
    assert await holds.ask(*KEY, confirming=False) == Leave(granted=True)


async def test_the_third_refusal_holds_it(holds: SharedHolds) -> None:
    """Two refusals hold nothing; the third does, and only that one says so."""
    assert await refuse(holds, 2) == (False, False)
    assert await refuse(holds, 1) == (True, True)
    assert await refuse(holds, 1) == (True, False)
    assert await holds.ask(*KEY, confirming=False) == Leave(granted=False, held=True)
    assert [one.credential for one in await holds.held([])] == ["team-a"]


async def test_a_refused_key_costs_nine_creates_at_most(holds: SharedHolds) -> None:
    """Those that were refused with it may come to their end, but no more than nine tries are made in all."""
    tries = 0
    for _ in range(30):
        tries += (await holds.ask(*KEY, confirming=True)).granted
        await holds.refused(*KEY, "refused")
    assert tries == 9


async def test_who_stands_in_line_is_held_back(holds: SharedHolds, session: Session) -> None:
    """Requests with that credential leave the line, however its name is written; others stay."""
    await insert(session, name="one", credential="Team_A")
    await insert(session, name="two", credential="team-a")
    await insert_many(session, 5)
    assert await holds.hold_back("team-a") == 2
    assert await count(session, "ready") == 5
    assert await session.fetchval("SELECT count(*) FROM provisioner.waiting WHERE hold = 'credential:team-a'") == 2


async def test_one_probe_goes_out_when_its_time_has_come(holds: SharedHolds, session: Session) -> None:
    """Of all that wait one is put in line, and one may be sent; the next probe is later."""
    for name in ("one", "two", "three"):
        await insert(session, name=name, credential="team-a")
    await refuse(holds)
    await holds.hold_back("team-a")
    assert [one.probing for one in await holds.held([KEY[1]])] == [False]
    await session.execute("UPDATE provisioner.credential_health SET probe_at = now()")
    assert [one.probing for one in await holds.held([KEY[1]])] == [True]
    assert await session.fetchval("SELECT count(*) FROM provisioner.waiting WHERE run_at <= now()") == 1
    assert (await holds.ask(*KEY, confirming=False)).granted
    assert not (await holds.ask(*KEY, confirming=False)).granted
    await holds.held([KEY[1]])
    assert await session.fetchval("SELECT count(*) FROM provisioner.waiting WHERE run_at <= now()") == 1


async def test_what_works_again_releases_all(holds: SharedHolds, session: Session) -> None:
    """An accepted probe makes everybody due who waited for the key."""
    await insert(session, credential="team-a")
    await refuse(holds)
    await holds.hold_back("team-a")
    assert await holds.accepted(*KEY)
    assert await session.fetchval("SELECT hold IS NULL AND run_at <= now() FROM provisioner.waiting")
    assert await holds.held([]) == []
    assert not await holds.accepted(*KEY)


async def test_another_key_releases_all(holds: SharedHolds, session: Session) -> None:
    """A key with another fingerprint has nothing held against it, and strikes the old one out."""
    await insert(session, credential="team-a")
    await refuse(holds)
    await holds.hold_back("team-a")
    assert await holds.release("team-a", "another")
    assert await holds.held([]) == []
    assert await session.fetchval("SELECT hold IS NULL AND run_at <= now() FROM provisioner.waiting")


async def test_an_edited_credential_releases_its_request(holds: SharedHolds, session: Session) -> None:
    """Who gives a held request another credential wants it tried at once; any other edit leaves it held."""
    request = await insert(session, credential="team-a")
    await refuse(holds)
    await holds.hold_back("team-a")
    await session.execute("UPDATE provisioner.connection_requests SET description = 'x' WHERE id = $1", request)
    assert await session.fetchval("SELECT hold FROM provisioner.waiting") == "credential:team-a"
    await session.execute("UPDATE provisioner.connection_requests SET credential = 'b' WHERE id = $1", request)
    assert await session.fetchval("SELECT hold IS NULL AND run_at <= now() FROM provisioner.waiting")
    assert (await row_of(session, request))["status"] == "pending"


async def test_trouble_is_shown_since_it_began(holds: SharedHolds, session: Session) -> None:
    """A new reason keeps the time, and a target that works shows none."""
    await holds.trouble("away")
    since = await session.fetchval("SELECT since FROM provisioner.troubles")
    await holds.trouble("still away")
    row = await session.fetchrow("SELECT reason, since FROM provisioner.troubles")
    assert row is not None
    assert tuple(row) == ("still away", since)
    await holds.trouble(None)
    assert await session.fetchval("SELECT count(*) FROM provisioner.troubles") == 0


async def test_each_worker_tells_of_its_own_trouble(database: Database, session: Session) -> None:
    """One of two workers is in trouble: that is said, the other's fortune hides it not, and its death ends it."""
    pool = Pool(database.url)
    one, other = (SharedHolds(pool, target="default", teller=teller) for teller in ("one", "other"))
    await session.execute(
        "INSERT INTO provisioner.workers (name, version, targets, lease_until)"
        " SELECT n, '1', '{default}', now() + interval '1 hour' FROM unnest('{a,b}'::text[]) AS n"
    )

    async def seen() -> tuple[str | None, int, str]:
        (target,) = (await read_status(pool)).targets
        return target.trouble, target.troubled, target.partly

    await one.trouble("away")
    await other.trouble("away")
    assert await seen() == ("away", 2, "")
    await other.trouble(None)
    assert await seen() == ("away", 1, " for 1 of 2 workers")
    await session.execute("UPDATE provisioner.troubles SET told_at = now() - interval '1 hour'")
    assert await seen() == (None, 0, "")
    await other.trouble(None)
    assert await session.fetchval("SELECT count(*) FROM provisioner.troubles") == 0
    await pool.close()
