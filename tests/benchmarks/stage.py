"""Where the benchmarks play: a private PostgreSQL, the mock API, databases with our schema, and worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import asyncpg

from provisioner.postgres.migrations import migrate
from provisioner.sandbox.postgres import PostgresServer
from tests.benchmarks import processes
from tests.benchmarks.ceiling import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    Session = asyncpg.Connection[asyncpg.Record]

IN_FLIGHT = 64
PATIENCE = 600.0  # seconds until a run that does not end is an error
POLL = 0.05
PROGRAM = str(Path(sys.executable).with_name("provisioner"))
# A server as it is in production: durable, able to replicate, with memory for its size.
SERVER = {"wal_level": "replica", "shared_buffers": "512MB", "max_wal_size": "8GB", "max_connections": "200"}
TEMPLATE = "bench_template"


@dataclass(frozen=True, slots=True)
class Result:
    """What the mock saw."""

    creates: int
    duplicates: int
    first: float | None
    last: float | None


class Stage:
    """The server and the mock; use it in `async with`."""

    server: PostgresServer
    _mock: subprocess.Popen[str]

    def __init__(self, directory: Path | None = None) -> None:
        self._numbers = count(1)
        self._directory = directory  # where the server's data is kept; otherwise it goes in the end

    async def __aenter__(self) -> Self:
        self.server = PostgresServer(settings=SERVER, directory=self._directory)
        self.server.start()
        self._mock, port = _start_mock()
        self.api = f"http://127.0.0.1:{port}"
        self._control = aiohttp.ClientSession(self.api)
        async with self.session("postgres") as session:
            if not await session.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", TEMPLATE):
                await session.execute(f"CREATE DATABASE {TEMPLATE}")
        await migrate(self.server.url(TEMPLATE))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._control.close()
        self._mock.communicate()
        self.server.stop()  # in peace: what is kept need not be recovered
        self.server.close()

    @property
    def mock_pid(self) -> int:
        """The mock's process."""
        return self._mock.pid

    @asynccontextmanager
    async def session(self, database: str) -> AsyncIterator[Session]:
        """A client's connection."""
        session: Session = await asyncpg.connect(self.server.url(database))
        try:
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The name of a database with our schema and nothing in it, which goes at the end of the block."""
        name = f"bench_{next(self._numbers)}"
        async with self.session("postgres") as session:
            await session.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
            try:
                yield name
            finally:
                await session.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def reset(self, *, latency: float = 0.0, limit: int = 0) -> None:
        """Have the mock forget, and answer after so many seconds; `limit` is told in its headers if it is not 0."""
        await (await self._control.post(f"/reset?latency={latency}&limit={limit}")).read()

    async def seen(self) -> Result:
        """What the mock saw since the last reset."""
        said = await (await self._control.get("/stats")).json()
        return Result(said["creates"], said["duplicates"], said["first"], said["last"])

    async def ceiling(self, requests: int, latency: float) -> tuple[float, float]:
        """Creates a second of a bare loop, and the mock's CPU time as a share of the loop's; 0 where it is unknown."""
        await self.reset(latency=latency)
        command = [sys.executable, "-m", "tests.benchmarks.ceiling", self.api, str(requests), str(IN_FLIGHT)]
        before = processes.cpu_seconds(self.mock_pid) if processes.KNOWN else 0.0
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        measured = json.loads((await process.communicate())[0])
        mock = processes.cpu_seconds(self.mock_pid) - before if processes.KNOWN else 0.0
        return measured["rate"], mock / measured["cpu"]

    def environment(self, database: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The settings of a worker for a database; nothing of the caller's own is passed on."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROVISIONER", "INFISICAL"))}
        return kept | {
            "PROVISIONER_DATABASE_URL": self.server.url(database),
            "INFISICAL_HOST": self.api,
            "INFISICAL_TOKEN": "bench",
            "OPENROUTER_PROVISIONING_KEY": KEY,
            "PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": str(IN_FLIGHT),
            "PROVISIONER_LOG__LEVEL": "warning",
            **(extra or {}),
        }

    @contextmanager
    def worker(self, database: str, extra: Mapping[str, str] | None = None) -> Iterator[Running]:
        """A worker process until the end of the block, then stopped as an operator stops it."""
        began = time.time()
        environment = self.environment(database, extra)
        process = subprocess.Popen([PROGRAM, "run", "--listen", "off"], env=environment)  # noqa: S603 - our own program
        try:
            yield Running(process=process, began=began)
        finally:
            process.terminate()
            process.wait(60)

    def command(self, database: str, *arguments: str) -> float:
        """Seconds that a command takes, from its start to its end; fails where it could not be done at all."""
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - our own program
            [PROGRAM, *arguments], env=self.environment(database), capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
        if done.returncode not in {0, 1}:
            raise RuntimeError(f"provisioner {' '.join(arguments)}: {done.stderr}")
        return took


@dataclass(frozen=True, slots=True)
class Running:
    """A worker process and when it was started, in seconds since 1970."""

    process: subprocess.Popen[bytes]
    began: float

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


def _start_mock() -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.benchmarks.mock"]
    mock = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    if mock.stdout is None:  # there is a pipe, so there is a stream
        raise AssertionError
    return mock, json.loads(mock.stdout.readline())["port"]


async def until(check: Any, *workers: Running, within: float = PATIENCE) -> None:
    """Wait until the coroutine function gives something true; a worker that ends meanwhile is an error."""
    async with asyncio.timeout(within):
        while not await check():
            for worker in workers:
                if worker.process.poll() is not None:
                    raise RuntimeError(f"the worker ended with status {worker.process.returncode}")
            await asyncio.sleep(POLL)


async def fill(session: Session, rows: int, *, projects: int = 200, first: int = 1, target: str = "default") -> None:
    """Ask for so many connections, round robin over so many projects, a hundred thousand a statement."""
    for start in range(first, first + rows, 100_000):
        await session.execute(
            "INSERT INTO provisioner.connection_requests (target, project_id, name, description)"
            " SELECT $4, ('7b0e5d6a-1111-4222-8333-' || lpad(to_hex(g % $3), 12, '0'))::uuid,"
            " 'bench-' || lpad(g::text, 8, '0'), 'made by a benchmark'"
            " FROM generate_series($1::bigint, $2::bigint) AS g",
            start,
            min(start + 100_000, first + rows) - 1,
            projects,
            target,
        )


async def settle_down(session: Session) -> None:
    """Fresh statistics, and a checkpoint: what is touched from now on is written to the log as a whole page first."""
    await session.execute("VACUUM (ANALYZE)")
    await session.execute("CHECKPOINT")
