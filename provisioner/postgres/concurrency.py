"""How many creates may be in flight, as a row that all workers of a target share.

The row is read, the pure `core.concurrency` decides, and the row is written back unless somebody else was quicker; then
it is read again. No lock is held in between and nothing belongs to a session, so any pooler will do.
"""

from dataclasses import astuple, fields
from typing import Final

from provisioner.core.concurrency import Concurrency, Holder, Reading, Rules, unknown
from provisioner.core.queue_values import WorkerId
from provisioner.core.sharing import Allotment, exchange
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

# `holders` come last, and are four columns of the row.
_FIELDS: Final = tuple(field.name for field in fields(Concurrency) if field.name != "holders")


class SharedConcurrency:
    """`core.sharing.Concurrencies` for one target."""

    def __init__(self, database: Database, *, target: str, rules: Rules) -> None:
        self._database = database
        self._target = target
        self._rules = rules
        self._sql = statements("concurrency")

    async def exchange(self, worker: WorkerId, told: Reading) -> Allotment:
        """Tell what calls showed and how many slots could be used, and hear how many there are.

        Raises `DatabaseUnavailable`.
        """
        while True:
            version, now, alive, before = await self._load()
            after, allotment = exchange(before, worker, told, rules=self._rules, now=now, alive={*alive, worker})
            if after == before or await self._store(version, after):
                return allotment

    async def _load(self) -> tuple[int, float, list[int], Concurrency]:
        while (row := await self._database.fetchrow(self._sql["read"], self._target)) is None:
            start = unknown(self._rules)
            await self._database.execute(self._sql["open"], self._target, start.address, start.limit)
        version, now, alive, workers, held, wanted, running, *columns = row
        holders = tuple(
            Holder(worker=id_, held=has, wanted=wants, running=out)
            for id_, has, wants, out in zip(workers, held, wanted, running, strict=True)
        )
        return version, now, alive, Concurrency(**dict(zip(_FIELDS, columns, strict=True)), holders=holders)

    async def _store(self, version: int, state: Concurrency) -> bool:
        """Write it back; whether nobody was quicker."""
        *columns, _ = (getattr(state, field.name) for field in fields(Concurrency))
        parts = [list(part) for part in zip(*(astuple(each) for each in state.holders), strict=True)] or [
            [],
            [],
            [],
            [],
        ]
        row = await self._database.fetchrow(self._sql["write"], self._target, version, *parts, *columns)
        return row is not None
