"""Write how claims ended: settlements become a few statements over arrays, one for each kind of outcome."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from provisioner.core.model import (
    Cancel,
    ErrorCode,
    Fail,
    Retry,
    Seen,
    Settlement,
    Succeed,
    Trace,
)
from provisioner.core.ports import WorkerId
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

    Session = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# The statement for each outcome, and its arrays' columns for one settlement.
_STATEMENT: Final = {Succeed: "succeed", Fail: "fail", Retry: "put_back", Cancel: "cancel"}


async def write_settlements(session: "Session", worker: WorkerId, settlements: Sequence[Settlement]) -> frozenset[int]:
    """Write a batch inside the caller's transaction; returns the ids that were still this worker's to settle."""
    sql = statements("settle")
    settled: set[int] = set()
    for kind, statement in _STATEMENT.items():
        rows = [_row(settlement) for settlement in settlements if type(settlement.outcome) is kind]
        if rows:
            records = await session.fetch(sql[statement], worker, *_columns(rows))
            settled.update(record[0] for record in records)
    traces = [_trace(settlement, trace) for settlement in settlements for trace in settlement.trace]
    if traces:
        await session.execute(sql["log_attempts"], worker, *_columns(traces))
    return frozenset(settled)


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _row(settlement: Settlement) -> tuple[object, ...]:
    claim, outcome, sent = settlement.claim, settlement.outcome, settlement.sent
    who = (claim.request.id, claim.attempt)
    match outcome:
        case Succeed(connection=made, adopted=adopted):
            return (*who, made.id, made.org_id, made.credentials_hash, adopted, sent)
        case Fail(code=code, message=message, unknown=unknown):
            doubt = claim.unknown or unknown
            return (*who, sent, claim.failures + 1, claim.first_tried_at, doubt, code, message)
        case Retry(code=code, message=message, counted=counted, unknown=unknown, delay=delay):
            failures = claim.failures + counted
            return (*who, sent, failures, claim.first_tried_at, unknown, code, message, delay, None)
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
