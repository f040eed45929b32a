"""Limit a target's creates in flight to this worker's slots, and agree on slots with the other workers."""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

import structlog

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.model import Observation, Result
from provisioner.core.ports import Clock
from provisioner.core.sharing import Allotment, Concurrencies
from provisioner.core.slots import Ending, Slots
from provisioner.core.target_health import SLOW_REFUSAL
from provisioner.worker.database_retry import DatabaseRetry, jittered
from provisioner.worker.lease_state import LeaseState

log = structlog.stdlib.get_logger()

# The others are asked at most this often, in seconds: a worker with fast calls would do little else.
LEAST_PAUSE: Final = 0.02
# While the database is unavailable, the last allotment stays valid as long as the lease does.
OUTAGE_RETRY: Final = 0.5
_ACCEPTED: Final = frozenset({Result.CREATED, Result.UPDATED, Result.WRONG_SCOPE, Result.NAME_TAKEN})
# Results of a call that waited for its turn in vain; also of the login that it needs.
_EXCUSABLE: Final = frozenset({Result.UNKNOWN, Result.TOKEN_TROUBLE})
# Results of calls that never reached the server's tables, for another reason.
_SILENT: Final = frozenset(
    {Result.THROTTLED, Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY}
)


class OpenGate:
    """The gate of a target without a limit on creates in flight."""

    room: int = sys.maxsize

    async def send(self, call: Callable[[], Awaitable[Observation]]) -> Observation:
        """Send a create, or a key for a connection, as soon as a slot is free."""
        return await call()

    def without_slot(self) -> AbstractContextManager[None]:
        """Do something for a claim that needs no slot; another claim may be worked on meanwhile."""
        return nullcontext()

    def excuses(self, observation: Observation, began: float) -> bool:  # noqa: ARG002  # there are never too many
        """Whether a failure is blamed on the number in flight, and neither on the request nor on the target."""
        return False

    def need(self, wanted: int) -> None:
        """Ask for this many slots if that has changed."""

    def rest(self) -> None:
        """Offer our slots to the others: there is nothing to do."""

    def renegotiate(self) -> None:
        """Agree on slots again: others wait for some, or an operator has changed the limit."""

    def forget(self) -> None:
        """Give up our slots: the lease was lost."""

    async def run(
        self,
        lease_state: LeaseState,
        database_retry: DatabaseRetry,
        *,
        wants: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """Agree with the others on the slots until cancelled.

        `wants` returns how many could be used; `changed` is called when the number of slots changes.
        """


class SlotGate(OpenGate):
    """The slots of one target in this worker."""

    def __init__(self, target: str, *, shared: Concurrencies, clock: Clock) -> None:
        self._target = target
        self._shared = shared
        self._clock = clock
        self._slots = Slots()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._stir = asyncio.Event()
        self._lent = 0
        self._changed: Callable[[], None] = lambda: None
        self._cliff: int | None = None
        self._stalled = False

    @property
    def room(self) -> int:  # type: ignore[override]  # computed here
        """The number of claims that may be worked on at once: one per slot, and those that need no slot at present."""
        return self._slots.slots + self._lent

    @property
    def running(self) -> int:
        """The number of calls in flight."""
        return self._slots.running

    async def send(self, call: Callable[[], Awaitable[Observation]]) -> Observation:
        """Send a create, or a key for a connection, as soon as a slot is free."""
        if not self._slots.is_free:
            await self._wait()
        now = self._clock.monotonic()
        if self._slots.rests:
            self._stir.set()  # the others learn of it now, not after our pause
        number, sent_at = self._slots.begin(now)
        ending, metered = Ending.NOTHING, False
        try:
            if sent_at > now:
                await asyncio.sleep(sent_at - now)
            observation = await call()
            ending, metered = _ending(observation), observation.rate is not None
            return observation
        finally:
            self._slots.end(number, ending, self._clock.monotonic(), metered=metered)
            if self._slots.is_due:
                self._stir.set()
            if self._waiting:
                self._let_in()

    async def _wait(self) -> None:
        """Wait for a slot."""
        while not self._slots.is_free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._let_in()  # another task may use it
                raise

    @contextmanager
    def without_slot(self) -> Iterator[None]:
        """Do something for a claim that needs no slot; another claim may be worked on meanwhile."""
        self._lent += 1
        self._changed()
        try:
            yield
        finally:
            self._lent -= 1

    def excuses(self, observation: Observation, began: float) -> bool:
        """Whether a failure is blamed on the number in flight, and neither on the request nor on the target."""
        return observation.result in _EXCUSABLE and self._slots.excuses(began)

    def need(self, wanted: int) -> None:
        """Ask for this many slots if that has changed."""
        if self._slots.could_use(wanted):
            self._stir.set()

    def rest(self) -> None:
        """Offer our slots to the others: there is nothing to do."""
        if self._slots.awaited:
            self._stir.set()

    def renegotiate(self) -> None:
        """Agree on slots again: others wait for some, or an operator has changed the limit."""
        if self._slots.slots:
            self._stir.set()

    def forget(self) -> None:
        """Give up our slots: the lease was lost."""
        self._slots.forget()
        self._stir.set()

    async def run(
        self,
        lease_state: LeaseState,
        database_retry: DatabaseRetry,
        *,
        wants: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """Agree with the others on the slots until cancelled."""
        self._changed = changed
        while True:
            pause = OUTAGE_RETRY
            try:
                pause = await self._agree(lease_state, wants)
            except DatabaseUnavailable as error:
                database_retry.lost(error)
            self._stir.clear()
            await asyncio.sleep(LEAST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(jittered(pause)):
                    await self._stir.wait()

    async def _agree(self, lease_state: LeaseState, wants: Callable[[], int]) -> float:
        worker, asked_at = lease_state.worker, self._clock.monotonic()
        told = self._slots.read(wants(), asked_at)
        allotment = await self._shared.exchange(worker, told)
        if worker != lease_state.worker:  # the lease was lost meanwhile: ask again under the new number
            return 0.0
        before = self._slots.slots
        self._slots.obey(allotment, asked_at, told=told)
        self._tell(allotment)
        if allotment.slots > before:
            for _ in range(allotment.slots - before):
                self._let_in()
        if allotment.slots != before:
            log.debug("slots_allotted", target=self._target, slots=allotment.slots, limit=allotment.limit)
            self._changed()
        return allotment.pause

    def _tell(self, allotment: Allotment) -> None:
        if allotment.stalled and not self._stalled:
            log.warning("target_stalled", target=self._target, limit=allotment.limit)
        if self._stalled and not allotment.stalled:
            log.info("target_unstalled", target=self._target, limit=allotment.limit)
        if allotment.cliff is not None and allotment.cliff != self._cliff:
            log.warning("concurrency_cliff", target=self._target, cliff=allotment.cliff, limit=allotment.limit)
        self._stalled, self._cliff = allotment.stalled, allotment.cliff

    def _let_in(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


OPEN: Final = OpenGate()


def _ending(observation: Observation) -> Ending:
    if observation.result in _ACCEPTED:
        return Ending.ACCEPTED
    if observation.result is Result.NOT_SENT:
        return Ending.REFUSED
    if observation.result in _SILENT or (observation.result is Result.TOKEN_TROUBLE and observation.status is None):
        return Ending.NOTHING
    if observation.result is Result.UNKNOWN:
        # Only errors with Infisical's own request id come from Infisical.
        return Ending.FAILED if observation.req_id is None else Ending.BROKEN
    if observation.result is Result.KEY_REFUSED and observation.elapsed >= SLOW_REFUSAL:
        return Ending.STRAINED
    return Ending.ANSWERED
