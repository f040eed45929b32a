"""Find what is wrong in a status report, and say what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from provisioner.core.text import several

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from provisioner.core.reports import Retries, Status

# One sentence of advice for each `core.model.ErrorCode`.
ADVICE: Final = {
    "name_conflict": "rename one of the two connections, or set on_conflict to adopt or replace",
    "credential_refused": "replace the key with a valid management key: OpenRouter does not accept this one",
    "credential_unknown": "add the credential to the workers' settings, as [credentials.NAME]",
    "credential_unreadable": "correct the key, its file or its sealing key on the workers; the message says which",
    "project_not_found": "compare project_id with the ID in the project's settings in Infisical",
    "permission_denied": "add the machine identity to the project with a role that may create app connections",
    "invalid_request": "correct the row; the message says what Infisical rejected",
    "wrong_scope": "upgrade Infisical to a version with project connections",
    "target_unknown": "add the target to the workers' settings, as [targets.NAME]",
    "outcome_unknown": "look in Infisical for a connection of that name, which may or may not exist",
    "in_use": "remove what uses the connection in Infisical, such as a secret rotation, then retry",
    "plan_restricted": "change the plan, and the rotations continue automatically, or cancel them",
    "folder_not_found": "create the folder in the environment, or correct environment and secret_path",
    "secret_exists": "choose another secret_name, or delete the existing secret",
    "key_not_issued": "check credit, limits and the management key at OpenRouter, to find out why it creates no key",
    "connection_failed": "fix and retry the connection; the rotation then continues automatically",
    "gave_up": "fix what the message says about the last attempt",
}
PLAN: Final = "plan_restricted"
FALLBACK_ADVICE: Final = "read the message"
# Retries are reported only after this long: most backoffs of eight attempts fit into it, so they may still succeed.
RETRY_ALERT_AFTER: Final = timedelta(minutes=5)
# A person can do nothing about these codes until the request has failed.
_NOT_ACTIONABLE: Final = frozenset({"", "outcome_unknown", "gave_up"})


def advice_for(error_code: str) -> str:
    """Return the advice for requests that failed with this code."""
    return ADVICE.get(error_code, FALLBACK_ADVICE)


class Kind(StrEnum):
    """The kinds of alerts."""

    FAILED = "requests_failed"
    UNRECORDED = "outcomes_unrecorded"
    PAUSED = "target_paused"
    UNSERVED = "target_unserved"
    OUTSIDE = "projects_quarantined"
    REFUSED = "key_refused"
    RETRYING = "requests_retried"
    HELD = "rotations_held"
    DRIFTED = "connections_drifted"
    LEFT_BEHIND = "keys_left_behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One problem that will not get better by waiting. `subject` is an error code or the name of a target.

    `said` is a sentence that says what to do, and may contain text from outside. `counted` is our own wording of the
    number of connections and rotations, for alerts about both.
    """

    kind: Kind
    subject: str = ""
    requests: int
    said: str
    counted: str = ""


def find_alerts(status: Status) -> tuple[Alert, ...]:
    """List every problem that will not get better by waiting."""
    return (*_failed(status), *_others(status))


def alert_messages(status: Status) -> tuple[str, ...]:
    """Return the alerts as sentences that say what to do, with all failures in one sentence."""
    found = []
    if status.progress is not None and status.progress.failed:
        count = several(status.progress.failed, "request has", "requests have")
        codes = {failure.error_code for failure in status.failures}
        found.append(f"{count} failed: fix the cause, then run `provisioner retry {_which(codes)}`")
    return (*found, *(each.said for each in _others(status)))


def _failed(status: Status) -> Iterator[Alert]:
    for failure in status.failures:
        code = failure.error_code
        count = several(failure.requests, "request has", "requests have")
        said = f"{count} failed: fix the cause, then run `provisioner retry {_which({code})}`"
        yield Alert(kind=Kind.FAILED, subject=code, requests=failure.requests, said=said)


def _others(status: Status) -> Iterator[Alert]:
    if number := status.unrecorded.requests:
        yield Alert(
            kind=Kind.UNRECORDED,
            requests=number,
            said=f"{several(number, 'outcome')} cannot be recorded, for example that of request"
            f" {status.unrecorded.example_id}: {status.unrecorded.example}; remove the cause",
        )
    for outside in status.outside:
        waits = several(outside.requests, "request waits", "requests wait")
        count = several(outside.projects, "project")
        said = (
            f"{waits} for {count} in which the machine identity of target {outside.target} may not create,"
            f" for example {outside.example}: add it there with a role that may create app connections,"
            " and they continue automatically"
        )
        yield Alert(kind=Kind.OUTSIDE, subject=outside.target, requests=outside.requests, said=said)
    for key in status.refused_keys:
        if key.requests:
            count = several(key.requests, "request waits", "requests wait")
            said = f"{count} because OpenRouter refuses the key of credential {key.credential}: replace the key"
            yield Alert(kind=Kind.REFUSED, subject=key.credential, requests=key.requests, said=said)
    yield from _retried(status)
    if status.drifted:
        count = status.drifted_words
        said = f"{count} not as recorded in Infisical: `provisioner verify` shows the differences"
        yield Alert(kind=Kind.DRIFTED, requests=status.drifted, said=said, counted=count)
    if status.leaving:
        said = (
            f"{several(status.leaving, 'rotation')} may have left keys behind at OpenRouter that can spend"
            " money: `provisioner rotations --left-behind` says which; delete them there, then run"
            " `provisioner rotations ID… --deleted`"
        )
        yield Alert(kind=Kind.LEFT_BEHIND, requests=status.leaving, said=said)
    yield from _waiting(status)


def _waiting(status: Status) -> Iterator[Alert]:
    """Yield the targets whose requests wait until a person acts."""
    for target in status.targets:
        name = target.target
        if target.pending and target.restricted:
            count = several(target.pending, "rotation waits", "rotations wait")
            said = f"{count} because the plan of Infisical at {name} has no secret rotations: {advice_for(PLAN)}"
            yield Alert(kind=Kind.HELD, subject=name, requests=target.pending, said=said)
        if target.pending and target.paused_at is not None:
            count = several(target.pending, "request waits", "requests wait")
            said = f"target {name} is paused and {count} for it: `provisioner resume {name}` resumes it"
            yield Alert(kind=Kind.PAUSED, subject=name, requests=target.pending, said=said)
        if target.pending and not target.workers:
            said = f"no worker serves target {name}: `provisioner run` starts one"
            yield Alert(kind=Kind.UNSERVED, subject=name, requests=target.pending, said=said)


def _retried(status: Status) -> Iterator[Alert]:
    stuck = [each for each in status.retries if needs_a_person(each, status)]
    for code in dict.fromkeys(each.error_code for each in stuck):
        requests = sum(each.requests for each in stuck if each.error_code == code)
        said = f"{several(requests, 'request is', 'requests are')} being retried with {code}: {advice_for(code)}"
        yield Alert(kind=Kind.RETRYING, subject=code, requests=requests, said=said)


def needs_a_person(retries: Retries, status: Status) -> bool:
    """Whether these requests have been retried for long enough, for a reason that a person can fix."""
    if retries.quarantine or retries.error_code in _NOT_ACTIONABLE or retries.since is None:
        return False  # another alert names the key or the projects of a quarantine
    if _is_held(retries, status):
        return False
    return status.now - retries.since >= RETRY_ALERT_AFTER


def _is_held(retries: Retries, status: Status) -> bool:
    """Whether the whole target waits for another plan, for which there is one alert already."""
    return retries.error_code == PLAN and any(
        each.restricted for each in status.targets if each.target == retries.target
    )


def incidents(status: Status) -> tuple[str, ...]:
    """List the problems that are being handled: nobody has to act, and nothing is lost."""
    return tuple(_incidents(status))


def _incidents(status: Status) -> Iterator[str]:
    for target in status.targets:
        if target.trouble and not target.restricted:
            yield (
                f"target {target.target} is in trouble{target.partly}: {target.trouble};"
                " only single probes are sent until it works again"
            )
        if target.blocked_until is not None and target.blocked_until > status.now:
            yield f"target {target.target} is over its rate limit: nothing is sent until the limit resets"
    for each in status.retries:
        if not each.quarantine and not _is_held(each, status) and not needs_a_person(each, status):
            count = several(each.requests, "request is", "requests are")
            yield f"{count} being retried with {each.error_code or 'no code'} at target {each.target}"
    if status.workers.lost:
        count = several(status.workers.lost, "worker was", "workers were")
        yield f"{count} lost: other workers take over their requests"


def _which(codes: Collection[str]) -> str:
    """Return the options that select the failed requests: by error code if they have one in common."""
    return " ".join(("--error", *codes)) if len(codes) == 1 and all(codes) else "--state failed"
