"""Whether the rows are as the triggers would have left them: a look for `doctor`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from provisioner.core.reports import Unrecorded
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

MOST: Final = 250_000  # requests that are looked at: half a second; of a larger table the newest
AT_ONCE: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What was found: pending requests without a place, and how many counts are wrong, None if nobody counted."""

    misplaced: Sequence[int]
    looked_at: int
    whole: bool
    miscounted: int | None


async def read_rows(database: Database, *, most: int = MOST) -> Rows:
    """Look at all requests, or at the newest `most` of them. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    sql, keep = statements("rows"), statements("maintenance")
    start = await database.fetchrow(sql["start"], most)
    last, whole = (start["last"], start["whole"]) if start else (0, True)
    misplaced: list[int] = []
    looked_at = 0
    while row := await database.fetchrow(keep["misplaced"], last, AT_ONCE):
        if row["last"] is None:
            break
        misplaced += row["ids"]
        looked_at, last = looked_at + AT_ONCE, row["last"]
    counted = await database.fetchrow(sql["miscounted"]) if whole else None
    return Rows(
        misplaced=misplaced,
        looked_at=min(looked_at, most),
        whole=whole,
        miscounted=counted["counts"] if counted else None,
    )


async def unrecorded(database: Database) -> Unrecorded:
    """Outcomes that the database does not record. Raises as `read_rows` does."""
    row = await database.fetchrow(statements("reports")["unrecorded"], None)
    return Unrecorded(**dict(row)) if row else Unrecorded()


@dataclass(frozen=True, slots=True, kw_only=True)
class Astray:
    """How many rotations wait for a connection that nobody has requested; the oldest of them, and that connection."""

    rotations: int = 0
    example_id: int | None = None
    connection: str | None = None


async def unasked(database: Database) -> Astray:
    """Find rotations that wait for a connection that nobody has requested. Raises as `read_rows` does."""
    row = await database.fetchrow(statements("rows")["unasked"], MOST)
    return Astray(**dict(row)) if row else Astray()
