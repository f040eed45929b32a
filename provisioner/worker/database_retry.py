"""Survive outages of the database: retry with backoff, and log an outage once instead of a thousand times."""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from provisioner.core.errors import DatabaseRefusing, DatabaseUnavailable, ProvisionerError, StatementRefused, is_outage
from provisioner.core.ports import Clock

log = structlog.stdlib.get_logger()
T = TypeVar("T")

REPEATED: Final = 60.0  # seconds; with a full disk every read succeeds and every write fails: a line a minute is enough


class DatabaseRetry:
    """Repeats calls to the database until they succeed; shared by all parts of a worker.

    Only for calls that may be repeated. All calls of the queue may: a repeated call finds its work already done.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lost_at: float | None = None
        self._said: dict[str, float] = {}  # when each reason was last logged
        self._quiet = False  # the present outage repeats one that was logged recently
        self._refused = ""
        self._refusing = False
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailable),
            wait=wait_exponential(multiplier=0.05, max=2.0) + wait_random(0, 0.2),
            before_sleep=self._note,
        )

    @property
    def away(self) -> bool:
        """Whether the database was unavailable when it was last used."""
        return self._lost_at is not None

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until the database answers it. Raises everything except `DatabaseUnavailable`."""
        asked_at = 0.0

        async def attempt() -> T:
            nonlocal asked_at
            asked_at = self._clock.monotonic()
            return await call()  # tenacity only awaits coroutine functions

        result: T = await self._retrying.copy()(attempt)
        self.back(asked_at)
        return result

    def lost(self, error: BaseException | None) -> None:
        """Note that the database is unavailable or refuses a statement, and log it unless that was done."""
        if isinstance(error, StatementRefused):
            if self._refused != str(error):
                self._refused = str(error)
                log.error("statement_refused", error=str(error))
            return
        if self._lost_at is None:
            self._lost_at = now = self._clock.monotonic()
            self._said = {reason: at for reason, at in self._said.items() if now - at < REPEATED}
            self._quiet = str(error) in self._said
            if not self._quiet:
                self._said[str(error)] = now
                log.warning("database_lost", error=str(error))
        if isinstance(error, DatabaseRefusing) and not self._refusing:
            self._refusing = True
            log.warning("database_refuses", error=str(error))

    def back(self, asked_at: float) -> None:
        """Note that the database has answered a call that was sent at `asked_at`.

        A call sent before the outage was noticed proves nothing: one session may still answer while another is already
        refused.
        """
        if self._lost_at is not None and asked_at >= self._lost_at:
            if not self._quiet:
                log.info("database_back", away_for=round(self._clock.monotonic() - self._lost_at, 3))
            self._lost_at, self._refusing = None, False

    def _note(self, state: RetryCallState) -> None:
        self.lost(state.outcome.exception() if state.outcome else None)


def jittered(seconds: float) -> float:
    """Return a pause of about this many seconds, randomised so that workers do not act in step."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, keeps no secret


def log_failure(duty: str, error: ProvisionerError, again_in: float) -> None:
    """Log that a duty failed and is tried again; an outage of the database is logged by those who wait for it."""
    if not is_outage(error):
        log.warning("upkeep_failed", duty=duty, error=str(error), again_in=again_in)
