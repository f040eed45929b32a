"""Record outcomes in batches: at once under light load, in fewer and larger transactions under heavy load."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from provisioner.core.doubt import possible_create, with_doubt
from provisioner.core.endings import UNSTORABLE
from provisioner.core.errors import DatabaseUnusable, OutcomeDelayed, OutcomeRefused, OutcomeUnstorable
from provisioner.core.model import Fail, Retry, Settlement, Succeed
from provisioner.core.ports import Clock, Observer, Queue
from provisioner.core.queue_values import Report
from provisioner.core.unobserved import UNOBSERVED
from provisioner.worker.database_retry import DatabaseRetry, jittered
from provisioner.worker.lease_state import LeaseState

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# Under load a batch is recorded this often, in seconds, or as soon as it is this large.
GATHER_TIME: Final = 0.05
ENOUGH: Final = 200
# More outcomes may arrive while a batch waits. They join it, because alone they would double the transactions.
LARGEST: Final = 2 * ENOUGH
# With at most this many requests in hand, an outcome is recorded at once: somebody may be waiting for it.
FEW_IN_HAND: Final = 8
# A batch that was too slow is retried in lots of a quarter: three such steps find the largest lot that succeeds in
# time. Lots that take less than QUICK seconds grow, and those that take over SLOW shrink: a statement may take 10 s.
SHRINK: Final = 4
QUICK: Final = 1.0
SLOW: Final = 3.0
# Temporary errors are retried this often: by then even ten colliding workers have got through.
TRIES: Final = 6
# An outcome that can neither be recorded nor set aside is retried after this many seconds at first, and at most.
FIRST_RETRY: Final = 1.0
LONGEST: Final = 300.0

T = TypeVar("T")


class Settler:
    """Takes settlements from the creators and records them; it loses none while this process lives."""

    def __init__(
        self,
        queue: Queue,
        *,
        lease_state: LeaseState,
        database_retry: DatabaseRetry,
        clock: Clock,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._observer = observer
        self._lease_state = lease_state
        self._database_retry = database_retry
        self._pending: list[Settlement] = []
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._size = LARGEST
        self._pauses: dict[tuple[int, int], float] = {}

    def add(self, settlement: Settlement) -> None:
        """Accept one settlement; it will be recorded."""
        self._pending.append(settlement)
        self._arrived.set()
        self._written.clear()
        if len(self._pending) >= ENOUGH:
            self._enough.set()

    def hurry(self) -> None:
        """Record what has been gathered now, because nothing more is coming."""
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
            if len(self._lease_state.held) > FEW_IN_HAND and not self._enough.is_set():
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
            async with asyncio.timeout(GATHER_TIME):
                await self._enough.wait()
        except TimeoutError:
            pass

    async def _record(self, batch: Sequence[Settlement]) -> None:
        """Record a batch: as a whole, or in lots small enough to succeed in time, or one by one after a refusal."""
        lots = deque([batch])
        while lots:
            lot = lots.popleft()
            if len(lot) > self._size:
                lots.appendleft(lot[self._size :])
                lot = lot[: self._size]
            try:
                await self._write(lot)
            except OutcomeUnstorable as error:
                if len(lot) == 1:
                    await self._replace(lot[0], error)
                else:
                    lots.extendleft([each] for each in reversed(lot))
            except OutcomeRefused as error:
                if len(lot) == 1:
                    await self._set_aside(lot[0], str(error))
                else:
                    lots.extendleft([each] for each in reversed(lot))
            except OutcomeDelayed as error:
                if len(lot) == 1:
                    await self._set_aside(lot[0], str(error))
                else:
                    self._size = max(1, len(lot) // SHRINK)
                    lots.appendleft(lot)

    async def _write(self, batch: Sequence[Settlement]) -> None:
        worker = self._lease_state.worker
        began = self._clock.monotonic()
        report = await self._try(lambda: self._queue.settle(worker, batch))
        took = self._clock.monotonic() - began
        self._resize(len(batch), took)
        self._observer.settled(batch, report, took)
        self._lease_state.discard([settlement.claim for settlement in batch])
        unsuccessful = [settlement for settlement in batch if type(settlement.outcome) is not Succeed]
        self._lease_state.created += len(batch) - len(unsuccessful)
        self._lease_state.retried.update(
            settlement.claim.request.target for settlement in unsuccessful if type(settlement.outcome) is Retry
        )
        # At the default level successes are counted, not logged.
        _tell(batch if log.is_enabled_for(logging.DEBUG) else unsuccessful, report)

    async def _try(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until the database answers; any answer except slowness is retried a few times."""
        for number in range(1, TRIES + 1):
            try:
                return await self._database_retry.call(call)
            except OutcomeDelayed as error:
                if error.slow or number == TRIES:
                    raise
                await asyncio.sleep(jittered(0.02 * 2**number))
        raise AssertionError

    def _resize(self, written: int, took: float) -> None:
        """Reduce the batch size after a slow batch, and increase it while batches are quick."""
        if self._size < LARGEST and took < QUICK:
            self._size = LARGEST if self._size * 2 >= LARGEST else max(self._size, min(self._size * 2, written * 2))
        elif took > SLOW:
            self._size = max(1, min(self._size, written) // 2)

    async def _replace(self, settlement: Settlement, error: OutcomeUnstorable) -> None:
        """Record that the outcome cannot be stored; if that fails too, set the outcome aside."""
        log.error("settlement_unstorable", request=settlement.claim.request.id, error=str(error))
        claim = with_doubt(settlement.claim, possible_create(settlement.claim, self._clock.now()))
        fitting = replace(settlement, claim=claim, outcome=UNSTORABLE, records=())
        try:
            await self._write([fitting])
        except (OutcomeRefused, OutcomeDelayed) as again:
            await self._set_aside(fitting, str(again))

    async def _set_aside(self, settlement: Settlement, reason: str) -> None:
        """Set one outcome aside with all its data, so that the others can go on."""
        worker, claim = self._lease_state.worker, settlement.claim
        made = settlement.outcome.connection.id if isinstance(settlement.outcome, Succeed) else None
        try:
            await self._try(lambda: self._queue.set_aside(worker, settlement, reason=reason))
        except (OutcomeRefused, OutcomeDelayed, DatabaseUnusable) as error:
            # Even that failed: keep it in memory, and retry it after the others.
            said = {"reason": reason, "error": str(error)}
            log.error("outcome_not_kept", request=claim.request.id, connection=made, **said)  # noqa: TRY400 - no traceback
            pause = self._pauses[claim.mark] = min(2 * self._pauses.get(claim.mark, FIRST_RETRY / 2), LONGEST)
            asyncio.get_running_loop().call_later(pause, self.add, settlement)
            return
        self._pauses.pop(claim.mark, None)
        log.error("outcome_set_aside", request=claim.request.id, connection=made, reason=reason)
        self._lease_state.discard([claim])


def _tell(batch: Sequence[Settlement], report: Report) -> None:
    """Log what a person may want to know."""
    if report.fenced:  # other workers have taken them over, or an earlier try was recorded although its answer was lost
        log.info("settlements_fenced", requests=sorted(report.fenced))
    for settlement in batch:
        request = settlement.claim.request
        if request.id in report.fenced:
            continue
        match settlement.outcome:
            case Fail(code=code, message=message):
                log.warning(
                    "request_failed",
                    request=request.id,
                    project=request.project_id,
                    project_name=request.project_name,
                    code=code,
                    reason=message,
                )
            case Retry(code=code, message=message, delay=delay):
                log.debug("request_put_back", request=request.id, code=code, reason=message, delay=round(delay, 3))
            case Succeed(connection=made, adopted=adopted):
                log.debug("connection_recorded", request=request.id, connection=made.id, adopted=adopted)
