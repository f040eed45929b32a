"""Operations on many requests, in batches, and on targets: the functions of the schema."""

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
BATCH: Final = 10_000  # requests per transaction: the locks of a million would block the workers for minutes

Operation = Literal["cancel", "retry"]

# The states that each operation can change; the functions themselves ignore all others.
CHANGEABLE: Final[Mapping[Operation, tuple[State, ...]]] = {
    "cancel": (*UNFINISHED, State.FAILED),
    "retry": (State.FAILED, State.CANCELLED, State.REMOVED, State.RETRYING, State.QUARANTINED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One batch of an operation: the number of requests it processed, and how many it changed in which way."""

    seen: int
    changed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseState:
    """When and by whom a target was paused, now or before `resume`; `changed` is false if nothing had to be done."""

    changed: bool
    paused_at: datetime | None = None
    paused_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An operator's limit at a target: `writes` in `period` seconds; None means what the settings say."""

    writes: int | None = None
    period: float | None = None
    in_flight: int | None = None
    limited_at: datetime | None = None
    limited_by: str | None = None


def changeable(operation: Operation, wanted: Filter) -> Filter | None:
    """Return the filter without the states that the operation cannot change; None if nothing is left."""
    states = tuple(state for state in CHANGEABLE[operation] if not wanted.states or state in wanted.states)
    return replace(wanted, states=states) if states else None


async def carry_out(database: Database, operation: Operation, wanted: Filter) -> AsyncIterator[Step]:
    """Apply an operation to every request that the filter matches, each batch in its own transaction.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`; earlier batches stay done. Repeating it is harmless.
    """
    chosen = changeable(operation, wanted)
    for kind, its in parts(chosen) if chosen is not None else ():
        last = -1
        while ids := await ids_after(database, kind, its, last, limit=BATCH):
            rows = await database.fetch(statements(_SQL)[operation], ids)
            yield Step(seen=len(ids), changed=Counter({row["word"]: row["requests"] for row in rows}))
            last = ids[-1]


async def leaving(database: Database, wanted: Filter) -> Filter | None:
    """Return the filter for the rotations that may have left a key behind; None if there are none.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as `deleted` does.
    """
    rows = await database.fetch(statements(_SQL)["left_behind"])
    ids = [row["id"] for row in rows if not wanted.ids or row["id"] in set(wanted.ids)]
    return replace(wanted, ids=ids) if ids else None


async def deleted(database: Database, ids: Sequence[int]) -> int:
    """Note that the keys which these rotations left behind were deleted; returns how many had left any."""
    return len(await database.fetch(statements(_SQL)["keys_deleted"], list(ids)))


async def pause(database: Database, target: str) -> PauseState:
    """Pause a target: no more claims; what is in flight finishes. Harmless if it is paused already."""
    row = await database.fetchrow(statements(_SQL)["pause"], target)
    if row is not None:
        return PauseState(changed=True, paused_at=row["paused_at"], paused_by=row["paused_by"])
    held = await database.fetchrow(statements(_SQL)["held"], target)
    return PauseState(changed=False, **dict(held or {}))


async def resume(database: Database, target: str) -> PauseState:
    """Resume a target. Harmless if it is not paused."""
    row = await database.fetchrow(statements(_SQL)["resume"], target)
    return PauseState(changed=row is not None, **dict(row or {}))


async def set_limit(
    database: Database, target: str, *, writes: int | None, period: float, in_flight: int | None
) -> Limit:
    """Limit writes per `period` seconds and creates in flight; None means no limit, and three Nones lift the limit."""
    row = await database.fetchrow(statements(_SQL)["set_limit"], target, writes, timedelta(seconds=period), in_flight)
    return Limit(**dict(row or {}))


async def known_targets(database: Database) -> frozenset[str]:
    """Return every target that the database knows."""
    rows = await database.fetch(statements(_SQL)["served"])
    return frozenset(row["target"] for row in rows).union(await requested_targets(database))
