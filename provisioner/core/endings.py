"""How a request stands once a claim of it has ended. Pure.

While a claim lasts, its request may be called off or edited until the very moment at which its outcome is recorded, and
only the statement that records it sees that. So an outcome comes with a status for each case, decided here, and the
statement takes the one that fits.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final, NamedTuple

from provisioner.core.model import Cancel, Claim, ErrorCode, Fail, Outcome, Remove, Retry, Succeed


class Status(StrEnum):
    """How a request stands: the words of `connection_requests.status`."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REMOVED = "removed"


class StatusAfter(NamedTuple):
    """The status after an outcome; the one after it if the request was called off meanwhile; the one if it was edited.

    Edited means that it wants something else than the outcome brought: to be there or not, or another key. That counts
    for more than being called off.
    """

    status: Status
    if_cancelled: Status
    if_edited: Status


def status_after(outcome: type[Outcome], *, doubted: bool) -> StatusAfter:
    """How a request stands after an outcome that leaves creates of it in doubt, or none.

    What was made is recorded even if it was called off. Nobody looks again for what a cancelled request may have made,
    so one in doubt stays as it is: it is looked up, or a person is asked.
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

# How a claim ends that was never sent.
UNSENT: Final = Retry(delay=0.0, message="the claim was given back before anything was sent")
# How one ends whose answer a worker that stops no longer waits for.
ABANDONED: Final = Retry(
    delay=1.0, message="the worker was stopped before the answer came", code=ErrorCode.OUTCOME_UNKNOWN
)
# How one ends whose answer holds what no database can.
UNSTORABLE: Final = Fail(
    code=ErrorCode.OUTCOME_UNKNOWN, message="Infisical's answer cannot be stored; look in the project"
)
# Many wait for the same moment of a budget. Together they would be claimed and put back again and again, so they come
# back within so many seconds after it.
SPREAD: Final = 12.0


def without_budget(wait: float, *, jitter: float) -> Retry:
    """How a claim ends that has no permit for the call it needs, and will find one in `wait` seconds."""
    return Retry(delay=wait + SPREAD * jitter, message="the budget for such calls is used up")


def database_silent(message: str) -> Retry:
    """How a claim ends for which the database has to say something first that it does not say just now."""
    return Retry(delay=1.0, message=message)


def lost(pause: float) -> Retry:
    """How a claim ends whose worker was lost: its create may have left, so it is looked up after a pause."""
    return Retry(
        delay=pause,
        message="the worker was lost while it worked on this; the connection is looked up before it is created again",
        code=ErrorCode.OUTCOME_UNKNOWN,
    )


def unknown_target(target: str) -> Fail:
    """How a request ends whose target no worker has ever known."""
    return Fail(
        code=ErrorCode.TARGET_UNKNOWN,
        message=f"no worker knows the target '{target}'; name it in the settings as [targets.{target}], then retry",
    )


def with_leftovers(claim: Claim, outcome: Outcome) -> Outcome:
    """The outcome, with what the claim's creates may have left behind in its words.

    Nobody hears of that once a request is cancelled, so it fails instead.
    """
    if not isinstance(outcome, Fail | Cancel) or not (left := claim.request.left_behind(claim.doubt, None)):
        return outcome
    if isinstance(outcome, Cancel):
        return Fail(code=ErrorCode.OUTCOME_UNKNOWN, message=f"it was cancelled; {left}", left_behind=left)
    return replace(outcome, message=f"{outcome.message}; {left}", left_behind=left)
