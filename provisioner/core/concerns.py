"""What of a status is wrong, and what to do about it."""

from collections.abc import Iterator
from typing import Final

from provisioner.core.reports import Status

# What to do about each error code of `core.model.ErrorCode`, in one sentence.
REMEDIES: Final = {
    "name_conflict": "somebody else's connection has the name: choose another, or set on_conflict to adopt or replace",
    "credential_refused": "OpenRouter does not accept the key: it has to be a management key that is still valid",
    "credential_unknown": "name the credential in the workers' settings, as [credentials.NAME]",
    "credential_unreadable": "the key cannot be opened: see that the workers have the credential's file or sealing key",
    "project_not_found": "no such project: compare project_id with the project's settings in Infisical",
    "permission_denied": "add the machine identity to the project with a role that may create app connections",
    "invalid_request": "Infisical refuses the input: the message says what of it",
    "wrong_scope": "Infisical made it outside the project: the instance may be too old for project connections",
    "target_unknown": "name the target in the workers' settings, as [targets.NAME]",
    "outcome_unknown": "nobody knows whether it was made: look in Infisical for a connection of that name",
    "gave_up": "it was tried as often as retry.max_attempts allows: the message says what came of the last attempt",
}
OTHERWISE: Final = "the message says what is known"


def remedy(error_code: str) -> str:
    """What to do about requests that failed with this code."""
    return REMEDIES.get(error_code, OTHERWISE)


def concerns(status: Status) -> tuple[str, ...]:
    """Everything that will not get better by waiting, in sentences that say what to do."""
    found = []
    if status.progress is not None and status.progress.failed:
        count = status.progress.failed
        found.append(f"{count:,} {'request has' if count == 1 else 'requests have'} failed; mend the cause, then retry")
    if count := status.unrecorded.requests:
        found.append(
            f"{count:,} {'outcome' if count == 1 else 'outcomes'} cannot be recorded, such as that of request"
            f" {status.unrecorded.example_id}: {status.unrecorded.example}; remove the cause"
        )
    for target in status.targets:
        if target.pending and target.paused_at is not None:
            found.append(
                f"target {target.target} is paused and {target.pending:,} wait for it; `provisioner resume` resumes"
            )
        if target.pending and not target.workers:
            found.append(f"no worker is at work on target {target.target}; `provisioner run` starts one")
    return tuple(found)


def setbacks(status: Status) -> tuple[str, ...]:
    """What is wrong and is being dealt with: nobody has to do anything, and nothing is lost."""
    return tuple(_setbacks(status))


def _setbacks(status: Status) -> Iterator[str]:
    for target in status.targets:
        if target.trouble:
            yield (
                f"target {target.target} is in trouble{target.partly}: {target.trouble};"
                " single probes go out until it works again"
            )
        if target.blocked_until is not None and target.blocked_until > status.now:
            yield f"target {target.target} is over its rate limit; nobody sends until that is over"
    if lost := status.workers.lost:
        yield f"{lost:,} {'worker' if lost == 1 else 'workers'} did not come back; others take over what they held"
