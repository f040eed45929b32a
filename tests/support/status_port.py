"""A status port with answers chosen by a test, and the number of its queries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from provisioner.core.history import History
from provisioner.core.reports import Failures, Gauges, Progress, Status, TargetReport, WorkerReport, Workers
from provisioner.core.requests import Found, Query, RequestHistory
from provisioner.core.vitals import TargetVitals, Vitals
from provisioner.observe.connection_limits import HEADER_TIME
from provisioner.observe.health import Health
from provisioner.observe.meter import Meter
from provisioner.observe.web import STREAM_WRITE, Sources, StatusPort, serving
from tests.support.builders import NOON, at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from provisioner.core.errors import ProvisionerError


def a_progress(**changes: Any) -> Progress:
    """Ten requests in all, of which four have succeeded."""
    usual = Progress(
        batch=None,
        total=True,
        requests=10,
        waiting=1,
        ready=4,
        in_flight=1,
        succeeded=4,
        failed=0,
        cancelled=0,
        started_at=NOON,
        ended_at=None,
        ends_at=at(600),
    )
    return replace(usual, **changes)


def a_worker(**changes: Any) -> WorkerReport:
    """The worker that serves the page."""
    usual = WorkerReport(
        id=7,
        name="host-a:4711",
        version="0.2.0",
        targets=("default",),
        started_at=NOON,
        seen_at=NOON,
        alive=True,
        stopping=False,
        created=4,
        pace=2.5,
        in_flight=1,
    )
    return replace(usual, **changes)


def a_status(**changes: Any) -> Status:
    """One worker at work on one batch at one target, within a limit of 200 a minute."""
    target = TargetReport(target="default", pending=6, workers=1)
    usual = Status(
        now=NOON,
        progress=a_progress(),
        batches=(a_progress(batch="onboarding", total=False),),
        more_batches=0,
        targets=(replace(target, metered=True, permits=200, period=60.0),),
        workers=Workers(living=1, lost=0, pace=2.5),
        failures=(),
        crew=(a_worker(),),
    )
    return replace(usual, **changes)


def a_troubled_status() -> Status:
    """Everything that can be wrong at once, with texts that try to break the page."""
    nasty = "<script>document.title = 'broken'</script> \" onmouseover='x' `code`"
    usual = a_status()
    stopped: dict[str, Any] = {"in_flight_limit": 6, "cliff": 8, "cliff_at": NOON}
    return replace(
        usual,
        progress=a_progress(failed=3, ready=1),
        batches=(a_progress(batch=nasty, total=False, failed=3), a_progress(batch="x" * 200, total=False)),
        more_batches=4,
        targets=(
            replace(usual.targets[0], blocked_until=at(40), trouble=nasty, trouble_since=NOON, **stopped),
            TargetReport(target="eu", pending=2, paused_at=NOON, paused_by="ann"),
        ),
        workers=Workers(living=1, lost=1, pace=2.5),
        failures=(Failures(error_code="gave_up", requests=3, example_id=9, example=nasty, newest_at=NOON),),
        crew=(a_worker(), a_worker(id=8, name=nasty, alive=False), a_worker(id=9, stopping=True)),
    )


@dataclass(slots=True, kw_only=True)
class Answers:
    """The port's data, set by tests. `looks` counts the queries of the database."""

    status: Status = field(default_factory=a_status)
    error: ProvisionerError | None = None
    vitals: Vitals = field(
        default_factory=lambda: Vitals(
            worker=7,
            moves=1,
            lease_good=True,
            database_away=False,
            stopping=False,
            targets=(TargetVitals(target="default"),),
        )
    )
    looks: int = 0
    history: History = field(default_factory=History)
    found: Found = field(default_factory=lambda: Found(requests=()))
    stories: dict[int, RequestHistory] = field(default_factory=dict)
    queries: list[Query] = field(default_factory=list)

    async def read_status(self) -> Status:
        """Return the status."""
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.status

    async def read_gauges(self) -> Gauges:
        """Return the figures for a monitor."""
        self.looks += 1
        if self.error is not None:
            raise self.error
        return Gauges(lines=(), budgets=(), workers=self.status.workers)

    async def read_history(self) -> History:
        """Return recent activity; not counted in `looks`."""
        if self.error is not None:
            raise self.error
        return self.history

    async def find(self, query: Query) -> Found:
        """Search for requests."""
        self.queries.append(query)
        if self.error is not None:
            raise self.error
        return self.found

    async def read_request(self, request: int) -> RequestHistory | None:
        """Return one request with its history."""
        if self.error is not None:
            raise self.error
        return self.stories.get(request)


def sources_of(answers: Answers, health: Health) -> Sources:
    """The answers, as the port asks for them."""
    return Sources(
        health=health,
        meter=Meter(),
        read_status=answers.read_status,
        read_gauges=answers.read_gauges,
        read_history=answers.read_history,
        find=answers.find,
        read_request=answers.read_request,
    )


@asynccontextmanager
async def served(
    answers: Answers,
    *,
    host: str = "127.0.0.1",
    number: int = 0,
    header_time: float = HEADER_TIME,
    stream_time: float = STREAM_WRITE,
) -> AsyncIterator[str]:
    """Serve the answers; gives the URL."""
    health = Health(lambda: answers.vitals, poll=1.0)
    port = StatusPort(sources_of(answers, health), monotonic=asyncio.get_running_loop().time, stream_time=stream_time)
    async with serving(port, host, number, header_time=header_time) as bound:
        yield f"http://127.0.0.1:{bound}"
