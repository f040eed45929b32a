"""The limit on creates in flight, as a row that all workers of a target share.

The row is read, the pure `core.concurrency` decides, and the row is written back with optimistic locking; on a conflict
it is read again. No lock is held in between and nothing belongs to a session, so any pooler works.
"""

from dataclasses import astuple, fields, replace
from typing import Final

from provisioner.core.concurrency import CallReport, Concurrency, Holder, Rules, unknown
from provisioner.core.pacing import Allowance
from provisioner.core.queue_values import WorkerId
from provisioner.core.sharing import Allotment, exchange
from provisioner.postgres.permits import Allowed
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

# `holders` come last, as four columns of the row.
_FIELDS: Final = tuple(field.name for field in fields(Concurrency) if field.name != "holders")


class SharedConcurrency:
    """`core.sharing.Concurrencies` for one target. It stores an operator's limit on writes in `allowed`.

    So a worker notices an operator's limit at each exchange, at least once a second, without another query. `capped`:
    an operator cannot allow more in flight than `rules` do.
    """

    def __init__(
        self, database: Database, *, target: str, rules: Rules, allowed: Allowed | None = None, capped: bool = False
    ) -> None:
        self._allowed = allowed or Allowed()
        self._capped = capped
        self._database = database
        self._target = target
        self._rules = rules
        self._sql = statements("concurrency")

    async def exchange(self, worker: WorkerId, told: CallReport) -> Allotment:
        """Report calls and wanted slots; returns what this worker may do now.

        Raises `DatabaseUnavailable`.
        """
        while True:
            version, now, alive, most, before = await self._load()
            rules = self._rules if most is None else self._obeying(most)
            after, allotment = exchange(before, worker, told, rules=rules, now=now, alive={*alive, worker})
            if after == before or await self._store(version, after):
                return allotment

    def _obeying(self, most: int) -> Rules:
        own = self._rules.most
        return replace(self._rules, most=min(own, most) if self._capped and own is not None else most)

    async def _load(self) -> tuple[int, float, list[int], int | None, Concurrency]:
        while (row := await self._database.fetchrow(self._sql["read"], self._target)) is None:
            start = unknown(self._rules)
            await self._database.execute(self._sql["open"], self._target, start.address, start.limit)
        version, now, alive, writes, period, most, workers, held, wanted, running, *columns = row
        self._allowed.writes = Allowance(writes, period) if writes is not None else None
        holders = tuple(
            Holder(worker=id_, held=has, wanted=wants, running=out)
            for id_, has, wants, out in zip(workers, held, wanted, running, strict=True)
        )
        return version, now, alive, most, Concurrency(**dict(zip(_FIELDS, columns, strict=True)), holders=holders)

    async def _store(self, version: int, state: Concurrency) -> bool:
        """Write the state back; whether no other worker was quicker."""
        *columns, _ = (getattr(state, field.name) for field in fields(Concurrency))
        parts = [list(part) for part in zip(*(astuple(each) for each in state.holders), strict=True)] or [
            [],
            [],
            [],
            [],
        ]
        row = await self._database.fetchrow(self._sql["write"], self._target, version, *parts, *columns)
        return row is not None
