"""Rotations: which is ours by the mark in its key's name, what may be left behind, and what each answer shows."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st

from provisioner.core.description import units
from provisioner.core.doubt import is_ours, possible_create, with_doubt
from provisioner.core.endings import with_leftovers
from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Do,
    Edits,
    ErrorCode,
    Fail,
    Observation,
    Proof,
    Remove,
    Result,
    Succeed,
)
from provisioner.core.policy import DecisionContext, Rules, decide
from provisioner.core.rotations import (
    LONGEST_KEY_NAME,
    SPENDING,
    Rotation,
    RotationRequest,
    differing,
    filled_in,
    mark_of_claim,
    marked,
)
from provisioner.core.skew import Reading
from provisioner.infisical.parts import Expected, Reply
from provisioner.infisical.rotation_answers import read_rotation
from provisioner.infisical.rotations import create_body, update_body
from provisioner.postgres.kinds import ROTATIONS
from tests.support.builders import first_action

NOW = datetime(2026, 11, 28, tzinfo=UTC)
PROJECT = "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d"
ID = "9a1b5c5e-7b1e-4a57-9d38-0f8f6e6c2b10"
JSON = {"content-type": "application/json; charset=utf-8"}


def claim(attempt: int = 1, fence: int = 255, *, cancelled: bool = False) -> Claim:
    """A claim of rotation 7."""
    return Claim(
        request=RotationRequest(
            id=7,
            project_id=PROJECT,
            name="openrouter",
            description=None,
            credential="",
            mark=mark_of_claim(7, attempt, fence),
            connection_id=ID,
            environment="prod",
            secret_path="/",
            secret_name="KEY",
            interval_days=30,
            rotate_at=(2, 30),
            key_name="Billing prod",
            spend_limit=5.0,
        ),
        attempt=attempt,
        fence=fence,
        claimed_at=NOW,
        cancelled=cancelled,
    )


def rotation(key_name: str) -> Rotation:
    """A rotation in that place, made by an unknown client."""
    return Rotation(
        id=ID,
        project_id=PROJECT,
        org_id=None,
        credentials_hash="",
        name="openrouter",
        app="open-router",
        method="rotation",
        description=None,
        created_at=NOW,
        connection_id=ID,
        key_name=key_name,
    )


def doubting(*attempts: int) -> Claim:
    """A claim of which these earlier attempts sent a create that got no answer."""
    found = claim(attempt=9)
    for attempt in attempts:
        found = with_doubt(found, possible_create(claim(attempt), NOW))
    return found


def test_it_is_looked_up_before_every_create() -> None:
    """A second create would make a second key, so even the first one is preceded by a look-up."""
    assert first_action(claim()) is Action.LOOK_UP


@pytest.mark.parametrize("made_by", [1, 2, 3])
def test_it_is_ours_by_the_mark_of_a_create_in_doubt(made_by: int) -> None:
    """Only the name of its key identifies a rotation, not a clock or a description; other marks are other creates'."""
    found = rotation(marked("Billing prod", mark_of_claim(7, made_by, 255)))
    assert is_ours(doubting(1, 2), found, marker="", clock=Reading()) is (made_by != 3)
    assert not is_ours(claim(), found, marker="here", clock=Reading())


def test_the_others_are_said_to_be_left_behind() -> None:
    """Every create in doubt, except the one that was recorded, may have left its key, which is named."""
    late = doubting(1, 2)
    words = late.request.left_behind(late.doubt, rotation("Billing prod #7.2-0000ff"))
    assert '"Billing prod #7.1-0000ff"' in words
    assert "7.2" not in words
    assert late.request.left_behind(claim().doubt, None) == ""
    failed = with_leftovers(late, Fail(code=ErrorCode.GAVE_UP, message="it failed"))
    assert isinstance(failed, Fail)
    assert failed.message.startswith("it failed; creates got no answer and may have left keys behind")
    ended = with_leftovers(late, Cancel())
    assert isinstance(ended, Fail)
    assert ended.code is ErrorCode.OUTCOME_UNKNOWN
    assert with_leftovers(claim(), Cancel()) == Cancel()


@given(st.text(max_size=300), st.integers(1, 10**15), st.integers(1, 10**6), st.integers(0, 2**63))
def test_every_key_name_fits_and_keeps_its_mark(name: str, request: int, attempt: int, fence: int) -> None:
    """Whatever the template gives, Infisical takes the name and the mark is whole."""
    mark = mark_of_claim(request, attempt, fence)
    found = marked(filled_in("{project_name}", project_name=name, project_id="p", environment="e"), mark)
    assert found.endswith(f"#{mark}")
    assert len(found) <= LONGEST_KEY_NAME
    assert units(mark) == len(mark)


def test_templates() -> None:
    """A project without a name is named by its id."""
    given = {"project_id": "the-id", "environment": "dev"}
    assert filled_in("{project_name} {environment}", project_name=None, **given) == "the-id dev"
    assert filled_in("{project_id}/{environment}", project_name="x", **given) == "the-id/dev"


def test_the_body_has_what_was_asked_for_and_nothing_else() -> None:
    """The parameters that were left out are left to Infisical."""
    request = claim().request
    assert isinstance(request, RotationRequest)
    body = json.loads(create_body(request, marker=""))
    assert body["parameters"] == {"name": "Billing prod #7.1-0000ff", "limit": 5.0}
    assert body["rotateAtUtc"] == {"hours": 2, "minutes": 30}
    assert body["secretsMapping"] == {"apiKey": "KEY"}
    assert "description" not in body


@pytest.mark.parametrize("file", ["claim", "settle"])
def test_no_statement_of_theirs_knows_a_credential(file: str) -> None:
    """Statements that end a connection wipe its sealed key; for rotations they have no such column."""
    for name, sql in ROTATIONS.sql(file).items():
        assert name in {"change", "edits"} or "q.credential" not in sql, name


def answer(**changes: object) -> bytes:
    """A body of success."""
    fields = {
        "id": ID,
        "name": "openrouter",
        "projectId": PROJECT,
        "connectionId": ID,
        "createdAt": "2026-11-28T00:00:00.000Z",
        "parameters": {"name": "Billing prod #7.1-0000ff"},
    }
    return json.dumps({"secretRotation": fields | changes}).encode()


def refusal(status: int, error: str, message: object) -> bytes:
    """A body of failure as Infisical words it."""
    return json.dumps({"reqId": "req-Ab3", "statusCode": status, "error": error, "message": message}).encode()


def read(status: int, body: bytes, action: Action = Action.CREATE, headers: Any = None) -> Any:
    """Read the answer to a call for the usual rotation."""
    return read_rotation(Reply(Expected(action, PROJECT, "openrouter"), status, headers or JSON, body))


def test_what_was_made_and_what_was_found() -> None:
    """A promised answer is read whole; one about something else proves nothing."""
    made = read(200, answer())
    assert (made.result, made.proof, made.connection) == (
        Result.CREATED,
        Proof.MADE,
        rotation("Billing prod #7.1-0000ff"),
    )
    assert read(200, answer(), Action.LOOK_UP).result is Result.FOUND
    for odd in (answer(name="other"), answer(projectId=ID), answer(id="x"), b"{}", b"[]", b"nonsense"):
        seen = read(200, odd)
        assert (seen.result, seen.proof) == (Result.UNKNOWN, Proof.NONE)
    html = read(200, b"<html>", headers={"content-type": "text/html"})
    assert (html.result, html.proof) == (Result.MISCONFIGURED, Proof.NONE)


OTHER = "2f7a1c5e-7b1e-4a57-9d38-0f8f6e6c2b11"
STAGING = {"environment": {"slug": "staging"}, "folder": {"path": "/"}}


@pytest.mark.parametrize(
    ("asked", "body", "result"),
    [
        (Expected(Action.LOOK_UP, connection_id=ID), answer(id=ID.upper()), Result.FOUND),
        (Expected(Action.LOOK_UP, connection_id=ID), answer(id=OTHER), Result.MISCONFIGURED),
        (Expected(Action.LOOK_UP, PROJECT, "openrouter"), answer(projectId=OTHER), Result.MISCONFIGURED),
        (Expected(Action.LOOK_UP, PROJECT, "other"), answer(), Result.MISCONFIGURED),
        (
            Expected(Action.LOOK_UP, PROJECT, "openrouter", folder=("prod", "/")),
            answer(**STAGING),
            Result.MISCONFIGURED,
        ),
        (
            Expected(Action.LOOK_UP, PROJECT, "openrouter", folder=("staging", "/a")),
            answer(**STAGING),
            Result.MISCONFIGURED,
        ),
        (Expected(Action.LOOK_UP, PROJECT, "openrouter", folder=("staging", "/")), answer(**STAGING), Result.FOUND),
        (Expected(Action.CREATE, PROJECT, "openrouter", folder=("prod", "/")), answer(**STAGING), Result.UNKNOWN),
        (Expected(Action.UPDATE, PROJECT, "openrouter", ID), answer(id=OTHER), Result.UNKNOWN),
        (Expected(Action.REMOVE, connection_id=ID), answer(), Result.REMOVED),
        (Expected(Action.REMOVE, connection_id=ID), answer(id=OTHER), Result.UNKNOWN),
        (Expected(Action.REMOVE, connection_id=ID), b'{"ok": true}', Result.UNKNOWN),
        (Expected(Action.REMOVE, connection_id=ID), b"", Result.UNKNOWN),
    ],
)
def test_only_what_was_asked_for_is_believed(asked: Expected, body: bytes, result: Result) -> None:
    """A mixed-up gateway's answer about another rotation, or about none, neither records nor removes anything."""
    seen = read_rotation(Reply(asked, 200, JSON, body))
    assert (seen.result, seen.connection is None) == (result, result is not Result.FOUND)


@pytest.mark.parametrize(
    ("message", "result"),
    [
        ("Failed to create secret rotation due to plan restriction. Upgrade plan", Result.PLAN_RESTRICTED),
        ('Could not find folder with path "/" in environment "x" for project with ID "y"', Result.FOLDER_MISSING),
        ('The following secrets already exist at the path "/": KEY', Result.SECRET_EXISTS),
        ("Failed to create OpenRouter API key: Request failed with status code 402", Result.KEY_NOT_ISSUED),
        ("Failed to create OpenRouter API key: Request failed with status code 503", Result.MISCONFIGURED),
        ("Failed to create OpenRouter API key: timeout", Result.MISCONFIGURED),
        ("anything else", Result.INVALID),
    ],
)
def test_refusals_of_a_create(message: str, result: Result) -> None:
    """Infisical's own refusals prove that no rotation was made; the same words from somebody else prove nothing."""
    seen = read(400, refusal(400, "BadRequest", message))
    assert (seen.result, seen.proof) == (result, Proof.REFUSED)
    foreign = json.dumps({"error": "BadRequest", "message": message}).encode()
    assert read(400, foreign).proof is Proof.NONE
    assert read(400, foreign).result is Result.UNKNOWN


def test_names_connections_and_permission() -> None:
    """A taken name is looked up, a missing connection is reported, and the right permission is named."""
    taken = read(
        400, refusal(400, "BadRequest", 'A Secret Rotation with the name "a" already exists at the secret path')
    )
    assert (taken.result, taken.proof) == (Result.NAME_TAKEN, Proof.TAKEN)
    gone = read(404, refusal(404, "NotFound", "Could not find App Connection with ID x"))
    assert gone.result is Result.CONNECTION_MISSING
    absent = read(404, refusal(404, "NotFound", "Could not find OpenRouter API Key Rotation"), Action.LOOK_UP)
    assert absent.result is Result.ABSENT
    denied = read(403, refusal(403, "PermissionDenied", "You are not allowed to create on secret-rotation"))
    assert denied.result is Result.FORBIDDEN
    assert "create on secret-rotation" in denied.message
    assert "Secret Rotations" in denied.message


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"secretRotation": {}}', b"null"])
def test_no_other_answer_proves_anything(body: bytes) -> None:
    """Whatever comes back that is neither the promised answer nor Infisical's own refusal leaves the doubt in place."""
    assert {read(status, body).proof for status in range(100, 600)} == {Proof.NONE}


def test_a_plan_spends_nothing() -> None:
    """No row is at fault: the retry is not counted, however often it happens."""
    seen = read(400, refusal(400, "BadRequest", "due to plan restriction"))
    context = DecisionContext(now=NOW, jitter=0.5, target_works=True)
    decided = decide(claim(), Action.CREATE, seen, rules=Rules(max_attempts=1), context=context)
    assert not isinstance(decided, Fail | Succeed)
    assert decided == decide(claim(), Action.CREATE, seen, rules=Rules(), context=context)
    assert getattr(decided, "counted", None) is False


EDITABLE = (
    "name",
    "description",
    "secret_name",
    "interval_days",
    "rotate_at",
    "spend_limit",
    "limit_reset",
    "include_byok",
)
FIELDS = {
    "name": "name",
    "description": "description",
    "secret_name": "secretsMapping",
    "interval_days": "rotationInterval",
    "rotate_at": "rotateAtUtc",
    **dict.fromkeys(SPENDING, "parameters"),
}


def edited(*columns: str, attempt: int = 1) -> Claim:
    """A claim of a recorded rotation of which these columns were edited."""
    asked = claim(attempt)
    assert isinstance(asked.request, RotationRequest)
    others = frozenset(columns) - {"name", "description"}
    edits = Edits(name="name" in columns, description="description" in columns, others=others)
    request = replace(asked.request, recorded_id=ID, key_issued="Billing prod #7.1-000abc", edits=edits)
    return replace(asked, request=request)


@given(st.sets(st.sampled_from(EDITABLE)))
def test_an_update_has_what_was_edited_and_nothing_else(columns: set[str]) -> None:
    """Spending limits are sent together, with the key's present name, which tells which create made the rotation."""
    request = edited(*columns).request
    assert isinstance(request, RotationRequest)
    body = json.loads(update_body(request, marker=""))
    assert set(body) == {FIELDS[column] for column in columns}
    if "parameters" in body:
        assert body["parameters"] == {"name": "Billing prod #7.1-000abc", "limit": 5.0}


def as_asked(**changes: Any) -> Rotation:
    """The request in the form of a claim."""
    found = rotation("Billing prod #7.1-000abc")
    columns: dict[str, Any] = {"secret_name": "KEY", "interval_days": 30, "rotate_at": (2, 30), "spend_limit": 5.0}
    return replace(found, **(columns | changes))


OTHERWISE = {
    "name": "other",
    "description": "other",
    "secret_name": "OTHER",
    "interval_days": 1,
    "rotate_at": (0, 0),
    "spend_limit": 6.0,
    "limit_reset": "daily",
    "include_byok": True,
}


@given(st.sets(st.sampled_from(EDITABLE)), st.sets(st.sampled_from(EDITABLE)), st.integers(1, 3))
def test_a_lost_update_is_found_out_by_a_read(columns: set[str], missing: set[str], attempt: int) -> None:
    """The first call is the update; after an attempt it is a read, and the update follows if something is missing."""
    asked = edited(*columns, attempt=attempt)
    action = first_action(asked)
    assert action is (Action.UPDATE if columns and attempt == 1 else Action.CONFIRM)
    found = as_asked(**{column: OTHERWISE[column] for column in missing})
    assert isinstance(asked.request, RotationRequest)
    assert differing(asked.request, found) == missing
    if action is Action.CONFIRM:
        seen = Observation(result=Result.FOUND, connection=found)
        step = decide(asked, action, seen, rules=Rules(), context=DecisionContext(now=NOW, jitter=0.5))
        assert isinstance(step, Do if columns & missing else Succeed)
        if isinstance(step, Do):
            assert step.action is Action.UPDATE


def test_what_is_recorded_and_gone_is_forgotten_before_it_is_made_again() -> None:
    """A claim of a recorded rotation never creates, so a lost worker leaves no unknown key."""
    for action in (Action.UPDATE, Action.CONFIRM):
        seen = Observation(result=Result.ABSENT)
        context = DecisionContext(now=NOW, jitter=0.5)
        assert decide(edited("interval_days"), action, seen, rules=Rules(), context=context) == Remove()


@pytest.mark.parametrize(
    ("recorded", "adopted", "meant", "revoke", "deleted", "doubt", "said"),
    [
        (True, False, False, True, True, 0, ""),
        (True, False, False, False, True, 0, "stays at OpenRouter"),
        (True, False, False, True, False, 0, "may remain"),
        (True, False, False, False, False, 0, "may remain"),
        (True, True, False, False, False, 0, ""),
        (True, True, True, False, True, 0, "stays at OpenRouter"),
        (False, False, False, True, True, 1, ""),
        (False, False, False, False, True, 1, "no rotation uses it"),
        (False, False, False, True, True, 2, "no rotation uses them"),
        (False, False, False, True, False, 1, "no rotation uses it"),
        (False, False, False, True, False, 0, ""),
    ],
)
def test_a_key_that_a_removal_leaves_is_named(
    recorded: bool, adopted: bool, meant: bool, revoke: bool, deleted: bool, doubt: int, said: str
) -> None:
    """Only a deletion that was answered has certainly revoked; what somebody else made and keeps is not named."""
    asked = doubting(*range(1, doubt + 1))
    assert isinstance(asked.request, RotationRequest)
    request = replace(
        asked.request,
        recorded_id=ID if recorded else None,
        key_issued="the key" if recorded else None,
        adopted=adopted,
        revoke_keys=revoke,
        edits=Edits(adopted=meant),
    )
    words = request.left_by_removal(asked.doubt, deleted=deleted)
    assert (said in words) if said else words == ""


@pytest.mark.parametrize(
    ("installation", "request_id", "ours"), [("here", 7, True), ("there", 7, False), ("here", 8, False)]
)
def test_the_mark_in_the_description_tells_it_too(installation: str, request_id: int, ours: bool) -> None:
    """The mark alone proves that a rotation is ours when the evidence of its create is gone."""
    found = replace(rotation("of somebody"), description=f"chat [provisioner:{installation}:{request_id}]")
    assert is_ours(claim(), found, marker="here", clock=Reading()) is ours
    assert not is_ours(claim(), found, marker="", clock=Reading())


@pytest.mark.parametrize(("status", "result"), [(401, Result.KEY_NOT_ISSUED), (503, Result.MISCONFIGURED)])
def test_keys_that_openrouter_does_not_revoke(status: int, result: Result) -> None:
    """Its refusals are the row's own trouble; its outages fail nobody."""
    said = f"Failed to delete OpenRouter API key: Request failed with status code {status}"
    assert read(400, refusal(400, "BadRequest", said), Action.REMOVE).result is result
