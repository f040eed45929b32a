"""Requests for projects that were discovered or deleted."""

from collections.abc import Sequence
from datetime import timedelta

from provisioner.core.gone import Absence
from provisioner.core.projects import SeenProject
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


class DiscoveredRequests:
    """`core` of discovery on the table of requests; a round begins once in `every`."""

    def __init__(self, database: Database, *, every: timedelta, credential: str, batch: str | None) -> None:
        self._database = database
        self._every = every
        self._credential = credential
        self._batch = batch
        self._sql = statements("discovering")

    async def take(self, target: str) -> bool:
        """Take the turn at a target if a round is due and no other worker has it."""
        return await self._database.fetchrow(self._sql["take"], target, self._every) is not None

    async def ask(self, target: str, projects: Sequence[SeenProject]) -> int:
        """Request a connection in each project that has no request; returns how many are new."""
        ids, names = [project.id for project in projects], [project.name or None for project in projects]
        row = await self._database.fetchrow(self._sql["ask"], target, ids, names, self._credential, self._batch)
        return int(row["requests"]) if row else 0

    async def miss(self, target: str, address: str, projects: Sequence[SeenProject]) -> tuple[Sequence[Absence], int]:
        """Note which projects a list from this address contains; returns those it lacks, and how many are known."""
        rows = await self._database.fetch(self._sql["miss"], target, address, [project.id for project in projects])
        missing = [
            Absence(
                project_id=row["project_id"],
                project_name=row["project_name"] or "",
                looks=row["missed"],
                since=row["missed_since"],
            )
            for row in rows
        ]
        return missing, int(rows[0]["known"]) if rows else 0

    async def spare(self, target: str, project_id: str) -> None:
        """Note that a project still exists although the list lacks it."""
        await self._database.execute(self._sql["spare"], target, project_id)

    async def remove_gone(self, target: str, project_id: str) -> int:
        """Mark the requests of a deleted project for removal; returns how many."""
        row = await self._database.fetchrow(self._sql["remove_gone"], target, project_id)
        return int(row["requests"]) if row else 0
