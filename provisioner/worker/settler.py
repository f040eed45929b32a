"""Write outcomes down in batches: at once when little is going on, in fewer and larger transactions under load."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from provisioner.core.errors import StatementRefused
from provisioner.core.model import ErrorCode, Fail, Retry, Settlement, Succeed
from provisioner.core.ports import UNOBSERVED, Clock, Observer, Queue, Report
from provisioner.worker.membership import Membership
from provisioner.worker.persistence import Persistence

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# Under load a batch is written every so many seconds, or as soon as it is this large.
GATHER: Final = 0.05
LARGEST: Final = 200
# With no more than this many requests in hand, an outcome is written at once: somebody may be waiting for it.
FEW: Final = 8


class Settler:
    """Takes settlements from the creators and records them, never losing one while this process lives."""

    def __init__(
        self,
        queue: Queue,
        *,
        membership: Membership,
        persistence: Persistence,
        clock: Clock,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._observer = observer
        self._membership = membership
        self._persistence = persistence
        self._pending: list[Settlement] = []
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()

    def add(self, settlement: Settlement) -> None:
        """Take over one settlement; it will be recorded."""
        self._pending.append(settlement)
        self._arrived.set()
        self._written.clear()
        if len(self._pending) >= LARGEST:
            self._enough.set()

    def hurry(self) -> None:
        """Nothing more is on its way, so what is gathered need not wait for company."""
        if self._pending:
            self._enough.set()

    async def flushed(self) -> None:
        """Wait until everything that was added is recorded."""
        self._enough.set()
        await self._written.wait()

    async def run(self) -> None:
        """Record settlements until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._membership.held) > FEW and not self._enough.is_set():
                await self._gather()
            batch, self._pending = self._pending, []
            self._arrived.clear()
            self._enough.clear()
            if batch:
                await self._record(batch)
            if not self._pending:
                self._written.set()

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(GATHER):
                await self._enough.wait()
        except TimeoutError:
            pass

    async def _record(self, batch: Sequence[Settlement]) -> None:
        worker = self._membership.worker
        began = self._clock.monotonic()
        try:
            report = await self._persistence.insist(lambda: self._queue.settle(worker, batch), refusable=True)
        except StatementRefused:
            await self._record_apart(batch)
            return
        self._observer.settled(batch, report, self._clock.monotonic() - began)
        self._membership.let_go([settlement.claim for settlement in batch])
        unsuccessful = [settlement for settlement in batch if type(settlement.outcome) is not Succeed]
        self._membership.created += len(batch) - len(unsuccessful)
        # Successes are counted, not logged, at the default level.
        _tell(batch if log.is_enabled_for(logging.DEBUG) else unsuccessful, report)

    async def _record_apart(self, batch: Sequence[Settlement]) -> None:
        """One settlement of a batch cannot be stored: the others shall not suffer for it."""
        if len(batch) > 1:
            for settlement in batch:
                await self._record([settlement])
            return
        log.error("settlement_unstorable", request=batch[0].claim.request.id)
        await self._record([replace(batch[0], outcome=_UNSTORABLE, trace=())])


_UNSTORABLE: Final = Fail(
    code=ErrorCode.OUTCOME_UNKNOWN,
    message="what Infisical answered cannot be stored; look in the project",
    unknown=True,
)


def _tell(batch: Sequence[Settlement], report: Report) -> None:
    """Log what a person may want to know."""
    if report.fenced:  # others have taken them over, or an earlier try to record them went through unheard
        log.info("settlements_fenced", requests=sorted(report.fenced))
    for settlement in batch:
        request = settlement.claim.request
        if request.id in report.fenced:
            continue
        match settlement.outcome:
            case Fail(code=code, message=message):
                log.warning("request_failed", request=request.id, project=request.project_id, code=code, reason=message)
            case Retry(code=code, message=message, delay=delay):
                log.debug("request_put_back", request=request.id, code=code, reason=message, delay=round(delay, 3))
            case Succeed(connection=made, adopted=adopted):
                log.debug("connection_recorded", request=request.id, connection=made.id, adopted=adopted)
