"""Standing verification: compare what was recorded with Infisical, using reads that nothing else needs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from provisioner.core.background_ports import DriftLedger, Lister
from provisioner.core.comparison import NO_FINGERPRINTS, AnyRecorded, Project
from provisioner.core.errors import ProvisionerError
from provisioner.core.model import Result
from provisioner.core.ports import Clock, Permits
from provisioner.core.target_health import TROUBLE
from provisioner.core.verifying import Round, judge
from provisioner.worker.database_retry import jittered, log_failure
from provisioner.worker.reads import learn_from, take_permit

log = structlog.stdlib.get_logger()

# Seconds between two checks whether a round is due, and after trouble at the target.
POLL: Final = 60.0
# Seconds between two reads, so that they disturb nobody. 10,000 projects take an hour and a half.
PAUSE: Final = 0.5


class _Interrupted(Exception):
    """The target is in trouble, or another worker has the turn."""


class Verifier:
    """Verifies one target again and again; only one worker at a time does.

    `fingerprints` returns those of the credentials' present keys, by canonical name.
    """

    def __init__(
        self,
        target: str,
        *,
        lister: Lister,
        reads: Permits,
        ledger: DriftLedger,
        clock: Clock,
        fingerprints: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        poll: float = POLL,
    ) -> None:
        self._target = target
        self._lister = lister
        self._reads = reads
        self._ledger = ledger
        self._clock = clock
        self._poll = poll
        self._ask_fingerprints = fingerprints
        self._prints = NO_FINGERPRINTS
        self.pause = PAUSE

    async def run(self) -> None:
        """Verify until cancelled."""
        while True:
            try:
                if (turn := await self._ledger.take(self._target)) is not None:
                    await self._go_on(turn)
            except ProvisionerError as error:
                log_failure("verify", error, self._poll)
            await asyncio.sleep(jittered(self._poll))

    async def _go_on(self, turn: Round) -> None:
        try:
            await self._round(turn)
        except _Interrupted:
            pass
        finally:
            with suppress(ProvisionerError):
                await self._ledger.leave(turn)

    async def _round(self, turn: Round) -> None:
        """Compare the rest of the round, and then what was missed earlier."""
        while projects := await self._ledger.page(turn):
            if self._ask_fingerprints is not None:
                self._prints = await self._ask_fingerprints()
            for recorded in projects.values():
                await self._compare(turn, recorded, behind=recorded[-1])
                turn = replace(turn, project_id=recorded[-1].project_id, name=recorded[-1].place)
        while (at := await self._ledger.next_missed(turn.target)) is not None:
            await asyncio.sleep(max(0.0, (at - self._clock.now()).total_seconds()) + 0.01)
            for recorded in (await self._ledger.missed(turn.target)).values():
                await self._compare(turn, recorded, behind=None)
        await self._ledger.finish(turn)
        log.info("round_verified", target=turn.target, started_at=turn.started_at.isoformat(timespec="seconds"))

    async def _compare(self, turn: Round, recorded: Sequence[AnyRecorded], *, behind: AnyRecorded | None) -> None:
        project = await self._read(recorded[0].project_id)
        missed = await self._ledger.since(recorded)
        now = self._clock.now()
        verdicts = [judge(each, project, missed.get(each.id), now, self._prints) for each in recorded]
        for verdict in verdicts:
            if verdict.drift is not None:
                log.warning("connection_drifted", request=verdict.id, target=turn.target, drift=verdict.drift)
        if not await self._ledger.save(turn, verdicts, behind=behind):
            raise _Interrupted

    async def _read(self, project_id: str) -> Project | None:
        """Return the project's connections; None if they may not be read."""
        while True:
            granted = await take_permit(self._reads, spare=True, breath=self.pause)
            seen, connections = await self._lister.list(project_id)
            learn_from(self._reads, seen)
            await asyncio.sleep(max(granted.wait, self.pause))
            if seen.result in {Result.FOUND, Result.PROJECT_MISSING}:  # a deleted project has no connections
                return Project.of(connections)
            if seen.result in TROUBLE:
                raise _Interrupted
            if seen.result is not Result.THROTTLED:
                return None
