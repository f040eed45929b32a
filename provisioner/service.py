"""Build everything from the settings and wire it together: the only room that knows all the others.

Clocks and chance enter here; everybody else is handed them.
"""

import asyncio
import gc
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal

import structlog

from provisioner.core.concurrency import Pressure
from provisioner.core.health import Breaker
from provisioner.core.pacing import Budget, fixed
from provisioner.core.policy import Rules
from provisioner.core.ports import UNOBSERVED, Clock, Observer, Vault
from provisioner.core.secret import Secret
from provisioner.credentials.files import FileSecret
from provisioner.credentials.sealing import BoxOpener
from provisioner.credentials.vault import FromFile, FromVariable, NamedVault, Source
from provisioner.infisical.auth import Auth, StaticToken, TokenExchange, UniversalAuth
from provisioner.infisical.connections import InfisicalConnections
from provisioner.infisical.identity import Identity
from provisioner.infisical.logins import MeteredLogins
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.observe.health import Health
from provisioner.observe.metrics import Meter
from provisioner.observe.systemd import Systemd
from provisioner.observe.web import Sources, StatusPort, serving
from provisioner.postgres.holds import SharedHolds
from provisioner.postgres.listener import Listener
from provisioner.postgres.migrations import require_schema
from provisioner.postgres.permits import UNLIMITED, SharedPermits
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.reports import read_gauges, read_status
from provisioner.settings import (
    Credential,
    Identity as IdentitySettings,
    JwtIdentity,
    RateLimit,
    Settings,
    TokenIdentity,
    UniversalIdentity,
)
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.creator import Target
from provisioner.worker.custody import Custody
from provisioner.worker.persistence import Persistence
from provisioner.worker.worker import Manner, Worker

log = structlog.stdlib.get_logger()

DAY: Final = 86400.0
LISTED: Final = 50  # batches that the status page has room for
SPARE: Final = 8  # connections beside those of the creates: look-ups and logins
STATEMENT_TIME: Final = 10.0  # seconds; less than half of the default lease, so that a dead connection cannot cost it


async def run_daemon(settings: Settings, *, drain: bool = False) -> None:
    """Work until told to stop or, when draining, until nothing is left to do.

    Raises `SettingsError` when no target can be worked for, `DatabaseUnusable` when a person has to mend the database.
    Waits for a database that is away.
    """
    async with AsyncExitStack() as stack:
        database = open_database(settings)
        stack.push_async_callback(database.close)
        clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
        vault, meter = open_vault(settings), Meter(settings.targets)
        targets = [
            (
                await stack.enter_async_context(open_target(settings, name, database, clock, vault, observer=meter)),
                target.max_in_flight,
            )
            for name, target in settings.targets.items()
        ]
        worker = Worker(
            targets,
            manner=_manner(settings, drain=drain),
            queue=PostgresQueue(database),
            clock=clock,
            random=random.Random().random,  # noqa: S311 - spreads retries, keeps no secret
            observer=meter,
        )
        systemd = await stack.enter_async_context(observed(settings, worker, meter))
        await Persistence(clock).insist(lambda: require_schema(database))
        _spare_the_collector()
        with stopping_on_signals(worker.stop, systemd.stopping):
            await _work(worker, Listener(database, hear=worker.hear))


@asynccontextmanager
async def observed(settings: Settings, worker: Worker, meter: Meter) -> AsyncIterator[Systemd]:
    """Serve the status port and tell systemd how it goes, until the end of the block. Raises `PortUnusable`."""
    health = Health(worker.vitals, monotonic=time.monotonic, poll=settings.worker.poll)
    systemd = Systemd.from_environment(os.environ, pid=os.getpid())
    async with AsyncExitStack() as stack:
        if (endpoint := settings.listen.endpoint) is not None:
            # A connection of its own: whoever looks keeps no request waiting.
            database = open_database(settings, size=1)
            stack.push_async_callback(database.close)
            sources = Sources(
                health=health,
                meter=meter,
                read_status=partial(read_status, database, batches=LISTED),
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
    """Look for garbage seldom: what was built lives as long as the process, and requests make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _work(worker: Worker, listener: Listener) -> None:
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listener.run(), name="listener")
        try:
            await worker.run()
        finally:
            listening.cancel()


def open_database(settings: Settings, *, size: int | None = None) -> Database:
    """The database of the settings; nothing is connected yet. Raises `SettingsError`."""
    return Database(
        settings.database_url(),
        size=size or settings.database.max_connections,
        timeout=STATEMENT_TIME,
        ssl_root_cert=settings.database.ssl_root_cert,
        name=worker_name(settings),
    )


def open_vault(settings: Settings) -> NamedVault:
    """The named credentials of the settings, and the keys that open sealed ones."""
    sources = {name: source for name, one in settings.credentials.items() if (source := _source(one))}
    return NamedVault(sources, opener=BoxOpener(settings.sealing.key_file.expanduser()))


@asynccontextmanager
async def open_target(
    settings: Settings, name: str, database: Database, clock: Clock, vault: Vault, *, observer: Observer = UNOBSERVED
) -> AsyncIterator[Target]:
    """One target with its connections, its budgets and its breaker.

    Raises `SettingsError` when nobody can log in there.
    """
    chosen, retry = settings.targets[name], settings.retry
    auth = _auth(settings.identity(name), _secret_file(settings, name))
    options = TransportOptions(
        base_url=chosen.url,
        timeout=chosen.timeout,
        ca_file=str(chosen.ca_file) if chosen.ca_file else None,
        proxy=chosen.proxy,
        max_connections=chosen.max_in_flight + SPARE,
    )
    async with Transport(options) as transport:
        routes = Routes(chosen.url)
        logins = SharedPermits(database, clock, target=name, kind="login", start=_budget(chosen.login_limit))
        identity = Identity(
            auth, MeteredLogins(transport, logins), routes, target=name, heard=partial(observer.logged_in, name)
        )
        yield Target(
            name=name,
            connections=InfisicalConnections(
                transport, identity, routes, marker=chosen.marker, now=lambda: clock.now().timestamp()
            ),
            vault=vault,
            writes=SharedPermits(database, clock, target=name, kind="write", start=_budget(chosen.write_limit)),
            reads=SharedPermits(database, clock, target=name, kind="read", start=_budget(chosen.read_limit)),
            rules=Rules(max_attempts=retry.max_attempts, base=retry.base, cap=retry.cap, marker=chosen.marker),
            breaker=Breaker(),
            keys=Custody(name, holds=SharedHolds(database, target=name), vault=vault, clock=clock),
            pressure=Pressure(chosen.max_in_flight),
            shared_budget=chosen.shared_budget,
            observer=observer,
        )
        await identity.revoke()


def worker_name(settings: Settings) -> str:
    """What this process is called in the list of workers and in the server's list of sessions."""
    return settings.worker.name or f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def stopping_on_signals(*stops: Callable[[], None]) -> Iterator[None]:
    """Stop cleanly on SIGTERM and SIGINT; exit at once on the second, for nothing is lost then either."""
    loop = asyncio.get_running_loop()
    told = False

    def handle(number: signal.Signals) -> None:
        nonlocal told
        if told:
            log.warning("stopped_at_once", signal=number.name)
            os._exit(128 + number)
        told = True
        log.info("stop_requested", signal=number.name)
        for stop in stops:
            stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _manner(settings: Settings, *, drain: bool) -> Manner:
    worker = settings.worker
    return Manner(
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


def _auth(identity: IdentitySettings, secret_file: Path | None) -> Auth:
    match identity:
        case UniversalIdentity(client_id=client_id, client_secret=secret, organization_slug=slug):
            kept = FileSecret(secret_file) if secret_file else secret
            return UniversalAuth(client_id=client_id, client_secret=kept, organization_slug=slug)
        case TokenIdentity(token=token):
            return StaticToken(token=token)
        case JwtIdentity(method=method, identity_id=identity_id, jwt=jwt, jwt_file=file):
            login: Literal["kubernetes-auth", "oidc-auth"] = (
                "kubernetes-auth" if method == "kubernetes" else "oidc-auth"
            )
            source = jwt if jwt is not None or file is None else partial(_read_token, file)
            if source is None:
                raise AssertionError  # the settings see to it that there is one or the other
            return TokenExchange(method=login, identity_id=identity_id, jwt=source)


def _secret_file(settings: Settings, name: str) -> Path | None:
    """The file that a client secret came from: who mends the file need not start the worker again."""
    kind, _, variable = settings.sources().get(f"targets.{name}.client_secret", "").partition(" ")
    if kind == "environment" and variable.endswith("_FILE"):
        return Path(os.environ[variable]).expanduser() if variable in os.environ else None
    return None


def _read_token(file: Path) -> Secret:
    return Secret(file.read_text(encoding="utf-8").strip())


def _source(credential: Credential) -> Source | None:
    """Where a credential comes from; None for a place that workers cannot reach yet, so that its rows say so."""
    if credential.env is not None:
        return FromVariable(credential.env)
    if credential.file is not None:
        return FromFile(credential.file)
    return credential.value
