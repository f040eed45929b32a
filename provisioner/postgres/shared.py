"""What workers tell one another about a target and about keys, on tables that all of them share."""

from typing import Final

from provisioner.core.key_check import KeyKind
from provisioner.core.skew import Bounds
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "shared"


class TargetClock:
    """`core.ports.ClockStore` on the table of targets: a clock that was measured, for workers that start later."""

    def __init__(self, database: Database, *, target: str) -> None:
        self._database = database
        self._target = target

    async def load(self) -> Bounds | None:
        """Return the latest measurement. Raises `DatabaseUnavailable`."""
        row = await self._database.fetchrow(statements(_SQL)["clock"], self._target)
        return Bounds(row["low"], row["high"]) if row else None

    async def save(self, bounds: Bounds) -> None:
        """Store a measurement for other workers. Raises `DatabaseUnavailable`."""
        await self._database.execute(statements(_SQL)["save_clock"], self._target, bounds.low, bounds.high)


class SharedIncidents:
    """`core.ports.Incidents` on `target_incidents`. `reporter` is this process's name among the workers."""

    def __init__(self, database: Database, *, target: str, reporter: str) -> None:
        self._database = database
        self._target = target
        self._reporter = reporter

    async def report(self, reason: str | None) -> None:
        """Report why this worker withholds creates, or None if the target works for it."""
        if reason is None:
            await self._database.execute(statements(_SQL)["resolve"], self._target, self._reporter)
        else:
            await self._database.execute(statements(_SQL)["report"], self._target, reason, self._reporter)


class SharedKeyVerdicts:
    """`core.ports.KeyVerdicts` on the table `key_verdicts`: by fingerprints, and never the keys themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, fingerprint: str) -> tuple[KeyKind, float]:
        """Return the verdict and its age in seconds; `UNKNOWN` if there is none."""
        row = await self._database.fetchrow(statements(_SQL)["verdict"], fingerprint)
        return (KeyKind(row["verdict"]), row["age"]) if row else (KeyKind.UNKNOWN, 0.0)

    async def save(self, fingerprint: str, verdict: KeyKind) -> None:
        """Store a verdict."""
        await self._database.execute(statements(_SQL)["save_verdict"], fingerprint, verdict)
