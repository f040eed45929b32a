"""Choose the first call for a recorded or unwanted connection, and interpret its answer. Pure.

A row is desired state, and any difference from what was recorded is work. An update sends what was edited; a deletion
removes what is no longer wanted. Both name an id that was recorded, or that evidence shows to be ours, so both may be
repeated. If everything that was edited can be read back, a lost update is checked by a read first. A connection that
somebody else made is left alone unless the row says otherwise.
"""

from datetime import datetime
from typing import Final

from provisioner.core.doubt import is_ours, late_commit_wait
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
    Remove,
    Result,
    Retry,
    Succeed,
)
from provisioner.core.skew import Reading

STILL_TO_COME: Final = "a create that was lost may still be carried out; what it makes is looked for after that"
_GONE: Final = frozenset({Result.REMOVED, Result.ABSENT, Result.PROJECT_MISSING})
_NOT_OURS: Final = frozenset({Result.ABSENT, Result.OTHER_APP, Result.PROJECT_MISSING})


def first_step(claim: Claim, now: datetime) -> Decision:
    """Return the first call for a claim; `now` is on the database's clock.

    A recorded connection is updated or deleted by its id. If an earlier create may have succeeded, the connection is
    looked up before it is created again.
    """
    if claim.request.recorded_id is not None:
        return Cancel() if claim.cancelled else _change(claim)
    if claim.request.absent:
        return _look_for_the_unwanted(claim, now)
    if claim.doubt or claim.request.looks_up_first:
        return Do(action=Action.LOOK_UP)
    return Cancel() if claim.cancelled else Do(action=Action.CREATE)


def after_change(
    claim: Claim, action: Action, observation: Observation, *, marker: str, clock: Reading, now: datetime
) -> Decision | None:
    """Decide after a call for a request that has a connection, or wants none.

    Returns None if the ordinary rules of `core.policy` apply.
    """
    if action is Action.DELETE:
        return _after_delete(claim, observation, now)
    if action in {Action.UPDATE, Action.CONFIRM}:
        return _after_update(claim, action, observation)
    found = observation.connection if observation.result is Result.FOUND else None
    if not claim.request.absent or (found is None and observation.result not in _NOT_OURS):
        return None
    if found is not None and is_ours(claim, found, marker=marker, clock=clock):
        return Do(action=Action.DELETE, connection=claim.request.removing(found))
    return Remove()


def recorded_twice(claim: Claim, connection: Connection, other: str) -> Decision:
    """Decide what to do when `other`, a request of another target, has already recorded this connection."""
    if claim.cancelled:
        return Cancel()
    return Fail(
        code=ErrorCode.NAME_CONFLICT,
        message=f"{other} has already recorded this connection (id {connection.id}): both targets are the same"
        " Infisical and organization; cancel one of the requests, and configure only one of the targets",
    )


def _change(claim: Claim) -> Decision:
    """Return the call that turns the recorded connection into the requested one."""
    request = claim.request
    if request.absent:
        letting_go = request.adopted and not request.edits.adopted
        return Remove() if letting_go else Do(action=Action.DELETE, connection=request.removing(recorded(claim)))
    found_out = request.reads_back and claim.attempt > 1
    return Do(
        action=Action.UPDATE if request.edits.any and not found_out else Action.CONFIRM, connection=recorded(claim)
    )


def recorded(claim: Claim) -> Connection:
    """Return the connection that a request has recorded, as far as the request knows it."""
    request = claim.request
    return Connection(
        id=request.recorded_id or "",
        project_id=request.project_id,
        org_id=None,
        credentials_hash="",
        name=request.name,
        app="",
        method="",
        description=None,
        created_at=None,
    )


def _after_update(claim: Claim, action: Action, observation: Observation) -> Decision | None:
    """Decide after an update, or after a read of a recorded connection."""
    request = claim.request
    match observation.result:
        case Result.FOUND if (
            action is Action.CONFIRM
            and request.reads_back
            and request.edits.any
            and observation.connection is not None
            and not request.has_edits(observation.connection)
        ):
            return Do(action=Action.UPDATE, connection=recorded(claim))
        case Result.UPDATED | Result.FOUND if observation.connection is not None:
            return Succeed(connection=observation.connection, adopted=request.adopted)
        case Result.ABSENT if request.looks_up_first:
            return Remove()
        case Result.ABSENT:
            # Somebody deleted it, so it is created again. A create of ours that is in doubt is looked up before that.
            return Do(action=Action.LOOK_UP if claim.doubt else Action.CREATE)
        case Result.NAME_TAKEN:
            return Fail(
                code=ErrorCode.NAME_CONFLICT,
                message=f"the project already has another {request.thing} {request.name!r}, so this one keeps the name"
                " that it has; choose another name",
            )
        case _:
            return None


def _after_delete(claim: Claim, observation: Observation, now: datetime) -> Decision | None:
    """Decide after a deletion. Unless it is gone or in use it is deleted again: no other connection can have its id."""
    if observation.result is Result.IN_USE:
        return Fail(
            code=ErrorCode.IN_USE,
            message=f"Infisical does not delete the {claim.request.thing}, because something uses it"
            f" ({observation.message})",
        )
    if observation.result not in _GONE:
        return None
    deleted = observation.connection
    if deleted is not None and deleted.id != claim.request.recorded_id:
        return Remove()  # the connection was found by a look-up
    return _look_for_the_unwanted(claim, now)


def _look_for_the_unwanted(claim: Claim, now: datetime) -> Decision:
    """Look for the result of a create in doubt, once that create can no longer be committed."""
    if not claim.doubt:
        return Remove()
    if pause := late_commit_wait(claim, now):
        return Retry(delay=pause, message=STILL_TO_COME)
    return Do(action=Action.LOOK_UP)
