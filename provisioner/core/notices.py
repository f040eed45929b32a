"""Decide which notices to send: a batch that finished, a problem that needs a person, its recovery. Pure.

Each event is sent once: what was already sent is an argument, and what to remember is in the result. Apart from the
names of batches and targets, from which keys are removed, notices contain no text that others wrote.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from provisioner.core.alerts import Alert, Kind, advice_for
from provisioner.core.text import printable, several, without_keys

# A batch that is loaded row by row may briefly have nothing pending, so it counts as finished after this long.
FINISHED_DELAY: Final = timedelta(seconds=10)
# While workers are replaced, a target briefly has none, so it counts as unserved only after this long.
ALERT_DELAY: Final[Mapping[str, timedelta]] = {Kind.UNSERVED: timedelta(seconds=60)}
# Failures that are retried briefly disappear, so a problem counts as recovered only after it is gone for this long.
RECOVERY_DELAY: Final = timedelta(seconds=30)
FIRST_PAUSE: Final = 10.0  # seconds before a delivery that failed is tried again; doubles each time
LAST_PAUSE: Final = 3600.0
GIVE_UP_AFTER: Final = timedelta(days=3)  # a receiver that is repaired after a weekend still gets them
LONGEST: Final = 200  # characters of a name that somebody else chose


class Event(StrEnum):
    """The kinds of events."""

    BATCH_FINISHED = "batch_finished"
    NEEDS_ATTENTION = "needs_attention"
    RECOVERED = "recovered"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A batch with nothing pending, and when its last request ended."""

    batch: str
    requests: int
    succeeded: int
    failed: int
    started_at: datetime | None
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAlert:
    """An alert that was seen before: since when, whether it was sent, and since when it has been gone."""

    kind: str
    subject: str
    since: datetime
    told: bool = False
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One event to send, as plain values for programs and a sentence for people."""

    event: Event
    text: str
    batch: Mapping[str, str | int | None] | None = None
    concern: Mapping[str, str | int | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A notice to deliver: the id by which receivers recognise it, when the event was noticed, and the try's number."""

    id: str
    notice: Notice
    noticed_at: datetime
    age: timedelta
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The notices to send now, and what to remember: the alerts, and the batches that were reported."""

    notices: tuple[Notice, ...]
    known: tuple[KnownAlert, ...]
    batches: tuple[Finished, ...]


def decide(
    known: Collection[KnownAlert],
    present: Collection[Alert],
    finished: Collection[Finished],
    *,
    events: Collection[str],
    now: datetime,
    last: bool = False,
) -> Outcome:
    """Decide which notices to send. `finished` are batches whose end was not reported yet.

    Only `events` are sent; others are just remembered. `last`: this is the last check, so a batch need not be quiet
    first.
    """
    notices: list[Notice] = []
    kept: list[KnownAlert] = []
    seen = {(each.kind.value, each.subject): each for each in present}
    before = {(each.kind, each.subject): each for each in known}
    for key, concern in seen.items():
        state = replace(before.get(key) or KnownAlert(kind=key[0], subject=key[1], since=now), gone_at=None)
        if not state.told and now - state.since >= ALERT_DELAY.get(key[0], timedelta(0)):
            state = replace(state, told=True)
            notices.append(_attention(concern, state.since))
        kept.append(state)
    for key, state in before.items():
        if key in seen or not state.told or state.kind not in set(Kind):  # a kind that only another version knows
            continue
        gone_at = state.gone_at or now
        if now - gone_at >= RECOVERY_DELAY:
            notices.append(_recovered(state, gone_at))
        else:
            kept.append(replace(state, gone_at=gone_at))
    quiet = tuple(each for each in finished if last or now - each.ended_at >= FINISHED_DELAY)
    notices.extend(map(_finished, quiet))
    told = tuple(notice for notice in notices if notice.event in events)
    return Outcome(notices=told, known=tuple(kept), batches=quiet)


def pause_after(tries: int) -> float:
    """Return the seconds to wait after this many failed deliveries of a notice."""
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 20), LAST_PAUSE)


def is_given_up(age: timedelta) -> bool:
    """Whether a notice is too old to be tried again."""
    return age >= GIVE_UP_AFTER


def trial_notice() -> Notice:
    """Return the notice that `doctor --notify` sends."""
    return Notice(event=Event.TEST, text="This is a test: notices of the provisioner arrive here.")


def _finished(batch: Finished) -> Notice:
    name = _name(batch.batch)
    ended = f"{batch.succeeded:,} of {_requests(batch.requests)} succeeded"
    failed = f", {batch.failed:,} failed" if batch.failed else ""
    others = batch.requests - batch.succeeded - batch.failed
    ended_otherwise = f", {others:,} ended otherwise" if others else ""
    return Notice(
        event=Event.BATCH_FINISHED,
        text=f"Batch {name} has finished: {ended}{failed}{ended_otherwise}.",
        batch={
            "name": name,
            "requests": batch.requests,
            "succeeded": batch.succeeded,
            "failed": batch.failed,
            "started_at": _iso(batch.started_at),
            "ended_at": _iso(batch.ended_at),
        },
    )


def _attention(concern: Alert, since: datetime) -> Notice:
    subject = _name(concern.subject)
    text = _ATTENTION[concern.kind].format(
        subject=subject or "no error code",
        requests=_requests(concern.requests),
        counted=concern.counted,
        rotations=several(concern.requests, "rotation"),
        outcomes=several(concern.requests, "outcome"),
        be="is" if concern.requests == 1 else "are",
        have="has" if concern.requests == 1 else "have",
        wait="waits" if concern.requests == 1 else "wait",
        remedy=advice_for(concern.subject),
    )
    return Notice(
        event=Event.NEEDS_ATTENTION,
        text=text,
        concern={
            "kind": concern.kind.value,
            "subject": subject,
            "requests": concern.requests,
            "since": _iso(since),
        },
    )


def _recovered(state: KnownAlert, gone_at: datetime) -> Notice:
    subject = _name(state.subject)
    return Notice(
        event=Event.RECOVERED,
        text=_RECOVERED[Kind(state.kind)].format(subject=subject or "no error code"),
        concern={
            "kind": state.kind,
            "subject": subject,
            "requests": 0,
            "since": _iso(state.since),
            "ended_at": _iso(gone_at),
        },
    )


# Without any text that others wrote.
_ATTENTION: Final[Mapping[Kind, str]] = {
    Kind.FAILED: "{requests} {have} failed with {subject}. What to do: {remedy}; then run `provisioner retry`.",
    Kind.UNRECORDED: "The database refuses to record {outcomes}. `provisioner status` says why.",
    Kind.PAUSED: "Target {subject} is paused, and {requests} {wait} for it. `provisioner resume {subject}` resumes it.",
    Kind.OUTSIDE: "{requests} {wait} for projects in which the machine identity of target {subject} may not create:"
    " add it there, and they continue automatically",
    Kind.REFUSED: "{requests} {wait} because OpenRouter refuses the key of credential {subject}. Replace the key.",
    Kind.HELD: "{rotations} {wait} because the plan of Infisical at {subject} has no secret rotations: change the plan,"
    " and they continue automatically, or cancel them.",
    Kind.RETRYING: "{requests} {be} being retried with {subject} for minutes. What to do: {remedy}.",
    Kind.DRIFTED: "{counted} not as recorded in Infisical. `provisioner verify` shows the differences.",
    Kind.LEFT_BEHIND: "{rotations} may have left keys behind at OpenRouter that can spend money."
    " `provisioner rotations --left-behind` says which; delete them there, then run"
    " `provisioner rotations ID… --deleted`.",
    Kind.UNSERVED: "No worker serves target {subject}, and {requests} {wait} for it. `provisioner run` starts one.",
}
_RECOVERED: Final[Mapping[Kind, str]] = {
    Kind.FAILED: "No request has status failed with {subject} any more.",
    Kind.UNRECORDED: "Every outcome has been recorded.",
    Kind.PAUSED: "Target {subject} is not paused any more, or nothing waits for it.",
    Kind.OUTSIDE: "The machine identity of target {subject} may create in every project that requests wait for.",
    Kind.REFUSED: "No request waits for the key of credential {subject} any more.",
    Kind.HELD: "No rotation waits for another plan of Infisical at {subject} any more.",
    Kind.RETRYING: "No request is being retried with {subject} any more.",
    Kind.DRIFTED: "Everything that was compared is as recorded.",
    Kind.LEFT_BEHIND: "No rotation has a key left behind at OpenRouter any more.",
    Kind.UNSERVED: "A worker serves target {subject} again, or nothing waits for it.",
}


def _name(foreign: str) -> str:
    """Make a foreign name safe: printable, one line, truncated, and without anything that may be a key."""
    line = " ".join(printable(without_keys(foreign)).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _requests(number: int) -> str:
    return several(number, "request")


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
