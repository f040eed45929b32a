"""The checks of `doctor` about this host: open files, proxy, credentials, sealing key, and notices."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from provisioner.cli.setup.checks import Check, ok, problem, warning
from provisioner.core.alerts import advice_for
from provisioner.core.errors import CredentialUnknown, CredentialUnreadable, ProvisionerError
from provisioner.core.key_check import REASONS, KeyKind
from provisioner.core.model import ErrorCode, Request
from provisioner.core.text import several

if TYPE_CHECKING:
    from provisioner.core.secret import Secret
    from provisioner.infisical.openrouter import OpenRouter
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

NOBODY: Final = str(UUID(int=0))  # no connection has this id: querying it proves that the token is accepted
USUAL: Final = 16  # connections to one target that suffice for usual limits
OWN: Final = 2  # connections to the database besides the pool's


def check_files(settings: "Settings") -> Iterator[Check]:
    """Check that this process may open as many files as its targets need."""
    from provisioner.descriptors import connections_each, highest_limit, least_limit

    targets, database = len(settings.targets), settings.database.max_connections + OWN
    limit, least = highest_limit(), least_limit(targets=targets, database=database)
    each = connections_each(limit, targets=targets, database=database)
    count = several(targets, "target")
    raise_it = "raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit of Docker)"
    if limit < least:
        said = f"this process may open {limit:,} files and connections, and {count} need at least {least:,}"
        yield problem("files", said, raise_it)
    elif each < USUAL:
        said = f"this process may open {limit:,} files and connections: {each:,} connections for each of {count}"
        yield warning("files", said, raise_it)
    else:
        yield ok("files", f"this process may open {limit:,} files and connections, enough for {count}")


def check_proxy(settings: "Settings", name: str) -> Iterator[Check]:
    """Report the proxy through which a target is reached, if any; a password in its URL is not shown."""
    if via := through(settings, name):
        yield ok("proxy", f"{name} is reached {via}")


def through(settings: "Settings", name: str) -> str:
    """Return the proxy through which a target is reached, and its source; empty if it is reached directly."""
    proxy = settings.targets[name].proxy
    if proxy is None:
        return ""
    parts = urlsplit(proxy.reveal())
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    source = settings.sources().get(f"targets.{name}.proxy", "")
    return f"through the proxy {parts.scheme}://{host}{port} ({source})"


async def check_credentials(settings: "Settings") -> AsyncIterator[Check]:
    """Check that each credential is where the settings say; no key is shown."""
    from provisioner.keyring import open_vault
    from provisioner.targets import key_asker

    vault = open_vault(settings)
    asker = key_asker(settings, *(target.url for target in settings.targets.values()))
    for name, credential in settings.credentials.items():
        if credential.place is not None:
            continue  # fetched where its target is checked
        try:
            key = await vault.open(asking(name))
        except (CredentialUnknown, CredentialUnreadable) as error:
            # The built-in credential, which may be unused.
            unsaid = settings.sources().get(f"credentials.{name}.env") == "default"
            if credential.env is not None and unsaid:
                remedy = "set it if requests use the credential default"
                yield warning("credential", f"{name}: OPENROUTER_PROVISIONING_KEY is not set", remedy)
            else:
                yield problem("credential", f"{name}: {error}")
        else:
            yield await _proven(settings, name, key, asker)


async def _proven(settings: "Settings", name: str, key: "Secret", asker: "OpenRouter | None") -> Check:
    """Return what OpenRouter says about a key; being unable to ask is a problem only if the settings demand it."""
    verdict = KeyKind.UNKNOWN if asker is None else await asker.ask(key)
    if verdict in REASONS:
        return problem("credential", f"{name}: {REASONS[verdict]}", advice_for(ErrorCode.CREDENTIAL_REFUSED))
    if verdict is KeyKind.MANAGEMENT:
        return ok("credential", f"{name} is available, and OpenRouter says that it is a management key")
    if settings.openrouter.check is True:
        advice = "check openrouter.url and openrouter.proxy, or set openrouter.check to auto"
        return warning("credential", f"{name} is available, but OpenRouter cannot be asked about it", advice)
    return ok("credential", f"{name} is available")


async def check_sealing(settings: "Settings", database: "Database") -> AsyncIterator[Check]:
    """Check that this host can open keys that are sealed with the database's current key."""
    from provisioner.postgres.sealing import current_key

    current = await current_key(database)
    for check in _sealing(settings, current.key_id if current else None):
        yield check


def _sealing(settings: "Settings", current: str | None) -> Iterator[Check]:
    from provisioner.credentials.sealing import read_file

    path = settings.sealing.key_file
    try:
        kept = read_file(path)
    except ProvisionerError as error:
        yield problem("sealing", str(error))
        return
    if current is None:
        yield ok(
            "sealing",
            "no sealing key is published, so API keys cannot be sealed; `provisioner keys generate` makes one",
        )
    elif current in kept:
        yield ok("sealing", f"key {current} seals, and {path} opens it")
    else:
        yield warning("sealing", f"key {current} seals, and this host cannot open it", f"workers need it in {path}")


def asking(credential: str) -> Request:
    """Return a request that only serves to open a credential."""
    return Request(id=0, project_id=NOBODY, name="openrouter", description=None, credential=credential)


async def check_notify(settings: "Settings", database: "Database | None", *, send: bool) -> AsyncIterator[Check]:
    """Check that notices work; with `send`, by sending one. `database` is None if it cannot be used."""
    if settings.notify.url is None:
        if send:
            yield problem("notify", "no notices are sent: notify.url is not set", "set it, or PROVISIONER_NOTIFY__URL")
        return
    if send:
        yield await _trial(settings)
    else:
        host = urlsplit(settings.notify.url.reveal()).hostname
        signed = "signed" if settings.notify.signing_key else "not signed"
        yield ok("notify", f"{host} receives {settings.notify.events}; {signed}")
    if database is not None:
        async for check in _undelivered(database):
            yield check


async def _trial(settings: "Settings") -> Check:
    from provisioner.core.notices import Delivery, trial_notice
    from provisioner.telling import open_receiver

    delivery = Delivery(id=str(uuid4()), notice=trial_notice(), noticed_at=datetime.now(UTC), age=timedelta(0), tries=1)
    if reason := await open_receiver(settings).deliver(delivery):
        return problem("notify", f"a test notice did not arrive: {reason}", "correct notify.url or its receiver")
    return ok("notify", "a test notice has arrived")


async def _undelivered(database: "Database") -> AsyncIterator[Check]:
    from provisioner.postgres.notices import read_undelivered

    try:
        left = await read_undelivered(database)
    except ProvisionerError as error:
        yield warning("notify", f"undelivered notices cannot be read: {error}", "run doctor as a worker's role")
        return
    if left.notices and left.since:
        have = several(left.notices, "notice has", "notices have")
        said = f"{have} not arrived since {left.since:%Y-%m-%d %H:%M} UTC: {left.error}"
        yield warning("notify", said, "each is tried again for three days; correct notify.url or its receiver")
