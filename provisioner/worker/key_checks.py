"""Have OpenRouter check each key once over all workers, by fingerprint, and never wait for it twice."""

import asyncio
from typing import Final

from provisioner.core.key_check import KeyKind
from provisioner.core.ports import Clock, KeyChecker, KeyVerdicts
from provisioner.core.secret import Secret

# After OpenRouter could not answer, it is not asked again for this many seconds.
NO_ANSWER_PAUSE: Final = 300.0
# An invalid key is checked again after this many seconds, if a probe is due.
INVALID_RECHECK: Final = 20.0


class KeyChecks:
    """What OpenRouter itself says about keys."""

    def __init__(self, *, asker: KeyChecker, verdicts: KeyVerdicts, clock: Clock) -> None:
        self._asker = asker
        self._verdicts = verdicts
        self._clock = clock
        self._asking = asyncio.Lock()
        self._good: set[str] = set()
        self._silent_until = float("-inf")

    async def check(self, key: Secret, fingerprint: str) -> KeyKind:
        """Return the kind of a key, asking OpenRouter only once in a while. Raises `DatabaseUnavailable`."""
        async with self._asking:
            if fingerprint in self._good:
                return KeyKind.MANAGEMENT
            known, age = await self._verdicts.load(fingerprint)
            if known is KeyKind.UNKNOWN or (known is not KeyKind.MANAGEMENT and age > INVALID_RECHECK):
                known = await self._ask(key, fingerprint) or known
            if known is KeyKind.MANAGEMENT:
                self._good.add(fingerprint)
            return known

    async def _ask(self, key: Secret, fingerprint: str) -> KeyKind | None:
        if self._clock.monotonic() < self._silent_until:
            return None
        verdict = await self._asker.ask(key)
        if verdict is KeyKind.UNKNOWN:
            self._silent_until = self._clock.monotonic() + NO_ANSWER_PAUSE
            return None
        await self._verdicts.save(fingerprint, verdict)
        return verdict
