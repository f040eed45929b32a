"""Requests for projects that were discovered."""

from collections.abc import Sequence
from datetime import timedelta

from provisioner.core.projects import SeenProject
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


class DiscoveredRequests:
    """What the discoverer needs, on the table of requests; a round begins `every` so often."""

    def __init__(self, database: Database, *, every: timedelta, credential: str, batch: str | None) -> None:
        self._database = database
        self._every = every
        self._credential = credential
        self._batch = batch
        self._sql = statements("discovering")

    async def take(self, target: str) -> bool:
        """Take the turn at a target, if it is time for a round and nobody else has it."""
        return await self._database.fetchrow(self._sql["take"], target, self._every) is not None

    async def ask(self, target: str, projects: Sequence[SeenProject]) -> int:
        """Ask for a connection in each project, unless somebody has; returns how many are new."""
        ids, names = [project.id for project in projects], [project.name or None for project in projects]
        row = await self._database.fetchrow(self._sql["ask"], target, ids, names, self._credential, self._batch)
        return int(row["requests"]) if row else 0
