"""Bring the schema up to date: numbered SQL files, forward only, one transaction each.

Applied steps are stored with their checksums. Two migrators at once cannot collide: each step takes a lock that ends
with its transaction, and then checks again what is outstanding.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import asyncpg

from provisioner.core.errors import DatabaseUnusable, SchemaMismatch
from provisioner.core.secret import Secret
from provisioner.postgres.pool import Database, database_errors

_FILE: Final = re.compile(r"^(\d{4})_(\w+)\.sql$")
# Only the schema's owner can take it; an advisory lock could be taken, and kept, by anyone who can connect.
_LOCK: Final = "LOCK TABLE provisioner.migrations IN SHARE ROW EXCLUSIVE MODE"
_LEDGER: Final = """
CREATE SCHEMA IF NOT EXISTS provisioner;
CREATE TABLE IF NOT EXISTS provisioner.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""
_APPLIED: Final = "SELECT version, name, checksum FROM provisioner.migrations ORDER BY version"
_ENCODING: Final = "SELECT current_setting('server_encoding')"
_RECORD: Final = "INSERT INTO provisioner.migrations (version, name, checksum) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema; `checksum` is the SHA-256 of its text."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The checksum that shows whether an applied step equals ours."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


def known_migrations() -> Sequence[Migration]:
    """Return the steps that this version contains, in order."""
    found = [
        Migration(version=int(match[1]), name=match[2], sql=file.read_text(encoding="utf-8"))
        for file in _folder().iterdir()
        if (match := _FILE.match(file.name))
    ]
    return sorted(found, key=lambda step: step.version)


def outstanding(known: Sequence[Migration], applied: Sequence[tuple[int, str, str]]) -> Sequence[Migration]:
    """Return the outstanding steps.

    Raises `SchemaMismatch` if the schema is newer than this version, or was made by other steps.
    """
    ours = {step.version: step for step in known}
    for version, name, checksum in applied:
        if version not in ours:
            raise SchemaMismatch(
                f"the schema has step {version:04d}_{name}, which this version does not know: the schema is newer;"
                " upgrade provisioner on this host"
            )
        if ours[version].checksum != checksum:
            raise SchemaMismatch(
                f"step {ours[version]} was applied from another text than this version has;"
                " schema and program do not belong together"
            )
    done = {version for version, _, _ in applied}
    return [step for step in known if step.version not in done]


async def migrate(
    url: str | Secret | Callable[[], Secret], *, ssl_root_cert: Path | None = None
) -> Sequence[Migration]:
    """Apply and return the outstanding steps. Raises `SchemaMismatch`, `DatabaseUnavailable` or `DatabaseUnusable`."""
    database = Database(url, size=1, ssl_root_cert=ssl_root_cert, name="provisioner migrate")
    connection = await database.connect()
    applied = []
    try:
        with database_errors():
            _require_unicode(await connection.fetchval(_ENCODING))
        while step := await _apply_next(database, connection):
            applied.append(step)
    finally:
        await connection.close()
    return applied


async def pending(database: Database) -> Sequence[Migration]:
    """Return the outstanding steps without applying them. Raises as `migrate` does."""
    try:
        rows = await database.fetch(_APPLIED)
    except SchemaMismatch:
        rows = []
    return outstanding(known_migrations(), [tuple(row) for row in rows])


async def require_schema(database: Database) -> None:
    """Raise `SchemaMismatch` unless the schema is ours, and `DatabaseUnusable` if this database cannot have it."""
    for row in await database.fetch(_ENCODING):
        _require_unicode(row[0])
    if steps := await pending(database):
        raise SchemaMismatch(f"the schema lacks {', '.join(map(str, steps))}; run `provisioner migrate`")


def _require_unicode(encoding: str) -> None:
    """Raise `DatabaseUnusable` unless every text can be stored and is read back unchanged."""
    if encoding != "UTF8":
        raise DatabaseUnusable(
            f"the database stores text as {encoding}, which cannot represent every text: create one with"
            " `createdb --encoding UTF8 --template template0`"
        )


class _OvertakenError(Exception):
    """Another migrator has created the ledger meanwhile."""


async def _apply_next(database: Database, connection: "asyncpg.Connection[asyncpg.Record]") -> Migration | None:
    with database_errors():
        while True:  # after being overtaken, this one finds the ledger
            with suppress(_OvertakenError):
                async with connection.transaction():
                    await database.set_up(connection)
                    return await _apply(connection)


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]") -> Migration | None:
    if not await connection.fetchval("SELECT to_regclass('provisioner.migrations') IS NOT NULL"):
        try:
            await connection.execute(_LEDGER)
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateSchemaError) as error:
            raise _OvertakenError from error
    await connection.execute(_LOCK)
    applied = [tuple(row) for row in await connection.fetch(_APPLIED)]
    steps = outstanding(known_migrations(), applied)
    if not steps:
        return None
    # A session that waits for a lock blocks all later ones, so it is better to fail and be called again.
    await connection.execute("SET LOCAL lock_timeout = '10s'")
    await connection.execute(steps[0].sql)
    await connection.execute(_RECORD, steps[0].version, steps[0].name, steps[0].checksum)
    return steps[0]


def _folder() -> Traversable:
    """Return the folder of the steps: inside the installed package, or at the top of a checkout."""
    packaged = files("provisioner.postgres") / "migrations"
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / "migrations"
