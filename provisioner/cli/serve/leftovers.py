"""What `run --drain` leaves behind, in words, and its exit status. Pure."""

from collections.abc import Iterator

from provisioner.cli.terminal.frame import DONE, NOT_DONE, PARTLY
from provisioner.core.alerts import advice_for
from provisioner.core.reports import Leftovers


def exit_status(left: Leftovers) -> int:
    """0 if everything is done, 1 if something could not be done, else 3 if requests failed.

    What is scheduled for later is no reason to fail.
    """
    if left.paused or left.quarantined or left.outside or left.unserved or left.unfinished or left.unrecorded:
        return NOT_DONE
    return PARTLY if left.failed else DONE


def told(left: Leftovers) -> Iterator[str]:
    """One line for each thing that a person may want to know, the total first."""
    failed = sum(left.failed.values())
    waiting = sum(sum(kind.values()) for kind in (left.paused, left.quarantined, left.outside, left.unserved))
    waiting += left.scheduled + left.unfinished + left.unrecorded
    yield f"{left.succeeded:,} succeeded, {failed:,} failed, {waiting:,} left"
    for code, count in left.failed.items():
        yield (
            f"{count:,} failed with {code or 'no error code'}: {advice_for(code)};"
            f" then run `provisioner retry --error {code}`"
        )
    for target, count in left.paused.items():
        yield f"{_requests(count)} for target {target}, which is paused; `provisioner resume {target}` resumes it"
    for credential, count in left.quarantined.items():
        yield (
            f"{_requests(count)} for the API key of credential {credential}, which OpenRouter refuses:"
            " correct the key, then run this again"
        )
    for target, count in left.outside.items():
        yield (
            f"{_requests(count)} for projects in which the machine identity of target {target} may not create:"
            " add it to them with a role that may create app connections, then run this again"
        )
    for target, count in left.unserved.items():
        yield f"{_requests(count)} for target {target}, which no worker serves: `provisioner run` starts one"
    if left.unrecorded:
        yield f"{_requests(left.unrecorded)} to be recorded: `provisioner status` says why it is refused"
    if left.scheduled:
        its = "its" if left.scheduled == 1 else "their"
        yield f"{_requests(left.scheduled)} for {its} time: not_before is later"
    if left.unfinished:
        yield f"{_requests(left.unfinished)}: the run was stopped before everything was done; run this again"


def _requests(count: int) -> str:
    return "1 request waits" if count == 1 else f"{count:,} requests wait"
