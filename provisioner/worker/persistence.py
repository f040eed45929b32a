"""Outlive the database's absences: try again with backoff, and say so once instead of a thousand times."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.ports import Clock

log = structlog.stdlib.get_logger()
T = TypeVar("T")


class Persistence:
    """Repeats calls to the database until they succeed; shared by all parts of a worker.

    Only for calls that may be made again: each of the queue's may, for what has taken effect already is then found
    done.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lost_at: float | None = None
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailable),
            wait=wait_exponential(multiplier=0.05, max=2.0) + wait_random(0, 0.2),
            before_sleep=self._note,
        )

    @property
    def away(self) -> bool:
        """Whether the database was away when it was last asked for."""
        return self._lost_at is not None

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call until the database answers it. Raises what is not `DatabaseUnavailable`."""

        async def attempt() -> T:
            return await call()  # tenacity awaits a coroutine function only

        result: T = await self._retrying.copy()(attempt)
        self.back()
        return result

    def lost(self, error: BaseException | None) -> None:
        """Note that the database is away; the first to notice says so."""
        if self._lost_at is None:
            self._lost_at = self._clock.monotonic()
            log.warning("database_lost", error=str(error))

    def back(self) -> None:
        """Note that the database answers."""
        if self._lost_at is not None:
            log.info("database_back", away_for=round(self._clock.monotonic() - self._lost_at, 3))
            self._lost_at = None

    def _note(self, state: RetryCallState) -> None:
        self.lost(state.outcome.exception() if state.outcome else None)


def jittered(seconds: float) -> float:
    """A pause of about so many seconds that not everybody makes at once."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, keeps no secret
