"""Keep one target's creators busy: get permits, claim that many requests, and hand them out."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from provisioner.core.doubt import possible_create, with_doubt
from provisioner.core.endings import ABANDONED
from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.line import LineCursor
from provisioner.core.model import Claim, Settlement
from provisioner.core.ports import Clock, ClockStore, Queue
from provisioner.core.queue_values import OperatorLimit, QueuePosition
from provisioner.worker.creator import Creator
from provisioner.worker.database_retry import DatabaseRetry, jittered
from provisioner.worker.lease_state import LeaseState
from provisioner.worker.records import lost_attempt
from provisioner.worker.settler import Settler
from provisioner.worker.target import Target

log = structlog.stdlib.get_logger()

# Requests for this many seconds are claimed ahead, so that no creator waits for the next claim's transaction. There are
# never more than the number being worked on: several times as many cost a worker 10 % more CPU when measured, because
# it then does less of the same work in a row, and a crash leaves more in doubt.
CLAIM_AHEAD: Final = 0.05
# This share of the requests claimed ahead must be used up before the next claim, so that claims are few and large.
REFILL: Final = 0.85
# The pace is measured over this many seconds: briefly, because nothing is claimed ahead until it is known.
PACE_SPAN: Final = 0.02
# Without a lease nothing is claimed; the lease is checked again after this many seconds.
LEASE_POLL: Final = 0.1
# What other workers found out about API keys is read this often, in seconds.
SHARE_INTERVAL: Final = 1.0
# What is known about Infisical's clock is stored in the database this often, in seconds, if it has changed.
SAVE_CLOCK_INTERVAL: Final = 15.0


class Feeder:
    """Claims requests of one target and carries them out, at most `capacity` at a time."""

    def __init__(
        self,
        target: Target,
        *,
        capacity: int,
        queue: Queue,
        creator: Creator,
        settler: Settler,
        lease_state: LeaseState,
        database_retry: DatabaseRetry,
        clock: Clock,
    ) -> None:
        self.target = target
        self.paused = False
        self._line = LineCursor()
        self._hints: list[QueuePosition] = []  # hints that arrived during a claim
        self._capacity = capacity
        self._queue = queue
        self._creator = creator
        self._settler = settler
        self._lease_state = lease_state
        self._database_retry = database_retry
        self._clock = clock
        self._work: asyncio.Queue[Claim] = asyncio.Queue()
        self._running: dict[tuple[int, int, int], Claim] = {}
        self._more = True
        self._dry = False  # the last claim took everything that was in line
        self._stopping = False
        self._stir = asyncio.Event()
        self._emptied = asyncio.Event()
        self._finished = 0
        self._pace = 0.0
        self._low = 0  # at this number in hand, or below, the next claim is due
        self._paced_at = clock.monotonic()
        self._widened = asyncio.Event()
        self._reported = True  # an earlier worker may have left a report
        self._troubled = True  # a key or a project may be quarantined
        self._allowed: OperatorLimit | None = None

    @property
    def mark(self) -> QueuePosition:
        """The position of the first untried request in line."""
        return self._line.mark

    @property
    def _limit(self) -> int:
        """The number of claims that may be worked on at once."""
        return min(self._capacity, self.target.gate.room)

    @property
    def in_hand(self) -> int:
        """The number of requests that are claimed and not settled."""
        return self._work.qsize() + len(self._running)

    def hint(self, place: QueuePosition) -> None:
        """Note that a request is in line at this position."""
        self._line = self._line.hint(place)
        self._hints.append(place)
        self._more = True
        self._stir.set()

    def resume(self, *, paused: bool) -> None:
        """Pause or resume claiming for the target."""
        if self.paused != paused:
            log.info("target_paused" if paused else "target_resumed", target=self.target.name)
            self.paused = paused
            self._stir.set()

    def note(self, *, troubled: bool, awaited: bool, allowed: OperatorLimit | None) -> None:
        """Note whether keys or projects are quarantined, whether others wait for slots, and an operator's limit."""
        self._troubled = troubled
        if allowed != self._allowed:
            if allowed is None:
                log.info("limit_lifted", target=self.target.name)
            else:
                log.info("limit_applied", target=self.target.name, by=allowed.by, **allowed.stated)
            self._allowed = allowed
            self.target.gate.renegotiate()
        elif awaited:
            self.target.gate.renegotiate()

    async def run(self) -> None:
        """Feed the creators until told to stop, then return once nothing is in hand."""
        async with asyncio.TaskGroup() as group:
            runners = [group.create_task(self._run(n), name=f"creator-{n}") for n in range(self._capacity)]
            agreeing = self.target.gate.run(
                self._lease_state, self._database_retry, wants=self._wants, changed=self._adapt
            )
            runners.append(group.create_task(agreeing, name="slots"))
            runners.append(group.create_task(self._watch(), name="key-gate"))
            if self.target.clock_store is not None:
                runners.append(group.create_task(self._share_clock(self.target.clock_store), name="clock"))
            while not self._stopping:
                try:
                    await self._feed()
                except DatabaseUnavailable as error:
                    self._database_retry.lost(error)
                    await self._recover()
            while self.in_hand:
                self._emptied.clear()
                await self._emptied.wait()
            for runner in runners:
                runner.cancel()

    def stop(self) -> Sequence[Claim]:
        """Claim nothing more; returns the claims that were never sent, to be given back."""
        self._stopping = True
        self._stir.set()
        return self.drop()

    def drop(self) -> Sequence[Claim]:
        """Drop the claims that were not sent yet, and return them."""
        unsent = []
        while not self._work.empty():
            unsent.append(self._work.get_nowait())
        self._lease_state.discard(unsent)
        self.target.writes.give_back(len(unsent))
        self._emptied.set()
        return unsent

    def lose(self) -> Sequence[Claim]:
        """Drop what was not sent yet, because the lease was lost and others may own it and our slots."""
        self.target.gate.forget()
        return self.drop()

    def abandon(self) -> None:
        """Stop waiting for answers that are outstanding; their outcomes are settled as unknown."""
        for claim in tuple(self._running.values()):
            now = self._clock.now()
            doubted, records = (
                with_doubt(claim, possible_create(claim, now)),
                lost_attempt(claim, now, ABANDONED.message),
            )
            self._settler.add(Settlement(claim=doubted, outcome=ABANDONED, sent=claim.sent + 1, records=(records,)))

    async def _feed(self) -> None:
        room = self._room()
        if not room or not self._more or self.paused:
            self.target.gate.need(self._wants())
            await self._wait(None)
            return
        if not self._lease_state.leased:
            await self._wait(LEASE_POLL)
            return
        allowed, pause = self.target.allowance(self._clock.monotonic())
        if allowed is not None:
            room = min(room, allowed - self.in_hand)
            if room <= 0:
                await self._wait(pause)
                return
        grant = await self.target.writes.acquire(room)
        if not grant.permits:
            await self._wait(grant.wait)
            return
        await self._claim(grant.permits)

    async def _claim(self, limit: int) -> None:
        self._more = False
        worker = self._lease_state.worker
        asked_at = self._clock.monotonic()
        line, part = self._line, self._line.part()
        self._hints.clear()
        brought = await self._queue.claim(
            worker, target=self.target.name, start=part.start, limit=limit, retried_only=part.retried_only
        )
        self.target.observer.claimed(self.target.name, len(brought.claims), self._clock.monotonic() - asked_at)
        self._database_retry.back(asked_at)
        if worker != self._lease_state.worker:  # the lease was lost meanwhile, so other workers take these over
            self.target.writes.give_back(limit)
            self._more = True
            return
        self._line = line.after(part, brought, limit=limit)
        for place in self._hints:  # they may point to an earlier position
            self._line = self._line.hint(place)
        left = limit - len(brought.claims)
        self._dry = left > 0 and not part.retried_only
        self._more = self._more or not self._dry or self._line.retried is not None
        if left:
            self.target.writes.give_back(left)
        self._lease_state.take(brought.claims)
        for claim in brought.claims:
            self._work.put_nowait(claim)
        self._rest()

    async def _run(self, number: int) -> None:
        while True:
            while number >= self._limit:
                await self._widened.wait()
            claim = await self._work.get()
            key = (claim.request.id, *claim.mark)
            self._running[key] = claim
            try:
                settlement = await self._creator.carry(claim)
            finally:
                del self._running[key]
            self._settler.add(settlement)
            self._finished += 1
            left = self.in_hand
            if left <= self._low or settlement.sent == claim.sent:  # in the second case its permit is free again
                self._stir.set()
            if not left:
                self._rest()

    def _rest(self) -> None:
        """If nothing is in hand, release what waits for that; if nothing is in line either, the last batch too."""
        if not self.in_hand:
            self._emptied.set()
            if self._dry:
                self._settler.hurry()
                self.target.gate.rest()

    def _wants(self) -> int:
        """The number of slots that could be used now."""
        # During a claim it is unknown whether there is more: assume so as long as the last claim returned all it could.
        if self._stopping or self.paused or (self._dry and not self._more):
            return self.in_hand
        allowed, _ = self.target.allowance(self._clock.monotonic())
        return self._capacity if allowed is None else max(allowed, self.in_hand)

    def _adapt(self) -> None:
        """Let as many creators work as there is room for."""
        self._widened.set()
        self._widened.clear()
        self._stir.set()

    async def _watch(self) -> None:
        """Share findings with the other workers about once a second, and read theirs."""
        while True:
            try:
                await self.target.reads.share()
                await self.target.writes.share()
                await self._report_incident()
                if self.target.keys is not None:
                    await self.target.keys.refresh(troubled=self._troubled)
                if self.target.projects is not None:
                    await self.target.projects.refresh(troubled=self._troubled)
            except DatabaseUnavailable as error:
                self._database_retry.lost(error)
            await asyncio.sleep(jittered(SHARE_INTERVAL))

    async def _report_incident(self) -> None:
        """Report why creates are withheld. Report once when they no longer are, or if another worker left a report."""
        reason = self.target.held
        if self.target.incidents is not None and (reason is not None or self._reported):
            await self.target.incidents.report(reason)
            self._reported = reason is not None

    async def _share_clock(self, store: ClockStore) -> None:
        """Start from what others knew about Infisical's clock, and store what is known here for later workers."""
        made, told = self.target.clock.made, await self._database_retry.call(store.load)
        if told is not None and made.bounds is None:
            made.note(told)
        while True:
            await asyncio.sleep(jittered(SAVE_CLOCK_INTERVAL))
            if made.bounds is not None and made.bounds != told:
                try:
                    await store.save(made.bounds)
                    told = made.bounds
                except DatabaseUnavailable as error:
                    self._database_retry.lost(error)

    def _room(self) -> int:
        """The number of requests to claim now; 0 while enough of the last claim are left."""
        limit = self._limit
        ahead = min(limit, round(self._measure() * CLAIM_AHEAD))
        most = limit + ahead
        self._low = most - max(1, round(ahead * REFILL))
        return most - self.in_hand if self.in_hand <= self._low else 0

    def _measure(self) -> float:
        """Return the recent number of requests per second."""
        now = self._clock.monotonic()
        elapsed = now - self._paced_at
        if elapsed >= PACE_SPAN:
            pace = self._finished / elapsed
            self._pace = (self._pace + pace) / 2 if self._pace else pace
            self._finished, self._paced_at = 0, now
        return self._pace

    async def _wait(self, seconds: float | None) -> None:
        """Wait until woken, for at most this many seconds."""
        self._stir.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stir.wait()

    async def _recover(self) -> None:
        """Put back what a claim took whose answer was lost: it may have been committed."""
        self._more = True
        await self._wait(jittered(0.1))
        worker, target, held = self._lease_state.worker, self.target.name, self._lease_state.held
        await self._database_retry.call(lambda: self._queue.release_lost(worker, target=target, known=tuple(held)))
