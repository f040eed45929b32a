"""Build everything from the settings and wire it together: the only room that knows all the others.

Clocks and chance enter here; everybody else is handed them.
"""

import asyncio
import gc
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import structlog

from provisioner.core.concurrency import METERED, Rules as ConcurrencyRules
from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.pacing import Budget, fixed
from provisioner.core.policy import Rules
from provisioner.core.ports import Clock, Observer
from provisioner.core.secret import Secret
from provisioner.core.target_health import Breaker
from provisioner.core.unobserved import UNOBSERVED
from provisioner.credentials.vault import NamedVault
from provisioner.descriptors import connections_each, current_limit, raise_limit
from provisioner.embedded.place import is_embedded
from provisioner.infisical.connections import InfisicalConnections
from provisioner.infisical.identity import Identity
from provisioner.infisical.metered_logins import MeteredLogins
from provisioner.infisical.secrets import InfisicalSecrets
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.keyring import authentication, open_vault, secret_source
from provisioner.observe.health import Health
from provisioner.observe.meter import Meter
from provisioner.observe.systemd import Systemd
from provisioner.observe.traces import traced
from provisioner.postgres.access import Kind, require_rights
from provisioner.postgres.clocks import TargetClock
from provisioner.postgres.concurrency import SharedConcurrency
from provisioner.postgres.credential_health import SharedCredentialHealth
from provisioner.postgres.listener import Listener
from provisioner.postgres.migrations import require_schema
from provisioner.postgres.permits import UNLIMITED, SharedPermits
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.recorded import recorded_elsewhere
from provisioner.postgres.target_incidents import SharedIncidents
from provisioner.settings import RateLimit, Settings
from provisioner.signals import stopping_on_signals
from provisioner.telling import open_notifier
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.database_retry import DatabaseRetry
from provisioner.worker.key_gate import KeyGate
from provisioner.worker.slots import SlotGate
from provisioner.worker.target import Target
from provisioner.worker.worker import Worker, WorkerOptions

if TYPE_CHECKING:
    from provisioner.core.reports import Leftovers

log = structlog.stdlib.get_logger()

DAY: Final = 86400.0
LISTED: Final = 50  # batches that the status page has room for
PROGRESS: Final = 10.0  # seconds between two reports of a run that drains the queue
SPARE: Final = 8  # connections beside those of the creates: look-ups and logins
OWN: Final = 2  # connections to the database besides the workers' pool: the listener's and the status port's
STATEMENT_TIME: Final = 10.0  # seconds; less than half of the default lease, so that a dead connection cannot cost it


Beside = Callable[[Database], Coroutine[Any, Any, None]]
"""Shows how far a run is, until it is cancelled."""


async def run_daemon(settings: Settings, *, drain: bool = False, beside: Beside | None = None) -> "Leftovers | None":
    """Work until told to stop or, when draining, until nothing is left to do; then return what is left all the same.

    What succeeded and failed is counted from the start of this run. `beside` shows how far it is, instead of the log.

    Raises `SettingsError` when no target can be worked for, `DatabaseUnusable` when a person has to fix the database.
    Waits for a database that is away.
    """
    raise_limit()
    before = None
    async with AsyncExitStack() as stack:
        database = open_database(settings)
        stack.push_async_callback(database.close)
        clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
        vault, meter = open_vault(settings), Meter(settings.targets)
        observer = await stack.enter_async_context(traced(meter, clock=clock, worker=worker_name(settings)))
        targets = [
            (
                await stack.enter_async_context(open_target(settings, name, database, clock, vault, observer=meter)),
                min(capacity(target.max_in_flight), max(1, connections_of_a_target(settings) - SPARE)),
            )
            for name, target in settings.targets.items()
        ]
        worker = Worker(
            targets,
            options=_options(settings, drain=drain),
            queue=PostgresQueue(database),
            clock=clock,
            random=random.Random().random,  # noqa: S311 - spreads retries, keeps no secret
            observer=observer,
        )
        systemd = await stack.enter_async_context(observed(settings, worker, meter))
        # Before the first wait: as process 1 of a container, who handles no signal cannot be stopped by one.
        with stopping_on_signals(worker.stop, systemd.stopping):
            if await worker.unless_stopped(DatabaseRetry(clock).insist(lambda: _require_place(database))):
                database.endure()
                _spare_the_collector()
                notifier = open_notifier(settings, database, meter)
                tasks = {"listener": Listener(database, hear=worker.hear).run()}
                if drain:
                    tasks["progress"] = (beside or _tell_progress)(database)
                    before = await _leftovers(settings, database)
                if notifier is not None:
                    tasks["notifier"] = notifier.run()
                await _work(worker, tasks)
                if drain and notifier is not None:
                    await notifier.finish()
        if not drain:
            return None
        left = await _leftovers(settings, database)
        return left.since(before) if before else left


async def _leftovers(settings: Settings, database: Database) -> "Leftovers":
    from provisioner.postgres.reports import read_leftovers  # noqa: PLC0415 - reports are for those who look

    return await read_leftovers(database, settings.targets)


async def _require_place(database: Database) -> None:
    await require_schema(database)
    await require_rights(database, Kind.WORKER)


@asynccontextmanager
async def observed(settings: Settings, worker: Worker, meter: Meter) -> AsyncIterator[Systemd]:
    """Serve the status port and tell systemd how it goes, until the end of the block. Raises `PortUnusable`."""
    health = Health(worker.vitals, monotonic=time.monotonic, poll=settings.worker.poll)
    systemd = Systemd.from_environment(os.environ, pid=os.getpid())
    async with AsyncExitStack() as stack:
        if (endpoint := settings.listen.endpoint) is not None:
            from provisioner.observe.web import Sources, StatusPort, serving  # noqa: PLC0415 - a server that may be off
            from provisioner.postgres.history import read_history  # noqa: PLC0415 - what it serves
            from provisioner.postgres.reports import read_gauges, read_status  # noqa: PLC0415 - as above
            from provisioner.postgres.search import find, tell  # noqa: PLC0415 - as above

            # A connection of its own: whoever looks keeps no request waiting.
            database = open_database(settings, size=1)
            stack.push_async_callback(database.close)
            sources = Sources(
                health=health,
                meter=meter,
                read_status=partial(read_status, database, batches=LISTED),
                read_history=partial(read_history, database),
                find=partial(find, database),
                tell=partial(tell, database),
                read_gauges=partial(read_gauges, database),
            )
            port = StatusPort(sources, monotonic=time.monotonic)
            await stack.enter_async_context(serving(port, *endpoint))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        attending = group.create_task(systemd.attend(absence=health.absence, ailment=health.ailment), name="systemd")
        try:
            yield systemd
        finally:
            systemd.stopping()
            attending.cancel()


def _spare_the_collector() -> None:
    """Look for garbage seldom: what was built lives as long as the process, and requests make no cycles.

    What is garbage already stays, a few hundred kilobytes: to look for it would take a start 30 ms.
    """
    gc.freeze()


async def _work(worker: Worker, beside: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each, name=name) for name, each in beside.items()]
        try:
            await worker.run()
        finally:
            for task in tasks:
                task.cancel()


async def _tell_progress(database: Database) -> None:
    """Log every few seconds how far everything is."""
    from provisioner.postgres.reports import read_status  # noqa: PLC0415 - reports are for those who look

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
                )


def open_database(settings: Settings, *, size: int | None = None) -> Database:
    """The database of the settings; nothing is connected yet. Raises `SettingsError`."""
    url = settings.database_url()
    source = secret_source(settings, url, "database", "url")
    if is_embedded(url.reveal()):
        from provisioner.embedded.server import source_of  # noqa: PLC0415 - who has a server never needs it

        return _database(settings, source_of(url), size)
    return _database(settings, source, size)


def _database(settings: Settings, source: Secret | Callable[[], Secret], size: int | None) -> Database:
    return Database(
        source,
        size=size or settings.database.max_connections,
        timeout=STATEMENT_TIME,
        ssl_root_cert=settings.database.ssl_root_cert,
        name=worker_name(settings),
    )


@asynccontextmanager
async def open_target(
    settings: Settings,
    name: str,
    database: Database,
    clock: Clock,
    vault: NamedVault,
    *,
    observer: Observer = UNOBSERVED,
    permits: type[SharedPermits] = SharedPermits,
) -> AsyncIterator[Target]:
    """One target with its connections, its budgets and its breaker; its access token is ended with the block.

    Raises `SettingsError` when nobody can log in there.
    """
    chosen = settings.targets[name]
    shared = partial(permits, database, clock, target=name)
    writes, reads, logins = (
        shared(kind=kind, start=replace(_budget(limit), address=chosen.url))
        for kind, limit in (("write", chosen.write_limit), ("read", chosen.read_limit), ("login", chosen.login_limit))
    )
    async with (
        Transport(_transport_options(settings, name)) as transport,
        _identity(settings, name, MeteredLogins(transport, logins), observer) as identity,
    ):
        routes = Routes(chosen.url)
        keys = vault.at(name, InfisicalSecrets(transport, identity, routes, reads))
        health = SharedCredentialHealth(database, target=name)
        yield Target(
            name=name,
            connections=InfisicalConnections(
                transport, identity, routes, marker=chosen.marker, now=clock.epoch, monotonic=clock.monotonic
            ),
            vault=keys,
            writes=writes,
            reads=reads,
            rules=_rules(settings, name),
            breaker=Breaker(),
            keys=KeyGate(name, health=health, vault=keys, clock=clock),
            incidents=SharedIncidents(database, target=name, reporter=str(uuid4())),
            gate=SlotGate(name, shared=_concurrency(settings, name, database), clock=clock),
            shared_budget=chosen.shared_budget,
            recorded=partial(recorded_elsewhere, database),
            observer=observer,
            clock_store=TargetClock(database, target=name),
        )


@asynccontextmanager
async def _identity(
    settings: Settings, name: str, logins: MeteredLogins, observer: Observer
) -> AsyncIterator[Identity]:
    auth, routes = authentication(settings, name), Routes(settings.targets[name].url)
    identity = Identity(auth, logins, routes, target=name, heard=partial(observer.logged_in, name))
    try:
        yield identity
    finally:
        # Nobody else has its token. One from the settings is not ours to end, and stays.
        await identity.revoke()


def _rules(settings: Settings, name: str) -> Rules:
    retry = settings.retry
    return Rules(max_attempts=retry.max_attempts, base=retry.base, cap=retry.cap, marker=settings.targets[name].marker)


def _transport_options(settings: Settings, name: str) -> TransportOptions:
    chosen = settings.targets[name]
    return TransportOptions(
        base_url=chosen.url,
        timeout=chosen.timeout,
        ca_file=str(chosen.ca_file) if chosen.ca_file else None,
        proxy=secret_source(settings, chosen.proxy, "targets", name, "proxy") if chosen.proxy else None,
        max_connections=min(capacity(chosen.max_in_flight) + SPARE, connections_of_a_target(settings)),
    )


def connections_of_a_target(settings: Settings) -> int:
    """How many connections each target may have in this process, over all of which the descriptors are shared."""
    return connections_each(
        current_limit(), targets=len(settings.targets), database=settings.database.max_connections + OWN
    )


def capacity(most: int | Literal["auto"]) -> int:
    """How many creates of a target one worker may ever have in flight."""
    return METERED if most == "auto" else most


def _concurrency(settings: Settings, name: str, database: Database) -> SharedConcurrency:
    chosen = settings.targets[name]
    host = urlsplit(chosen.url).netloc.lower()
    sharers = sum(urlsplit(each.url).netloc.lower() == host for each in settings.targets.values())
    most = None if chosen.max_in_flight == "auto" else chosen.max_in_flight
    rules = ConcurrencyRules(address=chosen.url, most=most, sharers=sharers)
    return SharedConcurrency(database, target=name, rules=rules)


def worker_name(settings: Settings) -> str:
    """What this process is called in the list of workers and in the server's list of sessions."""
    return settings.worker.name or f"{socket.gethostname()}:{os.getpid()}"


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


def _budget(limit: RateLimit | Literal["auto", "none"]) -> Budget:
    match limit:
        case "auto":
            return Budget()
        case "none":
            return UNLIMITED
        case RateLimit(permits, window):
            return fixed(permits, window)
