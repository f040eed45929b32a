"""What operators do to many requests, and to a target: the functions of the schema, in batches where there are many."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from provisioner.core.requests import UNFINISHED, State
from provisioner.postgres.browse import ids_after, requested_targets
from provisioner.postgres.filters import Filter, parts
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "operations"
BATCH: Final = 10_000  # requests in one transaction: the locks of a million would hold the workers up for minutes

Operation = Literal["cancel", "retry"]

# What each deed can change; all else is left alone by the functions themselves.
CHANGEABLE: Final[Mapping[Operation, tuple[State, ...]]] = {
    "cancel": (*UNFINISHED, State.FAILED),
    "retry": (State.FAILED, State.CANCELLED, State.REMOVED, State.RETRYING, State.QUARANTINED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One batch of a deed: how many requests were looked at, and how many of each kind it changed."""

    seen: int
    changed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Since when a target is held, or was until now, and by whom; `changed` unless it was so before."""

    changed: bool
    paused_at: datetime | None = None
    paused_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What is allowed at a target by whom since when: `writes` in `period` seconds; None is what the settings say."""

    writes: int | None = None
    period: float | None = None
    in_flight: int | None = None
    limited_at: datetime | None = None
    limited_by: str | None = None


def changeable(operation: Operation, wanted: Filter) -> Filter | None:
    """The same filter, without the states that the deed cannot change; None if nothing is left of it."""
    states = tuple(state for state in CHANGEABLE[operation] if not wanted.states or state in wanted.states)
    return replace(wanted, states=states) if states else None


async def carry_out(database: Database, operation: Operation, wanted: Filter) -> AsyncIterator[Step]:
    """Do it to every request that the filter matches, each batch in a transaction of its own.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`; the batches before were done. Doing it again is harmless.
    """
    chosen = changeable(operation, wanted)
    for kind, its in parts(chosen) if chosen is not None else ():
        last = -1
        while ids := await ids_after(database, kind, its, last, limit=BATCH):
            rows = await database.fetch(statements(_SQL)[operation], ids)
            yield Step(seen=len(ids), changed=Counter({row["word"]: row["requests"] for row in rows}))
            last = ids[-1]


async def leaving(database: Database, wanted: Filter) -> Filter | None:
    """The filter for those rotations alone that may have left a key behind; None if there are none.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as `deleted` does.
    """
    rows = await database.fetch(statements(_SQL)["left_behind"])
    ids = [row["id"] for row in rows if not wanted.ids or row["id"] in set(wanted.ids)]
    return replace(wanted, ids=ids) if ids else None


async def deleted(database: Database, ids: Sequence[int]) -> int:
    """Note that the keys are deleted that these rotations left behind, and tell how many had left any."""
    return len(await database.fetch(statements(_SQL)["keys_deleted"], list(ids)))


async def pause(database: Database, target: str) -> Hold:
    """Hold a target: nothing more of it is claimed, what is in flight ends. Harmless when it is held already."""
    row = await database.fetchrow(statements(_SQL)["pause"], target)
    if row is not None:
        return Hold(changed=True, paused_at=row["paused_at"], paused_by=row["paused_by"])
    held = await database.fetchrow(statements(_SQL)["held"], target)
    return Hold(changed=False, **dict(held or {}))


async def resume(database: Database, target: str) -> Hold:
    """Let a target go on. Harmless when it is not held."""
    row = await database.fetchrow(statements(_SQL)["resume"], target)
    return Hold(changed=row is not None, **dict(row or {}))


async def set_limit(
    database: Database, target: str, *, writes: int | None, period: float, in_flight: int | None
) -> Limit:
    """Allow so many writes in `period` seconds, so many in flight; None leaves it, and all of them lift the limit."""
    row = await database.fetchrow(statements(_SQL)["set_limit"], target, writes, timedelta(seconds=period), in_flight)
    return Limit(**dict(row or {}))


async def known_targets(database: Database) -> frozenset[str]:
    """Every target that the database has heard of."""
    rows = await database.fetch(statements(_SQL)["served"])
    return frozenset(row["target"] for row in rows).union(await requested_targets(database))
