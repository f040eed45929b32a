"""Decide what happens next to a claimed request.

These functions are pure: callers pass the time and random numbers. The table in `infisical-api.md` §8 defines what each
observation means. A create may always be repeated with the same name, because names are unique in a project. But after
an attempt with an unknown outcome the connection is looked up first, and a connection that is found is recorded only if
it is provably ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple

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

# The pause after an unknown outcome, in seconds: a late commit usually follows within moments, and a replica may lag.
DOUBT_PAUSE: Final = 1.0
# Trouble that is nobody's fault is retried soon, but spread out.
TROUBLE_CAP: Final = 10.0
# A connection in the wrong place is deleted within this many seconds of the claim: two windows of a rate limiter.
REMOVE_FOR: Final = 120.0
_PASSING: Final = frozenset({Result.THROTTLED, Result.NOT_SENT, Result.UNKNOWN, Result.TOKEN_TROUBLE})
_DENIED: Final = (Result.FORBIDDEN, Result.NOT_IN_PROJECT, Result.FOREIGN_PROJECT)
# Only Infisical itself can say these things about a request. Without proof that it did, the outcome is unknown.
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
    """How many attempts, over how many seconds at least, the row's own trouble gets before the request fails."""

    attempts: int
    seconds: float = 0.0


# Fewer attempts than `max_attempts` where retrying rarely helps. A new grant takes about 10 s to show, a new project
# may be missing on a replica, and a refused key may be a short incident at OpenRouter.
PATIENCE_BY_CODE: Final = {
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

    `marker` is this installation's id if descriptions carry a marker, else empty.
    """

    max_attempts: int = 8
    base: float = 2.0
    cap: float = 300.0
    marker: str = ""


@value
class DecisionContext:
    """The circumstances of a decision.

    `now` is on the database's clock, and `clock` is what is known about Infisical's. `jitter` is a random number in [0,
    1). `target_works`: other requests succeed at the target, so trouble is the row's own.
    """

    now: datetime
    jitter: float
    clock: Reading = _NOTHING_KNOWN
    target_works: bool = False


class _Facts(NamedTuple):
    """Everything that a decision depends on."""

    claim: Claim
    action: Action
    observation: Observation
    rules: Rules
    context: DecisionContext

    @property
    def pause(self) -> float:
        """The seconds to wait after trouble that is not the row's fault."""
        return no_fault_pause(self.claim.attempt, jitter=self.context.jitter)


def decide(
    claim: Claim, action: Action, observation: Observation, *, rules: Rules, context: DecisionContext
) -> Decision:
    """Decide what happens after `action` showed `observation`. The claim's doubt already contains this create.

    The calls for one claim never loop: update, confirm, delete, look up, create, identify, replace, inspect and remove
    happen at most once each. Only an inspection or a removal is repeated for a while if something temporary prevents
    it.
    """
    if action is Action.INSPECT:
        return _after_inspect(claim, observation, rules, context)
    if action is Action.REMOVE:
        return _after_remove(claim, observation, context)
    if (action is Action.UPDATE or claim.request.recorded_id is not None or claim.request.absent) and (
        decision := after_change(claim, action, observation, marker=rules.marker, clock=context.clock, now=context.now)
    ):
        return decision
    facts = _Facts(claim, action, observation, rules, context)
    if action is Action.CREATE and observation.proof is Proof.NONE and observation.result in _VERDICTS:
        return _unknown(facts)
    return plain_success(observation) or _DECIDE[observation.result](facts)


def plain_success(observation: Observation) -> Succeed | None:
    """Return the decision for the usual case, which depends only on the observation: the create succeeded."""
    return Succeed(connection=_the(observation)) if observation.result is Result.CREATED else None


def sent_description(claim: Claim, rules: Rules) -> str:
    """Return the description that a create of this claim sends, in the form that Infisical stores."""
    return describe(claim.request.id, claim.request.description, marker=rules.marker)


def streak_after(claim: Claim, code: ErrorCode) -> int:
    """Return how many failures of this kind there are in a row after another one; each kind has its own patience."""
    return claim.streak + 1 if claim.streak_of == code else 1


def backoff(failures: int, *, rules: Rules, jitter: float) -> float:
    """Return the seconds to wait after the `failures`-th counted failure: exponential, with full jitter."""
    return jitter * min(rules.cap, rules.base * 2.0 ** min(failures - 1, 60))


def no_fault_pause(attempt: int, *, jitter: float) -> float:
    """Return the seconds to wait after trouble that is not the row's fault: short, never zero, growing slowly."""
    return (0.5 + jitter / 2) * min(TROUBLE_CAP, DOUBT_PAUSE * 2.0 ** min(attempt - 1, 10))


def _wrong_scope(facts: _Facts) -> Decision:
    # An answer without a project proves little: an old server may omit the field, or a proxy may have mixed up answers.
    return Do(action=Action.INSPECT, connection=_the(facts.observation))


def _after_inspect(claim: Claim, observation: Observation, rules: Rules, context: DecisionContext) -> Decision:
    """Decide after an inspection of the connection that a create's answer named: record, remove, or look up by name.

    It is removed only if it belongs to the whole organization and a create of this request can have made it.
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
    return _unknown(_Facts(claim, Action.CREATE, replace(observation, message=message), rules, context))


def _waits(claim: Claim, observation: Observation, context: DecisionContext, *, absent_for: float = 0.0) -> float:
    """Return the seconds to wait before the same call is repeated; 0 once the trouble has lasted too long."""
    longest = (
        absent_for if observation.result is Result.ABSENT else REMOVE_FOR if observation.result in _PASSING else 0.0
    )
    if (context.now - claim.claimed_at).total_seconds() >= longest:
        return 0.0
    return min(max(observation.retry_after or 0.0, no_fault_pause(1, jitter=context.jitter)), REMOVE_FOR)


def _after_remove(claim: Claim, observation: Observation, context: DecisionContext) -> Decision:
    """Fail after the removal, because no later attempt would find the connection outside the project."""
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


def _updated(facts: _Facts) -> Decision:
    # Only somebody else's connection is ever replaced.
    return Succeed(connection=_the(facts.observation), adopted=True)


def _name_taken(_facts: _Facts) -> Decision:
    return Do(action=Action.IDENTIFY)


def _found(facts: _Facts) -> Decision:
    connection, request = _the(facts.observation), facts.claim.request
    recorded = request.recorded_id is not None and connection.id.lower() == request.recorded_id.lower()
    if recorded or is_ours(facts.claim, connection, marker=facts.rules.marker, clock=facts.context.clock):
        if request.edits.credential and not (recorded or facts.claim.cancelled):
            return Do(action=Action.UPDATE, connection=connection)  # it was made with an earlier key
        return Succeed(connection=connection, adopted=recorded and request.adopted)
    if facts.claim.cancelled:
        return Cancel()
    match facts.claim.request.on_conflict:
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


def _other_app(facts: _Facts) -> Decision:
    if facts.claim.cancelled:
        return Cancel()
    return Fail(
        code=ErrorCode.NAME_CONFLICT,
        message=f"the project already has a connection {facts.claim.request.name!r} of another app;"
        " rename one of them and retry",
    )


def _absent(facts: _Facts) -> Decision:
    if facts.action is not Action.LOOK_UP:
        message = f"the name is taken, but the connection that has it cannot be seen: {facts.observation.message}"
        return _again(facts, ErrorCode.GAVE_UP, message)
    if not facts.claim.cancelled:
        return Do(action=Action.CREATE)
    # After a cancellation nothing looks again, so this look-up is the last only if no commit can follow.
    if pause := late_commit_wait(facts.claim, facts.context.now):
        return Retry(delay=pause, message=STILL_TO_COME)
    return Cancel()


def _own_trouble(facts: _Facts) -> Decision:
    return _again(facts, _OWN_TROUBLE[facts.observation.result], facts.observation.message)


def _invalid(facts: _Facts) -> Decision:
    return Fail(code=ErrorCode.INVALID_REQUEST, message=facts.observation.message)


def _plan_restricted(facts: _Facts) -> Decision:
    # The plan applies to the whole organization, so no row is at fault: the breaker opens, and all wait for another
    # plan.
    pause = facts.pause
    return Retry(delay=pause, message=facts.observation.message, code=ErrorCode.PLAN_RESTRICTED)


def _secret_exists(facts: _Facts) -> Decision:
    return Fail(code=ErrorCode.SECRET_EXISTS, message=facts.observation.message)


def _no_fault(facts: _Facts) -> Decision:
    return Retry(delay=facts.pause, message=facts.observation.message)


def _throttled(facts: _Facts) -> Decision:
    # Back in line at once: the blocked budget already delays everything, and the row has lost nothing.
    return Retry(delay=0.0, message=facts.observation.message)


def _unknown(facts: _Facts) -> Decision:
    if facts.context.target_works:
        # Other requests succeed, so the server cannot handle this one.
        return _again(facts, ErrorCode.OUTCOME_UNKNOWN, facts.observation.message)
    pause = facts.pause
    return Retry(delay=pause, message=facts.observation.message, code=ErrorCode.OUTCOME_UNKNOWN)


def _no_key(facts: _Facts) -> Decision:
    unknown = facts.observation.result is Result.CREDENTIAL_UNKNOWN
    code = ErrorCode.CREDENTIAL_UNKNOWN if unknown else ErrorCode.CREDENTIAL_UNREADABLE
    return Fail(code=code, message=facts.observation.message)


def _credential_away(facts: _Facts) -> Decision:
    # The place where the key is kept is unreachable, which is never the row's fault.
    pause = max(facts.observation.retry_after or 0.0, facts.pause)
    return Retry(delay=pause, message=facts.observation.message)


def _again(facts: _Facts, code: ErrorCode, message: str) -> Decision:
    """Retry the row's own trouble until its patience runs out."""
    failures = facts.claim.failures + 1
    streak = streak_after(facts.claim, code)
    patience = PATIENCE_BY_CODE.get(code, Patience(attempts=facts.rules.max_attempts))
    tried_for = (facts.context.now - facts.claim.first_tried_at).total_seconds()
    if failures >= facts.rules.max_attempts or (streak >= patience.attempts and tried_for >= patience.seconds):
        return Fail(code=code, message=message)
    pause = max(backoff(failures, rules=facts.rules, jitter=facts.context.jitter), DOUBT_PAUSE / 2)
    return Retry(delay=pause, message=message, code=code, counted=True)


def _the(observation: Observation) -> Connection:
    if observation.connection is None:
        raise ValueError(f"an observation of {observation.result} has to carry its connection")
    return observation.connection


_DECIDE: Final[dict[Result, Callable[[_Facts], Decision]]] = {
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
