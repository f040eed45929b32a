"""What all workers know together about the API keys of one target."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from provisioner.core.holds import HELD_FOR, HeldKey, Leave
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

LOT: Final = 5000  # requests that are taken out of the line by one statement


class SharedHolds:
    """`core.holds.Holds` on the tables of `migrations/0004_health.sql`. `teller` is this process among the workers."""

    def __init__(self, database: Database, *, target: str, teller: str) -> None:
        self._database = database
        self._target = target
        self._teller = teller
        self._sql = statements("holds")

    async def salt(self) -> str:
        """What fingerprints are salted with, the same for all workers."""
        return str((await self._row("salt"))["salt"])

    async def ask(self, credential: str, fingerprint: str, *, confirming: bool) -> Leave:
        """Ask for leave to try a key that nobody here knows; few have it at a time, all workers counted together."""
        row = await self._row("ask", self._target, credential, fingerprint, confirming)
        return Leave(granted=row["granted"], accepted_ago=row["accepted_ago"], held=row["held"])

    async def undecided(self, credential: str, fingerprint: str) -> None:
        """The try said nothing about the key."""
        await self._database.execute(self._sql["undecided"], self._target, credential, fingerprint)

    async def accepted(self, credential: str, fingerprint: str) -> bool:
        """The key works; returns whether that released requests that were held."""
        return bool((await self._row("accepted", self._target, credential, fingerprint))["released"])

    async def suspect(self, credential: str, fingerprint: str) -> None:
        """A key that worked is refused: it has to be tried like an unknown one."""
        await self._database.execute(self._sql["suspect"], self._target, credential, fingerprint)

    async def refused(self, credential: str, fingerprint: str, reason: str) -> tuple[bool, bool]:
        """The key is refused; returns whether it is held now, and whether by this refusal."""
        row = await self._row("refused", self._target, credential, fingerprint, reason)
        return row["held"], row["newly"]

    async def hold_back(self, credential: str) -> int:
        """Take the requests with this credential out of the line; returns how many."""
        taken, span = 0, timedelta(seconds=HELD_FOR)
        while True:
            rows = await self._database.fetch(self._sql["hold_back"], self._target, credential, span, LOT)
            taken += len(rows)
            if len(rows) < LOT:
                return taken

    async def held(self, fingerprints: Collection[str]) -> Sequence[HeldKey]:
        """The keys that are held. Those of ours whose time has come may be probed from now on."""
        rows = await self._database.fetch(self._sql["held"], self._target, list(fingerprints))
        return [HeldKey(**dict(row)) for row in rows]

    async def release(self, credential: str, fingerprint: str) -> bool:
        """Another key has taken the place of those that were refused; returns whether requests were released."""
        return bool((await self._row("release", self._target, credential, fingerprint))["released"])

    async def trouble(self, reason: str | None) -> None:
        """Show why the target is held, or that it works."""
        if reason is None:
            await self._database.execute(self._sql["works"], self._target, self._teller)
        else:
            await self._database.execute(self._sql["trouble"], self._target, reason, self._teller)

    async def _row(self, name: str, *arguments: object) -> "asyncpg.Record":
        row = await self._database.fetchrow(self._sql[name], *arguments)
        if row is None:  # each of these selects exactly one row
            raise AssertionError(name)
        return row
