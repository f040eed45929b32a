"""Write how claims ended: settlements become a few statements over arrays, one for each kind of outcome."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from provisioner.core.model import (
    Cancel,
    ErrorCode,
    Fail,
    Outcome,
    Retry,
    Seen,
    Settlement,
    Succeed,
    Trace,
)
from provisioner.core.policy import streak_after
from provisioner.core.ports import WorkerId
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

    Session = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# The statement for each outcome, and its arrays' columns for one settlement.
_STATEMENT: Final = {Succeed: "succeed", Fail: "fail", Retry: "put_back", Cancel: "cancel"}
_LOG: Final = "log_attempts"


# A statement of `settle.sql` by its name, with its arrays.
Call = tuple[str, list[list[Any]]]


async def write_settlements(
    connection: "Session", worker: WorkerId, settlements: Sequence[Settlement]
) -> frozenset[int]:
    """Write a batch in one transaction; returns the ids that were still this worker's to settle."""
    calls = tuple(calls_for(settlements))
    if len(calls) == 1:  # a statement alone is a transaction of its own, without three more round trips
        return frozenset(await carry_out(connection, worker, calls))
    async with connection.transaction():
        return frozenset(await carry_out(connection, worker, calls))


async def carry_out(connection: "Session", worker: WorkerId, calls: Iterable[Call]) -> set[int]:
    """Carry out the calls in their order; returns the ids that were settled. The log comes last, and is told them."""
    sql, settled = statements("settle"), set[int]()
    for name, columns in calls:
        arguments = [*columns, list(settled)] if name == _LOG else columns
        rows = await connection.fetch(sql[name], worker, *arguments)
        settled.update([row[0] for row in rows if row[0] is not None])
    return settled


def calls_for(settlements: Sequence[Settlement]) -> Iterator[Call]:
    """The calls that record a batch."""
    rows: dict[type[Outcome], list[tuple[object, ...]]] = {kind: [] for kind in _STATEMENT}
    traces: list[tuple[object, ...]] = []
    for settlement in settlements:
        plain = _is_plain(settlement)
        rows[type(settlement.outcome)].append((*_row(settlement, plain=plain), settlement.claim.fence))
        if not plain:
            traces += [_trace(settlement, trace) for trace in settlement.trace]
    for kind, statement in _STATEMENT.items():
        if rows[kind]:
            yield statement, _columns(rows[kind])
    if traces:
        yield _LOG, _columns(traces)


def _is_plain(settlement: Settlement) -> bool:
    """Whether a single create was all that was sent, and worked: the statement that records it logs it too."""
    return (
        type(settlement.outcome) is Succeed and len(settlement.trace) == 1 and settlement.trace[0].seen is Seen.CREATED
    )


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _row(settlement: Settlement, *, plain: bool) -> tuple[object, ...]:
    claim, outcome, sent = settlement.claim, settlement.outcome, settlement.sent
    who = (claim.request.id, claim.attempt)
    match outcome:
        case Succeed(connection=made, adopted=adopted):
            call = settlement.trace[0] if plain else None
            logged = (call.started_at, call.elapsed, call.status, call.req_id) if call else (None, None, None, None)
            return (*who, made.id, made.org_id, made.credentials_hash, adopted, sent, *logged)
        case Fail(code=code, message=message, unknown=unknown):
            doubt = claim.unknown or unknown
            return (*who, sent, claim.failures + 1, claim.first_tried_at, doubt, code, message)
        case Retry(code=code, message=message, counted=counted, unknown=unknown, delay=delay, hold=hold):
            failures = claim.failures + counted
            streak = (streak_after(claim, code), code) if counted and code else (claim.streak, claim.streak_of)
            return (*who, sent, failures, claim.first_tried_at, unknown, code, message, delay, hold, *streak)
        case Cancel():
            return (*who, sent)


def _trace(settlement: Settlement, trace: Trace) -> tuple[object, ...]:
    code: ErrorCode | None = None
    if isinstance(settlement.outcome, Fail | Retry) and trace is settlement.trace[-1]:
        code = settlement.outcome.code
    fine = trace.seen in {Seen.CREATED, Seen.UPDATED, Seen.FOUND}
    return (
        settlement.claim.request.id,
        settlement.claim.attempt,
        trace.action,
        trace.started_at,
        trace.elapsed,
        trace.status,
        trace.req_id,
        trace.seen.value,
        code,
        None if fine else trace.message,
    )
