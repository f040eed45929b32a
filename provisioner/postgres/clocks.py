"""Store what workers know about an Infisical's clock with its target, for workers that start later."""

from provisioner.core.skew import Bounds
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


class TargetClock:
    """`core.ports.ClockStore` on the table of targets."""

    def __init__(self, database: Database, *, target: str) -> None:
        self._database = database
        self._target = target
        self._sql = statements("clocks")

    async def load(self) -> Bounds | None:
        """Return the latest measurement. Raises `DatabaseUnavailable`."""
        row = await self._database.fetchrow(self._sql["load"], self._target)
        return Bounds(row["low"], row["high"]) if row else None

    async def save(self, bounds: Bounds) -> None:
        """Store a measurement for other workers. Raises `DatabaseUnavailable`."""
        await self._database.execute(self._sql["save"], self._target, bounds.low, bounds.high)
