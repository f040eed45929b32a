"""Write how claims ended: settlements become a few statements over arrays, one for each kind of outcome."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from provisioner.core.doubt import unheard, with_doubt
from provisioner.core.model import (
    Cancel,
    ErrorCode,
    Fail,
    OnConflict,
    Outcome,
    Retry,
    Seen,
    Settlement,
    Succeed,
    Trace,
)
from provisioner.core.policy import recorded_by, streak_after
from provisioner.core.ports import WorkerId
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

    Session = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# The statement for each outcome, and its arrays' columns for one settlement.
_STATEMENT: Final = {Succeed: "succeed", Fail: "fail", Retry: "put_back", Cancel: "cancel"}


async def write_settlements(
    connection: "Session", worker: WorkerId, settlements: Sequence[Settlement]
) -> frozenset[int]:
    """Write a batch in one transaction; returns the ids that were still this worker's to settle."""
    if found := [one for one in settlements if _was_found(one)]:
        settlements = await _without_recorded(connection, settlements, found)
    calls = tuple(_statements(worker, settlements))
    doubtful = [settlement for settlement in settlements if _is_doubtful(settlement)]
    settled: set[int] = set()
    if len(calls) == 1 and not doubtful:
        # A statement alone is a transaction of its own, without three more round trips.
        sql, arguments = calls[0]
        settled.update([record[0] for record in await connection.fetch(sql, *arguments)])
        if len(settled) < len(settlements):
            await _confess(connection, settlements, settled)
        return frozenset(settled)
    async with connection.transaction():
        for sql, arguments in calls:
            settled.update([record[0] for record in await connection.fetch(sql, *arguments)])
        if doubtful and (arguments := _doubt(doubtful, settled)):
            await connection.execute(statements("settle")["doubt"], *arguments)
        if len(settled) < len(settlements):
            await _confess(connection, settlements, settled)
    return frozenset(settled)


def _was_found(settlement: Settlement) -> bool:
    """Whether a connection is recorded for the request's own that no answer to its create has named."""
    outcome = settlement.outcome
    return type(outcome) is Succeed and outcome.adopted and settlement.claim.request.on_conflict is OnConflict.FAIL


async def _without_recorded(
    connection: "Session", settlements: Sequence[Settlement], found: Sequence[Settlement]
) -> Sequence[Settlement]:
    """The settlements, with a conflict for each connection that another request has recorded before."""
    columns = _columns(
        (one.claim.request.id, one.outcome.connection.id, one.claim.request.project_id, one.claim.request.name)
        for one in found
        if isinstance(one.outcome, Succeed)
    )
    taken = {row["id"]: row for row in await connection.fetch(statements("settle")["recorded"], *columns)}
    return [
        replace(one, outcome=recorded_by(taken[id_]["other"], taken[id_]["target"]))
        if (id_ := one.claim.request.id) in taken and one in found
        else one
        for one in settlements
    ]


async def _confess(connection: "Session", settlements: Sequence[Settlement], settled: Collection[int]) -> None:
    """Others have taken some of these over, whose creates have worked all the same: who has them now must know."""
    late = [
        with_doubt(one.claim, unheard(one.claim, call.started_at + timedelta(seconds=call.elapsed)))
        for one in settlements
        if one.claim.request.id not in settled
        for call in one.trace[:1]
        if call.seen is Seen.CREATED
    ]
    taken_over = [Settlement(claim=claim, outcome=_TAKEN_OVER, sent=claim.sent + 1) for claim in late]
    if arguments := _doubt(taken_over, ()):
        await connection.execute(statements("settle")["doubt"], *arguments)


_TAKEN_OVER: Final = Retry(delay=0.0, message="others have taken it over")


def _is_doubtful(settlement: Settlement) -> bool:
    """Whether what is in doubt of a request is to be written down: seldom, so it is a statement of its own."""
    conflict = isinstance(settlement.outcome, Fail) and settlement.outcome.code is ErrorCode.NAME_CONFLICT
    return bool(settlement.claim.doubt) or (conflict and settlement.claim.attempt > 1)


def _doubt(settlements: Sequence[Settlement], settled: Collection[int]) -> list[object]:
    """The arguments of the statement that writes down what is in doubt; those that have succeeded have none left."""
    left = [settlement for settlement in settlements if not isinstance(settlement.outcome, Succeed | Cancel)]
    rows = [
        (
            settlement.claim.request.id,
            sent.sent_at,
            sent.ended_at,
            sent.proof.value,
            sent.target,
            sent.project_id,
            sent.name,
            sent.description,
            sent.exact,
            sent.key_fingerprint,
        )
        for settlement in left
        for sent in settlement.claim.doubt
    ]
    ids = [settlement.claim.request.id for settlement in left if settlement.claim.request.id in settled]
    columns = _columns(rows) if rows else [[] for _ in range(10)]
    return [ids, *columns] if rows or ids else []


def _statements(worker: WorkerId, settlements: Sequence[Settlement]) -> Iterator[tuple[str, list[object]]]:
    """The statements for a batch with their arguments."""
    sql = statements("settle")
    rows: dict[type[Outcome], list[tuple[object, ...]]] = {kind: [] for kind in _STATEMENT}
    traces: list[tuple[object, ...]] = []
    for settlement in settlements:
        plain = _is_plain(settlement)
        rows[type(settlement.outcome)].append(_row(settlement, plain=plain))
        if not plain:
            traces += [_trace(settlement, trace) for trace in settlement.trace]
    for kind, statement in _STATEMENT.items():
        if rows[kind]:
            yield sql[statement], [worker, *_columns(rows[kind])]
    if traces:
        yield sql["log_attempts"], [worker, *_columns(traces)]


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
        case Fail(code=code, message=message):
            return (*who, sent, claim.failures + 1, claim.first_tried_at, bool(claim.doubt), code, message)
        case Retry(code=code, message=message, counted=counted, delay=delay, hold=hold):
            failures = claim.failures + counted
            streak = (streak_after(claim, code), code) if counted and code else (claim.streak, claim.streak_of)
            doubted = bool(claim.doubt)
            return (*who, sent, failures, claim.first_tried_at, doubted, code, message, delay, hold, *streak)
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
