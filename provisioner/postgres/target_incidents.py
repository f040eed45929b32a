"""The workers' shared reports about trouble at one target."""

from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


class SharedIncidents:
    """`core.ports.Incidents` on `target_incidents`. `reporter` is this process's name among the workers."""

    def __init__(self, database: Database, *, target: str, reporter: str) -> None:
        self._database = database
        self._target = target
        self._reporter = reporter
        self._sql = statements("target_incidents")

    async def report(self, reason: str | None) -> None:
        """Report why this worker withholds creates, or None if the target works for it."""
        if reason is None:
            await self._database.execute(self._sql["resolve"], self._target, self._reporter)
        else:
            await self._database.execute(self._sql["report"], self._target, reason, self._reporter)
