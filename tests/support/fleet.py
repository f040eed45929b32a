"""A database, a simulated Infisical, and workers between them: however they are started, the verbs are the same."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self

import aiohttp
import asyncpg
from typing_extensions import TypeVar

from provisioner.postgres.kinds import ROTATIONS
from provisioner.sandbox.audit import Audit, audit, unexplained
from provisioner.sandbox.simulator import Simulator
from provisioner.settings import load_settings
from provisioner.worker.worker import Worker
from tests.support import eventually
from tests.support.sessions import connected
from tests.support.ways import in_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from provisioner.sandbox.simulator import Options
    from provisioner.settings import Settings
    from tests.support.sessions import Session
    from tests.support.ways import Process

CREATE = "POST /api/v1/app-connections/open-router"
PATH = "/api/v1/app-connections/open-router"
# Without a limiter to be asked first, a worker that starts is at work at once.
UNLIMITED = {"PROVISIONER_TARGETS__DEFAULT__WRITE_LIMIT": "none", "PROVISIONER_TARGETS__DEFAULT__READ_LIMIT": "none"}
ROWS = """
SELECT id, project_id::text, name, status, connection_id::text, credentials_hash, adopted, on_conflict, attempts,
    error_code, error_message, NOT adopted AND EXISTS (
        SELECT FROM provisioner.attempts AS a WHERE a.request_id = q.id AND a.outcome = 'found'
    ) AS found_again
FROM provisioner.connection_requests AS q ORDER BY id
"""
ATTEMPTS = """
SELECT a.request_id, q.project_id::text, q.name, a.attempt, a.worker, a.action, a.http_status, a.req_id, a.outcome,
    extract(epoch FROM a.started_at)::float8 AS started_at, extract(epoch FROM a.ended_at)::float8 AS ended_at
FROM provisioner.attempts AS a JOIN provisioner.connection_requests AS q ON q.id = a.request_id
"""


class Stoppable(Protocol):
    """The common interface of all ways to start a worker."""

    def stop(self) -> None:
        """Tell it to stop."""


T = TypeVar("T")
W = TypeVar("W", bound=Stoppable, default=Worker)


class Fleet(Generic[W]):
    """So many workers with one target, `default`, each started in the same way of `tests/support/ways.py`.

    `settings` are variables of the environment. `url` is the database's own: who wants workers to take another way
    there starts them with another `PROVISIONER_DATABASE_URL`. In the end the counts that are kept have to be right,
    unless `recount` says no.
    """

    session: Session

    def __init__(
        self,
        url: str,
        options: Options,
        *,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        recount: bool = True,
        way: Callable[[Mapping[str, str], int], AbstractAsyncContextManager[W]] = in_loop,  # type: ignore[assignment]
    ) -> None:  # the default of the way is that of its type
        self.url = url
        self.simulator = Simulator(options)
        self.workers: list[W] = []
        self.random = random.Random(options.seed)  # noqa: S311 - a repeatable sequence is the point
        self.tally: Counter[str] = Counter()
        self._count, self._settings, self._way, self._recount = workers, settings or {}, way, recount
        self._stack, self._working = AsyncExitStack(), AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.simulator)
        self.session = await self._stack.enter_async_context(connected(self.url, recount=self._recount))
        await self._stack.enter_async_context(self._working)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.stop()
        if error is not None:
            error.add_note(f"it was seeded with {self.simulator.options.seed}: FAULTS_SEED, for a test of faults")
        await self._stack.__aexit__(kind, error, traceback)

    def environment(self, **settings: str) -> dict[str, str]:
        """What a worker is told, and a command that is to meet the same database and the same Infisical.

        A setting that is empty takes one of these away.
        """
        simulator = self.simulator
        told = {
            "PROVISIONER_DATABASE_URL": self.url,
            "PROVISIONER_LISTEN__ADDRESS": "off",
            "INFISICAL_HOST": simulator.url,
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": simulator.client_id,
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": simulator.client_secret,
            "PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-good",
            **self._settings,
            **settings,
        }
        return {name: value for name, value in told.items() if value}

    def settings(self, **settings: str) -> Settings:
        """The same as settings."""
        return load_settings(environ=self.environment(**settings))

    async def start(self, workers: int | None = None, /, **settings: str) -> list[W]:
        """Start workers, with further settings; returns these."""
        environ, begun = self.environment(**settings), len(self.workers)
        for number in range(begun, begun + (self._count if workers is None else workers)):
            self.workers.append(await self._working.enter_async_context(self._way(environ, number)))
        return self.workers[begun:]

    async def stop(self) -> None:
        """Let all workers end as they do at the end of the block: those in the loop in peace, processes at once."""
        for worker in self.workers:
            worker.stop()
        await self._working.aclose()

    async def insert(self, projects: int | Sequence[str] | None = None, /, **columns: object) -> list[int]:
        """Ask for connections: in all projects of the simulator's, in so many of them, or in these."""
        return await self._insert("connection_requests", projects, columns)

    async def insert_rotations(self, projects: int | Sequence[str] | None = None, /, **columns: object) -> list[int]:
        """Ask for rotations, as `insert` for connections."""
        return await self._insert("rotation_requests", projects, columns)

    async def _insert(
        self, table: str, projects: int | Sequence[str] | None, columns: Mapping[str, object]
    ) -> list[int]:
        wanted = self.simulator.projects if projects is None else projects
        chosen = self.simulator.projects[:wanted] if isinstance(wanted, int) else wanted
        places = "".join(f", ${number}" for number in range(2, len(columns) + 2))
        rows = await self.read(
            f"INSERT INTO provisioner.{table} ({', '.join(['project_id', *columns])})"
            f" SELECT p::uuid{places} FROM unnest($1::text[]) AS p RETURNING id",
            chosen,
            *columns.values(),
        )
        self.tally["requests"] += len(rows)
        return [row["id"] for row in rows]

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Do as a user does, whose connection is a new one: `session` may arrange what only workers record."""
        connection: Session = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def read(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask by `session`, or by a new connection when the database was away meanwhile."""
        ask = self.fetch if self.session.is_closed() else self.session.fetch
        return await ask(statement, *arguments)

    async def one(self, statement: str, *arguments: object) -> tuple[Any, ...]:
        """The only row of an answer."""
        (found,) = await self.read(statement, *arguments)
        return tuple(found)

    async def value(self, statement: str, *arguments: object) -> Any:
        """The only value of an answer, None where it has no row."""
        rows = await self.read(statement, *arguments)
        return rows[0][0] if rows else None

    async def row(self, request: int) -> Mapping[str, Any]:
        """A request as its requester sees it."""
        table = "rotation_requests" if request >= ROTATIONS.first else "connection_requests"
        (found,) = await self.read(f"SELECT * FROM provisioner.{table} WHERE id = $1", request)
        return dict(found)

    async def states(self, where: str = "true") -> dict[str, int]:
        """How many requests are in which status."""
        counted = f"SELECT status, count(*) AS n FROM provisioner.connection_requests WHERE {where} GROUP BY 1"
        return {row["status"]: row["n"] for row in await self.read(counted)}

    def requests(self, route: str = CREATE) -> dict[str, int]:
        """How often the simulator answered a route, by status."""
        return dict(self.simulator.world.requests.get(route, {}))

    def created(self) -> int:
        """Creates that were answered with a connection."""
        return self.requests().get("200", 0)

    async def until(self, statement: str, seen: object, *, within: float = 20.0) -> None:
        """Wait until the only value of an answer is this, or fits this."""

        async def look() -> bool:
            found = await self.value(statement)
            assert seen(found) if callable(seen) else found == seen, found
            return True

        await self._eventually(look, within)

    async def done(self, where: str = "true", *, within: float = 30.0) -> None:
        """Wait until nothing is pending any more."""
        pending = f"SELECT count(*) FROM provisioner.connection_requests WHERE status = 'pending' AND ({where})"
        await self.until(pending, 0, within=within)

    async def comes_to(self, states: Mapping[str, int], where: str = "true", *, within: float = 20.0) -> None:
        """Wait until this many requests are in these states, and none in another."""

        async def look() -> bool:
            seen = await self.states(where)
            assert seen == states, seen
            return True

        await self._eventually(look, within)

    async def becomes(self, request: int, status: str, *, within: float = 15.0) -> Mapping[str, Any]:
        """Wait until a request has this status; returns its row."""

        async def look() -> Mapping[str, Any]:
            found = await self.row(request)
            assert found["status"] == status, found
            return found

        return await self._eventually(look, within)

    async def _eventually(self, look: Callable[[], Awaitable[T]], within: float) -> T:
        """Look until nothing contradicts; the database may be away meanwhile."""

        async def once() -> T:
            try:
                return await look()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise AssertionError(error) from None

        found: T = await eventually(once, within=within)
        return found

    async def finished(self, least: int, *, within: float = 30.0) -> None:
        """Wait until this many requests have ended."""
        ended = "SELECT count(*) FROM provisioner.connection_requests WHERE status <> 'pending'"
        await self.until(ended, lambda n: n >= least, within=within)

    async def made(self, least: int, *, within: float = 30.0) -> None:
        """Wait until the server has this many connections."""
        await self.simulator.until(lambda: len(self.simulator.world.connections) >= least, within=within)

    async def at_work(self, workers: int) -> None:
        """Wait until this many workers have a lease."""
        leases = "SELECT count(*) FROM provisioner.workers WHERE lease_until > now()"
        await self.until(leases, lambda n: n >= workers)

    async def audit(self, *, explained: bool = True) -> Audit:
        """Hold the table and its log against the server's own lists; every difference, and every stop, is an error.

        Who lets somebody else repeat or invent creates leaves the log out: they need not be `explained` by it.
        """
        state = self.simulator.state()
        found = audit([dict(row) for row in await self.read(ROWS)], state)
        assert not found.problems, "\n".join(found.problems[:20])
        if explained:
            strange = unexplained(state["creates"], [dict(row) for row in await self.read(ATTEMPTS)])
            assert not strange, "\n".join(strange[:20])
        assert state["pool"]["timedOut"] == 0, "the server stopped, for too many creates were in flight"
        self.tally["creates"] += found.creates
        self.tally["answers lost"] += found.answers_lost
        self.tally["requests checked"] += found.requests
        return found

    def kill(self: Fleet[Process], worker: Process) -> None:
        """`kill -9` one worker."""
        worker.kill()
        self.tally["kills"] += 1

    def calm(self: Fleet[Process], *, lines: int) -> bool:
        """Whether each worker has said what happened in so many lines at most, and none of them is a traceback."""
        logs = [worker.log() for worker in self.workers]
        return all(len(log.splitlines()) <= lines and "Traceback" not in log for log in logs)

    def said(self: Fleet[Process], event: str) -> int:
        """How often the workers have logged an event."""
        return sum(worker.log().count(f'"event":"{event}"') for worker in self.workers)


class Stranger:
    """Somebody else behind the same address: creates at its own even pace, until the end of the block."""

    def __init__(self, simulator: Simulator, *, pace: float) -> None:
        self.asked = 0
        self.refused = 0
        self._simulator = simulator
        self._pace = pace
        self._number = random.Random(7)  # noqa: S311 - names, no secrets

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(self._simulator.url)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._session.close()

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._simulator.token()}"}
        begin = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, begin + self.asked / self._pace - time.monotonic()))
            self.asked += 1
            body: dict[str, Any] = {
                "name": f"stranger-{self.asked}",
                "method": "api-key",
                "credentials": {"apiKey": "sk-or-v1-theirs"},
                "projectId": self._simulator.projects[0],
            }
            async with self._session.post(PATH, json=body, headers=headers) as answer:
                self.refused += answer.status == 429
