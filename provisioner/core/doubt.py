"""Keep evidence of creates whose outcome is unknown, and decide whether one of them made a connection. Pure.

Every create that was sent is evidence until its outcome is proven: what was sent, when it was sent, when it ended, and
what its end proved. A connection is ours if one of these creates can have made it. `docs/doubt.md` has the proof.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from provisioner.core.description import SPACE, is_description_of, mark_of
from provisioner.core.model import (
    Claim,
    Connection,
    ErrorCode,
    Fail,
    Observation,
    Outcome,
    Proof,
    Result,
    SentCreate,
)
from provisioner.core.skew import Reading

APP: Final = frozenset({"open-router", "openrouter"})
METHOD: Final = "api-key"

# A create that we gave up may still be committed this many seconds later. Infisical continues when its caller hangs up,
# asks OpenRouter up to four times, and may wait for a connection to its own database. Only a marker can tell a later
# commit from somebody else's connection.
LATE_COMMIT: Final = 30.0
# A replica may lack a new connection for this many seconds.
REPLICA_LAG: Final = 10.0
_PROVEN: Final = frozenset({Proof.MADE, Proof.REFUSED, Proof.UNSENT})


def is_evidence(observation: Observation) -> bool:
    """Whether a create with this observation may have made a connection that we do not know."""
    return observation.result is not Result.CREATED and observation.proof not in _PROVEN


def left_in_doubt(claim: Claim, outcome: Outcome) -> tuple[SentCreate, ...]:
    """Return the creates that are still in doubt after a claim has ended.

    After a name conflict it is known who has the name, and a create that was answered with one has no late commit.
    """
    if isinstance(outcome, Fail) and outcome.code is ErrorCode.NAME_CONFLICT:
        return tuple(sent for sent in claim.doubt if sent.proof is not Proof.TAKEN)
    return claim.doubt


def possible_create(claim: Claim, until: datetime) -> SentCreate:
    """Return the create that a claim may have sent at any time until `until`, as far as the claim tells."""
    return SentCreate(
        target=claim.request.target,
        project_id=claim.request.project_id,
        name=claim.request.name,
        description=(claim.request.description or "").strip(SPACE),
        sent_at=claim.claimed_at,
        ended_at=max(until, claim.claimed_at),
        exact=False,
        key_fingerprint=claim.request.mark,
    )


def with_doubt(claim: Claim, sent: SentCreate) -> Claim:
    """Add a create in doubt to a claim."""
    return replace(claim, doubt=merged((*claim.doubt, sent)))


def merged(doubt: Iterable[SentCreate]) -> tuple[SentCreate, ...]:
    """Combine evidence into as few pieces as possible.

    Identical creates become one piece if the next was sent while a late commit of the previous one was still possible.
    Both allow the same connections, and an outage of days leaves one row instead of thousands.
    """
    pieces: list[SentCreate] = []
    for sent in sorted(doubt, key=_order):
        for place, piece in enumerate(pieces):
            if _alike(piece, sent) and sent.sent_at <= latest(piece):
                pieces[place] = replace(piece, ended_at=max(piece.ended_at, sent.ended_at))
                break
        else:
            pieces.append(sent)
    return tuple(sorted(pieces, key=_order))


def latest(sent: SentCreate) -> datetime:
    """Return the latest possible commit time of a create; an answered create is committed by its answer."""
    return sent.ended_at if sent.proof is Proof.TAKEN else sent.ended_at + timedelta(seconds=LATE_COMMIT)


def late_commit_wait(claim: Claim, now: datetime) -> float:
    """Return the seconds for which a create in doubt may still be committed; 0 if none can be any more."""
    if not claim.doubt:
        return 0.0
    return max(0.0, (max(map(latest, claim.doubt)) - now).total_seconds() + REPLICA_LAG)


def can_have_made(sent: SentCreate, connection: Connection, claim: Claim, clock: Reading) -> bool:
    """Whether a create of this claim's request can have made this connection."""
    request = claim.request
    if (sent.target, sent.project_id, sent.name) != (request.target, request.project_id, request.name):
        return False
    described = connection.description or ""
    if described != sent.description and (sent.exact or not is_description_of(request.id, sent.description, described)):
        return False
    if connection.created_at is None:
        return False
    bounds = clock.bounds(lost=sent.proof is not Proof.TAKEN)
    earliest = connection.created_at - timedelta(seconds=bounds.high)
    at_the_latest = connection.created_at - timedelta(seconds=bounds.low)
    return earliest <= latest(sent) and at_the_latest >= sent.sent_at


def is_ours(claim: Claim, connection: Connection, *, marker: str, clock: Reading) -> bool:
    """Whether a connection that was found was made by this request.

    It has our app and method, and one of the creates in doubt can have made it. If descriptions carry a marker, the
    marker alone is enough, and no clock is needed.
    """
    bears_mark = bool(marker) and (connection.description or "").endswith(mark_of(claim.request.id, marker))
    if (told := claim.request.recognises(connection, claim.doubt)) is not None:
        return told or bears_mark
    if connection.app not in APP or connection.method != METHOD:
        return False
    if bears_mark:
        return True
    return any(can_have_made(sent, connection, claim, clock) for sent in claim.doubt)


def _order(sent: SentCreate) -> tuple[datetime, datetime, str]:
    return sent.sent_at, sent.ended_at, sent.description


def _alike(one: SentCreate, other: SentCreate) -> bool:
    return replace(one, sent_at=other.sent_at, ended_at=other.ended_at) == other
