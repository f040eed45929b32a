"""Users edit and delete rows while workers move them: whatever comes first, a request is in one place at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.core.queue_values import FRONT
from provisioner.postgres.queries import statements
from tests.support import eventually
from tests.support.postgres import Database
from tests.support.sessions import connected, insert, places, soon, take

if TYPE_CHECKING:
    from tests.support.sessions import Session

CLAIM = statements("claim")["claim"]
PROMOTE = statements("maintenance")["promote"]
EDIT = "UPDATE provisioner.connection_requests SET priority = 5"
DELETE = "DELETE FROM provisioner.connection_requests"


@pytest.fixture
async def sessions(database: Database) -> AsyncIterator[tuple["Session", "Session", "Session"]]:
    """Provide the sessions of a worker, a user, and an observer."""
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(connected(database.url)),
            await stack.enter_async_context(connected(database.url)),
            await stack.enter_async_context(connected(database.url)),
        )


async def waits(onlooker: "Session", session: "Session") -> bool:
    """Whether a session waits for a lock that another one holds."""
    blockers = await onlooker.fetchval("SELECT cardinality(pg_blocking_pids($1))", session.get_server_pid())
    return bool(blockers)


async def meanwhile(
    sessions: tuple["Session", "Session", "Session"], moved: tuple[str, *tuple[object, ...]], statement: str
) -> BaseException | None:
    """Commit a worker's step while a user's statement is running; returns the error of that statement."""
    worker, user, onlooker = sessions
    async with asyncio.TaskGroup() as group:
        transaction = worker.transaction()
        await transaction.start()
        await worker.fetch(*moved)
        running = group.create_task(_outcome(user, statement))
        either: Callable[[], bool | Awaitable[bool]] = partial(_either, running, onlooker, user)
        await eventually(either)
        await transaction.commit()
        return await running


async def _outcome(session: "Session", statement: str) -> BaseException | None:
    try:
        await session.execute(statement)
    except asyncpg.PostgresError as error:
        return error
    return None


async def _either(running: "asyncio.Task[BaseException | None]", onlooker: "Session", user: "Session") -> bool:
    return running.done() or await waits(onlooker, user)


A_CLAIM = (CLAIM, "default", FRONT.rank, FRONT.turn, 10, 1, 0, 1)
A_PROMOTION = (PROMOTE, 10)


class TestAnEdit:
    """A user changes a request's place."""

    async def test_while_it_is_claimed_is_refused(self, sessions: tuple["Session", "Session", "Session"]) -> None:
        """The claim that comes first wins, and the edit hears that the request is in flight."""
        await insert(sessions[1])
        error = await meanwhile(sessions, A_CLAIM, EDIT)
        assert isinstance(error, asyncpg.ObjectInUseError)
        assert await places(sessions[2]) == {"in_flight": 1}

    async def test_while_it_comes_due_moves_it_once(self, sessions: tuple["Session", "Session", "Session"]) -> None:
        """A request that is put in line during the edit is in line or waits, not both."""
        await insert(sessions[1])
        await sessions[1].execute("UPDATE provisioner.connection_requests SET not_before = now()")
        await soon(sessions[1])
        assert await meanwhile(sessions, A_PROMOTION, EDIT) is None
        found = await places(sessions[2])
        assert found in ({"ready": 1}, {"waiting": 1})


class TestADelete:
    """A user deletes a request."""

    async def test_while_it_is_claimed_takes_the_claim_along(
        self, sessions: tuple["Session", "Session", "Session"]
    ) -> None:
        """Nothing stays in flight that no worker can settle."""
        await insert(sessions[1])
        assert await meanwhile(sessions, A_CLAIM, DELETE) is None
        assert await places(sessions[2]) == {}

    async def test_while_it_comes_due_leaves_nothing(self, sessions: tuple["Session", "Session", "Session"]) -> None:
        """A request that is put in line during the delete is not left in line."""
        # A place left behind would be claimed into `in_flight`, never returned, and block a drain for ever.
        await insert(sessions[1])
        await sessions[1].execute("UPDATE provisioner.connection_requests SET not_before = now()")
        await soon(sessions[1])
        assert await meanwhile(sessions, A_PROMOTION, DELETE) is None
        assert await places(sessions[2]) == {}


class TestACall:
    """An operator calls a request off."""

    async def test_while_it_is_settled_costs_the_worker_nothing(
        self, sessions: tuple["Session", "Session", "Session"]
    ) -> None:
        """Both lock the row in flight first, so the settlement is not rolled back by a deadlock."""
        worker, user, onlooker = sessions
        request = await insert(user)
        await take(user, request)
        transaction = worker.transaction()
        await transaction.start()
        await worker.execute("DELETE FROM provisioner.in_flight")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_outcome(user, f"SELECT provisioner.cancel(ARRAY[{request}]::bigint[])"))
            either: Callable[[], bool | Awaitable[bool]] = partial(_either, running, onlooker, user)
            await eventually(either)
            await worker.execute("SELECT set_config('provisioner.recording', 'on', true)")
            await worker.execute("UPDATE provisioner.connection_requests SET status = 'succeeded'")
            await transaction.commit()
            assert await running is None
        assert await onlooker.fetchval("SELECT status FROM provisioner.connection_requests") == "succeeded"

    async def test_while_it_is_claimed_reaches_the_claim(
        self, sessions: tuple["Session", "Session", "Session"]
    ) -> None:
        """The claim is marked, so that its end cancels the request."""
        await insert(sessions[1])
        off = "SELECT provisioner.cancel(ARRAY (SELECT id FROM provisioner.connection_requests))"
        assert await meanwhile(sessions, A_CLAIM, off) is None
        assert await sessions[2].fetchval("SELECT cancelled FROM provisioner.in_flight")

    async def test_while_it_comes_due_reaches_it(self, sessions: tuple["Session", "Session", "Session"]) -> None:
        """A request that is put in line during the call is cancelled all the same."""
        await insert(sessions[1])
        await sessions[1].execute("UPDATE provisioner.connection_requests SET not_before = now()")
        await soon(sessions[1])
        off = "SELECT provisioner.cancel(ARRAY (SELECT id FROM provisioner.connection_requests))"
        assert await meanwhile(sessions, A_PROMOTION, off) is None
        assert await places(sessions[2]) == {}
        assert await sessions[2].fetchval("SELECT status FROM provisioner.connection_requests") == "cancelled"


async def test_a_place_without_its_request_stops_nobody(sessions: tuple["Session", "Session", "Session"]) -> None:
    """A stray entry in line, from whatever accident, is cleared away by the claim that meets it."""
    # In `in_flight` it would stay for as long as the worker lives.
    await sessions[1].execute(
        "INSERT INTO provisioner.ready (target, rank, turn, id, project_id)"
        " VALUES ('default', 0, 1, 4711, gen_random_uuid())"
    )
    assert await sessions[0].fetch(*A_CLAIM) == []
    assert await places(sessions[2]) == {}
