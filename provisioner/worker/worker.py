"""One worker process: its parts, their start, and a stop that loses nothing."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.ports import Clock, Observer, Queue
from provisioner.core.queue_values import QueuePosition
from provisioner.core.unobserved import UNOBSERVED
from provisioner.core.vitals import TargetVitals, Vitals
from provisioner.worker.creator import Creator
from provisioner.worker.database_retry import DatabaseRetry
from provisioner.worker.feeder import Feeder
from provisioner.worker.forecaster import Forecaster
from provisioner.worker.lease_state import LeaseState
from provisioner.worker.maintenance import Maintenance
from provisioner.worker.settler import Settler
from provisioner.worker.target import Target
from provisioner.worker.upkeep import Upkeep

log = structlog.stdlib.get_logger()

# Seconds for signing off at the database.
SIGN_OFF_TIMEOUT: Final = 5.0
# Forecasts are renewed once in this many polls.
FORECAST: Final = 2
# Before a drain ends, all requests are checked in lots of this size, each well within a statement's time limit.
SWEPT_AT_ONCE: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of a worker; times in seconds."""

    name: str
    lease: float = 30.0
    grace: float = 45.0
    poll: float = 1.0
    keep_log: float = 30 * 86400.0
    keep_failed: float = 30 * 86400.0
    drain: bool = False


class Worker:
    """Claims requests and carries them out, for several targets at once."""

    def __init__(
        self,
        targets: Sequence[tuple[Target, int]],
        *,
        options: WorkerOptions,
        queue: Queue,
        clock: Clock,
        random: Callable[[], float],
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._options, self._queue, self._stop = options, queue, asyncio.Event()
        self._lease_state, self._database_retry = LeaseState(clock, lease=options.lease), DatabaseRetry(clock)
        self._settler = Settler(
            queue, lease_state=self._lease_state, database_retry=self._database_retry, clock=clock, observer=observer
        )
        self.feeders: Mapping[str, Feeder] = {
            target.name: Feeder(
                target,
                capacity=capacity,
                queue=queue,
                creator=Creator(target, lease_state=self._lease_state, clock=clock, random=random),
                settler=self._settler,
                lease_state=self._lease_state,
                database_retry=self._database_retry,
                clock=clock,
            )
            for target, capacity in targets
        }
        self._forecaster = Forecaster(queue, clock=clock, every=FORECAST * options.poll)
        self._maintenance = Maintenance(
            self.feeders,
            name=options.name,
            queue=queue,
            lease_state=self._lease_state,
            database_retry=self._database_retry,
            clock=clock,
            lease=options.lease,
            poll=options.poll,
            keep_log=options.keep_log,
            keep_failed=options.keep_failed,
            forecast_due=self._forecaster.hurry,
        )

        self._upkeep = Upkeep(queue, clock=clock, late=lambda: self._maintenance.late)

    @property
    def created(self) -> int:
        """The number of requests that this worker has completed successfully."""
        return self._lease_state.created

    def vitals(self) -> Vitals:
        """Return the state of this worker, for probes and monitoring."""
        return Vitals(
            worker=self._lease_state.worker,
            moves=self._maintenance.moves,
            lease_good=self._lease_state.leased,
            database_away=self._database_retry.away,
            stopping=self._stop.is_set(),
            targets=tuple(
                TargetVitals(target=name, in_hand=feeder.in_hand, paused=feeder.paused, held=feeder.target.held)
                for name, feeder in self.feeders.items()
            ),
        )

    def hear(self, target: str | None, place: QueuePosition) -> None:
        """Note that a request is in line for a target, or (None) for any."""
        for name, feeder in self.feeders.items():
            if target is None or name == target:
                feeder.hint(place)
        if target is None or target in self.feeders:
            self._maintenance.heard()
        else:
            self._maintenance.unknown_target_seen()
        if target is None:  # it may also be about waiting requests
            self._maintenance.hurry()

    def notified(self, reached: bool) -> None:
        """Note whether notifications reach this worker from now on."""
        self._maintenance.notified = reached

    def has_rested(self, seconds: float) -> bool:
        """Whether there has been nothing to do for this long."""
        return self._maintenance.idle(seconds)

    def stop(self) -> None:
        """Claim nothing more, finish what is in flight, and let `run` return."""
        self._stop.set()

    async def unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> bool:
        """Wait for something that may never come; whether it came before the order to stop."""
        async with asyncio.TaskGroup() as group:
            awaited, stopped = group.create_task(waiting), group.create_task(self._stop.wait())
            await asyncio.wait({awaited, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in (awaited, stopped):
                task.cancel()
        return not awaited.cancelled()

    async def run(self) -> None:
        """Work until stopped or, when draining, until nothing is left to do."""
        if not await self.unless_stopped(self._maintenance.enter()):
            return
        log.info("worker_started", worker=self._lease_state.worker, name=self._options.name, targets=list(self.feeders))
        async with asyncio.TaskGroup() as group:
            upkeep = [
                group.create_task(self._settler.run(), name="settler"),
                group.create_task(self._maintenance.run(), name="keeper"),
                group.create_task(self._upkeep.run(), name="upkeep"),
                group.create_task(self._forecaster.run(), name="forecaster"),
            ]
            if self._options.drain:
                upkeep.append(group.create_task(self._drain(), name="drain"))
            feeding = [group.create_task(feeder.run(), name=f"feeder-{name}") for name, feeder in self.feeders.items()]
            await self._stop.wait()
            await self._wind_up(feeding)
            for task in (*upkeep, *feeding):
                task.cancel()
        # Only from here on the lease is no longer renewed.
        with suppress(TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(SIGN_OFF_TIMEOUT):
                await self._queue.leave(self._lease_state.worker)
        log.info("worker_stopped", worker=self._lease_state.worker, created=self.created)

    async def _wind_up(self, feeding: Sequence[asyncio.Task[None]]) -> None:
        """Let what is in flight finish within the grace period, record it, and give back what was never sent."""
        log.info("worker_stopping", in_flight=len(self._lease_state.held), grace=self._options.grace)
        self._maintenance.stop()
        unsent = [request for feeder in self.feeders.values() for request in feeder.stop()]
        with suppress(DatabaseUnavailable):  # what is not given back is rescued when the lease expires
            await self._queue.release(self._lease_state.worker, unsent)
        _, late = await asyncio.wait(feeding, timeout=self._options.grace) if feeding else (None, None)
        if late:
            log.warning("grace_ended", in_flight=sum(feeder.in_hand for feeder in self.feeders.values()))
            for feeder in self.feeders.values():
                feeder.abandon()
        with suppress(TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(SIGN_OFF_TIMEOUT):
                await self._settler.flushed()

    async def _drain(self) -> None:
        """Stop as soon as nothing is left to do."""
        targets, complete = tuple(self.feeders), False
        # If a key was replaced or a project joined while no worker ran, requests are released now. Only then is it
        # known what is left.
        for feeder in self.feeders.values():
            if feeder.target.keys is not None:
                await feeder.target.keys.refreshed.wait()
            if feeder.target.projects is not None:
                await feeder.target.projects.refreshed.wait()
        while True:
            if await self._database_retry.call(lambda: self._queue.work_left(targets)) or self._lease_state.held:
                complete = False
                await asyncio.sleep(min(self._options.poll, 0.2))
            elif complete:
                return self.stop()
            else:
                # An outcome that was set aside is work too, once it is due.
                await self._database_retry.call(self._upkeep.record_due)
                # A row written with triggers off has no place in line, so it was not seen. Once it is in line, there is
                # work left.
                placed = await self._database_retry.call(lambda: self._queue.sweep_all(SWEPT_AT_ONCE))
                if placed:
                    log.warning("requests_requeued", requests=placed, reason="they were pending and not in the queue")
                complete = not placed
