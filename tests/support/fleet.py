"""Real workers on a real database against a simulated Infisical, all in one event loop, and what came of it."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from provisioner.keyring import open_vault
from provisioner.postgres.listener import Listener
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from provisioner.sandbox.simulator import Simulator
from provisioner.settings import load_settings
from provisioner.targets import ROTATIONS_AT_ONCE, capacity, open_lines
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.worker import Worker, WorkerOptions
from tests.support import eventually
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from provisioner.sandbox.simulator import Options
    from tests.support.sessions import Session

CREATE = "POST /api/v1/app-connections/open-router"
PATH = "/api/v1/app-connections/open-router"


class Fleet:
    """So many workers with one target, `default`; `settings` are environment variables of the product."""

    def __init__(
        self,
        url: str,
        options: Options,
        *,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        pool: Callable[[str], Pool] = Pool,
        poll: float = 0.2,
    ) -> None:
        self.simulator = Simulator(options)
        self.workers: list[Worker] = []
        self._working: list[asyncio.Task[None]] = []
        self.session: Session
        self._url = url
        self._count = workers
        self._settings = settings or {}
        self._pool, self._poll = pool, poll
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.simulator)
        self.session = await self._stack.enter_async_context(connected(self._url))
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.stop()
        await self._stack.__aexit__(kind, error, traceback)

    async def start(self, workers: int | None = None, **settings: str) -> None:
        """Start workers, with further settings."""
        for _ in range(self._count if workers is None else workers):
            ready = asyncio.Event()
            self._working.append(self._tasks.create_task(self._work({**self._settings, **settings}, ready)))
            await ready.wait()

    async def _work(self, settings: Mapping[str, str], ready: asyncio.Event) -> None:
        simulator = self.simulator
        chosen = load_settings(
            environ={
                "PROVISIONER_DATABASE_URL": self._url,
                "INFISICAL_HOST": simulator.url,
                "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": simulator.client_id,
                "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": simulator.client_secret,
                "PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-good",
                **settings,
            }
        )
        pool = self._pool(self._url)
        clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(pool.close)
            opened = open_lines(chosen, "default", pool, clock, open_vault(chosen))
            target, rotations, *_ = await stack.enter_async_context(opened)
            worker = Worker(
                [(target, capacity(chosen.targets["default"].max_in_flight)), (rotations, ROTATIONS_AT_ONCE)],
                options=WorkerOptions(name=f"worker-{len(self.workers)}", lease=5.0, grace=2.0, poll=self._poll),
                queue=PostgresQueue(pool),
                clock=clock,
                random=random.random,
            )
            self.workers.append(worker)
            listening = asyncio.create_task(Listener(pool, hear=worker.hear).run())
            ready.set()
            try:
                await worker.run()
            finally:
                listening.cancel()

    async def ended(self) -> None:
        """Wait until every worker that was started has ended."""
        await asyncio.gather(*self._working)

    def requests(self) -> dict[str, int]:
        """Creates that the simulator answered, by status."""
        return dict(self.simulator.world.requests.get(CREATE, {}))

    def created(self) -> int:
        """Creates that were answered with a connection."""
        return self.requests().get("200", 0)

    async def states(self, where: str = "true") -> dict[str, int]:
        """How many requests are in which status."""
        rows = await self.session.fetch(
            f"SELECT status, count(*) AS n FROM provisioner.connection_requests WHERE {where} GROUP BY 1"
        )
        return {row["status"]: row["n"] for row in rows}

    async def done(self, where: str = "true", *, within: float = 30.0) -> None:
        """Wait until nothing is pending any more."""

        async def ended() -> Any:
            return not (await self.states(where)).get("pending")

        await eventually(ended, within=within)

    async def insert(self, count: int, **columns: object) -> list[int]:
        """Ask for connections in so many projects of the simulator's."""
        projects = self.simulator.projects[:count]
        names = ["project_id", *columns]
        numbers = ", ".join(f"${n}" for n in range(2, len(columns) + 2))
        rows = await self.session.fetch(
            f"INSERT INTO provisioner.connection_requests ({', '.join(names)})"
            f" SELECT p::uuid{', ' if numbers else ''}{numbers} FROM unnest($1::text[]) AS p RETURNING id",
            projects,
            *columns.values(),
        )
        return [row["id"] for row in rows]


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
