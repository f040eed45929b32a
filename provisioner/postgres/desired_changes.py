"""Changes that operators request for existing connections: removal, or the present key. Preview, then apply."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from provisioner.core.errors import ProvisionerError
from provisioner.postgres.browse import ids_after
from provisioner.postgres.filters import Filter, parts
from provisioner.postgres.kinds import ROTATIONS
from provisioner.postgres.operations import Step
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

COMPARED: Final = 1_000_000  # connections; a larger number is not compared at all
SOON: Final = 300  # milliseconds
_SQL: Final = "operations"
# Requests in one transaction. Each is changed separately, so an error in one does not stop the others.
BATCH: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Remove connections and rotations; with `adopted`, also those that somebody else made.

    Rotations that use these connections are removed first, on request together with their secrets and their keys at
    OpenRouter.
    """

    adopted: bool = False
    with_secrets: bool = False
    revoke_keys: bool = False
    changes: tuple[str, ...] = ("removing", "let go", "removed")
    name: Literal["remove"] = "remove"
    preview: Literal["removal_preview"] = "removal_preview"

    def narrowing(self) -> tuple[object, ...]:
        """Further arguments of the preview statement."""
        return (self.adopted,)

    def arguments(self) -> tuple[object, ...]:
        """Further arguments of the function."""
        return (self.adopted,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rekeying:
    """Send the credential's present key to connections of these credentials, or of all.

    With `fingerprints`, by credential, only to connections whose key differs.
    """

    credentials: Collection[str] | None = None
    fingerprints: Mapping[str, str] | None = None
    changes: tuple[str, ...] = ("sent",)
    name: Literal["rekey"] = "rekey"
    preview: Literal["rekeying_preview"] = "rekeying_preview"

    def narrowing(self) -> tuple[object, ...]:
        """Further arguments of the preview statement."""
        credentials = None if self.credentials is None else list(self.credentials)
        if self.fingerprints is None:
            return credentials, None, None
        return credentials, list(self.fingerprints), list(self.fingerprints.values())

    def arguments(self) -> tuple[object, ...]:
        """Further arguments of the function."""
        return ()


DesiredChange = Removal | Rekeying


async def preview(database: Database, change: DesiredChange, wanted: Filter) -> Counter[str]:
    """Count what the change would do to the requests that the filter matches, by word.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as `bring_about` does.
    """
    found: Counter[str] = Counter()
    async for words in _previewed(database, change, wanted):
        found.update(words.values())
    return found


async def bring_about(database: Database, change: DesiredChange, wanted: Filter) -> AsyncIterator[Step]:
    """Apply the change, each batch in its own transaction. Batches before an error stay done; repeating is harmless."""
    async for words in _previewed(database, change, wanted):
        ids = [each for each, word in words.items() if word in change.changes]
        if not ids:
            continue
        if isinstance(change, Removal) and (change.with_secrets or change.revoke_keys):
            await database.execute(statements(_SQL)["take_along"], ids, change.with_secrets, change.revoke_keys)
        rows = await database.fetch(statements(_SQL)[change.name], ids, *change.arguments())
        changed = Counter({row["word"]: row["requests"] for row in rows if row["requests"]})
        yield Step(seen=len(ids), changed=changed)


async def _previewed(database: Database, change: DesiredChange, wanted: Filter) -> AsyncIterator[Mapping[int, str]]:
    # Rotations before the connections that they use, because removing those would remove them too.
    for kind, its in reversed(parts(wanted)):
        last = -1
        while ids := await ids_after(database, kind, its, last, limit=BATCH):
            if isinstance(change, Rekeying) and kind is ROTATIONS:
                yield dict.fromkeys(ids, "rotation")  # a rotation is never sent a key: Infisical makes it
            else:
                rows = await database.fetch(statements(_SQL)[change.preview], ids, *change.narrowing())
                yield {row["id"]: row["word"] for row in rows}
            last = ids[-1]


async def repair(database: Database, wrong: Mapping[int, Collection[str]]) -> Mapping[int, str]:
    """Put requests in line for everything that is wrong with each; returns the outcome for each.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`; earlier batches stay done, and repeating is harmless.
    """
    outcomes: dict[int, str] = {}
    ids = sorted(wrong)
    for begin in range(0, len(ids), BATCH):
        pairs = [(each, what) for each in ids[begin : begin + BATCH] for what in wrong[each]]
        rows = await database.fetch(
            statements(_SQL)["repair"], [each for each, _ in pairs], [what for _, what in pairs]
        )
        outcomes.update({row["id"]: row["outcome"] for row in rows})
    return outcomes


class TakesTooLong(ProvisionerError):
    """There are too many connections to compare while somebody waits."""


async def outdated(database: Database, fingerprints: Mapping[str, str], batch: str | None, *, of: int) -> int:
    """Count a batch's connections, or all, whose key differs from these of their credentials; there are `of` in total.

    Raises `TakesTooLong`, and the same as above.
    """
    if of > COMPARED:
        raise TakesTooLong
    from asyncpg import QueryCanceledError  # noqa: PLC0415 - the driver is loaded only when there is a connection

    sql = statements(_SQL)
    async with database.acquire() as connection, connection.transaction(readonly=True):
        await database.set_up(connection)
        await connection.execute(sql["soon"], str(SOON))
        try:
            found = await connection.fetchval(sql["outdated"], list(fingerprints), list(fingerprints.values()), batch)
        except QueryCanceledError as error:
            raise TakesTooLong from error
    return int(found)
