"""Decide what happens next to a claimed request.

Pure functions: no clock, no randomness, no I/O; callers pass all three in. What each observation means is laid down in
the table of `infisical-api.md` §8. The idea: a create may always be sent again under the same name, for the name is
unique in the project; but after an attempt whose outcome is unknown the connection is looked up first, and a
connection that is found is recorded only when it is provably of our own making.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from provisioner.core.changes import STILL_TO_COME, after_change
from provisioner.core.description import describe
from provisioner.core.doubt import REPLICA_LAG, is_ours, late_commit_wait
from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Connection,
    Decision,
    Do,
    ErrorCode,
    Fail,
    Observation,
    OnConflict,
    Proof,
    Result,
    Retry,
    Succeed,
    value,
)
from provisioner.core.skew import Reading

# A pause after an unknown outcome, seconds: a late commit usually follows within moments, and reads may come from a
# replica.
DOUBT_PAUSE: Final = 1.0
# What is nobody's fault is tried again soon, but not by everybody at once.
TROUBLE_CAP: Final = 10.0
# What was made in the wrong place is tried to be deleted for so many seconds after the claim: two windows of a limiter.
REMOVE_FOR: Final = 120.0
_PASSING: Final = frozenset({Result.THROTTLED, Result.NOT_SENT, Result.UNKNOWN, Result.TOKEN_TROUBLE})
_DENIED: Final = (Result.FORBIDDEN, Result.NOT_IN_PROJECT, Result.FOREIGN_PROJECT)
# What only Infisical itself can say of a request: where it is not proven that it did, the outcome is unknown.
_VERDICTS: Final = frozenset({*_DENIED, Result.KEY_REFUSED, Result.PROJECT_MISSING, Result.INVALID})
_OWN_TROUBLE: Final = {
    Result.KEY_REFUSED: ErrorCode.CREDENTIAL_REFUSED,
    **dict.fromkeys(_DENIED, ErrorCode.PERMISSION_DENIED),
    Result.PROJECT_MISSING: ErrorCode.PROJECT_NOT_FOUND,
    Result.FOLDER_MISSING: ErrorCode.FOLDER_NOT_FOUND,
    Result.KEY_NOT_ISSUED: ErrorCode.KEY_NOT_ISSUED,
    Result.CONNECTION_MISSING: ErrorCode.CONNECTION_FAILED,
}
_NOTHING_KNOWN: Final = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often the row's own trouble is tried before it fails, and for how many seconds at the least."""

    attempts: int
    seconds: float = 0.0


# Fewer tries than `max_attempts` where trying again seldom helps. A fresh grant takes about 10 s to show, a fresh
# project may be missing on a replica; a refused key may be OpenRouter in trouble for a moment.
PATIENCE: Final = {
    ErrorCode.CREDENTIAL_REFUSED: Patience(attempts=3),
    ErrorCode.PERMISSION_DENIED: Patience(attempts=5, seconds=15.0),
    ErrorCode.PROJECT_NOT_FOUND: Patience(attempts=3, seconds=5.0),
    ErrorCode.FOLDER_NOT_FOUND: Patience(attempts=3, seconds=5.0),
    ErrorCode.CONNECTION_FAILED: Patience(attempts=3, seconds=5.0),
    ErrorCode.KEY_NOT_ISSUED: Patience(attempts=3, seconds=5.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that decisions depend on: attempts, and the backoff's base and cap in seconds.

    `marker` is the id of this installation where descriptions are marked, else empty.
    """

    max_attempts: int = 8
    base: float = 2.0
    cap: float = 300.0
    marker: str = ""


@value
class DecisionContext:
    """What is true at the time of a decision.

    `now` is on the database's clock, `clock` what is known of Infisical's. `jitter` is a random number in [0, 1).
    `breaker_closed` says that others get through: trouble is then the row's own.
    """

    now: datetime
    jitter: float
    clock: Reading = _NOTHING_KNOWN
    target_works: bool = False


def decide(
    claim: Claim, action: Action, observation: Observation, *, rules: Rules, context: DecisionContext
) -> Decision:
    """What happens next, after `action` showed `observation`. A create in doubt is in the claim already.

    The calls for one claim never run in a circle: update, confirm or delete, look up, create, identify, replace,
    inspect or remove, each at most once; but what stands in the way of an inspection or a removal is waited out for a
    while.
    """
    if action is Action.INSPECT:
        return _after_inspect(claim, observation, rules, context)
    if action is Action.REMOVE:
        return _after_remove(claim, observation, context)
    if (action is Action.UPDATE or claim.request.recorded_id is not None or claim.request.absent) and (
        decision := after_change(claim, action, observation, marker=rules.marker, clock=context.clock, now=context.now)
    ):
        return decision
    if action is Action.CREATE and observation.proof is Proof.NONE and observation.result in _VERDICTS:
        return _unknown(claim, action, observation, rules, context)
    return plain_success(observation) or _DECIDE[observation.result](claim, action, observation, rules, context)


def plain_success(observation: Observation) -> Succeed | None:
    """The decision that depends on nothing but the observation: the create that was sent has worked."""
    return Succeed(connection=_the(observation)) if observation.result is Result.CREATED else None


def sent_description(claim: Claim, rules: Rules) -> str:
    """The description that a create of this claim carries, as Infisical keeps it."""
    return describe(claim.request.id, claim.request.description, marker=rules.marker)


def streak_after(claim: Claim, code: ErrorCode) -> int:
    """How many failures of the same kind in a row another one makes: each kind has a patience of its own."""
    return claim.streak + 1 if claim.streak_of == code else 1


def backoff(failures: int, *, rules: Rules, jitter: float) -> float:
    """Seconds to wait after the `failures`-th counted failure: exponential, with full jitter."""
    return jitter * min(rules.cap, rules.base * 2.0 ** min(failures - 1, 60))


def no_fault_pause(attempt: int, *, jitter: float) -> float:
    """Seconds to wait after trouble that was not the row's fault: short, never nothing, longer when it lasts."""
    return (0.5 + jitter / 2) * min(TROUBLE_CAP, DOUBT_PAUSE * 2.0 ** min(attempt - 1, 10))


def _wrong_scope(
    _claim: Claim, _action: Action, observation: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    # An answer without a project proves little: perhaps an old server left the field out, or a proxy mixed answers up.
    return Do(action=Action.INSPECT, connection=_the(observation))


def _after_inspect(claim: Claim, observation: Observation, rules: Rules, context: DecisionContext) -> Decision:
    """What a create's answer named was looked up by its id: record it, remove it, or leave it alone and look again.

    It is removed only if it belongs to the whole organization and this request's create can have made it.
    """
    named = _the(observation)
    if pause := _waits(claim, observation, context, absent_for=REPLICA_LAG):
        return Do(action=Action.INSPECT, connection=named, delay=pause)
    if observation.result is Result.FORBIDDEN:
        return Fail(
            code=ErrorCode.WRONG_SCOPE,
            message=f"the create was answered without a project, and connection {named.id}, which it named, cannot be"
            f" looked at ({observation.message}): check whether it belongs to the project or to the whole organization",
        )
    if (
        observation.result is Result.FOUND
        and named.name == claim.request.name
        and is_ours(claim, named, marker=rules.marker, clock=context.clock)
    ):
        if named.project_id is None:
            return Do(action=Action.REMOVE, connection=named)
        if named.project_id.lower() == claim.request.project_id.lower():
            return Succeed(connection=named)
    message = "the create was answered without a project, and what it named is not this request's connection"
    return _unknown(claim, Action.CREATE, replace(observation, message=message), rules, context)


def _waits(claim: Claim, observation: Observation, context: DecisionContext, *, absent_for: float = 0.0) -> float:
    """Seconds to wait for what passes, before the same call is made again; none once it has lasted too long."""
    longest = (
        absent_for if observation.result is Result.ABSENT else REMOVE_FOR if observation.result in _PASSING else 0.0
    )
    if (context.now - claim.claimed_at).total_seconds() >= longest:
        return 0.0
    return min(max(observation.retry_after or 0.0, no_fault_pause(1, jitter=context.jitter)), REMOVE_FOR)


def _after_remove(claim: Claim, observation: Observation, context: DecisionContext) -> Decision:
    """Fail loudly, once it is gone or cannot be deleted: no later attempt would find it outside the project."""
    if pause := _waits(claim, observation, context):
        return Do(action=Action.REMOVE, connection=_the(observation), delay=pause)
    if observation.result in {Result.REMOVED, Result.ABSENT}:
        end = "it was deleted again"
    else:
        end = f"it could not be deleted again ({observation.message}): delete it by hand"
    return Fail(
        code=ErrorCode.WRONG_SCOPE,
        message=f"Infisical made the connection outside the requested project; {end}."
        " Is this Infisical recent enough to have project connections?",
    )


def _updated(
    _claim: Claim, _action: Action, observation: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    # Only somebody else's connection is ever replaced.
    return Succeed(connection=_the(observation), adopted=True)


def _name_taken(
    _claim: Claim, _action: Action, _seen: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    return Do(action=Action.IDENTIFY)


def _found(claim: Claim, _action: Action, observation: Observation, rules: Rules, context: DecisionContext) -> Decision:
    connection, request = _the(observation), claim.request
    recorded = request.recorded_id is not None and connection.id.lower() == request.recorded_id.lower()
    if recorded or is_ours(claim, connection, marker=rules.marker, clock=context.clock):
        if request.edits.credential and not (recorded or claim.cancelled):
            return Do(action=Action.UPDATE, connection=connection)  # it was made with the key that it had then
        return Succeed(connection=connection, adopted=recorded and request.adopted)
    if claim.cancelled:
        return Cancel()
    match claim.request.on_conflict:
        case OnConflict.ADOPT:
            return Succeed(connection=connection, adopted=True)
        case OnConflict.REPLACE:
            return Do(action=Action.REPLACE, connection=connection)
        case OnConflict.FAIL:
            return Fail(
                code=ErrorCode.NAME_CONFLICT,
                message=f"the project already has a {request.thing} {request.name!r} that this request did not make"
                f" (id {connection.id}); rename one of them, or set on_conflict to {request.taking_over} and retry",
            )


def _other_app(claim: Claim, _action: Action, _seen: Observation, _rules: Rules, _context: DecisionContext) -> Decision:
    if claim.cancelled:
        return Cancel()
    return Fail(
        code=ErrorCode.NAME_CONFLICT,
        message=f"the project already has a connection {claim.request.name!r} of another app;"
        " rename one of them and retry",
    )


def _absent(claim: Claim, action: Action, observation: Observation, rules: Rules, context: DecisionContext) -> Decision:
    if action is not Action.LOOK_UP:
        message = f"the name is taken, but the connection that has it cannot be seen: {observation.message}"
        return _again(claim, ErrorCode.GAVE_UP, message, rules, context)
    if not claim.cancelled:
        return Do(action=Action.CREATE)
    # Nobody looks again once it is cancelled, so this is the last look only when nothing can come any more.
    if pause := late_commit_wait(claim, context.now):
        return Retry(delay=pause, message=STILL_TO_COME)
    return Cancel()


def _own_trouble(
    claim: Claim, _action: Action, observation: Observation, rules: Rules, context: DecisionContext
) -> Decision:
    return _again(claim, _OWN_TROUBLE[observation.result], observation.message, rules, context)


def _invalid(
    _claim: Claim, _action: Action, observation: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    return Fail(code=ErrorCode.INVALID_REQUEST, message=observation.message)


def _plan_restricted(
    claim: Claim, _action: Action, observation: Observation, _rules: Rules, context: DecisionContext
) -> Decision:
    # The whole organization's, so nobody's row is at fault: the breaker opens, and all wait for another plan.
    pause = no_fault_pause(claim.attempt, jitter=context.jitter)
    return Retry(delay=pause, message=observation.message, code=ErrorCode.PLAN_RESTRICTED)


def _secret_exists(
    _claim: Claim, _action: Action, observation: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    return Fail(code=ErrorCode.SECRET_EXISTS, message=observation.message)


def _no_fault(
    claim: Claim, _action: Action, observation: Observation, _rules: Rules, context: DecisionContext
) -> Decision:
    return Retry(delay=no_fault_pause(claim.attempt, jitter=context.jitter), message=observation.message)


def _throttled(
    _claim: Claim, _action: Action, observation: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    # Back in line at once: the blocked budget makes everybody wait, the row has lost nothing.
    return Retry(delay=0.0, message=observation.message)


def _unknown(
    claim: Claim, _action: Action, observation: Observation, rules: Rules, context: DecisionContext
) -> Decision:
    if context.target_works:
        # Others get through, so it is this row that the server cannot digest.
        return _again(claim, ErrorCode.OUTCOME_UNKNOWN, observation.message, rules, context)
    pause = no_fault_pause(claim.attempt, jitter=context.jitter)
    return Retry(delay=pause, message=observation.message, code=ErrorCode.OUTCOME_UNKNOWN)


def _no_key(
    _claim: Claim, _action: Action, observation: Observation, _rules: Rules, _context: DecisionContext
) -> Decision:
    unknown = observation.result is Result.CREDENTIAL_UNKNOWN
    code = ErrorCode.CREDENTIAL_UNKNOWN if unknown else ErrorCode.CREDENTIAL_UNREADABLE
    return Fail(code=code, message=observation.message)


def _credential_away(
    claim: Claim, _action: Action, observation: Observation, _rules: Rules, context: DecisionContext
) -> Decision:
    # Where the key is kept is out of reach: that is no fault of the row, however long it lasts.
    pause = max(observation.retry_after or 0.0, no_fault_pause(claim.attempt, jitter=context.jitter))
    return Retry(delay=pause, message=observation.message)


def _again(claim: Claim, code: ErrorCode, message: str, rules: Rules, context: DecisionContext) -> Decision:
    """Try again what is the row's own trouble, until its patience is at an end."""
    failures = claim.failures + 1
    streak = streak_after(claim, code)
    patience = PATIENCE.get(code, Patience(attempts=rules.max_attempts))
    tried_for = (context.now - claim.first_tried_at).total_seconds()
    if failures >= rules.max_attempts or (streak >= patience.attempts and tried_for >= patience.seconds):
        return Fail(code=code, message=message)
    pause = max(backoff(failures, rules=rules, jitter=context.jitter), DOUBT_PAUSE / 2)
    return Retry(delay=pause, message=message, code=code, counted=True)


def _the(observation: Observation) -> Connection:
    if observation.connection is None:
        raise ValueError(f"an observation of {observation.result} has to carry its connection")
    return observation.connection


_DECIDE: Final[dict[Result, Callable[[Claim, Action, Observation, Rules, DecisionContext], Decision]]] = {
    Result.UPDATED: _updated,
    Result.REMOVED: _no_fault,
    Result.IN_USE: _invalid,
    Result.FOUND: _found,
    Result.ABSENT: _absent,
    Result.WRONG_SCOPE: _wrong_scope,
    Result.NAME_TAKEN: _name_taken,
    Result.OTHER_APP: _other_app,
    **dict.fromkeys(_OWN_TROUBLE, _own_trouble),
    Result.INVALID: _invalid,
    Result.PLAN_RESTRICTED: _plan_restricted,
    Result.SECRET_EXISTS: _secret_exists,
    Result.THROTTLED: _throttled,
    Result.TOKEN_TROUBLE: _no_fault,
    Result.MISCONFIGURED: _no_fault,
    Result.UNKNOWN: _unknown,
    Result.NOT_SENT: _no_fault,
    Result.CREDENTIAL_UNKNOWN: _no_key,
    Result.CREDENTIAL_UNREADABLE: _no_key,
    Result.CREDENTIAL_AWAY: _credential_away,
}
