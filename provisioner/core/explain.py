"""Explain to an operator what happened to a request, what happens next, and what to do. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from provisioner.core.alerts import PLAN, advice_for
from provisioner.core.reports import is_restriction
from provisioner.core.requests import Detail
from provisioner.core.text import several


@dataclass(frozen=True, slots=True)
class Formatters:
    """The functions that format points in time, and durations in seconds."""

    moment: Callable[[datetime | None], str]
    duration: Callable[[float], str]


def explain(request: Detail, words: Formatters) -> list[str]:
    """Explain a request in a few sentences."""
    return list(_EXPLAIN.get(request.state, _unplaced)(request, words))


def _succeeded(request: Detail, _words: Formatters) -> Iterator[str]:
    if request.adopted:
        yield f"somebody else had made the {request.kind}, and it was recorded because on_conflict says so"
    else:
        yield f"the {request.kind} was made and recorded"
    if request.is_rotation:
        named = f"; OpenRouter lists it as {request.key_issued}" if request.key_issued else ""
        yield f"its key is in the secret {request.secret}{named}"
        yield from _leftover_keys(request)
    yield f"`provisioner verify {request.id}` compares it with Infisical"


def _failed(request: Detail, _words: Formatters) -> Iterator[str]:
    yield f"it failed with {request.error_code or 'no error code'}; {_tries(request.attempts)}"
    yield f"to fix it: {advice_for(request.error_code or '')}"
    if request.awaited_id is not None:
        yield f"its connection is request {request.awaited_id}: run `provisioner show {request.awaited_id}`"
    if request.unknown:
        yield f"an attempt may still have made the {request.kind}: a retry looks it up first"
    yield from _leftover_keys(request)
    if request.error_code != "connection_failed":
        yield f"then run `provisioner retry {request.id}`"


def _leftover_keys(request: Detail) -> Iterator[str]:
    if request.left_behind:
        yield request.left_behind
        yield f"once the key is deleted, run `provisioner rotations {request.id} --deleted`"


def _cancelled(request: Detail, _words: Formatters) -> Iterator[str]:
    yield "it was cancelled"
    yield from _leftover_keys(request)
    yield f"`provisioner retry {request.id}` requests it again"


def _updating(request: Detail, words: Formatters) -> Iterator[str]:
    yield f"a worker sends what was edited to {request.kind} {request.made_id}"
    yield from _scheduled(request, words)


def _removing(request: Detail, words: Formatters) -> Iterator[str]:
    if request.made_id is None:
        yield "it is being removed: if an earlier create made something, that is looked up and deleted"
    elif request.adopted:
        yield f"it is being removed: {request.kind} {request.made_id} is somebody else's, so it stays in Infisical"
    else:
        yield f"it is being removed: {request.kind} {request.made_id} is deleted from Infisical"
    yield from _scheduled(request, words)


def _removed(request: Detail, _words: Formatters) -> Iterator[str]:
    yield f"it is removed: Infisical has no {request.kind} of this request"
    yield from _leftover_keys(request)
    yield f"`provisioner retry {request.id}` creates it again"


def _scheduled(request: Detail, words: Formatters) -> Iterator[str]:
    if request.claimed_at:
        yield from _in_flight(request, words)
    elif request.next_attempt_at or request.quarantine:
        yield from _waiting(request, words)
    else:
        yield from _ready(request, words)


def _ready(request: Detail, words: Formatters) -> Iterator[str]:
    place = f" at place {request.place:,}" if request.place else ", without a place yet"
    when = ""
    if request.place and request.pace and not request.paused_at:
        when = f", due in about {words.duration(request.place / request.pace)} at the current pace"
    yield f"it is in the queue of target {request.target}{place}{when}"
    yield from _blockers(request, words)


def _waiting(request: Detail, words: Formatters) -> Iterator[str]:
    due = request.next_attempt_at
    ahead = (due - request.now).total_seconds() if due else 0.0
    at = f"in {words.duration(ahead)}, at {words.moment(due)}" if ahead > 0 else "now, as soon as a worker polls"
    if request.quarantine:
        yield from _quarantined(request)
    elif request.cancel_requested:
        yield f"it was cancelled while its outcome was unknown: it is looked up one last time {at}"
    elif request.unknown:
        yield f"an attempt may have made the {request.kind}: it is looked up {at}, and created only if there is none"
    elif request.attempts or request.error_message:
        yield f"it is retried {at}; {_tries(request.attempts)} so far, and {request.failures:,} counted as failures"
    else:
        yield f"it is scheduled: it starts {at}"
    if request.error_code and not request.quarantine:
        yield f"if it fails again: {advice_for(request.error_code)}"
    yield from _blockers(request, words)


def _quarantined(request: Detail) -> Iterator[str]:
    what, _, whose = str(request.quarantine).partition(":")
    if what == "connection":
        yield from _waiting_for_connection(request)
        return
    if what == "rotations":
        yield "its connection is deleted after the rotations that use it, which `provisioner rotations` lists"
        return
    if what == "project":
        yield (
            "it waits with all requests for this project, because the machine identity may not create there; once it"
            f" may, they continue within minutes, or at once after `provisioner retry {request.id}`"
        )
        return
    why = f"the key of credential {whose} was refused" if what == "credential" else request.quarantine
    yield (
        f"it waits with all requests that have the same problem: {why}; fix it, then `provisioner retry {request.id}`"
        " retries it at once"
    )


def _waiting_for_connection(request: Detail) -> Iterator[str]:
    name = request.waits_for or request.connection
    if request.awaited_id is None:
        yield (
            f"it waits for the connection {name} of project {request.project_id}, which nobody has requested:"
            " request it, for example with `provisioner submit`"
        )
        return
    yield (
        f"it waits for the connection {name} of its project, request {request.awaited_id}, and starts within a second"
        f" of its success; `provisioner show {request.awaited_id}` shows that request"
    )


def _in_flight(request: Detail, words: Formatters) -> Iterator[str]:
    since = f" since {words.moment(request.claimed_at)}" if request.claimed_at else ""
    if request.unrecorded:
        made = (
            f"{request.kind} {request.unrecorded_connection} was made" if request.unrecorded_connection else "it ended"
        )
        yield f"{made}, but the database refuses to record it: {request.unrecorded}"
        yield f"remove the cause: recording is tried again, next at {words.moment(request.recorded_again_at)}"
        return
    if request.worker:
        yield f"in flight on worker {request.worker}{since}"
    else:
        yield f"its worker was lost{since}: another one takes over when the lease expires, and looks it up first"
    if request.cancel_requested:
        yield f"it was cancelled: this attempt may finish, and its {request.kind} is recorded"


def _unplaced(request: Detail, _words: Formatters) -> Iterator[str]:
    yield f"its status {request.state!r} is unknown: it was written with triggers off, and no worker will take it"
    yield "set its status to pending to run it, or to cancelled"


def _blockers(request: Detail, words: Formatters) -> Iterator[str]:
    if request.paused_at:
        by = f" by {request.paused_by}" if request.paused_by else ""
        yield (
            f"target {request.target} was paused at {words.moment(request.paused_at)}{by};"
            f" `provisioner resume {request.target}` resumes it"
        )
    if is_restriction(request.trouble):
        yield f"the plan of Infisical at {request.target} has no secret rotations: {advice_for(PLAN)}"
    elif request.trouble:
        yield f"target {request.target} is in trouble: {request.trouble}; work resumes automatically once that is over"
    if not request.workers:
        yield f"no worker serves target {request.target}: `provisioner run` starts one"


def _tries(attempts: int) -> str:
    return several(attempts, "create was sent", "creates were sent")


_EXPLAIN = {
    "succeeded": _succeeded,
    "failed": _failed,
    "cancelled": _cancelled,
    "ready": _ready,
    "waiting": _waiting,
    "retrying": _waiting,
    "quarantined": _waiting,
    "in_flight": _in_flight,
    "updating": _updating,
    "removing": _removing,
    "removed": _removed,
}
