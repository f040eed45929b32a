"""Check for `doctor` whether rows are as the triggers would have left them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from provisioner.core.reports import Unrecorded
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

MOST: Final = 250_000  # requests to check, the newest first; takes half a second
AT_ONCE: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Pending requests without a place in line, and the number of wrong counts, None if they were not checked."""

    misplaced: Sequence[int]
    looked_at: int
    whole: bool
    miscounted: int | None


async def read_rows(database: Database, *, most: int = MOST) -> Rows:
    """Check all requests, or the newest `most` of them. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
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
    """Return the outcomes that the database does not record. Raises as `read_rows` does."""
    row = await database.fetchrow(statements("reports")["unrecorded"], None)
    return Unrecorded(**dict(row)) if row else Unrecorded()


@dataclass(frozen=True, slots=True, kw_only=True)
class Astray:
    """How many rotations wait for a connection without a request; the oldest of them, and that connection."""

    rotations: int = 0
    example_id: int | None = None
    connection: str | None = None


async def unasked(database: Database) -> Astray:
    """Return rotations that wait for a connection without a request. Raises as `read_rows` does."""
    row = await database.fetchrow(statements("rows")["unasked"], MOST)
    return Astray(**dict(row)) if row else Astray()
