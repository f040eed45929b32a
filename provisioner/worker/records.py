"""Make the attempt log's records of calls. Pure."""

from datetime import datetime

from provisioner.core.model import NEVER_SENT, Action, AttemptRecord, Claim, Observation, Proof, Result


def lost_attempt(claim: Claim, now: datetime, message: str) -> AttemptRecord:
    """Return the record of a create that may have been sent, and whose answer will never be read."""
    return AttemptRecord(
        action=Action.CREATE,
        started_at=claim.claimed_at,
        elapsed=(now - claim.claimed_at).total_seconds(),
        status=None,
        req_id=None,
        result=Result.UNKNOWN,
        message=message,
    )


def was_sent(observation: Observation) -> bool:
    """Whether anything was sent; without a usable token nothing is."""
    return (
        observation.result not in NEVER_SENT
        and observation.proof is not Proof.UNSENT
        and (observation.result is not Result.TOKEN_TROUBLE or observation.status is not None)
    )


def record_of(action: Action, started_at: datetime, observation: Observation) -> AttemptRecord:
    """Return the record of a call."""
    return AttemptRecord(
        action=action,
        started_at=started_at,
        elapsed=observation.elapsed,
        status=observation.status,
        req_id=observation.req_id,
        result=observation.result,
        message=observation.message,
    )
