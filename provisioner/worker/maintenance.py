"""Look after everything with a time limit: leases, due requests, lost workers, progress marks of the queues."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from provisioner.core.errors import DatabaseUnavailable, LeaseLost, ProvisionerError, is_outage
from provisioner.core.ports import Clock, Queue
from provisioner.core.queue_values import FRONT, Heartbeat, QueuePosition, QueueSnapshot, WorkerId
from provisioner.worker.database_retry import DatabaseRetry
from provisioner.worker.feeder import Feeder
from provisioner.worker.lease_state import LeaseState

log = structlog.stdlib.get_logger()
T = TypeVar("T")

# Due requests are put in line in lots of this size.
PROMOTE_LOT: Final = 1000
# A poll from the front of a queue passes every served entry that an old transaction keeps vacuum from removing. It may
# take at most this share of the time.
POLL_SHARE: Final = 0.05
# Seconds to wait after a rescue, because the lost worker's connection may still be committed.
RESCUE_PAUSE: Final = 1.0
# Requests for unknown targets are looked for this often, in seconds.
UNKNOWN_TARGETS_INTERVAL: Final = 30.0
UNKNOWN_TARGETS_SOON: Final = 2.0  # after a notification of one
LOG_INTERVAL: Final = 3600.0
LOG_RETRY: Final = 60.0  # partitions exist for two days ahead
# After a failure, wait this many seconds at first, and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 300.0
# Sealed keys of failed requests are looked for this often, in seconds, and wiped in lots: each is a write to a wide
# row.
WIPE_INTERVAL: Final = 60.0
WIPED_AT_ONCE: Final = 200
# Changes are folded into the counts of requests this often, in seconds, at most this many at once.
FOLD_INTERVAL: Final = 10.0
FOLD_INTERVAL_IDLE: Final = 60.0  # when there is nothing to do here
FOLDED_AT_ONCE: Final = 10_000
# No claim's answer takes this many seconds: older claims in flight that we do not know of were never sent.
LOST_CLAIM_AGE: Final = 30.0
# A worker that was idle for this many seconds, and receives notifications, polls this many times less often.
IDLE_AFTER: Final = 15.0
IDLE_POLL_FACTOR: Final = 2.0


class Maintenance:
    """The part of a worker that runs independently of its requests."""

    def __init__(
        self,
        feeders: Mapping[str, Feeder],
        *,
        name: str,
        queue: Queue,
        lease_state: LeaseState,
        database_retry: DatabaseRetry,
        clock: Clock,
        lease: float,
        poll: float,
        keep_log: float,
        keep_failed: float,
        forecast_due: Callable[[], None],
    ) -> None:
        self._feeders = feeders
        self._name = name
        self._queue = queue
        self._lease_state = lease_state
        self._database_retry = database_retry
        self._clock = clock
        self._lease = lease
        self._poll = poll
        self._keep_log = keep_log
        self._keep_failed = keep_failed
        self._forecast_due = forecast_due
        self._stopping = False
        self._stir = asyncio.Event()
        self._front_at = 0.0
        self._stranger_at = 0.0
        self._told: dict[str, QueuePosition] = {}
        self._due: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._blocked = False
        self._wiped_at_once = WIPED_AT_ONCE
        self._counted = (clock.monotonic(), 0)
        self.moves = 0
        self.busy_at = clock.monotonic()
        self.late = True
        self.notified = False

    async def enter(self) -> None:
        """Register this worker, with a new lease, and learn the time; nothing is claimed before that."""
        asked_at, targets = 0.0, tuple(self._feeders)

        async def register() -> WorkerId:
            nonlocal asked_at
            asked_at = self._clock.monotonic()
            return await self._ask(self._queue.register(name=self._name, targets=targets, lease=self._lease))

        worker = await self._database_retry.call(register)
        self._lease_state.enter(worker)
        self._lease_state.renewed(asked_at)
        self._due["renew"] = asked_at + self._lease / 3
        await self._database_retry.call(self._look)

    def hurry(self) -> None:
        """Poll now: something may be due."""
        self._stir.set()

    def heard(self) -> None:
        """Note that a notification came, so no poll is needed for it."""
        self.busy_at = self._clock.monotonic()

    def unknown_target_seen(self) -> None:
        """Note that a request is in line for a target that is not ours; it may be nobody's."""
        self._due["strangers"] = min(self._due.get("strangers", 0.0), self._stranger_at)

    def stop(self) -> None:
        """Tell the others that this worker is about to leave, and keep its lease until then."""
        self._stopping = True
        self._due["renew"] = 0.0
        self._stir.set()

    async def run(self) -> None:
        """Run rounds until cancelled."""
        while True:
            snapshot, began = None, self._clock.monotonic()
            try:
                snapshot = await self._round()
                self._database_retry.back(began)
            except DatabaseUnavailable as error:
                self._database_retry.lost(error)
            self.moves += 1
            await self._sleep(snapshot)

    async def _round(self) -> QueueSnapshot:
        if self._is_due("log", LOG_INTERVAL):  # first, because everything that is logged needs a partition
            await self._apart("log", self._turn_log)
        if self._is_due("renew", self._lease / 3):
            await self._renew()
        snapshot = await self._look()
        if snapshot.next_due is not None and snapshot.next_due <= snapshot.now:
            await self._promote()
        if snapshot.lapsed or self._is_due("rescue", self._lease):
            await self._rescue()
        if not self.idle(2 * LOST_CLAIM_AGE) and self._is_due("forgotten", LOST_CLAIM_AGE):
            await self._apart("forgotten", self._release_forgotten)
        if self._is_due("strangers", UNKNOWN_TARGETS_INTERVAL):
            self._stranger_at = self._clock.monotonic() + UNKNOWN_TARGETS_SOON
            await self._apart("strangers", self._fail_unknown_targets)
        if self._is_due("wipe", WIPE_INTERVAL):
            await self._apart("wipe", self._wipe)
        if self._lease_state.held or snapshot.heads:
            self.busy_at = self._clock.monotonic()
        if self._is_due("fold", FOLD_INTERVAL_IDLE if self.idle(IDLE_AFTER) else FOLD_INTERVAL):
            await self._apart("fold", self._fold)
        return snapshot

    async def _apart(self, duty: str, act: Callable[[], Awaitable[None]]) -> None:
        """Run a duty that nothing else depends on, so that its failure does not stop the others."""
        try:
            await act()
            self._pauses.pop(duty, None)
        except ProvisionerError as error:
            pause = self._pauses[duty] = min(2 * self._pauses.get(duty, FIRST_PAUSE / 2), LAST_PAUSE)
            self._due[duty] = self._clock.monotonic() + pause
            if is_outage(error):
                raise  # the database is unavailable, or this is too slow: the next round starts with the others
            log.warning("upkeep_failed", duty=duty, error=str(error), again_in=pause)

    async def _ask(self, statement: Awaitable[T]) -> T:
        """Run one statement and count it as a sign of life: a whole round may take long on a busy machine."""
        self.moves += 1
        return await statement

    async def _turn_log(self) -> None:
        if not await self._ask(self._queue.turn_log(keep=self._keep_log)):
            self._due["log"] = self._clock.monotonic() + LOG_RETRY
            log.info("attempt_log_not_turned", reason="another session has locked it", again_in=LOG_RETRY)

    async def _fail_unknown_targets(self) -> None:
        for request in await self._ask(self._queue.fail_unknown_targets(PROMOTE_LOT)):
            log.warning("request_failed", request=request, code="target_unknown")

    async def _fold(self) -> None:
        retried, self._lease_state.retried = self._lease_state.retried, Counter()
        if await self._ask(self._queue.fold(FOLDED_AT_ONCE, retried=retried)):
            self._due["fold"] = 0.0

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        heartbeat = Heartbeat(created=self._lease_state.created, pace=self._measure(), stopping=self._stopping)
        try:
            await self._ask(self._queue.renew(self._lease_state.worker, lease=self._lease, heartbeat=heartbeat))
            self._lease_state.renewed(asked_at)
        except DatabaseUnavailable:
            self._due["renew"] = 0.0  # nothing is more urgent once the database is back
            raise
        except LeaseLost:
            unsent = sum(len(feeder.lose()) for feeder in self._feeders.values())
            log.warning("lease_lost", worker=self._lease_state.worker, unsent=unsent)
            await self.enter()

    async def _look(self) -> QueueSnapshot:
        now = self._clock.monotonic()
        from_front = now >= self._front_at
        marks = {name: FRONT if from_front else feeder.mark for name, feeder in self._feeders.items()}
        served = {
            name: turn
            for name, feeder in self._feeders.items()
            if feeder.mark != FRONT and (turn := replace(feeder.mark, id=0)) != self._told.get(name)
        }
        snapshot = await self._ask(self._queue.poll(marks=marks, served=served))
        took = self._clock.monotonic() - now
        if from_front:
            self._front_at = now + took / POLL_SHARE
        self._told.update(served)
        self._clock.set_by(snapshot.now, took=took)
        self.late = snapshot.late
        if snapshot.forecast_due:
            self._forecast_due()
        for name, feeder in self._feeders.items():
            feeder.resume(paused=name in snapshot.paused)
            feeder.note(
                troubled=name in snapshot.troubled,
                awaited=name in snapshot.awaited,
                allowed=snapshot.limits.get(name),
            )
            if name in snapshot.heads:
                feeder.hint(snapshot.heads[name])
        return snapshot

    async def _promote(self) -> None:
        heads = await self._ask(self._queue.promote(PROMOTE_LOT))
        # A due request that cannot be taken is locked by somebody, perhaps for hours.
        self._blocked = not heads
        for name, place in heads.items():
            if name in self._feeders:
                self._feeders[name].hint(place)

    async def _rescue(self) -> None:
        rescued = await self._ask(self._queue.rescue(pause=RESCUE_PAUSE))
        if rescued.requests or rescued.workers:
            log.warning("requests_rescued", requests=rescued.requests, workers=list(rescued.workers))

    async def _wipe(self) -> None:
        """Wipe sealed keys that failed requests have kept for long enough, one lot at a time."""
        lot, self._wiped_at_once = self._wiped_at_once, max(1, self._wiped_at_once // 4)
        wiped = await self._ask(self._queue.wipe(lot, keep=self._keep_failed))
        self._wiped_at_once = min(2 * lot, WIPED_AT_ONCE)  # a lot that took too long is halved twice
        if wiped.more:
            self._due["wipe"] = 0.0
        if wiped.keys:
            log.info("sealed_keys_wiped", requests=wiped.keys)

    async def _release_forgotten(self) -> None:
        """Give back what a claim took whose answer was lost and which was committed after we had checked."""
        worker, known = self._lease_state.worker, tuple(self._lease_state.held)
        for name in self._feeders:
            if lost := await self._ask(
                self._queue.release_lost(worker, target=name, known=known, older=LOST_CLAIM_AGE)
            ):
                log.warning("claims_forgotten", target=name, requests=lost)

    def _is_due(self, what: str, every: float) -> bool:
        now = self._clock.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every
        return True

    def idle(self, seconds: float) -> bool:
        """Whether there has been nothing to do for this long."""
        return self._clock.monotonic() - self.busy_at > seconds

    def _measure(self) -> float:
        """Return the creates a second since the last renewal."""
        now, (then, before) = self._clock.monotonic(), self._counted
        self._counted = (now, self._lease_state.created)
        return (self._lease_state.created - before) / max(now - then, 1e-3)

    async def _sleep(self, snapshot: QueueSnapshot | None) -> None:
        """Sleep until the next poll, or until the next request is due."""
        pause, blocked, self._blocked = self._poll, self._blocked, False
        if self.notified and self.idle(IDLE_AFTER):
            pause *= IDLE_POLL_FACTOR
        if snapshot is not None and snapshot.next_due is not None and not blocked:
            pause = min(pause, max((snapshot.next_due - snapshot.now).total_seconds(), 0.0))
        self._stir.clear()
        try:
            async with asyncio.timeout(max(pause, 0.01)):
                await self._stir.wait()
        except TimeoutError:
            pass
