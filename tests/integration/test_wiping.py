"""Sealed keys of failed requests are kept for a while and then wiped; a retry says so."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from provisioner.core.model import ErrorCode, Fail
from provisioner.core.queue_values import FRONT, Wiped
from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.builders import a_settlement, project
from tests.support.fleet import Fleet
from tests.support.sessions import SEALED, count, insert, row_of

if TYPE_CHECKING:
    from provisioner.postgres.queue import PostgresQueue
    from tests.support.postgres import Database
    from tests.support.sessions import Session

MONTH = 30 * 86400.0
OTHER = SEALED.replace("QUJD", "WFla")


async def fail(queue: PostgresQueue, *, code: ErrorCode = ErrorCode.PROJECT_NOT_FOUND) -> None:
    """Let a worker fail everything in line."""
    worker = await queue.register(name="first", targets=["default"], lease=60.0)
    claims = (await queue.claim(worker, target="default", start=FRONT, limit=1000)).claims
    await queue.settle(worker, [a_settlement(claim, Fail(code=code, message="there is none")) for claim in claims])


async def age(session: Session, days: float) -> None:
    """Move all failures back by this many days."""
    await session.execute("UPDATE provisioner.failed_boxes SET failed_at = failed_at - $1::interval", timedelta(days))


async def credential(session: Session, request: int) -> str:
    """A request's credential."""
    return str((await row_of(session, request))["credential"])


class TestWiping:
    """The end of a failed request's sealed key."""

    async def test_waits_its_time(self, queue: PostgresQueue, session: Session) -> None:
        """A failed request keeps its key for so long, and loses it then; the row says so and when."""
        request = await insert(session, credential=SEALED)
        await fail(queue)
        await age(session, 29)
        assert await queue.wipe(10, keep=MONTH) == Wiped()
        assert await credential(session, request) == SEALED
        await age(session, 1)
        assert await queue.wipe(10, keep=MONTH) == Wiped(keys=1)
        row = await row_of(session, request)
        assert re.fullmatch(r"sealed:key-1:\d{4}-\d\d-\d\d:wiped", row["credential"])
        assert re.fullmatch(
            r"there is none; the sealed key was wiped on \d{4}-\d\d-\d\d: give the row a new one before a retry",
            row["error_message"],
        )
        assert (row["status"], row["error_code"]) == ("failed", "project_not_found")
        assert await count(session, "failed_boxes") == 0

    async def test_spares_what_is_tried_again(self, queue: PostgresQueue, session: Session) -> None:
        """A request that was retried meanwhile keeps its key, and has its time anew should it fail again."""
        request = await insert(session, credential=SEALED)
        await fail(queue)
        await age(session, 31)
        await session.execute("SELECT provisioner.retry(ARRAY [$1::bigint])", request)
        assert await queue.wipe(10, keep=MONTH) == Wiped()
        await queue.promote(10)
        await fail(queue)
        assert await queue.wipe(10, keep=MONTH) == Wiped()
        assert await credential(session, request) == SEALED
        await age(session, 31)
        assert await queue.wipe(10, keep=MONTH) == Wiped(keys=1)

    async def test_spares_a_new_key(self, queue: PostgresQueue, session: Session) -> None:
        """A key that a failed request got later is wiped by its own time, not by the old one's."""
        request = await insert(session, credential=SEALED)
        await fail(queue)
        await age(session, 31)
        await session.execute("UPDATE provisioner.connection_requests SET credential = $1", OTHER)
        assert await queue.wipe(10, keep=MONTH) == Wiped()
        assert await credential(session, request) == OTHER
        await age(session, 31)
        assert await queue.wipe(10, keep=MONTH) == Wiped(keys=1)

    async def test_goes_in_small_lots(self, queue: PostgresQueue, session: Session) -> None:
        """However many are due, one statement writes a few rows and says that there is more."""
        for number in range(5):
            await insert(session, project_id=project(number), credential=SEALED)
        await fail(queue)
        await age(session, 31)
        assert [await queue.wipe(2, keep=MONTH) for _ in range(3)] == [
            Wiped(keys=2, more=True),
            Wiped(keys=2, more=True),
            Wiped(keys=1),
        ]

    async def test_concerns_sealed_keys_alone(self, queue: PostgresQueue, session: Session) -> None:
        """The name of a credential is no secret: it stays, and costs nothing."""
        await insert(session, credential="team-a")
        await fail(queue)
        assert await count(session, "failed_boxes") == 0

    async def test_meets_every_failure(self, queue: PostgresQueue, session: Session) -> None:
        """A request for a target that no worker knows loses its key like any other."""
        request = await insert(session, credential=SEALED, target="nowhere")
        await queue.register(name="first", targets=["default"], lease=60.0)
        assert await queue.fail_unknown_targets(10) == [request]
        await age(session, 31)
        assert await queue.wipe(10, keep=MONTH) == Wiped(keys=1)


async def test_a_retry_says_that_the_key_is_gone(database: Database) -> None:
    """A worker wipes due keys by itself, and a retry then fails as unreadable, with the day of the wipe."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=1)) as fleet:
        (request,) = await fleet.insert(1, credential=SEALED)
        await fleet.start()
        await fleet.done()
        assert (await row_of(fleet.session, request))["error_code"] == "credential_unreadable"
        await age(fleet.session, 31)
        await fleet.start()  # checks at once

        async def wiped() -> Any:
            return (await credential(fleet.session, request)).endswith(":wiped")

        await eventually(wiped)
        await fleet.session.execute("SELECT provisioner.retry(ARRAY [$1::bigint])", request)
        await fleet.done()
        row = await row_of(fleet.session, request)
        assert (row["status"], row["error_code"]) == ("failed", "credential_unreadable")
        assert re.search(r"the sealed key was wiped on \d{4}-\d\d-\d\d, .*give the row a new one", row["error_message"])
