"""The ways to start a worker for a test: in the test's own loop, as the whole daemon there, or as a process.

A way is given the worker's environment and its number, and lends the worker until the end of its block.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from signal import SIGTERM
from typing import TYPE_CHECKING

from provisioner.keyring import open_vault
from provisioner.postgres.listener import Listener
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from provisioner.service import run_daemon
from provisioner.settings import load_settings
from provisioner.targets import ROTATIONS_AT_ONCE, capacity, open_lines
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.worker import Worker, WorkerOptions
from tests.support import eventually
from tests.support.cli import environment
from tests.support.forking import Forked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from signal import Signals

LEASE = 5.0  # the shortest that the settings allow


@asynccontextmanager
async def in_loop(
    environ: Mapping[str, str], number: int, *, pool: Callable[[str], Pool] = Pool
) -> AsyncIterator[Worker]:
    """A worker with a listener and the lines of the target `default`, in the test's own loop."""
    settings = load_settings(environ={"PROVISIONER_WORKER__POLL": "0.2", **environ})
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    async with AsyncExitStack() as stack:
        database = pool(environ["PROVISIONER_DATABASE_URL"])
        stack.push_async_callback(database.close)
        opened = open_lines(settings, "default", database, clock, open_vault(settings))
        target, rotations, *_ = await stack.enter_async_context(opened)
        worker = Worker(
            [(target, capacity(settings.targets["default"].max_in_flight)), (rotations, ROTATIONS_AT_ONCE)],
            options=WorkerOptions(name=f"worker-{number}", lease=LEASE, grace=2.0, poll=settings.worker.poll),
            queue=PostgresQueue(database),
            clock=clock,
            random=random.random,
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        listening = group.create_task(Listener(database, hear=worker.hear).run())
        working = group.create_task(worker.run())
        working.add_done_callback(lambda _: listening.cancel())
        yield worker
        worker.stop()


@dataclass(slots=True, eq=False)
class Daemon:
    """All that `provisioner run` starts, in the test's own loop, where one at a time can obey signals."""

    task: asyncio.Task[object]
    told: bool = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self.task.done()

    def stop(self) -> None:
        """Stop it as its supervisor does, if it still runs; a second signal would end this very process."""
        if self.alive and not self.told:
            self.told = True
            os.kill(os.getpid(), SIGTERM)


@asynccontextmanager
async def daemon(environ: Mapping[str, str], _number: int) -> AsyncIterator[Daemon]:
    """The whole daemon, with its listeners, notices and rounds, in the test's own loop."""
    settings = load_settings(environ={"PROVISIONER_WORKER__POLL": "0.1", **environ})
    async with asyncio.TaskGroup() as group:
        it = Daemon(group.create_task(run_daemon(settings)))
        try:
            yield it
        finally:
            it.stop()
            async with asyncio.timeout(20):
                await asyncio.wait([it.task])


@dataclass(slots=True, eq=False)
class Process:
    """One `provisioner run`; everything that happens to it is a signal."""

    process: Forked
    log_file: Path

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stalled."""
        return self.process.poll() is None

    def log(self) -> str:
        """The log so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: Signals) -> None:
        """Send it a signal, if it still lives."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Tell it to stop."""
        self.signal(SIGTERM)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    async def ends(self, number: Signals = SIGTERM) -> int:
        """Tell it to stop; returns its exit status once it has ended."""
        self.signal(number)
        await eventually(lambda: not self.alive, within=20)
        return self.process.wait()


def processes(directory: Path) -> Callable[[Mapping[str, str], int], AbstractAsyncContextManager[Process]]:
    """Processes that log into this directory; one that still lives at the end of the block is killed."""

    @asynccontextmanager
    async def process(environ: Mapping[str, str], number: int) -> AsyncIterator[Process]:
        log_file = directory / f"worker-{number}.log"
        told = {"PROVISIONER_WORKER__LEASE": f"{LEASE:g}", "PROVISIONER_LOG__FORMAT": "json", **environ}
        with log_file.open("wb") as log:
            started = Forked(
                ["run"], env=environment(None, **told), cwd=directory, stdout=log.fileno(), stderr=log.fileno()
            )  # in a directory where no settings file lies
        it = Process(started, log_file)
        try:
            yield it
        except BaseException as error:
            error.add_note(f"--- {log_file.name}\n{it.log()[-2000:]}")
            raise
        finally:
            it.kill()

    return process
