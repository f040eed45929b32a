"""Budgets as rows that all workers behind one address share.

The row is read, the pure `core.pacing` decides, and the row is written back unless somebody else was quicker; then it
is read again. Where there is no limiter, the database is not asked at all.
"""

from dataclasses import astuple, replace
from typing import Final

from provisioner.core.model import RateHeaders
from provisioner.core.pacing import Budget, Lesson, give_back, grant, learn
from provisioner.core.ports import Clock, Grant
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

UNLIMITED: Final = Budget(metered=False)


class SharedPermits:
    """`core.ports.Permits` for one target and one kind of call: `write`, `read` or `login`.

    `start` is what is known from the settings: `Budget()` for a limit that is to be learned, `core.pacing.fixed(…)`
    for one that is named, `UNLIMITED` for none.
    """

    def __init__(self, database: Database, clock: Clock, *, target: str, kind: str, start: Budget) -> None:
        self._database = database
        self._clock = clock
        self._key = (target, kind)
        self._start = start
        self._free = start.metered is False
        self._lessons: list[Lesson] = []
        self._unused = 0
        self._sql = statements("permits")

    async def acquire(self, wanted: int) -> Grant:
        """Ask for permits to send `wanted` calls. Raises `DatabaseUnavailable`."""
        if self._free and not self._lessons:
            return Grant(permits=wanted)
        while True:
            row = await self._database.fetchrow(self._sql["read"], *self._key)
            if row is None:
                start = self._start
                await self._database.execute(self._sql["open"], *self._key, start.metered, start.permits, start.period)
                continue
            version, *columns = row
            before = Budget(**dict(zip(_FIELDS, columns, strict=True)))
            lessons, unused = tuple(self._lessons), self._unused
            now = self._clock.now().timestamp()
            after, granted = grant(self._taught(before, lessons, unused), wanted, now)
            if after == before or await self._database.fetchrow(
                self._sql["write"], *self._key, version, *astuple(after)
            ):
                del self._lessons[: len(lessons)]
                self._unused -= unused
                self._free = after.metered is False and after.blocked_until <= now
                return granted

    def _taught(self, budget: Budget, lessons: tuple[Lesson, ...], unused: int) -> Budget:
        for lesson in lessons:
            budget = learn(budget, lesson)
        if self._start.metered is False:
            budget = replace(budget, metered=False)
        return give_back(budget, unused) if unused else budget

    def give_back(self, permits: int) -> None:
        """Hand back permits that will not be used."""
        if not self._free:
            self._unused += permits

    def learn(self, rate: RateHeaders | None, *, metered: bool, throttled_for: float | None) -> None:
        """Note what one answer said of the limiter; it is shared with the next `acquire`."""
        if self._start.metered is False:
            rate = None  # the settings say that there is no limit; only a refusal proves otherwise, for its own time
        if rate is None and throttled_for is None and (self._free or not metered):
            return
        self._lessons.append(Lesson(at=self._clock.now().timestamp(), rate=rate, throttled_for=throttled_for))


_FIELDS: Final = (
    "metered",
    "permits",
    "period",
    "starts_at",
    "ends_at",
    "next_at",
    "granted",
    "answered",
    "used",
    "blocked_until",
)
