"""A create is answered with every status and every kind of body, before and after its commit, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import pytest

from provisioner.core.model import Claim, ErrorCode, Fail, Outcome, Retry, Succeed
from provisioner.core.secret import Secret
from provisioner.infisical.auth import UniversalAuth
from provisioner.infisical.connections import InfisicalConnections
from provisioner.infisical.identity import Identity
from provisioner.infisical.refusals import REFUSALS
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.sandbox.simulator import Simulator
from provisioner.sandbox.simulator.options import Options
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.creator import Creator
from provisioner.worker.lease_state import LeaseState
from tests.support.builders import a_request
from tests.support.gateway import Gateway, Step, in_json, plain
from tests.support.small_world import a_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from provisioner.worker.target import Target

STATUSES: Final = range(100, 600)
KINDS: Final = {status: min(kinds) for status, kinds in REFUSALS.items()}
ATTEMPTS: Final = 20  # after which a request that has not ended never will
AT_ONCE: Final = 8


def envelope(status: int, *, req_id: bool = True) -> dict[str, Any]:
    """Return what Infisical might answer with this status."""
    said = {"statusCode": status, "error": KINDS.get(status, "Create"), "message": "Something went wrong"}
    return {"reqId": "req-0123456789abcd", **said} if req_id else said


BODIES: Final = {
    "its own": lambda status: in_json(status, envelope(status)),
    "without reqId": lambda status: in_json(status, envelope(status, req_id=False)),
    "a page": lambda status: plain(status, b"<html>sign in</html>"),
    "empty": lambda status: plain(status, b"", ""),
    "half": lambda status: plain(status, json.dumps(envelope(status)).encode()[:-9], "application/json"),
    "as text": lambda status: plain(status, json.dumps(envelope(status)).encode(), "text/plain"),
    "in another charset": lambda status: plain(
        status, json.dumps(envelope(status)).encode("utf-16"), "application/json; charset=utf-16"
    ),
    "in another encoding": lambda status: plain(
        status, json.dumps(envelope(status)).encode(), "application/json", "content-encoding: gzip"
    ),
    "a broken promise": lambda status: in_json(status, {"appConnection": {"name": "openrouter", "id": 7}}),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to one create, that was committed or not."""

    number: int
    status: int
    body: str
    committed: bool

    @property
    def project(self) -> str:
        """A project of its own."""
        return str(UUID(int=0xABC0000 + self.number, version=4))

    @property
    def believed(self) -> bool:
        """Whether this is Infisical's own refusal, which is a proof; it never says so after a commit."""
        return self.body == "its own" and self.status in REFUSALS


ALL: Final = [
    case
    for number, (status, body, committed) in enumerate(product(STATUSES, BODIES, (True, False)))
    if not ((case := Case(number, status, body, committed)).believed and committed)
]


@dataclass(slots=True)
class Bench:
    """A gateway before a simulator, and workers' creators that know nothing of each other."""

    gateway: Gateway
    simulator: Simulator
    transport: Transport
    problems: list[str] = field(default_factory=list)

    async def check(self, case: Case) -> None:
        """Give this answer to one create, carry out its request, and compare with the server."""
        self.gateway.script[case.project] = [Step(sent_on=int(case.committed), answer=BODIES[case.body](case.status))]
        outcome = await self._carried(case)
        there = [one for one in self.simulator.world.connections.values() if one.project_id == case.project]
        refused = isinstance(outcome, Fail) and outcome.code is ErrorCode.INVALID_REQUEST and outcome.message
        own = isinstance(outcome, Succeed) and [one.id for one in there] == [outcome.connection.id]
        if not own and not (case.believed and refused and not there):
            self.problems.append(f"{case}: {outcome}, there: {[one.id for one in there]}")

    async def _carried(self, case: Case) -> Outcome:
        clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
        lease_state = LeaseState(clock, lease=600.0)
        lease_state.enter(1)
        lease_state.renewed(clock.monotonic())
        creator = Creator(self._target(), lease_state=lease_state, clock=clock, random=lambda: 0.0)
        claim = Claim(request=a_request(id=case.number, project_id=case.project), attempt=1, claimed_at=clock.now())
        for _ in range(ATTEMPTS):
            lease_state.take([claim])
            settlement = await creator.carry(claim)
            if not isinstance(settlement.outcome, Retry):
                break
            claim = replace(
                settlement.claim,
                attempt=claim.attempt + 1,
                claimed_at=clock.now(),
                since=claim.first_tried_at,
                sent=settlement.sent,
                failures=claim.failures + settlement.outcome.counted,
            )
        return settlement.outcome

    def _target(self) -> Target:
        simulator, routes = self.simulator, Routes(self.gateway.url)
        auth = UniversalAuth(client_id=simulator.client_id, client_secret=Secret(simulator.client_secret))
        return a_target(InfisicalConnections(self.transport, Identity(auth, self.transport, routes), routes))


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Lend one."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(Options(mode="self-hosted", any_project=True)))
        gateway = await stack.enter_async_context(Gateway(simulator.url))
        transport = await stack.enter_async_context(Transport(TransportOptions(base_url=gateway.url)))
        yield Bench(gateway, simulator, transport)


async def check(cases: Iterable[Case]) -> None:
    """Check them, some side by side."""
    waiting = iter(cases)
    async with bench() as it:

        async def work() -> None:
            for case in waiting:
                await it.check(case)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        assert not it.problems, "\n".join(it.problems[:20])
        assert it.gateway.deletes == 0


async def test_a_sample_of_all_answers() -> None:
    """Each status a little, each body with statuses of every class: one connection, and it is the request's own."""
    await check(ALL[::47])  # no divisor of the number of bodies, so that all of them come


async def test_the_statuses_that_mean_something() -> None:
    """Those on which anything is decided, with every body, before and after the commit."""
    meaning = {200, 204, 302, 401, 403, 404, 407, 408, 429, 500, 503, *REFUSALS}
    await check(case for case in ALL if case.status in meaning)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_every_answer() -> None:
    """Every status with every body, before and after the commit."""
    await check(ALL)
