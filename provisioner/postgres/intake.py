"""Load many requests in one transaction; repeating it is harmless."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from provisioner.core.errors import DatabaseUnusable, ProvisionerError
from provisioner.postgres.access import WISH
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# The order of a row's values.
COLUMNS: Final = (
    "line",
    *(column for column in WISH if column != "wanted"),
    *(
        "rotation_name",
        "rotation_environment",
        "rotation_secret_path",
        "rotation_secret_name",
        "rotation_interval_days",
    ),
    *(
        "rotation_rotate_at",
        "rotation_key_name",
        "rotation_spend_limit",
        "rotation_limit_reset",
        "rotation_include_byok",
    ),
    *("rotation_description", "rotation_on_conflict"),
)

# An edit is refused for now: the request is in flight or in doubt, or the connection is not ours.
_NOT_NOW: Final = (asyncpg.ObjectInUseError, asyncpg.ObjectNotInPrerequisiteStateError)


class RowsRefused(ProvisionerError):
    """The database refuses a row; nothing was loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A line for the same connection as an earlier one, with other values in these columns."""

    line: int
    first_line: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Lines that repeat an earlier line: identical ones, conflicting ones, and the first conflicts."""

    identical: int = 0
    conflicting: int = 0
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One target's lines compared with the table: how many there are, and the states of those that exist already.

    `different` exist with another description, credential, on_conflict or project_name; `first_different` is the first
    such line.
    """

    target: str
    wanted: int
    pending: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    different: int = 0
    first_different: int | None = None

    @property
    def existing(self) -> int:
        """How many exist already."""
        return self.pending + self.succeeded + self.failed + self.cancelled


class Staging:
    """Rows in an open transaction, invisible to others. `sees_all`: our role sees other people's requests too."""

    def __init__(
        self, connection: "PoolConnectionProxy[asyncpg.Record]", *, sees_all: bool, updates: bool = False
    ) -> None:
        self.sees_all = sees_all
        self._updates = updates
        self._connection = connection
        self._sql = statements("intake")

    async def take(self, rows: Iterable[tuple[object, ...]], *, given: bool = False) -> None:
        """Copy rows, with values in the order of `COLUMNS`, into a temporary table. Raises `RowsRefused`.

        With `given`, each row has one more value: the columns for which its line has a value.
        """
        await self._connection.execute(self._sql["stage"])
        columns = (*COLUMNS, "given") if given else COLUMNS
        await self._connection.copy_records_to_table("submitted", schema_name="pg_temp", columns=columns, records=rows)

    async def changes(self) -> Mapping[int, int]:
        """Return the existing requests whose values differ from a line's, each with that line."""
        await self._connection.execute(self._sql["stage_changes"])
        return {row["id"]: row["line"] for row in await self._connection.fetch(self._sql["changes"])}

    async def change(self, changes: Mapping[int, int]) -> Sequence[tuple[int, str]]:
        """Apply the values that `changes` found; returns the lines of refused changes, with the reasons.

        Raises `DatabaseUnusable` if our role may not change requests.
        """
        if not self._updates:
            raise DatabaseUnusable("this role may not change requests: run it as the owner of the schema")
        try:
            await self._change(list(changes))
        except _NOT_NOW:
            refused: list[tuple[int, str]] = []
            for request, line in changes.items():
                try:
                    await self._change([request])
                except _NOT_NOW as reason:
                    refused.append((line, str(reason.args[0])))
            return refused
        return []

    async def _change(self, ids: Sequence[int]) -> None:
        async with self._connection.transaction():
            await self._connection.execute(self._sql["change"], ids)

    async def set_rotations_apart(self, shown: int, *, alone: bool = False) -> Repeats:
        """Store the rotations that the rows request, before repeated connections are dropped; drop repeated rotations.

        `alone`: the rows request rotations only, and no connections.
        """
        await self._connection.execute(self._sql["stage_rotations"])
        if alone:
            await self._connection.execute(self._sql["no_connections"])
        return _repeats(await self._connection.fetch(self._sql["rotation_repeats"], shown))

    async def rotations(self) -> tuple[int, int, int | None]:
        """Count the requested rotations and the existing ones with other values; returns also the first such line."""
        row = await self._connection.fetchrow(self._sql["staged_rotations"])
        return (row["rotations"], row["different"], row["first_different"]) if row else (0, 0, None)

    async def insert_rotations(self) -> int:
        """Insert the rotations that do not exist yet; returns how many. Raises `RowsRefused`."""
        return int(await self._connection.fetchval(self._sql["insert_rotations"]))

    async def rotation_ids(self) -> Sequence[int]:
        """Return the ids of all rows' rotations, including existing ones."""
        return [row["id"] for row in await self._connection.fetch(self._sql["rotation_ids"])]

    async def drop_repeats(self, shown: int) -> Repeats:
        """Keep the first line for each connection; returns the repeats, with the first `shown` conflicts in detail."""
        return _repeats(await self._connection.fetch(self._sql["repeats"], shown))

    async def compare(self) -> Sequence[Comparison]:
        """Compare the rows with the table by target, as far as our role sees it."""
        statement = self._sql["compare" if self.sees_all else "compare_own"]
        return [Comparison(**dict(row)) for row in await self._connection.fetch(statement)]

    async def insert(self) -> int:
        """Insert the requests that do not exist yet; returns how many. Raises `RowsRefused`."""
        return int(await self._connection.fetchval(self._sql["insert"]))

    async def ids(self) -> Sequence[int]:
        """Return the ids of all rows' requests, including existing ones."""
        return [row["id"] for row in await self._connection.fetch(self._sql["ids"])]


def _repeats(rows: Sequence[asyncpg.Record]) -> Repeats:
    if not rows:
        return Repeats()
    return Repeats(
        identical=rows[0]["identical"],
        conflicting=rows[0]["conflicting"],
        conflicts=tuple(
            Conflict(line=row["line"], first_line=row["first_line"], columns=tuple(row["columns"]))
            for row in rows
            if row["columns"]
        ),
    )


@asynccontextmanager
async def staging(database: Database) -> AsyncIterator[Staging]:
    """Open a transaction for one file; it is committed at the end of the block, and rolled back by any exception.

    Raises `RowsRefused`, `DatabaseUnavailable` (nothing was loaded, unless it happened during the commit: loading again
    is harmless) and `DatabaseUnusable`.
    """
    async with database.acquire() as connection:
        with _refusals():
            async with connection.transaction():
                await database.set_up(connection)
                rights = await connection.fetchrow(statements("intake")["rights"])
                if rights is None:  # it has no FROM
                    raise AssertionError
                _require_insert(inserts=rights["inserts"], role=rights["role"])
                yield Staging(connection, sees_all=rights["sees_all"], updates=rights["updates"])


def _require_insert(*, inserts: bool, role: str) -> None:
    if not inserts:
        raise DatabaseUnusable(
            f"role {role} lacks INSERT on connection_requests; `provisioner grant --requester {role}` gives it"
        )


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.RaiseError) as error:
        # Without the detail: for a constraint that somebody added, it contains the whole row.
        raise RowsRefused(f"the database refuses a row, nothing was loaded: {error.args[0]}") from None
