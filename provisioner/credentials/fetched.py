"""Cache a key that was fetched from a store, and fetch it once however many requests wait for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from provisioner.core.errors import CredentialUnavailable, CredentialUnreadable
from provisioner.core.ports import SecretStore
from provisioner.core.secret import Secret, SecretLocation

# After a failed read, the next one waits at least this many seconds: thousands of requests may be waiting.
PAUSE: Final = 5.0
# A refused key is read again at once, and then this often, in seconds, while it stays the same.
RECHECK: Final = 15.0


class FetchedSecret:
    """One credential in a store, cached for `cache` seconds as counted by `monotonic`."""

    def __init__(
        self,
        credential: str,
        place: SecretLocation,
        store: SecretStore,
        *,
        cache: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credential = credential
        self._place = place
        self._store = store
        self._cache = cache
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._secret: Secret | None = None
        self._read_at = 0.0
        self._checked_at = float("-inf")
        self._problem: CredentialUnavailable | CredentialUnreadable | None = None
        self._problem_until = 0.0

    async def get(self) -> Secret:
        """Return the key, at most `cache` seconds old. Raises `CredentialUnreadable` or `CredentialUnavailable`."""
        if (secret := self._fresh()) is not None:
            return secret
        async with self._lock:
            return self._fresh() or await self._read()

    async def again(self) -> Secret:
        """Read the key again after a refusal, at a limited rate while it stays the same. Raises as `get`."""
        refused = self._secret
        async with self._lock:
            others_did = self._secret is not refused
            if self._secret is not None and (others_did or self._monotonic() - self._checked_at < RECHECK):
                return self._secret
            secret = await self._read()
            self._checked_at = self._monotonic()
            return secret

    def _fresh(self) -> Secret | None:
        kept = self._secret is not None and self._monotonic() - self._read_at < self._cache
        return self._secret if kept else None

    async def _read(self) -> Secret:
        problem, now = self._problem, self._monotonic()
        if problem is not None and now < self._problem_until:
            raise self._told(problem, self._problem_until - now)
        try:
            secret = await self._store.read(self._place)
        except (CredentialUnreadable, CredentialUnavailable) as error:
            pause = max(PAUSE, error.retry_after) if isinstance(error, CredentialUnavailable) else PAUSE
            self._problem, self._problem_until = error, self._monotonic() + pause
            if isinstance(error, CredentialUnreadable):
                self._secret = None  # it was removed so that it is no longer used
            raise self._told(error, pause) from error
        self._problem, self._read_at = None, self._monotonic()
        if self._secret is not None and secret == self._secret:
            return self._secret
        self._secret, self._checked_at = secret, float("-inf")
        return secret

    def _told(
        self, problem: CredentialUnavailable | CredentialUnreadable, pause: float
    ) -> CredentialUnavailable | CredentialUnreadable:
        """Return a new copy of the error for each caller: an exception that is raised twice accumulates frames."""
        text = f"credential {self._credential} ({self._place}): {problem}"
        if isinstance(problem, CredentialUnreadable):
            return CredentialUnreadable(text)
        return CredentialUnavailable(text, retry_after=pause)
