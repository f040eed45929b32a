"""Values for tests: each builder gives something ordinary, and the test names only what matters to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from provisioner.core.changes import first_step
from provisioner.core.description import describe
from provisioner.core.doubt import possible_create, with_doubt
from provisioner.core.model import (
    Action,
    AttemptRecord,
    Claim,
    Connection,
    Do,
    Observation,
    Outcome,
    Proof,
    RateHeaders,
    Request,
    Result,
    SentCreate,
    Settlement,
    Succeed,
)
from provisioner.core.policy import DecisionContext

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORGANIZATION = str(UUID(int=0xA))


def at(seconds: float) -> datetime:
    """This many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def project(number: int) -> str:
    """The id of a project."""
    return str(UUID(int=0xF000 + number))


def a_request(**changes: Any) -> Request:
    """A request for the usual connection in project 1."""
    usual = Request(id=1, project_id=project(1), name="openrouter", description=None, credential="default")
    return replace(usual, **changes)


def a_claim(request: Request | None = None, **changes: Any) -> Claim:
    """A first attempt, claimed at noon."""
    usual = Claim(request=request or a_request(), attempt=1, claimed_at=NOON)
    return replace(usual, **changes)


def a_connection(**changes: Any) -> Connection:
    """The connection of the usual request, made a second after noon."""
    usual = Connection(
        id=str(UUID(int=0xC0)),
        project_id=project(1),
        org_id=ORGANIZATION,
        credentials_hash="ab" * 32,
        name="openrouter",
        app="open-router",
        method="api-key",
        description=None,
        created_at=at(1),
    )
    return replace(usual, **changes)


def a_sent_create(request: Request | None = None, **changes: Any) -> SentCreate:
    """A create of the usual request that left at noon, and whose answer was lost five seconds later."""
    asked = request or a_request()
    usual = SentCreate(
        target=asked.target,
        project_id=asked.project_id,
        name=asked.name,
        description=describe(asked.id, asked.description, marker=""),
        sent_at=NOON,
        ended_at=at(5),
    )
    return replace(usual, **changes)


def a_doubted_claim(request: Request | None = None, **changes: Any) -> Claim:
    """A claim whose request had such a create before."""
    return a_claim(request, **({"doubt": (a_sent_create(request),)} | changes))


def doubted(claim: Claim) -> Claim:
    """The same claim, whose create was sent at once and never answered."""
    return with_doubt(claim, possible_create(claim, claim.claimed_at + timedelta(seconds=5)))


PROOFS = {
    Result.CREATED: Proof.MADE,
    Result.NAME_TAKEN: Proof.TAKEN,
    Result.NOT_SENT: Proof.UNSENT,
    Result.CREDENTIAL_UNKNOWN: Proof.UNSENT,
    Result.CREDENTIAL_UNREADABLE: Proof.UNSENT,
    Result.CREDENTIAL_AWAY: Proof.UNSENT,
    Result.KEY_REFUSED: Proof.REFUSED,
    Result.FORBIDDEN: Proof.REFUSED,
    Result.NOT_IN_PROJECT: Proof.REFUSED,
    Result.FOREIGN_PROJECT: Proof.REFUSED,
    Result.PROJECT_MISSING: Proof.REFUSED,
    Result.INVALID: Proof.REFUSED,
    Result.THROTTLED: Proof.REFUSED,
    Result.TOKEN_TROUBLE: Proof.REFUSED,
}


def an_observation(seen: Result, **changes: Any) -> Observation:
    """The observation of one call, from Infisical; results with a connection have the usual one."""
    carries = {Result.CREATED, Result.UPDATED, Result.FOUND, Result.WRONG_SCOPE}
    connection = a_connection() if seen in carries else None
    proof = PROOFS.get(seen, Proof.NONE)
    usual = Observation(result=seen, proof=proof, connection=connection, message=seen.value)
    return replace(usual, **changes)


def a_moment(**changes: Any) -> DecisionContext:
    """Five seconds after noon, with a middling jitter."""
    return replace(DecisionContext(now=at(5), jitter=0.5), **changes)


def a_record(**changes: Any) -> AttemptRecord:
    """An answered create."""
    usual = AttemptRecord(
        action=Action.CREATE,
        started_at=NOON,
        elapsed=0.2,
        status=200,
        req_id="req-0123456789abcd",
        result=Result.CREATED,
        message="",
    )
    return replace(usual, **changes)


def a_settlement(
    claim: Claim, outcome: Outcome | None = None, *, sent: int | None = None, records: Sequence[AttemptRecord] = ()
) -> Settlement:
    """The end of a claim: by default with a connection of its own."""
    made = a_connection(id=str(UUID(int=0xC0000 + claim.request.id)), project_id=claim.request.project_id)
    return Settlement(
        claim=claim,
        outcome=outcome or Succeed(connection=made),
        sent=claim.sent + 1 if sent is None else sent,
        records=tuple(records),
    )


def rate(limit: int, remaining: int, reset: float) -> RateHeaders:
    """The limiter's headers."""
    return RateHeaders(limit=limit, remaining=remaining, reset=reset)


def first_action(claim: Claim) -> Action:
    """The call that a claim of a request begins with, as if nobody had called it off."""
    step = first_step(replace(claim, cancelled=False), claim.claimed_at)
    assert isinstance(step, Do)
    return step.action
