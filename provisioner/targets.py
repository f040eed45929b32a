"""Open a target: its connections to Infisical, its budgets and its breaker, for each kind of request."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from provisioner.core.concurrency import METERED_LIMIT, Rules as ConcurrencyRules
from provisioner.core.pacing import Budget, fixed
from provisioner.core.policy import Rules
from provisioner.core.ports import Clock, Observer, Permits
from provisioner.core.secret import Secret
from provisioner.core.target_health import Breaker
from provisioner.core.unobserved import UNOBSERVED
from provisioner.credentials.keyless import Keyless
from provisioner.credentials.vault import NamedVault
from provisioner.descriptors import connections_each, current_limit
from provisioner.embedded.place import is_embedded
from provisioner.infisical.connections import InfisicalConnections
from provisioner.infisical.identity import Identity
from provisioner.infisical.metered_logins import MeteredLogins
from provisioner.infisical.openrouter import OpenRouter
from provisioner.infisical.rotations import InfisicalRotations
from provisioner.infisical.secrets import InfisicalSecrets
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.keyring import authentication, secret_source
from provisioner.postgres.concurrency import SharedConcurrency
from provisioner.postgres.credential_health import SharedCredentialHealth
from provisioner.postgres.kinds import ROTATIONS
from provisioner.postgres.permits import UNLIMITED, Allowed, SharedPermits
from provisioner.postgres.pool import Database
from provisioner.postgres.project_health import SharedProjectHealth
from provisioner.postgres.recorded import installation, recorded_elsewhere
from provisioner.postgres.shared import SharedIncidents, SharedKeyVerdicts, TargetClock
from provisioner.settings import RateLimit, Settings
from provisioner.settings.sections import OPENROUTER
from provisioner.settings.values import is_loopback
from provisioner.worker.key_checks import KeyChecks
from provisioner.worker.key_gate import KeyGate
from provisioner.worker.project_gate import ProjectGate
from provisioner.worker.slots import SlotGate
from provisioner.worker.target import Target

# Creates of rotations in flight at a target, over all workers. A self-hosted server stops at twelve creates, of which
# connections use eight at most; and two are enough for any of Infisical's rates.
ROTATIONS_AT_ONCE: Final = 2
SPARE: Final = 8  # connections beside those of the creates: look-ups and logins
OWN: Final = 2  # connections to the database besides the workers' pool: the listener's and the status port's
STATEMENT_TIME: Final = 10.0  # seconds; less than half of the default lease, so that a dead connection cannot cost it


def open_database(settings: Settings, *, size: int | None = None) -> Database:
    """Return the database of the settings, not connected yet. Raises `SettingsError`."""
    url = settings.database_url()
    source = secret_source(settings, url, "database", "url")
    if is_embedded(url.reveal()):
        from provisioner.embedded.server import source_of  # noqa: PLC0415 - not needed with a server

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
async def open_lines(
    settings: Settings,
    name: str,
    database: Database,
    clock: Clock,
    vault: NamedVault,
    *,
    observer: Observer = UNOBSERVED,
    permits: Callable[..., Permits] = SharedPermits,
    eager: bool = False,
) -> AsyncIterator["TargetLines"]:
    """Open one target with its connections, budgets and breaker; its access token is revoked at the end of the block.

    `eager`: requests that wait for the machine identity to join projects are checked again at once. Raises
    `SettingsError` if no login is configured for the target.
    """
    chosen = settings.targets[name]
    marker = await installation(database) if chosen.marker else ""
    shared, allowed = partial(permits, database, clock), Allowed()
    opened = open_infisical(settings, name, clock, shared, observer=observer, marker=marker, allowed=allowed)
    async with opened as access:
        transport, identity, routes = access.transport, access.identity, Routes(chosen.url)
        keys = vault.at(name, InfisicalSecrets(transport, identity, routes, access.reads))
        health, checks = SharedCredentialHealth(database, target=name), _key_checks(settings, name, database, clock)
        start = replace(_budget(chosen.write_limit), address=chosen.url)
        budget = partial(shared, target=name, start=start, allowed=allowed)
        changes, removals = budget(kind="change"), budget(kind="removal")
        target = Target(
            name=name,
            connections=access.connections,
            vault=keys,
            writes=access.writes,
            reads=access.reads,
            changes=changes,
            removals=removals,
            rules=_rules(settings, marker),
            breaker=Breaker(),
            keys=KeyGate(name, health=health, vault=keys, clock=clock, checks=checks),
            projects=ProjectGate(
                name,
                health=SharedProjectHealth(database, target=name),
                joined=access.connections,
                reads=access.reads,
                clock=clock,
                eager=eager,
            ),
            incidents=SharedIncidents(database, target=name, reporter=str(uuid4())),
            gate=SlotGate(name, shared=_concurrency(settings, name, database, allowed), clock=clock),
            shared_budget=chosen.shared_budget,
            recorded=partial(recorded_elsewhere, database),
            observer=observer,
            clock_store=TargetClock(database, target=name),
        )
        rotations = InfisicalRotations(
            transport, identity, routes, marker=marker, now=clock.epoch, monotonic=clock.monotonic
        )
        line = _line_of_rotations(settings, target, rotations, database=database, clock=clock, permits=permits)
        yield TargetLines(
            target, line, access, access._replace(name=line.name, connections=rotations, reads=line.reads)
        )


def _key_checks(settings: Settings, name: str, database: Database, clock: Clock) -> KeyChecks | None:
    asker = key_asker(settings, settings.targets[name].url)
    return None if asker is None else KeyChecks(asker=asker, verdicts=SharedKeyVerdicts(database), clock=clock)


def key_asker(settings: Settings, *urls: str) -> OpenRouter | None:
    """Return the client that checks keys with OpenRouter for targets at these addresses; None if that is switched off.

    Unless its address is set, keys for an Infisical on this machine are not sent anywhere: it may be a simulated one.
    """
    chosen = settings.openrouter
    outside = any(not is_loopback(urlsplit(url).hostname or "") for url in urls)
    if chosen.check is False or (chosen.check == "auto" and chosen.url == OPENROUTER and not outside):
        return None
    proxy = secret_source(settings, chosen.proxy, "openrouter", "proxy") if chosen.proxy else None
    return OpenRouter(chosen.url, proxy=proxy)


def _line_of_rotations(
    settings: Settings,
    of: Target,
    rotations: InfisicalRotations,
    *,
    database: Database,
    clock: Clock,
    permits: Callable[..., Permits],
) -> Target:
    """Return the line of a target's rotations: no keys are sent there, and its routes have their own limits."""
    chosen, line = settings.targets[of.name], f"{of.name}{ROTATIONS.words.line}"
    write, read = chosen.write_limit, chosen.read_limit
    allowed = Allowed()
    writes, reads, changes, removals = (
        permits(
            database,
            clock,
            target=line,
            kind=kind,
            start=replace(_budget(limit), address=chosen.url),
            allowed=None if kind == "read" else allowed,
        )
        for kind, limit in (("write", write), ("read", read), ("change", write), ("removal", write))
    )
    return Target(
        name=line,
        connections=rotations,
        vault=Keyless(),
        writes=of.writes if chosen.shared_budget else writes,
        reads=of.reads if chosen.shared_budget else reads,
        changes=changes,
        removals=removals,
        rules=of.rules,
        breaker=Breaker(),
        incidents=SharedIncidents(database, target=line, reporter=str(uuid4())),
        gate=SlotGate(line, shared=_concurrency(settings, of.name, database, allowed, line=line), clock=clock),
        shared_budget=chosen.shared_budget,
        observer=of.observer,
    )


class InfisicalAccess(NamedTuple):
    """The access to one Infisical, with the budgets for it."""

    name: str
    transport: Transport
    identity: Identity
    connections: InfisicalConnections
    writes: Permits
    reads: Permits


class TargetLines(NamedTuple):
    """A target's line for each kind of request, each with its own budgets; they share one access to Infisical.

    `rotation_access` is that access with the calls and the reads of rotations.
    """

    connections: Target
    rotations: Target
    access: InfisicalAccess
    rotation_access: InfisicalAccess


@asynccontextmanager
async def open_infisical(
    settings: Settings,
    name: str,
    clock: Clock,
    permits: Callable[..., Permits],
    *,
    observer: Observer = UNOBSERVED,
    marker: str = "",
    allowed: Allowed | None = None,
) -> AsyncIterator[InfisicalAccess]:
    """Open the access to one Infisical; needs no database except for `permits`, which makes the budgets.

    `allowed` is the operator's limit on writes, if something keeps it up to date. `marker` is the installation's id if
    descriptions carry a marker.

    Raises `SettingsError` if no login is configured for it.
    """
    chosen = settings.targets[name]
    writes, reads, logins = (
        permits(target=name, kind=kind, start=replace(_budget(limit), address=chosen.url), allowed=obeyed)
        for kind, limit, obeyed in (
            ("write", chosen.write_limit, allowed),
            ("read", chosen.read_limit, None),
            ("login", chosen.login_limit, None),
        )
    )
    async with (
        Transport(_transport_options(settings, name)) as transport,
        _identity(settings, name, MeteredLogins(transport, logins), observer) as identity,
    ):
        connections = InfisicalConnections(
            transport, identity, Routes(chosen.url), marker=marker, now=clock.epoch, monotonic=clock.monotonic
        )
        yield InfisicalAccess(name, transport, identity, connections, writes, reads)


@asynccontextmanager
async def _identity(
    settings: Settings, name: str, logins: MeteredLogins, observer: Observer
) -> AsyncIterator[Identity]:
    auth, routes = authentication(settings, name), Routes(settings.targets[name].url)
    identity = Identity(auth, logins, routes, target=name, heard=partial(observer.logged_in, name))
    try:
        yield identity
    finally:
        # No other process has this token. A token from the settings is not ours to revoke, and stays.
        await identity.revoke()


def _rules(settings: Settings, marker: str) -> Rules:
    retry = settings.retry
    return Rules(max_attempts=retry.max_attempts, base=retry.base, cap=retry.cap, marker=marker)


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
    """Return how many connections each target may have in this process; they share the descriptors."""
    return connections_each(
        current_limit(), targets=len(settings.targets), database=settings.database.max_connections + OWN
    )


def capacity(most: int | Literal["auto"]) -> int:
    """Return the most creates of a target that one worker may ever have in flight."""
    return METERED_LIMIT if most == "auto" else most


def _concurrency(
    settings: Settings, name: str, database: Database, allowed: Allowed, *, line: str = ""
) -> SharedConcurrency:
    chosen = settings.targets[name]
    host = urlsplit(chosen.url).netloc.lower()
    sharers = sum(urlsplit(each.url).netloc.lower() == host for each in settings.targets.values())
    most = None if chosen.max_in_flight == "auto" else chosen.max_in_flight
    if line:  # together with the connections' line they must not stop a server
        most = min(most or ROTATIONS_AT_ONCE, ROTATIONS_AT_ONCE)
    rules = ConcurrencyRules(address=chosen.url, most=most, sharers=sharers)
    return SharedConcurrency(database, target=line or name, rules=rules, allowed=allowed, capped=bool(line))


def worker_name(settings: Settings) -> str:
    """Return this process's name in the list of workers and in the server's list of sessions."""
    return settings.worker.name or f"{socket.gethostname()}:{os.getpid()}"


def _budget(limit: RateLimit | Literal["auto", "none"]) -> Budget:
    match limit:
        case "auto":
            return Budget()
        case "none":
            return UNLIMITED
        case RateLimit(permits, window):
            return fixed(permits, window)
