"""Budgets as rows that all workers behind one address share.

The row is read, the pure `core.pacing` decides, and the row is written back with optimistic locking; on a conflict it
is read again. Without a rate limiter the database is not asked at all. The time comes from the database, in the same
read: the end of a window is known to a few hundredths of a second, and hosts' clocks need not be that good.
"""

import asyncio
from dataclasses import astuple, dataclass, fields, replace
from typing import Final, NamedTuple

from provisioner.core.model import RateHeaders
from provisioner.core.pacing import Allowance, Budget, Grant, LimiterReply, give_back, grant, learn, named
from provisioner.core.ports import Clock
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

UNLIMITED: Final = Budget(metered=False)

_FIELDS: Final = tuple(field.name for field in fields(Budget))


@dataclass(slots=True)
class Allowed:
    """What an operator allows at a target at present. The exchange of slots updates it, for all budgets."""

    writes: Allowance | None = None


class _Heard(NamedTuple):
    """A reply that is not stored in the row yet; `at` is monotonic."""

    at: float
    rate: RateHeaders | None
    throttled_for: float | None
    elapsed: float
    lost: bool


class LonePermits:
    """`core.ports.Permits` for one target and one kind of call (`write`, `read`, `login`), counted in this process.

    The answers' headers tell what other clients use. `start` comes from the settings: `Budget()` for a limit to be
    learned, `core.pacing.fixed(…)` for a given one, `UNLIMITED` for none, each with the server's address. If the
    settings give a limit, only the server's refusals matter, not its headers. An operator's limit replaces the settings
    while it lasts; then the headers matter.
    """

    def __init__(self, clock: Clock, *, target: str, kind: str, start: Budget, allowed: Allowed | None = None) -> None:
        self._clock = clock
        self._allowed = allowed or Allowed()
        self._key = (target, kind)
        self._start = start
        self._budget: Budget | None = start
        self._free = start.metered is False
        self._heard: list[_Heard] = []
        self._unused = 0
        self._asking = asyncio.Lock()

    async def acquire(self, wanted: int, *, spare: bool = False) -> Grant:
        """Ask for permits to send `wanted` calls; `spare` for calls that can wait. Raises `DatabaseUnavailable`."""
        if self._free and not self._heard and self._allowed.writes is None:
            return Grant(permits=wanted)
        async with self._asking:
            return await self._ask(wanted, spare=spare)

    async def share(self) -> None:
        """Share what was learned and given back with the other workers now. Raises `DatabaseUnavailable`."""
        if self._heard or self._unused:
            await self.acquire(0)

    async def _ask(self, wanted: int, *, spare: bool) -> Grant:
        while True:
            asked_at = self._clock.monotonic()
            version, now, stored = await self._load()
            # What one server's answers taught says nothing about another server.
            before = stored if stored.address == self._start.address else self._start
            heard, unused = tuple(self._heard), self._unused
            # The server's time is slightly later than when we asked. So no reply seems older than it is, and no window
            # seems to end early.
            allowance = self._allowed.writes
            taught = self._taught(before, heard, unused, ahead=now - asked_at, allowance=allowance)
            after, granted = grant(taught, wanted, now, spare=spare, allowance=allowance)
            if after == stored or await self._store(version, after):
                del self._heard[: len(heard)]
                self._unused -= unused
                self._free = after.metered is False and after.blocked_until <= now
                return granted

    async def _load(self) -> tuple[int, float, Budget]:
        """Return the version, the time, and the budget."""
        return 0, self._clock.epoch(), self._budget or self._start

    async def _store(self, version: int, budget: Budget) -> bool:  # noqa: ARG002  # no other process writes it
        """Write the budget back; whether no other worker was quicker."""
        self._budget = budget
        return True

    def _taught(
        self,
        budget: Budget,
        heard: tuple[_Heard, ...],
        unused: int,
        *,
        ahead: float,
        allowance: Allowance | None,
    ) -> Budget:
        budget = self._named(budget, allowance)
        for at, rate, throttled_for, elapsed, lost in heard:
            lesson = LimiterReply(at=at + ahead, rate=rate, throttled_for=throttled_for, elapsed=elapsed, lost=lost)
            budget = learn(budget, lesson)
        # Without a limit in the settings, only headers bound what an operator allows.
        if self._start.metered is False and (allowance is None or budget.bare_since is None):
            budget = replace(budget, metered=False)
        return give_back(budget, unused, allowance) if unused else budget

    def _named(self, budget: Budget, allowance: Allowance | None) -> Budget:
        """Return the budget with the limit of the settings, or an operator's if that is higher.

        Once answers have shown a limit, it stays for as long as the operator's limit does.
        """
        start = self._start
        if not (start.metered and start.permits):
            return replace(budget, configured=False) if budget.configured else budget
        if allowance is None:
            return named(budget, start.permits, start.period)
        if not budget.configured:
            return budget
        if allowance.rate > start.permits / start.period:
            return named(budget, allowance.permits, allowance.period)
        return named(budget, start.permits, start.period)

    def give_back(self, permits: int) -> None:
        """Return permits that will not be used."""
        if not self._free or self._allowed.writes is not None:
            self._unused += permits

    def learn(
        self, rate: RateHeaders | None, *, metered: bool, throttled_for: float | None, elapsed: float = 0.0
    ) -> None:
        """Note what one answer said about the limiter; the next `acquire` shares it."""
        if self._start.metered is not None and self._allowed.writes is None:
            rate = None  # the limit comes from the settings; only a refusal contradicts it, for its own duration
        if rate is None and throttled_for is None and self._free:
            return
        lost = rate is None and throttled_for is None and not metered
        self._heard.append(_Heard(self._clock.monotonic(), rate, throttled_for, elapsed, lost))


class OwnPermits(LonePermits):
    """Permits for a role that may read the budgets but not write them: starts from the row, then counts alone."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        target: str,
        kind: str,
        start: Budget,
        allowed: Allowed | None = None,
    ) -> None:
        super().__init__(clock, target=target, kind=kind, start=start, allowed=allowed)
        self._database = database
        self._budget = None

    async def _load(self) -> tuple[int, float, Budget]:
        if self._budget is None:
            row = await self._database.fetchrow(statements("permits")["read"], *self._key)
            self._budget = Budget(**dict(zip(_FIELDS, tuple(row)[2:], strict=True))) if row else self._start
        return await super()._load()


class SharedPermits(LonePermits):
    """Permits that all workers behind one address share: a row of the table `permits`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        target: str,
        kind: str,
        start: Budget,
        allowed: Allowed | None = None,
    ) -> None:
        super().__init__(clock, target=target, kind=kind, start=start, allowed=allowed)
        self._database = database
        self._sql = statements("permits")

    async def _load(self) -> tuple[int, float, Budget]:
        while (row := await self._database.fetchrow(self._sql["read"], *self._key)) is None:
            start = self._start
            await self._database.execute(
                self._sql["open"],
                *self._key,
                start.metered,
                start.permits,
                start.period,
                start.address,
                start.configured,
            )
        version, now, *columns = row
        return version, now, Budget(**dict(zip(_FIELDS, columns, strict=True)))

    async def _store(self, version: int, budget: Budget) -> bool:
        row = await self._database.fetchrow(self._sql["write"], *self._key, version, *astuple(budget))
        return row is not None


async def may_share(database: Database) -> bool:
    """Return whether our role may write shared budgets. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    row = await database.fetchrow(statements("permits")["shared"])
    return bool(row and row["shared"])
