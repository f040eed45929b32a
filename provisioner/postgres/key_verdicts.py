"""Store what OpenRouter said about keys, by their fingerprints and never the keys themselves."""

from provisioner.core.key_check import KeyKind
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


class SharedKeyVerdicts:
    """`core.ports.KeyVerdicts` on the table `key_verdicts`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("key_verdicts")

    async def load(self, fingerprint: str) -> tuple[KeyKind, float]:
        """Return the verdict and its age in seconds; `UNKNOWN` if there is none."""
        row = await self._database.fetchrow(self._sql["load"], fingerprint)
        return (KeyKind(row["verdict"]), row["age"]) if row else (KeyKind.UNKNOWN, 0.0)

    async def save(self, fingerprint: str, verdict: KeyKind) -> None:
        """Store a verdict."""
        await self._database.execute(self._sql["save"], fingerprint, verdict)
