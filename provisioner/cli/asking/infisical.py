"""Query Infisical for the connections of many projects: read-only, and within the read budget."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from provisioner.cli.terminal.output import say, tell_warning
from provisioner.core.comparison import Project
from provisioner.core.errors import ProvisionerError
from provisioner.core.model import Connection, Observation, Request, Result
from provisioner.worker.reads import learn_from, take_permit

if TYPE_CHECKING:
    from provisioner.core.projects import SeenProject
    from provisioner.credentials.vault import NamedVault
    from provisioner.infisical.connections import Found
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings
    from provisioner.targets import InfisicalAccess, TargetLines

SHOWN: Final = 20  # of a kind, one by one; --json has all
AT_ONCE: Final = 8  # reads in flight
PATIENCE: Final = 5  # projects in a row without an answer, after which the target is given up
NOTABLE: Final = 15.0  # seconds of waiting for a permit after which people get a message
WINDOWS: Final = 4  # of the rate limit, after which a read that each of them refuses is given up
FEW: Final = 3  # projects that are asked for one by one: the list of the organization may hold 100 000 connections

T = TypeVar("T")

Sure = Callable[[str, Project], bool]
"""Whether a list of the whole organization can be trusted for a project."""

Tell = Callable[[str, Project | None, str], None]
"""Called for each project with its connections, or with None and the reason."""

TellName = Callable[[str, str, Observation], None]
"""Called for each project and name with what was found."""

_HOPELESS: Final = frozenset({Result.TOKEN_TROUBLE, Result.MISCONFIGURED})
_NO_ANSWER: Final = frozenset({Result.NOT_SENT, Result.UNKNOWN})


class TargetUnusable(ProvisionerError):
    """Infisical cannot be queried; the message says what to fix."""


@dataclass(frozen=True, slots=True)
class Unqueried:
    """Requests whose project could not be asked for, or with `project_id` None whose target."""

    target: str
    project_id: str | None
    requests: int
    problem: str

    def __str__(self) -> str:
        return f"project {self.project_id}: {self.problem}" if self.project_id else self.problem


class Surveyor:
    """Queries one target, several projects at once. `rotations` queries those instead of connections.

    `whole` is false if there is no list of a whole organization.
    """

    def __init__(
        self, access: "InfisicalAccess", *, rotations: "InfisicalAccess | None" = None, whole: bool = True
    ) -> None:
        self.rotations = Surveyor(rotations, whole=False) if rotations else self
        self._name = access.name
        self._reads = access.reads
        self._connections = access.connections
        self._silent = 0
        self._told = False
        self._turn = asyncio.Lock()
        self._next = 0.0  # on the event loop's clock; no permit is requested earlier
        self._organization: Mapping[str, Project] | None = None if whole else {}

    async def survey(self, projects: Collection[str], tell: Tell, *, sure: Sure = lambda *_: True) -> None:
        """Find each project's connections. Raises `TargetUnusable`, `DatabaseUnavailable` and `DatabaseUnusable`.

        Many projects are found in one list of the whole organization, if the identity may read that. A project that is
        missing there, or for which `sure` returns false, is queried individually.
        """
        if len(projects) > FEW and self._organization is None:
            self._organization = await self._read_organization()
        organization = self._organization or {}

        async def ask(project: str) -> None:
            listed = organization.get(project.lower())
            if listed is not None and sure(project, listed):
                tell(project, listed, "")
                return
            seen, connections = await self._read(lambda: self._connections.list(project))
            if seen.result is Result.FOUND:
                tell(project, Project.of(connections), "")
            else:
                tell(project, None, seen.message)

        await self._side_by_side(projects, ask)

    async def projects(self, kind: str | None) -> "Sequence[SeenProject]":
        """Return the projects of a type, or of any, that the identity is a member of. Raises as `survey`."""
        seen, found = await self._read(lambda: self._connections.projects(kind))
        if seen.result is not Result.FOUND:
            raise TargetUnusable(f"target {self._name} does not list its projects: {seen.message}")
        return found

    async def joined(self) -> frozenset[str] | None:
        """Return the ids of the identity's projects; None if this Infisical does not list them."""
        try:
            return frozenset(project.id for project in await self.projects(None))
        except TargetUnusable:
            return None  # if it cannot be queried at all, the next read says so

    async def organization(self) -> Mapping[str, Project] | None:
        """Return all projects with connections; None if the identity may not list them together. Raises as `survey`."""
        seen, connections = await self._read(lambda: self._connections.list(None))
        return _by_project(connections) if seen.result is Result.FOUND else None

    async def with_connections(self, projects: Collection[str], tell: Tell) -> None:
        """Find each project's connections as `survey` does; a project missing in the organization's list has none."""
        if len(projects) <= FEW or (listed := await self.organization()) is None:
            self._organization = {}
            await self.survey(projects, tell)
            return
        for project in projects:
            tell(project, listed.get(project.lower(), Project.of([])), "")

    async def _read_organization(self) -> Mapping[str, Project]:
        return await self.organization() or {}

    async def look_up(self, names: Iterable[tuple[str, str]], tell: TellName) -> None:
        """Look up single names in their projects: lists only show connections of our app. Raises as `survey`."""

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

    async def _read(
        self, call: "Callable[[], Awaitable[tuple[Observation, tuple[T, ...]]]]"
    ) -> tuple[Observation, tuple[T, ...]]:
        for _ in range(WINDOWS):
            await self._permit()
            found = await call()
            seen = found[0]
            learn_from(self._reads, seen)
            if seen.result is not Result.THROTTLED:
                self._count(seen.result, seen.message)
                return found
        raise TargetUnusable(f"target {self._name} answers every read with 429 ({seen.message}): run the command later")

    async def _permit(self) -> None:
        """Wait for a spare permit: a survey can wait, while workers look up what may have been made."""
        clock = asyncio.get_running_loop().time
        async with self._turn:
            await asyncio.sleep(self._next - clock())
            granted = await take_permit(self._reads, spare=True, waits=self._tell_wait)
            self._next = clock() + granted.wait

    def _tell_wait(self, seconds: float) -> None:
        """Say once why nothing happens, if that lasts."""
        if seconds >= NOTABLE and not self._told:
            self._told = True
            tell_warning(f"target {self._name} allows no read at the moment: waiting for about {seconds:.0f} s")

    def _count(self, seen: Result, message: str) -> None:
        self._silent = self._silent + 1 if seen in _NO_ANSWER else 0
        if seen in _HOPELESS or self._silent >= PATIENCE:
            raise TargetUnusable(f"target {self._name} cannot be asked: {message}")


def _by_project(connections: Iterable[Connection]) -> Mapping[str, Project]:
    projects: dict[str, list[Connection]] = {}
    for connection in connections:
        projects.setdefault((connection.project_id or "").lower(), []).append(connection)
    return {project: Project.of(found) for project, found in projects.items()}


@asynccontextmanager
async def surveying(settings: "Settings", database: "Database", target: str) -> AsyncIterator[Surveyor]:
    """Log in to a target when it is first used, and log out at the end. Raises `SettingsError` without an identity."""
    from provisioner.postgres.permits import may_share

    async with opened(settings, database, target, shared=await may_share(database)) as found:
        yield Surveyor(found.access, rotations=found.rotation_access)


@asynccontextmanager
async def looking(settings: "Settings", target: str) -> AsyncIterator[Surveyor]:
    """The same where a database may be missing: other processes' reads then show only in the answers.

    Raises `SettingsError` if no login is configured.
    """
    from provisioner.cli.terminal.frame import open_database
    from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
    from provisioner.postgres.permits import may_share

    if settings.database.url is not None:
        async with open_database(settings) as database:
            try:
                shared = await may_share(database)
            except (DatabaseUnavailable, DatabaseUnusable):
                pass  # it is not needed for anything else
            else:
                async with opened(settings, database, target, shared=shared) as found:
                    yield Surveyor(found.access)
                return
    from provisioner.observe.logs import configure_logging
    from provisioner.postgres.permits import LonePermits
    from provisioner.targets import open_infisical
    from provisioner.worker.clock import DatabaseClock

    configure_logging("critical")  # the command itself reports errors, once
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    async with open_infisical(settings, target, clock, partial(LonePermits, clock)) as access:
        yield Surveyor(access)


@asynccontextmanager
async def opened(
    settings: "Settings",
    database: "Database",
    target: str,
    vault: "NamedVault | None" = None,
    *,
    shared: bool = True,
) -> "AsyncIterator[TargetLines]":
    """Open a target as a worker does; reading needs no credential. `shared` is false if we count permits alone."""
    from provisioner.credentials.vault import NamedVault
    from provisioner.observe.logs import configure_logging
    from provisioner.postgres.permits import OwnPermits, SharedPermits
    from provisioner.targets import open_lines
    from provisioner.worker.clock import DatabaseClock

    configure_logging("critical")  # the command itself reports errors, once
    permits = SharedPermits if shared else OwnPermits
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    async with open_lines(settings, target, database, clock, vault or NamedVault({}), permits=permits) as found:
        yield found
        # The workers learn what our reads showed; otherwise they would wait for the answer to a question that we asked.
        await found.access.reads.share()
        await found.rotation_access.reads.share()


def tell_unasked(unasked: Sequence[Unqueried]) -> None:
    """Say how many requests could not be looked up, and why."""
    if not unasked:
        return
    say(f"{sum(each.requests for each in unasked):>9,} could not be looked up")
    for each in unasked[:SHOWN]:
        say(f"{'':10}{each}")
    tell_more(len(unasked))


def tell_more(number: int) -> None:
    """Say how many are not shown, if any are not."""
    if number > SHOWN:
        say(f"{'':10}… and {number - SHOWN:,} more; --json has all")
