"""Which projects are gone from Infisical for sure."""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest
from hypothesis import given, strategies as st

from provisioner.core.gone import (
    FEW_MISSING,
    MISSING_FOR,
    MISSING_LISTS,
    MISSING_SHARE,
    QUERIES_PER_ROUND,
    Absence,
    is_gone,
    is_there,
    to_ask,
    too_many,
)
from provisioner.core.model import Action, Observation, Result
from provisioner.infisical.parts import Expected, Reply
from provisioner.infisical.projects import read_project
from tests.support.builders import at

PROJECT = "8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11"
OTHER = "4f5a3c2b-0d8e-4b52-8a53-5a0f1c9e7d21"
JSON = {"content-type": "application/json; charset=utf-8"}
MISSING = f"Project with ID '{PROJECT}' not found"


def an_absence(number: int = 0, looks: int = MISSING_LISTS, since: float = 0.0) -> Absence:
    """A project that has been missing since this many seconds after the beginning."""
    return Absence(project_id=f"{number:04}", project_name="", looks=looks, since=at(since))


@given(looks=st.integers(1, 10), minutes=st.integers(0, 20))
def test_a_project_is_asked_for_after_some_looks_and_a_while(looks: int, minutes: int) -> None:
    """Neither many lists within a moment nor a long time between two lists is enough."""
    asked = to_ask([an_absence(looks=looks)], 100, at(60.0 * minutes))
    assert bool(asked) == (looks >= MISSING_LISTS and timedelta(minutes=minutes) >= MISSING_FOR)


@given(missing=st.integers(0, 60), known=st.integers(0, 200))
def test_nobody_deletes_most_projects_at_once(missing: int, known: int) -> None:
    """Where more than a few and more than a share of all are missing, none is asked for."""
    asked = to_ask([an_absence(number) for number in range(missing)], known, at(1e6))
    doubted = missing > FEW_MISSING and missing > MISSING_SHARE * known
    assert too_many(missing, known) == doubted
    assert len(asked) == (0 if doubted else min(missing, QUERIES_PER_ROUND))


def test_the_longest_missing_are_asked_for_first() -> None:
    """A round has few reads, so none waits for ever."""
    absences = [an_absence(number, since=1000.0 - number) for number in range(QUERIES_PER_ROUND + 5)]
    asked = to_ask(absences, 1000, at(1e6))
    assert [each.project_id for each in asked] == [f"{number:04}" for number in range(QUERIES_PER_ROUND + 4, 4, -1)]


def observed(status: int, body: object, headers: dict[str, str] | None = None) -> Observation:
    """The meaning of an answer about a project."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return read_project(Reply(Expected(Action.LOOK_UP, PROJECT), status, JSON if headers is None else headers, raw))


def refusal(status: int, error: str, message: str, **changes: object) -> dict[str, object]:
    """Infisical's envelope."""
    return {"reqId": "req-a6fUXC3o71p14a", "statusCode": status, "error": error, "message": message, **changes}


def test_infisicals_own_word_is_believed() -> None:
    """The recorded 404 for a project that does not exist."""
    assert is_gone(observed(404, refusal(404, "NotFound", MISSING)))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"project": {"id": PROJECT, "name": "a"}}),
        (200, {"project": {"id": OTHER, "name": "a"}}),
        (200, {"project": {}}),
        (200, b"<html>"),
        (403, refusal(403, "ProjectMembershipNotFound", f"You are not a member of this project with ID {PROJECT}. …")),
        (403, refusal(403, "ForbiddenError", "This project does not belong to your selected organization.")),
        (403, refusal(403, "ForbiddenError", "You are not a member of this organization with ID x. …")),
        (403, refusal(403, "PermissionDenied", "You are not allowed to read on project")),
        (403, refusal(403, "TokenError", "invalid signature")),
        (401, refusal(401, "UnauthorizedError", "No identity access token found")),
        (404, {"message": f"Route GET:/api/v1/projects/{PROJECT} not found", "error": "Not Found", "statusCode": 404}),
        (404, refusal(404, "NotFound", MISSING, reqId=None)),
        (404, refusal(404, "NotFound", MISSING, statusCode=500)),
        (404, refusal(404, "Not Found", MISSING)),
        (404, refusal(404, "NotFound", f"Project with ID '{OTHER}' not found")),
        (404, refusal(404, "NotFound", "Identity not found")),
        (404, b"<html>not found</html>"),
        (404, b""),
        (410, refusal(410, "NotFound", MISSING)),
        (400, refusal(400, "BadRequest", "Identity does not belong to this organization")),
        (422, refusal(422, "ValidationFailure", "id")),
        (429, refusal(429, "RateLimitExceeded", "Rate limit exceeded. Please try again in 5 seconds")),
        (302, b""),
        (500, refusal(500, "Find one", "Something went wrong")),
        (502, b"<html>"),
        (503, refusal(503, "NotFound", MISSING)),
    ],
)
def test_no_other_answer_says_that_a_project_is_gone(status: int, body: object) -> None:
    """Membership that was lost, a token, a gateway, a wrong address or a server in trouble is no removal."""
    assert not is_gone(observed(status, body))


def test_a_404_that_is_no_json_by_its_header_proves_nothing() -> None:
    """A gateway's page may quote anything."""
    assert not is_gone(observed(404, refusal(404, "NotFound", MISSING), {"content-type": "text/html"}))


@pytest.mark.parametrize("result", list(Result))
def test_no_result_is_both_there_and_gone(result: Result) -> None:
    """An answer that the project exists restarts the count; trouble changes nothing."""
    seen = Observation(result=result)
    assert not is_gone(seen), "without Infisical's proof nothing is gone"
    assert is_there(seen) == (result in {Result.FOUND, Result.NOT_IN_PROJECT, Result.FORBIDDEN, Result.FOREIGN_PROJECT})
