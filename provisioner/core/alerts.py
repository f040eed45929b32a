"""What of a status is wrong, and what to do about it."""

from collections.abc import Iterator
from typing import Final

from provisioner.core.reports import Status

# What to do about each error code of `core.model.ErrorCode`, in one sentence.
ADVICE: Final = {
    "name_conflict": "rename one of the two connections, or set on_conflict to adopt or replace",
    "credential_refused": "replace the key, which OpenRouter does not accept, with a valid management key",
    "credential_unknown": "add the credential to the workers' settings, as [credentials.NAME]",
    "credential_unreadable": "correct the key, its file or its sealing key on the workers: the message says which",
    "project_not_found": "compare project_id with the ID in the project's settings in Infisical",
    "permission_denied": "add the machine identity to the project with a role that may create app connections",
    "invalid_request": "correct the row: the message says what Infisical rejected",
    "wrong_scope": "upgrade Infisical to a version with project connections",
    "target_unknown": "add the target to the workers' settings, as [targets.NAME]",
    "outcome_unknown": "look in Infisical for a connection of that name: it is unknown whether it was made",
    "plan_restricted": "choose a plan of Infisical that has secret rotations: they all wait until then",
    "folder_not_found": "create the folder in the environment, or correct environment and secret_path",
    "secret_exists": "choose another secret_name, or delete the secret that is there",
    "key_not_issued": "see why OpenRouter makes no key: credit, limits, and whether the management key is still valid",
    "connection_failed": "fix its connection and retry that: the rotation then goes on by itself",
    "gave_up": "fix what the message says: it tells what came of the last attempt",
}
OTHERWISE: Final = "the message says what is known"


def remedy(error_code: str) -> str:
    """What to do about requests that failed with this code."""
    return ADVICE.get(error_code, OTHERWISE)


def alerts(status: Status) -> tuple[str, ...]:
    """Everything that will not get better by waiting, in sentences that say what to do."""
    found = []
    if status.progress is not None and status.progress.failed:
        count = _count(status.progress.failed, "request has", "requests have")
        found.append(f"{count} failed: fix the cause, then run `provisioner retry {_which(status)}`")
    if status.unrecorded.requests:
        count = _count(status.unrecorded.requests, "outcome", "outcomes")
        found.append(
            f"{count} cannot be recorded, for example that of request {status.unrecorded.example_id}:"
            f" {status.unrecorded.example}; remove the cause"
        )
    for target in status.targets:
        name = target.target
        if target.pending and target.paused_at is not None:
            count = _count(target.pending, "request waits", "requests wait")
            found.append(f"target {name} is paused and {count} for it: `provisioner resume {name}` resumes it")
        if target.pending and not target.workers:
            found.append(f"no worker serves target {name}: `provisioner run` starts one")
    return tuple(found)


def incidents(status: Status) -> tuple[str, ...]:
    """What is wrong and is being dealt with: nobody has to do anything, and nothing is lost."""
    return tuple(_incidents(status))


def _incidents(status: Status) -> Iterator[str]:
    for target in status.targets:
        if target.trouble:
            yield (
                f"target {target.target} is in trouble{target.partly}: {target.trouble};"
                " only single probes are sent until it works again"
            )
        if target.blocked_until is not None and target.blocked_until > status.now:
            yield f"target {target.target} is over its rate limit: nothing is sent until the limit resets"
    if status.workers.lost:
        count = _count(status.workers.lost, "worker was", "workers were")
        yield f"{count} lost: other workers take over their requests"


def _which(status: Status) -> str:
    """The option that selects the failed requests: by their code if they have one in common."""
    codes = {failure.error_code for failure in status.failures}
    return " ".join(("--error", *codes)) if len(codes) == 1 and all(codes) else "--state failed"


def _count(number: int, one: str, many: str) -> str:
    return " ".join((f"{number:,}", one if number == 1 else many))
