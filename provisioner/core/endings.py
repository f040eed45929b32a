"""Decide the status of a request after one of its claims has ended. Pure.

A request may be cancelled or edited up to the moment at which its outcome is recorded, and only the recording statement
sees that. So each outcome comes with a status for each case, decided here, and the statement picks the right one.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final, NamedTuple

from provisioner.core.model import Cancel, Claim, ErrorCode, Fail, Outcome, Remove, Retry, Succeed


class Status(StrEnum):
    """The values of `connection_requests.status`."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REMOVED = "removed"


class StatusAfter(NamedTuple):
    """The status after an outcome, and the statuses if the request was cancelled or edited meanwhile.

    Edited means that the row now wants something other than the outcome delivered: present or absent, or another key.
    An edit takes precedence over a cancellation.
    """

    status: Status
    if_cancelled: Status
    if_edited: Status


def status_after(outcome: type[Outcome], *, doubted: bool) -> StatusAfter:
    """Return the statuses after an outcome; `doubted` says that creates of the request are still in doubt.

    A connection that was made is recorded even if the request was cancelled. Nothing looks for the possible results of
    a cancelled request, so a request in doubt is not cancelled: it is looked up, or a person is asked.
    """
    return _STANDINGS[outcome, doubted]


_P, _S, _F, _C, _R = Status.PENDING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.REMOVED
_STANDINGS: Final[Mapping[tuple[type[Outcome], bool], StatusAfter]] = {
    (Succeed, False): StatusAfter(_S, if_cancelled=_S, if_edited=_P),
    (Succeed, True): StatusAfter(_S, if_cancelled=_S, if_edited=_P),
    (Fail, False): StatusAfter(_F, if_cancelled=_C, if_edited=_P),
    (Fail, True): StatusAfter(_F, if_cancelled=_F, if_edited=_P),
    (Retry, False): StatusAfter(_P, if_cancelled=_C, if_edited=_P),
    (Retry, True): StatusAfter(_P, if_cancelled=_P, if_edited=_P),
    (Cancel, False): StatusAfter(_C, if_cancelled=_C, if_edited=_C),
    (Cancel, True): StatusAfter(_C, if_cancelled=_C, if_edited=_C),
    (Remove, False): StatusAfter(_R, if_cancelled=_R, if_edited=_P),
    (Remove, True): StatusAfter(_R, if_cancelled=_R, if_edited=_P),
}

# The outcome of a claim that was never sent.
UNSENT: Final = Retry(delay=0.0, message="the claim was given back before anything was sent")
# The outcome of a claim whose answer a stopping worker no longer waits for.
ABANDONED: Final = Retry(
    delay=1.0, message="the worker was stopped before the answer came", code=ErrorCode.OUTCOME_UNKNOWN
)
# The outcome of a claim whose answer contains a value that no database can store.
UNSTORABLE: Final = Fail(
    code=ErrorCode.OUTCOME_UNKNOWN, message="Infisical's answer cannot be stored; look in the project"
)
# Many requests wait for the same budget window. If they returned together they would be claimed and put back again and
# again, so they return spread over this many seconds.
SPREAD: Final = 12.0


def without_budget(wait: float, *, jitter: float) -> Retry:
    """Return the outcome of a claim that lacks a permit for its call; one will be available in `wait` seconds."""
    return Retry(delay=wait + SPREAD * jitter, message="the budget for such calls is used up")


def database_silent(message: str) -> Retry:
    """Return the outcome of a claim that cannot go on while the database is unavailable."""
    return Retry(delay=1.0, message=message)


def lost(pause: float) -> Retry:
    """Return the outcome of a lost worker's claim: it is looked up first, after `pause` seconds."""
    return Retry(
        delay=pause,
        message="the worker was lost while it worked on this; the connection is looked up before it is created again",
        code=ErrorCode.OUTCOME_UNKNOWN,
    )


def unknown_target(target: str) -> Fail:
    """Return the outcome of a request whose target no worker has ever had."""
    return Fail(
        code=ErrorCode.TARGET_UNKNOWN,
        message=f"no worker knows the target '{target}'; name it in the settings as [targets.{target}], then retry",
    )


def with_leftovers(claim: Claim, outcome: Outcome) -> Outcome:
    """Add to an outcome's message what the claim's creates may have left behind.

    A cancelled request would hide that, so it fails instead.
    """
    if not isinstance(outcome, Fail | Cancel) or not (left := claim.request.left_behind(claim.doubt, None)):
        return outcome
    if isinstance(outcome, Cancel):
        return Fail(code=ErrorCode.OUTCOME_UNKNOWN, message=f"it was cancelled; {left}", left_behind=left)
    return replace(outcome, message=f"{outcome.message}; {left}", left_behind=left)
