"""Record how claims ended: turn settlements into a few statements over arrays, one for each kind of outcome."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from provisioner.core.doubt import possible_create, with_doubt
from provisioner.core.endings import UNSENT, status_after
from provisioner.core.model import (
    UNEDITED,
    AttemptRecord,
    Cancel,
    ErrorCode,
    Fail,
    Outcome,
    Remove,
    Result,
    Retry,
    Settlement,
    Succeed,
)
from provisioner.core.policy import streak_after
from provisioner.core.queue_values import WorkerId
from provisioner.postgres.kinds import BY_NAME, KINDS, Kind, kind_of

if TYPE_CHECKING:
    import asyncpg

    Session = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# The statement for each outcome, and its arrays' columns for one settlement.
_STATEMENT: Final = {Succeed: "succeed", Fail: "fail", Retry: "put_back", Cancel: "cancel", Remove: "remove"}
_CHANGE: Final = "change"
_LOG: Final = "log_attempts"
_DOUBT: Final = "doubt"
_LEFT: Final = "leave_behind"
_TOLD: Final = frozenset({_LOG, _DOUBT, _CHANGE, _LEFT})  # these run last, and get the ids that were settled


# A kind of request, a statement of `settle.sql`, and its arrays.
Call = tuple[str, str, list[Any]]


async def write_settlements(
    connection: "Session", worker: WorkerId, settlements: Sequence[Settlement]
) -> frozenset[int]:
    """Record a batch in one transaction; returns the ids that were still this worker's."""
    calls = tuple(calls_for(settlements))
    if len(calls) == 1:  # a single statement is a transaction by itself, without three more round trips
        settled = await carry_out(connection, worker, calls)
    else:
        async with connection.transaction():
            settled = await carry_out(connection, worker, calls)
    if len(settled) < len(settlements):
        await carry_out(connection, worker, _confessed(settlements, settled))
    return frozenset(settled)


async def carry_out(connection: "Session", worker: WorkerId, calls: Iterable[Call]) -> set[int]:
    """Run the calls in order; returns the ids that were settled, which the last calls get as an argument."""
    settled = set[int]()
    for kind, statement, columns in calls:
        arguments = [*columns, list(settled)] if statement in _TOLD else columns
        rows = await connection.fetch(BY_NAME[kind].sql("settle")[statement], worker, *arguments)
        settled.update([row[0] for row in rows if row[0] is not None])
    return settled


def calls_for(settlements: Sequence[Settlement]) -> Iterator[Call]:
    """Return the calls that record a batch, kind by kind."""
    groups: dict[Kind, list[Settlement]] = {kind: [] for kind in KINDS}
    for settlement in settlements:
        groups[kind_of(settlement.claim.request)].append(settlement)
    for kind, group in groups.items():
        for statement, columns in _calls_for(group, kind):
            yield kind.name, statement, columns


def _calls_for(settlements: Sequence[Settlement], kind: Kind) -> Iterator[tuple[str, list[Any]]]:
    rows: dict[type[Outcome], list[tuple[object, ...]]] = {outcome: [] for outcome in _STATEMENT}
    traces: list[tuple[object, ...]] = []
    for settlement in settlements:
        plain = _is_plain(settlement)
        rows[type(settlement.outcome)].append(_row(settlement, kind, plain=plain))
        if not plain:
            traces += [_record_of(settlement, records) for records in settlement.records]
    for outcome, statement in _STATEMENT.items():
        if rows[outcome]:
            yield statement, [*_standing_of_all(outcome), *_columns(rows[outcome])]
    if changed := [one.claim.request.id for one in settlements if _is_change(one)]:
        yield _CHANGE, [changed]
    if doubt := [row for settlement in settlements for row in _doubt(settlement)]:
        yield _DOUBT, _columns(doubt)
    if left := [row for settlement in settlements for row in _left_behind(settlement)]:
        yield _LEFT, _columns(left)
    if traces:
        yield _LOG, _columns(traces)


def _is_change(settlement: Settlement) -> bool:
    """Whether what was edited of a request has reached its connection."""
    return type(settlement.outcome) is Succeed and settlement.claim.request.edits is not UNEDITED


def _doubt(settlement: Settlement) -> Iterator[tuple[object, ...]]:
    """Yield what is in doubt after a claim, which is rarely anything, so it is a statement of its own.

    After a success there is no doubt left, and after a conflict there may be less.
    """
    claim, outcome = settlement.claim, settlement.outcome
    if not isinstance(outcome, Fail | Retry):
        return
    for sent in claim.doubt:
        what = (sent.target, sent.project_id, sent.name, sent.description, sent.exact, sent.key_fingerprint)
        yield (claim.request.id, sent.sent_at, sent.ended_at, sent.proof.value, *what)
    if not claim.doubt and isinstance(outcome, Fail) and outcome.code is ErrorCode.NAME_CONFLICT and claim.attempt > 1:
        yield (claim.request.id, *[None] * 9)


def _left_behind(settlement: Settlement) -> Iterator[tuple[object, ...]]:
    """Yield what a failure may have left behind, for kinds of request with a column for it."""
    if isinstance(settlement.outcome, Fail) and settlement.outcome.left_behind:
        yield settlement.claim.request.id, settlement.outcome.left_behind


def _confessed(settlements: Sequence[Settlement], settled: Collection[int]) -> Iterator[Call]:
    """Yield successes of claims that others have taken over: the new owners must know of these creates."""
    late = [
        with_doubt(one.claim, possible_create(one.claim, call.started_at + timedelta(seconds=call.elapsed)))
        for one in settlements
        if one.claim.request.id not in settled
        for call in one.records[:1]
        if call.result is Result.CREATED
    ]
    known = [Settlement(claim=claim, outcome=UNSENT, sent=claim.sent + 1) for claim in late]
    return (call for call in calls_for(known) if call[1] == _DOUBT)


def _is_plain(settlement: Settlement) -> bool:
    """Whether a single create was sent and succeeded: the statement that records it also logs it."""
    return (
        type(settlement.outcome) is Succeed
        and len(settlement.records) == 1
        and settlement.records[0].result is Result.CREATED
    )


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _row(settlement: Settlement, kind: Kind, *, plain: bool) -> tuple[object, ...]:
    claim, outcome = settlement.claim, settlement.outcome
    who = (claim.request.id, claim.fence, claim.attempt, settlement.sent)
    match outcome:
        case Succeed(connection=made, adopted=adopted):
            call = settlement.records[0] if plain else None
            logged = (call.started_at, call.elapsed, call.status, call.req_id) if call else (None, None, None, None)
            return (*who, made.id, adopted, *logged, claim.claimed_at, *kind.result(settlement, outcome))
        case Fail(code=code, message=message):
            stands = status_after(Fail, doubted=bool(claim.doubt))
            said = (claim.request.absent, code, message)
            return (*who, claim.failures + 1, claim.first_tried_at, *said, *stands)
        case Retry(code=code, message=message, counted=counted, delay=delay, quarantine=quarantine):
            streak = (streak_after(claim, code), code) if counted and code else (claim.streak, claim.streak_of)
            stands = status_after(Retry, doubted=bool(claim.doubt))
            why = (code, message, delay, quarantine, *streak, stands.status, stands.if_cancelled)
            return (*who, claim.failures + counted, claim.first_tried_at, *why)
        case Remove():
            return (*who, *kind.removal(settlement))
        case Cancel():
            return who


def _standing_of_all(outcome: type[Outcome]) -> tuple[str, ...]:
    """Return the statuses that a statement gets once, because they do not depend on doubt."""
    stands = status_after(outcome, doubted=False)
    if outcome in {Succeed, Remove}:
        return stands.status, stands.if_edited
    return (stands.status,) if outcome is Cancel else ()


def _record_of(settlement: Settlement, records: AttemptRecord) -> tuple[object, ...]:
    code: ErrorCode | None = None
    if isinstance(settlement.outcome, Fail | Retry) and records is settlement.records[-1]:
        code = settlement.outcome.code
    fine = records.result in {Result.CREATED, Result.UPDATED, Result.FOUND}
    return (
        settlement.claim.request.id,
        settlement.claim.attempt,
        records.action,
        records.started_at,
        records.elapsed,
        records.status,
        records.req_id,
        records.result.value,
        code,
        None if fine else records.message,
        settlement.claim.claimed_at,
    )
