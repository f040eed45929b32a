"""The pages in twelve situations: for the pictures, and for tests of each of them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.history import HOURS, MINUTES, History, Slot
from provisioner.core.reports import Failures, RefusedKey, Retries, Status, TargetReport, Workers
from provisioner.core.requests import Attempt, Detail, Found, Listed, RequestHistory
from tests.support.builders import NOON, at, project
from tests.support.status_port import Answers, a_progress, a_status, a_worker

TAKEN = "the project already has a connection named openrouter, and this request did not make it"
DENIED = "the machine identity may not create connections in this project"
REFUSED = "Unable to validate connection: Invalid API key (401)"
DEFAULT = replace(TargetReport(target="default", pending=671, workers=2), metered=True, permits=200, period=60.0)


def a_history(*, failing: bool = False) -> History:
    """Three busy hours of a busy week."""

    def slot(number: int, span: timedelta, size: int) -> Slot:
        wave = max(0.0, math.sin(number / 9.0)) * (0.6 + 0.4 * math.sin(number / 2.3))
        made = round(size * wave)
        lost = round(size * 0.2 * wave) if failing and number % 5 == 0 else 0
        return Slot(at=NOON - span * number, succeeded=made, failed=lost, retried=made // 15 + 3 * lost)

    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    return History(
        minutes=tuple(slot(number, minute, 190) for number in range(MINUTES - 1, -1, -1)),
        hours=tuple(slot(number, hour, 9000) for number in range(HOURS - 1, -1, -1)),
    )


def a_listed(number: int, **changes: Any) -> Listed:
    """A request that has succeeded."""
    usual = Listed(
        id=number,
        target="default",
        project_id=project(number),
        name="openrouter",
        description="for the platform team",
        credential="default",
        on_conflict="fail",
        priority=0,
        batch="platform teams",
        project_name=f"Team {number}",
        not_before=None,
        requested_by="onboarding",
        created_at=at(-600),
        state="succeeded",
        attempts=1,
        connection_id=project(number + 1000),
        org_id=project(1),
        credentials_hash="…",
        adopted=False,
        error_code=None,
        error_message=None,
        next_attempt_at=None,
        finished_at=at(-60),
    )
    return replace(usual, **changes)


def a_failed(number: int) -> Listed:
    """A request whose name was taken."""
    return a_listed(number, state="failed", connection_id=None, error_code="name_conflict", error_message=TAKEN)


def a_waiting(number: int) -> Listed:
    """A request that is tried again."""
    return a_listed(
        number,
        state="retrying",
        connection_id=None,
        error_code="permission_denied",
        error_message=DENIED,
        next_attempt_at=at(95),
        finished_at=None,
        attempts=2,
    )


def a_story(listed: Listed) -> RequestHistory:
    """What happened to it."""
    values = {name: getattr(listed, name) for name in Listed.__dataclass_fields__}
    detail = Detail(
        **values,
        now=NOON,
        unknown=False,
        cancel_requested=False,
        failures=2 if listed.error_code else 0,
        quarantine=None,
        claimed_at=None,
        worker=None,
        unrecorded=None,
        unrecorded_connection=None,
        recorded_again_at=None,
        place=None,
        workers=2,
        pace=3.2,
        paused_at=None,
        paused_by=None,
        trouble=None,
    )
    calls = [
        Attempt(
            attempt=1 + number // 2,
            worker=7,
            action=("create", "look_up")[number % 2],
            started_at=at(-300 + 60 * number),
            ended_at=at(-299.6 + 60 * number),
            http_status=400 if number % 2 == 0 else 200,
            req_id=f"req-{4711 + number}",
            outcome="name_taken" if number % 2 == 0 else "found",
            error_code="name_conflict" if number % 2 == 0 else None,
            error_message="App Connection with name openrouter already exists" if number % 2 == 0 else None,
        )
        for number in range(4)
    ]
    return RequestHistory(detail=detail, attempts=tuple(calls), earlier=0)


def busy(**changes: Any) -> Status:
    """Two batches of a company in progress."""
    done = a_progress(batch="platform teams", total=False, requests=420, succeeded=420, in_flight=0, ready=0, waiting=0)
    rest = a_progress(
        batch="product teams", total=False, requests=1180, succeeded=509, in_flight=4, ready=662, waiting=5
    )
    usual = a_status(
        progress=a_progress(requests=1600, succeeded=929, in_flight=4, ready=662, waiting=5, ends_at=at(212)),
        batches=(replace(rest, ends_at=at(212)), replace(done, ended_at=at(-240), ends_at=None, started_at=at(-400))),
        targets=(DEFAULT,),
        workers=Workers(living=2, lost=0, pace=3.2),
        crew=(
            a_worker(name="onboarding-a:1", created=511, pace=1.6, in_flight=2),
            a_worker(id=8, name="onboarding-b:1", created=418, pace=1.6, in_flight=2),
        ),
    )
    return replace(usual, **changes)


def at_rest(status: Status) -> Status:
    """The same while its workers have nothing to do."""
    assert status.progress is not None
    ready = status.progress.ready + status.progress.in_flight
    return replace(
        status,
        progress=replace(status.progress, ready=ready, in_flight=0),
        workers=replace(status.workers, pace=0.0),
        crew=tuple(replace(each, pace=0.0, in_flight=0) for each in status.crew),
    )


def endless(status: Status, why: str) -> Status:
    """The same without a forecast, for a reason."""
    assert status.progress is not None
    return replace(
        status,
        progress=replace(status.progress, ends_at=None, ends_why=why),
        batches=tuple(each if each.ended_at else replace(each, ends_at=None, ends_why=why) for each in status.batches),
    )


FAILURES = (
    Failures(error_code="name_conflict", requests=37, example_id=118, example=TAKEN, newest_at=at(-20)),
    Failures(error_code="project_not_found", requests=3, example_id=204, example="there is no project", newest_at=NOON),
)
RETRIES = (
    Retries(
        target="default",
        error_code="permission_denied",
        quarantine=None,
        requests=20,
        since=at(-5400),
        next_at=at(95),
        example_id=318,
        example=DENIED,
    ),
)


def situations() -> dict[str, Answers]:
    """The status, by the name of the situation."""
    failing = busy(
        progress=a_progress(
            requests=1600, succeeded=889, failed=40, in_flight=4, ready=647, waiting=0, retrying=20, ends_at=at(212)
        ),
        failures=FAILURES,
        retries=RETRIES,
    )
    paused = at_rest(busy(targets=(replace(DEFAULT, paused_at=at(-1800), paused_by="ann"),)))
    trouble = at_rest(
        busy(targets=(replace(DEFAULT, trouble="OpenRouter is in trouble", trouble_since=at(-420), troubled=2),))
    )
    held = Retries(
        target="default",
        error_code="credential_refused",
        quarantine="credential:team-a",
        requests=17,
        since=at(-900),
        next_at=at(30),
        example_id=77,
        example=REFUSED,
    )
    key = RefusedKey(
        target="default", credential="team-a", since=at(-900), reason=REFUSED, next_probe_at=at(30), requests=17
    )
    key_refused = busy(
        progress=a_progress(requests=1600, succeeded=929, in_flight=4, ready=650, waiting=0, quarantined=17),
        retries=(held,),
        refused_keys=(key,),
    )
    many = busy(
        batches=tuple(
            replace(
                a_progress(
                    batch=f"wave {number:02d}", total=False, requests=200, succeeded=200 if number > 6 else 30 * number
                ),
                ended_at=at(-60 * number) if number > 6 else None,
                ends_at=None if number > 6 else at(90 * number),
                ready=0 if number > 6 else 200 - 30 * number,
                waiting=0,
                in_flight=0,
            )
            for number in range(1, 41)
        ),
        more_batches=12,
    )
    two = busy(
        targets=(DEFAULT, replace(DEFAULT, target="eu", permits=None, metered=False, in_flight_limit=8, workers=1))
    )
    limited = busy(
        workers=Workers(living=2, lost=0, pace=1.0),
        crew=tuple(replace(each, pace=0.5) for each in busy().crew),
        targets=(
            replace(
                DEFAULT,
                allowed_writes=60,
                allowed_period=60.0,
                allowed_in_flight=2,
                limited_at=at(-240),
                limited_by="ann",
            ),
        ),
    )
    empty = a_status(
        progress=a_progress(requests=0, succeeded=0, in_flight=0, ready=0, waiting=0, ends_at=None, started_at=None),
        batches=(),
        targets=(TargetReport(target="default", workers=1),),
        crew=(a_worker(in_flight=0, created=0, pace=0.0, started_at=at(-50)),),
    )
    done = busy(
        progress=a_progress(
            requests=1600,
            succeeded=1600,
            in_flight=0,
            ready=0,
            waiting=0,
            started_at=at(-640),
            ends_at=None,
            ended_at=at(-60),
        ),
        targets=(replace(DEFAULT, pending=0),),
        batches=tuple(
            replace(
                each,
                succeeded=each.requests,
                ready=0,
                waiting=0,
                in_flight=0,
                started_at=at(-640),
                ended_at=at(-60),
                ends_at=None,
            )
            for each in busy().batches
        ),
    )
    readme = busy(
        progress=a_progress(requests=1600, succeeded=927, failed=2, in_flight=4, ready=662, waiting=5, ends_at=at(212)),
        failures=(replace(FAILURES[0], requests=2),),
    )
    usual, bad = a_history(), a_history(failing=True)
    return {
        "busy": Answers(status=busy(), history=usual),
        "failing": Answers(status=failing, history=bad),
        "paused": Answers(status=endless(paused, "paused"), history=usual),
        "database-gone": Answers(status=busy(), history=usual, error=DatabaseUnavailable("connection refused")),
        "openrouter-in-trouble": Answers(status=endless(trouble, "the target is in trouble"), history=bad),
        "wrong-key": Answers(status=endless(key_refused, "held for a key"), history=usual),
        "many-batches": Answers(status=many, history=usual),
        "two-targets": Answers(status=two, history=usual),
        "limited": Answers(status=limited, history=usual),
        "empty": Answers(status=empty),
        "done": Answers(status=at_rest(done), history=usual),
        "readme": Answers(status=readme, history=usual),
    }


def browsable(answers: Answers) -> Answers:
    """The same with requests to search, and the histories of two of them."""
    listed = [(a_failed, a_waiting, a_listed, a_listed)[number % 4](number) for number in range(140, 116, -1)]
    answers.found = Found(requests=tuple(listed), older=True)
    answers.stories = {each.id: a_story(each) for each in listed}
    return answers
