"""Look at rotations: those that a filter matches, with what each waits for and what it may have left behind."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from provisioner.postgres.filters import Filter
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRotation:
    """One rotation as it is listed."""

    id: int
    target: str
    project_id: str
    project_name: str | None
    name: str
    connection: str
    environment: str
    secret_path: str
    secret_name: str
    batch: str | None
    state: str
    waits_for: str | None
    attempts: int
    rotation_id: str | None
    connection_id: str | None
    key_issued: str | None
    adopted: bool
    left_behind: str | None
    error_code: str | None
    error_message: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


_NAMES: Final = tuple(field.name for field in fields(ListedRotation))


async def listed(
    database: Database, wanted: Filter, *, limit: int, left_behind: bool
) -> tuple[Sequence[ListedRotation], int]:
    """The newest rotations that the filter matches, and how many more there are.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    rows = await database.fetch(statements("rotations")["listed"], *wanted.arguments(), limit, left_behind)
    found = [ListedRotation(**{name: row[name] for name in _NAMES}) for row in rows]
    return found, (rows[0]["found"] - len(found) if rows else 0)
