"""Build everything from the settings and wire it together: the only module that knows all the others.

Clocks and randomness enter here, and are passed to everything else.
"""

import asyncio
import gc
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import structlog

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.ports import Clock
from provisioner.descriptors import raise_limit
from provisioner.keyring import open_vault, present_fingerprints
from provisioner.observe.health import Health
from provisioner.observe.meter import Meter
from provisioner.observe.systemd import Systemd
from provisioner.observe.traces import traced
from provisioner.postgres.access import Kind, require_rights
from provisioner.postgres.kinds import KINDS
from provisioner.postgres.listener import Listener
from provisioner.postgres.migrations import require_schema
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from provisioner.settings import Settings
from provisioner.settings.values import globs_of
from provisioner.signals import stopping_on_signals
from provisioner.targets import (
    ROTATIONS_AT_ONCE,
    SPARE,
    InfisicalAccess,
    TargetLines,
    capacity,
    connections_of_a_target,
    open_database,
    open_lines,
    worker_name,
)
from provisioner.telling import open_notifier
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.database_retry import DatabaseRetry
from provisioner.worker.worker import Worker, WorkerOptions

if TYPE_CHECKING:
    from provisioner.core.reports import Leftovers
    from provisioner.worker.target import Target

log = structlog.stdlib.get_logger()

DAY: Final = 86400.0
LISTED: Final = 50  # batches that fit on the status page
PROGRESS: Final = 10.0  # seconds between two reports of a run that drains the queue


Beside = Callable[[Database], Coroutine[Any, Any, None]]
"""Shows a run's progress until it is cancelled; the run ends when it returns."""


async def run_daemon(settings: Settings, *, drain: bool = False, beside: Beside | None = None) -> "Leftovers | None":
    """Work until told to stop or, when draining, until nothing is left to do; then return what is left.

    Successes and failures count from the start of this run. `beside` shows the progress instead of the log.

    Raises `SettingsError` if no target can be served, and `DatabaseUnusable` if a person has to fix the database. Waits
    for a database that is unavailable.
    """
    raise_limit()
    before = None
    async with AsyncExitStack() as stack:
        database = open_database(settings)
        stack.push_async_callback(database.close)
        clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
        vault, meter = open_vault(settings), Meter(settings.targets)
        observer = await stack.enter_async_context(traced(meter, clock=clock, worker=worker_name(settings)))
        targets: list[tuple[Target, int]] = []
        ways: list[TargetLines] = []
        for name, target in settings.targets.items():
            opened = open_lines(settings, name, database, clock, vault, observer=meter, eager=drain)
            lines = await stack.enter_async_context(opened)
            ways.append(lines)
            most = max(1, connections_of_a_target(settings) - SPARE)
            targets.append((lines.connections, min(capacity(target.max_in_flight), most)))
            targets.append((lines.rotations, min(ROTATIONS_AT_ONCE, most)))
        worker = Worker(
            targets,
            options=_options(settings, drain=drain),
            queue=PostgresQueue(database),
            clock=clock,
            random=random.Random().random,  # noqa: S311 - spreads retries, keeps no secret
            observer=observer,
        )
        systemd = await stack.enter_async_context(observed(settings, worker, meter))
        # Before the first wait: as process 1 of a container, a process without handlers ignores signals.
        with stopping_on_signals(worker.stop, systemd.stopping):
            if await worker.unless_stopped(DatabaseRetry(clock).call(lambda: _require_place(database))):
                database.endure()
                _spare_the_collector()
                notifier = open_notifier(settings, database, meter, rested=worker.has_rested)
                tasks = {"listener": Listener(database, hear=worker.hear, notified=worker.notified).run()}
                if drain:
                    tasks["progress"] = (beside or _tell_progress)(database)
                    before = await _leftovers(settings, database)
                if notifier is not None:
                    tasks["notifier"] = notifier.run()
                if not drain:
                    tasks |= _verifiers(settings, database, clock, ways)
                    tasks |= _discoverers(settings, database, clock, [lines.access for lines in ways])
                await _work(worker, tasks)
                if drain and notifier is not None:
                    await notifier.finish()
        if not drain:
            return None
        left = await _leftovers(settings, database)
        return left.since(before) if before else left


def _verifiers(
    settings: Settings, database: Database, clock: Clock, ways: Sequence[TargetLines]
) -> Mapping[str, Coroutine[Any, Any, None]]:
    """Return the tasks that compare recorded connections and rotations with Infisical, if the settings ask for them."""
    if settings.verify.seconds is None:
        return {}
    from provisioner.postgres.verifying import DriftLedger  # noqa: PLC0415 - off by default
    from provisioner.worker.verifier import Verifier  # noqa: PLC0415 - as above

    async def fingerprints() -> Mapping[str, str]:
        return (await present_fingerprints(settings, database))[0]

    ledgers = [
        DriftLedger(database, holder=str(uuid4()), every=timedelta(seconds=settings.verify.seconds), kind=kind)
        for kind in KINDS
    ]
    return {
        f"verifier-{access.name}": Verifier(
            access.name,
            lister=access.connections,
            reads=access.reads,
            ledger=ledger,
            clock=clock,
            fingerprints=fingerprints if access is lines.access else None,
        ).run()
        for lines in ways
        for access, ledger in zip((lines.access, lines.rotation_access), ledgers, strict=True)
    }


def _discoverers(
    settings: Settings, database: Database, clock: Clock, ways: Sequence[InfisicalAccess]
) -> Mapping[str, Coroutine[Any, Any, None]]:
    """Return the tasks that ask Infisical for new projects, if the settings ask for them."""
    chosen = settings.discover
    if chosen.seconds is None:
        return {}
    from provisioner.core.projects import ProjectFilter  # noqa: PLC0415 - off by default
    from provisioner.postgres.discovering import DiscoveredRequests  # noqa: PLC0415 - as above
    from provisioner.worker.discoverer import Discoverer, Removing  # noqa: PLC0415 - as above

    every, removing = timedelta(seconds=chosen.seconds), None
    if chosen.on_gone == "remove" and chosen.target in settings.targets:
        removing = Removing(address=settings.targets[chosen.target].url, clock=clock)
    return {
        f"discoverer-{access.name}": Discoverer(
            access.name,
            joined=access.connections,
            reads=access.reads,
            requests=DiscoveredRequests(database, every=every, credential=chosen.credential, batch=chosen.batch),
            wanted=ProjectFilter(types=(chosen.type,), names=globs_of(chosen.names), exclude=globs_of(chosen.exclude)),
            every=chosen.seconds,
            removing=removing,
        ).run()
        for access in ways
        if access.name == chosen.target
    }


async def _leftovers(settings: Settings, database: Database) -> "Leftovers":
    from provisioner.postgres.reports import read_leftovers  # noqa: PLC0415 - only for a drain

    lines = [f"{name}{kind.words.line}" for name in settings.targets for kind in KINDS]
    return await read_leftovers(database, lines)


async def _require_place(database: Database) -> None:
    await require_schema(database)
    await require_rights(database, Kind.WORKER)


@asynccontextmanager
async def observed(settings: Settings, worker: Worker, meter: Meter) -> AsyncIterator[Systemd]:
    """Serve the status port and notify systemd until the end of the block. Raises `PortUnusable`."""
    health = Health(worker.vitals, poll=settings.worker.poll)
    systemd = Systemd.from_environment(os.environ, pid=os.getpid())
    async with AsyncExitStack() as stack:
        if (endpoint := settings.listen.endpoint) is not None:
            from provisioner.observe.web import Sources, StatusPort, serving  # noqa: PLC0415 - the server is optional
            from provisioner.postgres.reports import (  # noqa: PLC0415 - as above
                read_gauges,
                read_history,
                read_status,
            )
            from provisioner.postgres.search import find, read_request  # noqa: PLC0415 - as above

            # A connection of its own, so that status queries delay no request.
            database = open_database(settings, size=1)
            stack.push_async_callback(database.close)
            sources = Sources(
                health=health,
                meter=meter,
                read_status=partial(read_status, database, batches=LISTED),
                read_history=partial(read_history, database),
                find=partial(find, database),
                read_request=partial(read_request, database),
                read_gauges=partial(read_gauges, database),
            )
            port = StatusPort(sources, monotonic=time.monotonic)
            await stack.enter_async_context(serving(port, *endpoint))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        attending = group.create_task(systemd.attend(absence=health.absence, ailment=health.ailment), name="systemd")
        watching = group.create_task(health.watch(), name="health")
        try:
            yield systemd
        finally:
            systemd.stopping()
            attending.cancel()
            watching.cancel()


def _spare_the_collector() -> None:
    """Make garbage collection rare: what was built lives as long as the process, and requests create no cycles.

    Existing garbage, a few hundred kilobytes, stays: collecting it would delay the start by 30 ms.
    """
    gc.freeze()


async def _work(worker: Worker, beside: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each, name=name) for name, each in beside.items()]
        for task in tasks:
            if task.get_name() == "progress":  # the display has ended
                task.add_done_callback(lambda _: worker.stop())
        try:
            await worker.run()
        finally:
            for task in tasks:
                task.cancel()


async def _tell_progress(database: Database) -> None:
    """Log the overall progress every few seconds."""
    from provisioner.postgres.reports import read_status  # noqa: PLC0415 - only for a drain

    while True:
        await asyncio.sleep(PROGRESS)
        with suppress(DatabaseUnavailable):
            status = await read_status(database, batches=0)
            if (done := status.progress) is not None:
                log.info(
                    "drain_progress",
                    succeeded=done.succeeded,
                    failed=done.failed,
                    pending=done.pending,
                    ends_at=done.ends_at.isoformat(timespec="seconds") if done.ends_at else None,
                    ends_why=done.ends_why,
                )


def _options(settings: Settings, *, drain: bool) -> WorkerOptions:
    worker = settings.worker
    return WorkerOptions(
        name=worker_name(settings),
        lease=worker.lease,
        grace=worker.grace,
        poll=worker.poll,
        keep_log=worker.keep_attempts * DAY,
        keep_failed=settings.sealing.keep_failed * DAY,
        drain=drain,
    )
