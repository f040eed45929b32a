"""Have keys checked by OpenRouter once a fingerprint, over all workers, and never wait for it twice."""

import asyncio
from typing import Final

from provisioner.core.key_check import KeyKind
from provisioner.core.ports import Clock, KeyChecker, KeyVerdicts
from provisioner.core.secret import Secret

# Seconds for which OpenRouter is not asked again after it could not say anything.
SILENCE: Final = 300.0
# Seconds after which a key that was no good is asked about again, where a probe is due.
STALE: Final = 20.0


class KeyChecks:
    """What is known of keys from OpenRouter itself."""

    def __init__(self, *, asker: KeyChecker, verdicts: KeyVerdicts, clock: Clock) -> None:
        self._asker = asker
        self._verdicts = verdicts
        self._clock = clock
        self._asking = asyncio.Lock()
        self._good: set[str] = set()
        self._silent_until = float("-inf")

    async def check(self, key: Secret, fingerprint: str) -> KeyKind:
        """What the key is, as far as OpenRouter says; asks it at most once in a while. Raises `DatabaseUnavailable`."""
        async with self._asking:
            if fingerprint in self._good:
                return KeyKind.MANAGEMENT
            known, age = await self._verdicts.load(fingerprint)
            if known is KeyKind.UNKNOWN or (known is not KeyKind.MANAGEMENT and age > STALE):
                known = await self._ask(key, fingerprint) or known
            if known is KeyKind.MANAGEMENT:
                self._good.add(fingerprint)
            return known

    async def _ask(self, key: Secret, fingerprint: str) -> KeyKind | None:
        if self._clock.monotonic() < self._silent_until:
            return None
        verdict = await self._asker.ask(key)
        if verdict is KeyKind.UNKNOWN:
            self._silent_until = self._clock.monotonic() + SILENCE
            return None
        await self._verdicts.save(fingerprint, verdict)
        return verdict
