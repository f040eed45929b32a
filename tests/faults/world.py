"""A small world to be broken: a database, a simulated Infisical, worker processes, and an auditor in the end."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from provisioner.sandbox.audit import Audit, audit, unexplained
from provisioner.sandbox.simulator import Simulator
from tests.support import eventually
from tests.support.cli import environment
from tests.support.forking import Forked

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from provisioner.sandbox.simulator import Options

KEY = "sk-or-v1-of-the-fault-tests"
LEASE = 5.0  # the shortest that the settings allow
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
INSERT = """
INSERT INTO provisioner.connection_requests (project_id, name, description, on_conflict, batch)
SELECT p::uuid, $2, $3, $4, $5 FROM unnest($1::text[]) AS p RETURNING id
"""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One `provisioner run`; everything that happens to it is a signal."""

    process: Forked
    log_file: Path
    stalled: bool = field(default=False)

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stalled."""
        return self.process.poll() is None

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still lives."""
        if self.alive:
            self.process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    async def exit_status(self, within: float) -> int:
        """Its exit status, once it has ended."""
        await eventually(lambda: not self.alive, within=within)
        return self.process.wait()


class World:
    """Everything that one fault test breaks, from one seed.

    `url` is a fresh database with our schema. Workers reach it by `way`, when a test puts something in between.
    """

    def __init__(
        self,
        url: str,
        options: Options,
        *,
        seed: int,
        directory: Path,
        tally: Counter[str],
        **settings: str,
    ) -> None:
        self.url = url
        self.way = url
        self.seed = seed
        self.random = Random(seed)  # noqa: S311 - a repeatable sequence is the point
        self.simulator = Simulator(options)
        self.workers: list[WorkerProcess] = []
        self.tally = tally
        self._directory = directory
        self._settings = settings
        self._stack = AsyncExitStack()
        self._started = 0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.simulator)
        self.tally["runs"] += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()
        await self._stack.aclose()
        if error is not None:
            error.add_note(f"it happens again with FAULTS_SEED={self.seed}")
            for worker in self.workers:
                error.add_note(f"--- {worker.log_file.name}\n{worker.log()[-2000:]}")

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database behind everybody's back."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: object) -> Any:
        """The first column of the only row of an answer."""
        return (await self.fetch(statement, *arguments))[0][0]

    async def request(
        self,
        projects: Sequence[str] | None = None,
        *,
        name: str = "openrouter",
        description: str | None = None,
        on_conflict: str = "fail",
        batch: str | None = None,
    ) -> list[int]:
        """Ask for a connection in each of these projects, all of them unless told otherwise."""
        wanted = self.simulator.projects if projects is None else projects
        rows = await self.fetch(INSERT, list(wanted), name, description, on_conflict, batch)
        self.tally["requests"] += len(rows)
        return [row["id"] for row in rows]

    def work(self, **settings: str) -> WorkerProcess:
        """Start a worker."""
        self._started += 1
        log_file = self._directory / f"worker-{self._started}.log"
        with log_file.open("wb") as log:
            process = Forked(
                ["run", "--listen", "off"],
                env=self.environment(**settings),
                cwd=self._directory,  # where no settings file lies
                stdout=log.fileno(),
                stderr=log.fileno(),
            )
        worker = WorkerProcess(process, log_file)
        self.workers.append(worker)
        return worker

    def environment(self, **settings: str) -> dict[str, str]:
        """What our processes see."""
        simulator = self.simulator
        return environment(
            None,
            **{
                "PROVISIONER_DATABASE_URL": self.way,
                "INFISICAL_HOST": simulator.url,
                "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": simulator.client_id,
                "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": simulator.client_secret,
                "OPENROUTER_PROVISIONING_KEY": KEY,
                "PROVISIONER_WORKER__LEASE": f"{LEASE:g}",
                "PROVISIONER_LOG__FORMAT": "json",
            }
            | self._settings
            | settings,
        )

    def kill(self, worker: WorkerProcess) -> None:
        """`kill -9` one worker, and forget it."""
        worker.kill()
        self.tally["kills"] += 1

    async def at_work(self, workers: int) -> None:
        """Wait until so many workers have a lease."""
        count = "SELECT count(*) FROM provisioner.workers WHERE lease_until > now()"
        await self.until(lambda: self.value(count), lambda n: n >= workers)

    async def until(
        self, ask: Callable[[], Awaitable[Any]], fits: Callable[[Any], bool], *, within: float = 20.0
    ) -> None:
        """Wait until the database's answer fits; it may be away meanwhile."""

        async def look() -> bool:
            try:
                seen = await ask()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise AssertionError(error) from None
            assert fits(seen), seen
            return True

        found: bool = await eventually(look, within=within)
        assert found

    async def done(self, *, within: float) -> None:
        """Wait until every request has ended."""
        pending = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'pending'"
        await self.until(lambda: self.value(pending), lambda n: n == 0, within=within)

    async def finished(self, least: int, *, within: float = 30.0) -> None:
        """Wait until so many requests have ended."""
        ended = "SELECT count(*) FROM provisioner.connection_requests WHERE status <> 'pending'"
        await self.until(lambda: self.value(ended), lambda n: n >= least, within=within)

    async def made(self, least: int, *, within: float = 30.0) -> None:
        """Wait until the server has so many connections."""
        await self.simulator.until(lambda: len(self.simulator.world.connections) >= least, within=within)

    async def row(self, request: int) -> Mapping[str, Any]:
        """A request as its requester sees it."""
        return dict((await self.fetch("SELECT * FROM provisioner.connection_requests WHERE id = $1", request))[0])

    async def audit(self) -> Audit:
        """Hold the table and its log against the server's own lists; every difference, and every stop, is an error."""
        rows = [dict(row) for row in await self.fetch(ROWS)]
        state = self.simulator.state()
        found = audit(rows, state)
        assert not found.problems, "\n".join(found.problems[:20])
        log = [dict(row) for row in await self.fetch(ATTEMPTS)]
        strange = unexplained(state["creates"], log)
        assert not strange, "\n".join(strange[:20])
        assert state["pool"]["timedOut"] == 0, "the server stopped, for too many creates were in flight"
        self.tally["creates"] += found.creates
        self.tally["answers lost"] += found.answers_lost
        self.tally["requests checked"] += found.requests
        return found

    async def ends(self, worker: WorkerProcess, number: signal.Signals = signal.SIGTERM, *, within: float = 20) -> int:
        """Tell a worker to stop, and return its exit status."""
        worker.signal(number)
        return await worker.exit_status(within)

    async def everything_recorded(self) -> bool:
        """Whether nothing is in flight, and each connection that was made stands in the table."""
        flying = await self.value("SELECT count(*) FROM provisioner.in_flight")
        recorded = {row["connection_id"] for row in await self.fetch(ROWS) if row["status"] == "succeeded"}
        return flying == 0 and recorded == set(self.simulator.world.connections)

    def calm(self, *, lines: int) -> bool:
        """Whether each worker has said what happened in so many lines at most, and none of them is a traceback."""
        logs = [worker.log() for worker in self.workers]
        return all(len(log.splitlines()) <= lines and "Traceback" not in log for log in logs)

    def said(self, event: str) -> int:
        """How often the workers have logged an event."""
        return sum(worker.log().count(f'"event":"{event}"') for worker in self.workers)


def chosen_seed(default: int) -> int:
    """The seed of this run: a fixed one, or the one that somebody wants to see again."""
    return int(os.environ.get("FAULTS_SEED", default))
