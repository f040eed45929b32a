"""One worker on the real queue, whose clock, lease, database answers and Infisical a test controls."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.model import Observation, Result
from provisioner.core.pacing import Grant
from provisioner.core.policy import Rules
from provisioner.core.secret import Secret
from provisioner.core.target_health import Breaker
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from provisioner.sandbox.simulator import Options
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.target import Target
from provisioner.worker.worker import Worker, WorkerOptions
from tests.support import eventually
from tests.support.builders import a_connection
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from provisioner.core.model import Connection, RateHeaders, Request
    from provisioner.core.ports import Connections
    from provisioner.core.queue_values import Claims, Heartbeat, QueuePosition, QueueSnapshot
    from tests.support.postgres import Database


class Time:
    """A host's clocks: the wall clock is wrong by a given amount, and both can jump."""

    def __init__(self, *, wrong_by: float = 0.0) -> None:
        self._wrong = timedelta(seconds=wrong_by)
        self._jumped = 0.0

    def wall(self) -> datetime:
        """The wall clock's time."""
        return datetime.now(UTC) + self._wrong + timedelta(seconds=self._jumped)

    def set_back(self, seconds: float) -> None:
        """Somebody, or NTP, sets the wall clock; the monotonic clock goes on."""
        self._wrong -= timedelta(seconds=seconds)

    def monotonic(self) -> float:
        """The monotonic clock's time."""
        return time.monotonic() + self._jumped

    def jump(self, seconds: float) -> None:
        """The process stood still for so long."""
        self._jumped += seconds


class Obstructed(PostgresQueue):
    """The queue, with renewals that can be delayed, and events after a claim or a renewal."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.renewals = asyncio.Event()
        self.renewals.set()
        self.asked = self.empty = 0  # claims that were begun, and that returned nothing
        self.promotions = 0
        self.after_claim: Callable[[], None] = lambda: None
        self.after_renewal: Callable[[], None] = lambda: None
        self.before_look: Callable[[], None] = lambda: None

    async def claim(
        self, worker: int, *, target: str, start: QueuePosition, limit: int, retried_only: bool = False
    ) -> Claims:
        """Claim, and let an event happen before the answer arrives."""
        self.asked += 1
        brought = await super().claim(worker, target=target, start=start, limit=limit, retried_only=retried_only)
        self.empty += not brought.claims
        if brought.claims:
            self.after_claim()
        return brought

    async def renew(self, worker: int, *, lease: float, heartbeat: Heartbeat) -> None:
        """Renew as soon as that is allowed, and let an event happen before the answer arrives."""
        await self.renewals.wait()
        await super().renew(worker, lease=lease, heartbeat=heartbeat)
        self.after_renewal()

    async def promote(self, limit: int) -> dict[str, QueuePosition]:
        """Promote, and count."""
        self.promotions += 1
        return await super().promote(limit)

    async def poll(self, *, marks: dict[str, QueuePosition], served: dict[str, QueuePosition]) -> QueueSnapshot:
        """Let an event happen, and poll."""
        self.before_look()
        return await super().poll(marks=marks, served=served)


@dataclass(slots=True)
class Ledger:
    """Permits without a limit, and how many are out."""

    out: int = 0

    async def acquire(self, wanted: int, *, spare: bool = False) -> Grant:  # noqa: ARG002  # there is no limit
        """Grant whatever is wanted."""
        self.out += wanted
        return Grant(permits=wanted)

    async def share(self) -> None:
        """Nobody else wants to know."""

    def give_back(self, permits: int) -> None:
        """Take them back."""
        self.out -= permits

    def learn(
        self, rate: RateHeaders | None, *, metered: bool, throttled_for: float | None, elapsed: float = 0.0
    ) -> None:
        """Nothing to learn."""


@dataclass(slots=True)
class Server:
    """An Infisical with one name per project. `open`: creates are answered. `script`: results of the next removals."""

    made: dict[str, Connection] = field(default_factory=dict)
    creates: int = 0
    removals: list[Connection] = field(default_factory=list)
    script: list[Observation] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    wrong_scope: bool = False
    wrong: list[Connection] = field(default_factory=list)
    lose: Callable[[], None] | None = None  # answers of creates are lost, and this happens at each
    answer: Observation | None = None  # the result of every create, if it is always the same
    maintenance: Callable[[], None] | None = None  # creates come to nothing, and this happens at each

    async def create(self, request: Request, _key: Secret) -> Observation:
        """Make a connection, and answer once that is allowed."""
        self.creates += 1
        await self.open.wait()
        if self.maintenance is not None:
            self.maintenance()
            return Observation(result=Result.UNKNOWN, status=500, message="Something went wrong")
        if self.answer is not None:
            return self.answer
        if request.project_id in self.made:
            return Observation(result=Result.NAME_TAKEN, status=400)
        made = a_connection(project_id=request.project_id, created_at=datetime.now(UTC))
        if self.wrong_scope:
            made = replace(made, project_id=None)
            self.wrong.append(made)
            return Observation(result=Result.WRONG_SCOPE, status=200, connection=made)
        self.made[request.project_id] = made
        if self.lose is not None:
            self.lose()
            return Observation(result=Result.UNKNOWN, message="cut")
        return Observation(result=Result.CREATED, status=200, connection=made)

    async def look_up(self, request: Request) -> Observation:
        """Find it."""
        made = self.made.get(request.project_id)
        return (
            Observation(result=Result.FOUND, status=200, connection=made) if made else Observation(result=Result.ABSENT)
        )

    async def get(self, connection_id: str) -> Observation:
        """Find it by its id."""
        made = next((one for one in self.wrong if one.id == connection_id), None)
        return (
            Observation(result=Result.FOUND, status=200, connection=made) if made else Observation(result=Result.ABSENT)
        )

    async def replace(self, _request: Request, connection: Connection, _key: Secret) -> Observation:
        """Set the credentials."""
        return Observation(result=Result.UPDATED, status=200, connection=connection)

    async def update(self, request: Request, connection: Connection, _key: Secret | None) -> Observation:
        """Update a connection."""
        made = self.made.get(request.project_id)
        if made is None or made.id != connection.id:
            return Observation(result=Result.ABSENT, status=404)
        self.made[request.project_id] = replace(made, name=request.name, description=request.description)
        return Observation(result=Result.UPDATED, status=200, connection=self.made[request.project_id])

    async def remove(self, connection: Connection) -> Observation:
        """Delete, or follow the script."""
        self.removals.append(connection)
        return self.script.pop(0) if self.script else Observation(result=Result.REMOVED, status=200)


class AnyKey:
    """A vault with one key for all."""

    async def open(self, _request: Request) -> Secret:
        """The key."""
        return Secret("sk-or-v1-any")

    reopen = open  # noqa: A003  # the method above


def a_target(connections: Connections) -> Target:
    """A target with these connections, and nothing that would keep anybody waiting."""
    return Target(
        name="default",
        connections=connections,
        vault=AnyKey(),
        writes=Ledger(),
        reads=Ledger(),
        changes=Ledger(),
        removals=Ledger(),
        rules=Rules(),
        breaker=Breaker(),
    )


class SmallWorld(Fleet[Worker]):
    """A fleet of one worker that nobody notifies, with its clock, its queue and its Infisical in a test's hands.

    It is another class because its tests are about single moments: between a claim and its answer, between a create
    and the step of a clock. No simulator, proxy or gateway, each at the end of a socket, can act at just that moment.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease: float = 30.0,
        wrong_by: float = 0.0,
        timeout: float | None = None,
        drain: bool = False,
        recount: bool = True,
    ) -> None:
        super().__init__(database.url, Options(), recount=recount, way=self._scripted)
        self.time = Time(wrong_by=wrong_by)
        self.pool = Pool(database.url, timeout=timeout)
        self.queue = Obstructed(self.pool)
        self.server = Server()
        self.server.open.set()
        self.clock = DatabaseClock(wall=self.time.wall, monotonic=self.time.monotonic)
        self.writes = Ledger()
        self.worker = Worker(
            [(replace(a_target(self.server), writes=self.writes), 8)],
            options=WorkerOptions(name="small", lease=lease, grace=5.0, poll=0.1, drain=drain),
            queue=self.queue,
            clock=self.clock,
            random=lambda: 0.0,
        )

    @asynccontextmanager
    async def _scripted(self, _environ: Mapping[str, str], _number: int) -> AsyncIterator[Worker]:
        async with asyncio.TaskGroup() as group:
            self._running = group.create_task(self.worker.run())
            yield self.worker
            self.server.open.set()
            self.queue.renewals.set()
            self.worker.stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        await self.pool.close()

    async def ended(self) -> None:
        """Wait until the worker has ended by itself."""
        await self._running

    async def idle(self) -> None:
        """Wait until the worker has a lease, and has found nothing to do."""
        await eventually(lambda: self.worker.vitals().lease_good and self.queue.empty)


def lose_the_answer() -> None:
    """The database has executed the statement, but its answer is lost."""
    raise DatabaseUnavailable("the connection was cut")
