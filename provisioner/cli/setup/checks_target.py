"""The checks of `doctor` that query Infisical."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from provisioner.cli.asking.infisical import opened
from provisioner.cli.setup.checks import Check, ok, problem, warning
from provisioner.cli.setup.checks_host import NOBODY, asking, through
from provisioner.core.alerts import advice_for
from provisioner.core.errors import (
    CredentialUnavailable,
    CredentialUnknown,
    CredentialUnreadable,
    DatabaseUnavailable,
)
from provisioner.core.model import ErrorCode, Observation, Result
from provisioner.core.text import duration
from provisioner.settings import SettingsError
from provisioner.worker.reads import learn_from, take_permit

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings
    from provisioner.targets import InfisicalAccess, TargetLines
    from provisioner.worker.target import Target

LONGEST: Final = 70.0  # seconds to wait for a permit: slightly more than a window
SKEW: Final = 5.0  # seconds that Infisical's clock may differ from this host's

_ANSWERS: Final = frozenset(
    {
        *(Result.ABSENT, Result.FOUND, Result.PROJECT_MISSING),
        *(Result.FORBIDDEN, Result.NOT_IN_PROJECT, Result.FOREIGN_PROJECT),
    }
)


async def check_target(
    settings: "Settings", database: "Database", name: str, project: str | None, *, metered: bool
) -> AsyncIterator[Check]:
    """Log in to a target once, and read a little; `metered` unless the database with the budget is unavailable."""
    from provisioner.keyring import open_vault

    try:
        async with opened(settings, database, name, open_vault(settings)) as lines:
            async for check in _opened(settings, lines, project, metered=metered):
                yield check
    except SettingsError as error:
        yield problem("identity", str(error))


async def _opened(
    settings: "Settings", lines: "TargetLines", project: str | None, *, metered: bool
) -> AsyncIterator[Check]:
    access = lines.access
    seen = await _read(access, lambda: access.connections.get(NOBODY), metered=metered)
    if seen is None or seen.result not in _ANSWERS:
        yield _unanswered(settings, access.name, seen)
        return
    yield ok("identity", f"{access.name}: {_login(settings, access.name)}")
    if seen.skew is not None:
        yield _skew(access.name, seen.skew)
    if seen.rate is not None:
        yield ok("limit", f"{access.name} allows {seen.rate.limit:,} reads a window, {seen.rate.remaining:,} are left")
    async for check in _fetched(settings, lines.connections):
        yield check
    if project is not None:

        async def listed() -> Observation:
            return (await access.connections.list(project))[0]

        yield _permission(access.name, project, await _read(access, listed, metered=metered))


async def _fetched(settings: "Settings", target: "Target") -> AsyncIterator[Check]:
    """Fetch each credential that this target keeps; no key is shown."""
    for name, credential in settings.credentials.items():
        if credential.place is None or (credential.target or target.name) != target.name:
            continue
        try:
            await target.vault.open(asking(name))
        except CredentialUnavailable as error:
            yield warning("credential", str(error), "its requests wait and lose no attempt")
        except (CredentialUnknown, CredentialUnreadable) as error:
            yield problem("credential", str(error))
        else:
            yield ok("credential", f"{name} can be fetched through target {target.name}")


def _login(settings: "Settings", name: str) -> str:
    if settings.targets[name].auth == "token":
        return "Infisical accepts the access token"
    return "logged in (one login; three that fail in a row would lock this identity for 5 minutes)"


async def _read(
    access: "InfisicalAccess", call: Callable[[], Awaitable[Observation]], *, metered: bool
) -> Observation | None:
    """Make one call within the read budget; None if there was no permit for a whole window."""
    if not metered:
        return await call()
    try:
        async with asyncio.timeout(LONGEST):
            await take_permit(access.reads)
    except (TimeoutError, DatabaseUnavailable):
        return None
    seen = await call()
    learn_from(access.reads, seen)
    return seen


def _unanswered(settings: "Settings", name: str, seen: Observation | None) -> Check:
    url = settings.targets[name].url
    if seen is None or seen.result is Result.THROTTLED:
        return warning("identity", f"{name}: the read budget is used up", "try again in a minute")
    if seen.result in {Result.NOT_SENT, Result.UNKNOWN}:
        via = through(settings, name) or f"without a proxy (set targets.{name}.proxy or HTTPS_PROXY if it needs one)"
        remedy = f"check that targets.{name}.url ({url}) is right and that this host can reach it {via}"
        return problem("identity", f"{name}: {seen.message}", remedy)
    via = through(settings, name)
    return problem("identity", f"{name} at {url}{f' {via}' if via else ''}: {seen.message}")


def _skew(name: str, skew: float) -> Check:
    if abs(skew) <= SKEW:
        return ok("clock", f"Infisical's ({name}) and this host's agree")
    said = f"Infisical's ({name}) differs from this host's by {duration(abs(skew))}"
    return warning("clock", said, "synchronize this host and the database's by NTP")


def _permission(name: str, project: str, seen: Observation | None) -> Check:
    if seen is None or seen.result is Result.THROTTLED:
        return warning("permission", f"{name}: the read budget is used up", "try again in a minute")
    if seen.result is Result.FOUND:
        said = f"{name}: project {project} can be read; creating was not tested, as it would create one"
        return ok("permission", said)
    advice = advice_for(ErrorCode.PROJECT_NOT_FOUND) if seen.result in {Result.PROJECT_MISSING, Result.ABSENT} else ""
    return problem("permission", f"{name}: {seen.message}", advice)
