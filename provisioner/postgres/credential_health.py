"""What all workers know about the API keys of one target."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import astuple, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from provisioner.core import key_health
from provisioner.core.key_health import QUARANTINE_RECHECK, KeyHealth, QuarantinedKey, TrialPermit
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

LOT: Final = 5000  # requests taken out of the line per statement
# A key that nobody tried for this long is unknown again, so that bad sealed keys are not kept for ever.
FORGET_AFTER: Final = timedelta(hours=1)
FORGET_LOT: Final = 1000  # keys forgotten per statement
_COLUMNS: Final = tuple(field.name for field in fields(KeyHealth))
_ALL: Final = None  # no limit


class SharedCredentialHealth:
    """`core.ports.CredentialHealth` on the table `credential_health`.

    A state is read, changed by `core.key_health` and written back with optimistic locking; on a conflict this is
    repeated. Only a few requests at a time concern one key.
    """

    def __init__(self, database: Database, *, target: str) -> None:
        self._database = database
        self._target = target
        self._sql = statements("credential_health")

    async def salt(self) -> str:
        """Return the salt of fingerprints, which is the same for all workers."""
        return str((await self._row("salt"))["salt"])

    async def ask(self, credential: str, fingerprint: str, *, confirming: bool) -> TrialPermit:
        """Ask to try an unknown key; only a few workers may at a time."""
        permit = TrialPermit(granted=False)

        def change(health: KeyHealth, now: datetime) -> KeyHealth:
            nonlocal permit
            health, permit = key_health.request_trial(health, now, confirming=confirming)
            return health

        await self._change(credential, fingerprint, change)
        return permit

    async def undecided(self, credential: str, fingerprint: str) -> None:
        """Note that a trial showed nothing about the key."""
        await self._change(credential, fingerprint, lambda health, _now: key_health.undecided(health))

    async def accepted(self, credential: str, fingerprint: str) -> bool:
        """Note that the key works; returns whether that released requests."""
        was_quarantined = False

        def change(health: KeyHealth, now: datetime) -> KeyHealth:
            nonlocal was_quarantined
            was_quarantined = health.is_quarantined
            return key_health.accepted(now)

        released = await self._change(credential, fingerprint, change, release=_ALL)
        return was_quarantined or released > 0

    async def suspected(self, credential: str, fingerprint: str) -> None:
        """Note that a key that used to work is refused: it needs a trial like an unknown one."""
        await self._change(credential, fingerprint, lambda health, _now: key_health.suspected(health))

    async def refused(self, credential: str, fingerprint: str, reason: str) -> tuple[bool, bool]:
        """Note a refusal; returns whether the key is quarantined now, and whether this refusal did it."""
        state = (False, False)

        def change(health: KeyHealth, now: datetime) -> KeyHealth:
            nonlocal state
            health, newly = key_health.refused(health, reason, now)
            state = (health.is_quarantined, newly)
            return health

        await self._change(credential, fingerprint, change)
        return state

    async def found_invalid(self, credential: str, fingerprint: str, reason: str) -> bool:
        """Note that OpenRouter itself calls a key invalid; returns whether that quarantined it."""
        newly = False

        def change(health: KeyHealth, now: datetime) -> KeyHealth:
            nonlocal newly
            health, newly = key_health.found_invalid(health, reason, now)
            return health

        await self._change(credential, fingerprint, change)
        return newly

    async def hold_back(self, credential: str) -> int:
        """Take the requests with this credential out of the line; returns how many."""
        taken = 0
        while True:
            rows = await self._database.fetch(self._sql["hold_back"], self._target, credential, QUARANTINE_RECHECK, LOT)
            taken += len(rows)
            if len(rows) < LOT:
                return taken

    async def quarantined(self, ours: Collection[tuple[str, str]]) -> Sequence[QuarantinedKey]:
        """Return the quarantined keys that concern this worker; `ours` are its own, as (credential, fingerprint).

        If a probe of one of them is due, one request that waits for it is put in line.
        """
        sealed = [credential for credential, _ in ours if credential.startswith(key_health.SEALED)]
        rows = await self._database.fetch(self._sql["quarantined"], self._target, sealed)
        return [await self._probed(row, ours=ours) for row in rows]

    async def _probed(self, row: "asyncpg.Record", *, ours: Collection[tuple[str, str]]) -> QuarantinedKey:
        credential, fingerprint = key = (row["credential"], row["fingerprint"])
        health, now = _health(row), row["now"]
        if key in ours and (probe := key_health.due_probe(health, now)) is not None:
            written = await self._write(credential, fingerprint, row["version"], probe, release=1)
            health = probe if written is not None else health
        return QuarantinedKey(credential=credential, fingerprint=fingerprint, probing=health.probing)

    async def replaced(self, credential: str, fingerprint: str) -> bool:
        """Note that this key has replaced the quarantined ones; returns whether that released any."""
        return bool((await self._row("replace", self._target, credential, fingerprint))["released"])

    async def forget(self) -> None:
        """Forget keys that were not tried for long and for which nothing waits."""
        await self._database.execute(self._sql["forget"], self._target, FORGET_AFTER, FORGET_LOT)

    async def _change(
        self,
        credential: str,
        fingerprint: str,
        change: Callable[[KeyHealth, datetime], KeyHealth],
        *,
        release: int | None = 0,
    ) -> int:
        """Change the state of one key; returns how many requests were released."""
        while True:
            row = await self._row("read", self._target, credential, fingerprint)
            before = _health(row)
            after = change(before, row["now"])
            if after == before and release == 0:
                return 0
            released = await self._write(credential, fingerprint, row["version"] or 0, after, release=release)
            if released is not None:
                return released

    async def _write(
        self, credential: str, fingerprint: str, version: int, health: KeyHealth, *, release: int | None
    ) -> int | None:
        """Write a state back and release requests; None if another worker was quicker."""
        row = await self._database.fetchrow(
            self._sql["write"], self._target, credential, fingerprint, version, *astuple(health), release
        )
        return None if row is None else row["released"]

    async def _row(self, name: str, *arguments: object) -> "asyncpg.Record":
        row = await self._database.fetchrow(self._sql[name], *arguments)
        if row is None:  # each of these returns exactly one row
            raise AssertionError(name)
        return row


def _health(row: "asyncpg.Record") -> KeyHealth:
    """Return the state in a row; without a row, the key is unknown."""
    return KeyHealth() if row["version"] is None else KeyHealth(**{name: row[name] for name in _COLUMNS})
