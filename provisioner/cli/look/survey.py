"""Ask Infisical for the connections of many projects: by reading only, and within the read budget."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

from provisioner.core.comparison import Project
from provisioner.core.errors import ProvisionerError
from provisioner.core.model import Observation, Request, Result

if TYPE_CHECKING:
    from provisioner.core.ports import Permits
    from provisioner.credentials.vault import NamedVault
    from provisioner.infisical.connections import Found, InfisicalConnections
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings
    from provisioner.worker.target import Target

AT_ONCE: Final = 8  # reads in flight
PATIENCE: Final = 5  # projects in a row without an answer, after which the target is given up
BREATH: Final = 0.05  # seconds; the shortest wait for a permit

T = TypeVar("T")

Tell = Callable[[str, Project | None, str], None]
"""Is told of each project: its connections, or None and why there are none to be had."""

TellName = Callable[[str, str, Observation], None]
"""Is told of each project and name what was seen."""

_HOPELESS: Final = frozenset({Result.TOKEN_TROUBLE, Result.MISCONFIGURED})
_NO_ANSWER: Final = frozenset({Result.NOT_SENT, Result.UNKNOWN})


class TargetUnusable(ProvisionerError):
    """Infisical cannot be asked; the message says what to fix."""


class Surveyor:
    """Asks one target, several projects at once."""

    def __init__(self, target: "Target") -> None:
        self._name = target.name
        self._reads = target.reads
        # The worker's port has no list, for it needs none; what the service opens has.
        self._connections = cast("InfisicalConnections", target.connections)
        self._silent = 0

    async def survey(self, projects: Iterable[str], tell: Tell) -> None:
        """Ask for each project's connections. Raises `TargetUnusable`, `DatabaseUnavailable` and `DatabaseUnusable`."""

        async def ask(project: str) -> None:
            seen, connections = await self._read(lambda: self._connections.list(project))
            if seen.result is Result.FOUND:
                tell(project, Project.of(connections), "")
            else:
                tell(project, None, seen.message)

        await self._side_by_side(projects, ask)

    async def look_up(self, names: Iterable[tuple[str, str]], tell: TellName) -> None:
        """Ask for single names, each with its project: a list shows only connections of our app. Raises as `survey`."""

        async def ask(place: tuple[str, str]) -> None:
            request = Request(id=0, project_id=place[0], name=place[1], description=None, credential="default")
            seen, _ = await self._read(lambda: self._look_up(request))
            tell(*place, seen)

        await self._side_by_side(names, ask)

    async def _look_up(self, request: Request) -> "Found":
        return await self._connections.look_up(request), ()

    async def _side_by_side(self, what: Iterable[T], ask: Callable[[T], Awaitable[None]]) -> None:
        left = iter(what)

        async def work() -> None:
            for each in left:
                await ask(each)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except* ProvisionerError as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
        else:
            return
        raise first

    async def _read(self, call: "Callable[[], Awaitable[Found]]") -> "Found":
        while True:
            await permit(self._reads)
            found = await call()
            seen = found[0]
            self._reads.learn(seen.rate, metered=seen.metered, throttled_for=seen.retry_after, elapsed=seen.elapsed)
            if seen.result is not Result.THROTTLED:  # else the budget is blocked now, and waits as long as it has to
                self._count(seen.result, seen.message)
                return found

    def _count(self, seen: Result, message: str) -> None:
        self._silent = self._silent + 1 if seen in _NO_ANSWER else 0
        if seen in _HOPELESS or self._silent >= PATIENCE:
            raise TargetUnusable(f"target {self._name} cannot be asked: {message}")


async def permit(reads: "Permits") -> None:
    """Wait for the permit to send one call. Raises `DatabaseUnavailable`."""
    while True:
        granted = await reads.acquire(1)
        if granted.permits:
            return
        await asyncio.sleep(max(granted.wait, BREATH))


@asynccontextmanager
async def surveying(settings: "Settings", database: "Database", target: str) -> AsyncIterator[Surveyor]:
    """Log in to a target when it is first asked, and out in the end. Raises `SettingsError` if nobody can."""
    from provisioner.postgres.permits import may_share

    async with opened(settings, database, target, shared=await may_share(database)) as found:
        yield Surveyor(found)


@asynccontextmanager
async def opened(
    settings: "Settings",
    database: "Database",
    target: str,
    vault: "NamedVault | None" = None,
    *,
    shared: bool = True,
) -> "AsyncIterator[Target]":
    """Open a target as a worker does; for reading only it needs no credential. `shared` unless we count alone."""
    from provisioner.credentials.vault import NamedVault
    from provisioner.observe.logs import configure_logging
    from provisioner.postgres.permits import OwnPermits, SharedPermits
    from provisioner.service import open_target
    from provisioner.worker.clock import DatabaseClock

    configure_logging("critical")  # what goes wrong is told once, by the command
    permits = SharedPermits if shared else OwnPermits
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    async with open_target(settings, target, database, clock, vault or NamedVault({}), permits=permits) as found:
        yield found
        # The workers learn what our reads showed: else they would wait for the answer to a question that we asked.
        await found.reads.share()
