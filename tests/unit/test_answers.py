"""Answers of Infisical become observations as the table of its behaviour says, and never anything worse."""

import json
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, strategies as st

from provisioner.core.model import ERROR_MESSAGE_LENGTH, Action, Connection, Observation, Proof, RateHeaders, Result
from provisioner.core.skew import HALF_SECOND
from provisioner.infisical.answers import is_unexplained, read_answer, read_list
from provisioner.infisical.parts import BEGINNING, USUAL_PAUSE, Expected, Reply

PROJECT = "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d"
OTHER_PROJECT = "0d3d7d6c-3a52-47a1-8ad9-3f4f0b5d9a11"
ID = "9a1b5c5e-7b1e-4a57-9d38-0f8f6e6c2b10"
ORG = "5b2f3c1d-8d3e-4c1b-9f5a-7e6d5c4b3a21"
HASH = "ab" * 32
KEY = "sk-or-v1-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
REQ_ID = "req-Ab3dE6gH9jK2mN"
LISTED = Expected(Action.LOOK_UP, PROJECT)
JSON = {"content-type": "application/json; charset=utf-8"}
HTML = {"content-type": "text/html; charset=utf-8"}
LIMITS = {"x-ratelimit-limit": "200", "x-ratelimit-remaining": "17", "x-ratelimit-reset": "42"}

CONNECTION = {
    "id": ID,
    "name": "openrouter",
    "description": "for the team",
    "version": 1,
    "orgId": ORG,
    "createdAt": "2026-11-23T10:20:30.456Z",
    "updatedAt": "2026-11-23T10:20:30.456Z",
    "app": "open-router",
    "method": "api-key",
    "credentials": {},
    "isPlatformManagedCredentials": False,
    "gatewayId": None,
    "projectId": PROJECT,
    "isAutoRotationEnabled": False,
    "credentialsHash": HASH,
}
READ = Connection(
    id=ID,
    project_id=PROJECT,
    org_id=ORG,
    credentials_hash=HASH,
    name="openrouter",
    app="open-router",
    method="api-key",
    description="for the team",
    created_at=datetime(2026, 11, 23, 10, 20, 30, 456000, tzinfo=UTC),
)


def connection(**changes: Any) -> bytes:
    """A body of success; a change to `...` leaves the field out."""
    fields = {name: value for name, value in {**CONNECTION, **changes}.items() if value is not ...}
    return json.dumps({"appConnection": fields}).encode()


def error(status: int, kind: str, message: object, *, req_id: str | None = REQ_ID) -> bytes:
    """A body of failure as Infisical words it."""
    body = {"statusCode": status, "error": kind, "message": message}
    return json.dumps(body if req_id is None else {"reqId": req_id, **body}).encode()


def read(status: int, body: bytes, *, action: Action = Action.CREATE, **more: Any) -> Observation:
    """Read the answer to a call for the usual request."""
    headers, now, elapsed = more.pop("headers", JSON), more.pop("now", None), more.pop("elapsed", 0.0)
    asked = Expected(action, **{"project_id": PROJECT, "name": "openrouter", "key": KEY, **more})
    return read_answer(Reply(asked, status, headers, body, now=now, elapsed=elapsed))


def test_created() -> None:
    """A successful create is read completely: the connection, the limiter's headers, the clock's skew."""
    headers = {**JSON, **LIMITS, "date": formatdate(1_800_000_000, usegmt=True)}
    seen = read(200, connection(), headers=headers, now=1_800_000_003.0, elapsed=0.25)
    assert seen == Observation(
        result=Result.CREATED,
        proof=Proof.MADE,
        connection=READ,
        status=200,
        rate=RateHeaders(limit=200, remaining=17, reset=42.0),
        metered=True,
        skew=HALF_SECOND - 3.0,
        elapsed=0.25,
    )


TOKEN_401 = [
    "Token missing",
    "No identity access token found",
    "Failed to renew MI access token due to TTL expiration",
    "Unable to renew because access token number of uses limit reached",
]
TAKEN = 'An App Connection with the name "openrouter" already exists'
REFUSED = "Unable to validate connection: invalid API key or insufficient permissions"
NOT_ALLOWED = "You are not allowed to create-app-connections on app-connections"
FAR = "You are not allowed to access this resource from the current IP address"
ISSUES = [{"code": "too_small", "message": "must not be empty", "path": ["credentials", "apiKey"]}]


@pytest.mark.parametrize(
    ("status", "body", "seen", "metered"),
    [
        (400, error(400, "BadRequest", TAKEN), Result.NAME_TAKEN, True),
        (409, error(409, "Conflict", TAKEN), Result.NAME_TAKEN, True),
        (400, error(400, "BadRequest", "Something about the input"), Result.INVALID, True),
        (400, error(400, "BadRequest", "Identity does not belong to this organization"), Result.TOKEN_TROUBLE, False),
        (400, error(400, "BadRequest", TOKEN_401[3]), Result.TOKEN_TROUBLE, False),
        (401, error(401, "UnauthorizedError", REFUSED), Result.KEY_REFUSED, True),
        *((401, error(401, "UnauthorizedError", message), Result.TOKEN_TROUBLE, False) for message in TOKEN_401),
        (401, error(401, "TokenError", "Your token has expired."), Result.TOKEN_TROUBLE, False),
        (401, error(401, "UnauthorizedError", "Something new"), Result.TOKEN_TROUBLE, False),
        (403, error(403, "TokenError", "Your token has expired. Please re-authenticate."), Result.TOKEN_TROUBLE, False),
        (403, error(403, "TokenError", "invalid signature"), Result.TOKEN_TROUBLE, False),
        (403, error(403, "PermissionDenied", NOT_ALLOWED), Result.FORBIDDEN, True),
        (
            403,
            error(403, "ForbiddenError", "You are not a member of this project with ID x."),
            Result.NOT_IN_PROJECT,
            True,
        ),
        (403, error(403, "ProjectMembershipNotFound", "Join first."), Result.NOT_IN_PROJECT, True),
        (403, error(403, "ForbiddenError", "This project does not belong to you."), Result.FOREIGN_PROJECT, True),
        (403, error(403, "ForbiddenError", FAR), Result.MISCONFIGURED, False),
        (404, error(404, "NotFound", f"Project with ID '{PROJECT}' not found"), Result.PROJECT_MISSING, True),
        (404, error(404, "Not Found", "Route POST:/x not found", req_id=None), Result.MISCONFIGURED, False),
        (422, error(422, "ValidationFailure", ISSUES), Result.INVALID, True),
        (429, error(429, "RateLimitExceeded", "Rate limit exceeded."), Result.THROTTLED, True),
        (500, error(500, "Create", "Something went wrong"), Result.UNKNOWN, False),
        (500, error(500, "InternalServerError", "Something went wrong"), Result.UNKNOWN, False),
        (418, error(418, "Teapot", "what?"), Result.UNKNOWN, False),
    ],
)
def test_errors_of_infisical(status: int, body: bytes, seen: Result, metered: bool) -> None:
    """Each of Infisical's own errors means what the table says."""
    found = read(status, body)
    assert (found.result, found.metered, found.connection) == (seen, metered, None)
    assert found.status == status


@pytest.mark.parametrize(
    ("status", "headers", "body", "seen"),
    [
        (502, HTML, b"<html>Bad Gateway</html>", Result.UNKNOWN),
        (503, HTML, b"<html>Service Unavailable</html>", Result.UNKNOWN),
        (504, HTML, b"", Result.UNKNOWN),
        (403, HTML, b"<html>blocked</html>", Result.UNKNOWN),
        (403, JSON, b'{"message": "Forbidden"}', Result.UNKNOWN),
        (404, HTML, b"<html>nginx</html>", Result.MISCONFIGURED),
        (405, HTML, b"", Result.MISCONFIGURED),
        (407, HTML, b"", Result.MISCONFIGURED),
        (429, HTML, b"<html>slow down</html>", Result.THROTTLED),
        (200, HTML, b"<html>Infisical</html>", Result.MISCONFIGURED),
        (200, {"content-type": "text/plain"}, b"ok", Result.MISCONFIGURED),
        (200, JSON, b"<html>", Result.UNKNOWN),
        (200, JSON, b"", Result.UNKNOWN),
        (200, {}, b"", Result.UNKNOWN),
        (200, JSON, b"[]", Result.UNKNOWN),
        (200, JSON, b'{"appConnection": null}', Result.UNKNOWN),
        (200, JSON, connection(id=...), Result.UNKNOWN),
        (200, JSON, connection(id="not-a-uuid"), Result.UNKNOWN),
        (200, JSON, connection(credentialsHash=...), Result.UNKNOWN),
        (200, JSON, connection(credentialsHash="with space"), Result.UNKNOWN),
        (200, JSON, connection(credentialsHash="x" * 129), Result.UNKNOWN),
        (200, JSON, connection(name="another"), Result.UNKNOWN),
        (204, JSON, b"", Result.UNKNOWN),
        (301, {"location": "https://elsewhere.example/x"}, b"", Result.MISCONFIGURED),
        (304, {}, b"", Result.MISCONFIGURED),
        (307, {"location": "http://[broken"}, b"", Result.MISCONFIGURED),
    ],
)
def test_answers_of_others(status: int, headers: dict[str, str], body: bytes, seen: Result) -> None:
    """A proxy's or another server's answer is distinguished from Infisical's, and never taken for a success."""
    found = read(status, body, headers=headers)
    assert (found.result, found.metered) == (seen, False)
    assert found.message


@pytest.mark.parametrize("project", [None, ...])
@pytest.mark.parametrize("hash_", [HASH, ...])
def test_wrong_scope(project: object, hash_: object) -> None:
    """An answer without a project is reported with the id to look up, whatever else it lacks."""
    found = read(200, connection(projectId=project, credentialsHash=hash_))
    assert (found.result, found.proof) == (Result.WRONG_SCOPE, Proof.NONE)
    assert found.connection is not None
    assert found.connection.id == ID


@pytest.mark.parametrize("changes", [{"projectId": OTHER_PROJECT}, {"name": "another"}], ids=str)
def test_an_answer_about_another_connection(changes: dict[str, Any]) -> None:
    """Answers that a proxy has mixed up prove nothing, and name nothing that could be deleted."""
    found = read(200, connection(**changes))
    assert (found.result, found.proof, found.connection) == (Result.UNKNOWN, Proof.NONE, None)


# Possible answers of a gateway, a firewall or a login page, and what they make of Infisical's.
FOREIGN: dict[str, tuple[bytes, dict[str, str]]] = {
    "html": (b"<html>sign in</html>", {"content-type": "text/html"}),
    "html as json": (b"<html>sign in</html>", JSON),
    "empty": (b"", {}),
    "half": (error(400, "BadRequest", "x")[:40], JSON),
    "json": (b'{"message": "no"}', JSON),
    "a list": (b"[]", JSON),
    "utf-16": (
        error(400, "BadRequest", "x").decode().encode("utf-16"),
        {"content-type": "application/json; charset=utf-16"},
    ),
    "promised": (b'{"appConnection": {}}', JSON),
}


@pytest.mark.parametrize("body", FOREIGN)
def test_what_others_say_proves_nothing(body: str) -> None:
    """No status but Infisical's own envelope with it is a proof, and it fails no request for its own fault."""
    said, headers = FOREIGN[body]
    for status in range(100, 600):
        found = read(status, said, headers=headers)
        assert found.proof is Proof.NONE, status
        assert found.result in {Result.UNKNOWN, Result.MISCONFIGURED, Result.THROTTLED, Result.TOKEN_TROUBLE}, status


OWN = {
    400: ("BadRequest", "Something about the input"),
    401: ("UnauthorizedError", REFUSED),
    403: ("PermissionDenied", NOT_ALLOWED),
    404: ("NotFound", "Project with ID 'x' not found"),
    409: ("Conflict", "no"),
    422: ("ValidationFailure", ISSUES),
    429: ("RateLimitExceeded", "Rate limit exceeded."),
}


def test_infisicals_own_refusal_is_a_proof() -> None:
    """With its envelope, its `reqId` and the right `error`, of a stage before the insert; a 500 may come after it."""
    for status in range(100, 600):
        kind, message = OWN.get(status, ("BadRequest", "x"))
        found = read(status, error(status, kind, message))
        assert (found.proof is not Proof.NONE) is (status in OWN), status


@pytest.mark.parametrize("status", OWN)
def test_what_is_nearly_infisicals_own_is_none(status: int) -> None:
    """Without a `reqId`, of another status, of another kind, or not sent as JSON, somebody else may have said it."""
    kind, message = OWN[status]
    for body, headers in (
        (error(status, kind, message, req_id=None), JSON),
        (error(500, kind, message), JSON),
        (error(status, "Create", message), JSON),
        (error(status, kind, message), {"content-type": "text/html"}),
        (error(status, kind, message), {}),
    ):
        found = read(status, body, headers=headers)
        assert found.proof is Proof.NONE
        passing = {Result.UNKNOWN, Result.MISCONFIGURED, Result.THROTTLED, Result.TOKEN_TROUBLE, Result.NAME_TAKEN}
        # The sentence about the key is known under any word for its kind: no login helps, and the create is in doubt.
        assert found.result in (passing | {Result.KEY_REFUSED} if b'"Create"' in body else passing)


@pytest.mark.parametrize("kind", ["", "Create", "UnauthorizedError"])
def test_the_sentence_about_the_key_proves_only_in_full(kind: str) -> None:
    """It blames the key whatever kind of error it names; that nothing was made is proven only by its own kind."""
    found = read(401, error(401, kind, REFUSED))
    assert found.result is Result.KEY_REFUSED
    assert found.proof is (Proof.REFUSED if kind == "UnauthorizedError" else Proof.NONE)


def test_a_name_that_is_taken_proves_that_this_call_inserted_nothing() -> None:
    """A gateway may have sent the create before, so this is a separate kind of proof."""
    assert read(400, error(400, "BadRequest", TAKEN)).proof is Proof.TAKEN
    assert read(409, error(409, "Conflict", TAKEN)).proof is Proof.TAKEN
    foreign = read(400, error(400, "BadRequest", TAKEN, req_id=None))
    assert (foreign.result, foreign.proof) == (Result.NAME_TAKEN, Proof.NONE)


def test_projects_are_compared_without_case() -> None:
    """A project's id is the same in capitals."""
    assert read(200, connection(), project_id=PROJECT.upper()).result is Result.CREATED


def test_lenient_reading() -> None:
    """Missing and additional fields do not matter, as long as the essential ones are present."""
    bare = {"id": ID, "projectId": PROJECT, "credentialsHash": HASH, "novelty": {"deep": [1]}, "orgId": "x"}
    found = read(201, json.dumps({"appConnection": bare, "more": 1}).encode())
    assert found.connection == Connection(
        id=ID,
        project_id=PROJECT,
        org_id=None,
        credentials_hash=HASH,
        name="",
        app="",
        method="",
        description=None,
        created_at=None,
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T10:20:30Z", datetime(2026, 11, 23, 10, 20, 30, tzinfo=UTC)),
        ("2026-11-23T12:20:30+02:00", datetime(2026, 11, 23, 10, 20, 30, tzinfo=UTC)),
        ("2026-11-23T10:20:30", datetime(2026, 11, 23, 10, 20, 30, tzinfo=UTC)),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:59", None),
        (1_800_000_000, None),
    ],
)
def test_created_at(text: object, moment: datetime | None) -> None:
    """The time of creation is read with its zone; what cannot be one is left out."""
    found = read(200, connection(createdAt=text)).connection
    assert found is not None
    assert found.created_at == moment
    assert found.created_at is None or found.created_at.tzinfo is not None


ABSENT = "Could not find App Connection with name openrouter in project scope."


@pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
@pytest.mark.parametrize(
    ("status", "body", "seen"),
    [
        (200, connection(), Result.FOUND),
        (200, connection(app="openrouter"), Result.FOUND),
        (200, connection(app="github"), Result.OTHER_APP),
        (200, connection(name="another"), Result.MISCONFIGURED),
        (200, connection(projectId=None), Result.MISCONFIGURED),
        (200, connection(projectId=OTHER_PROJECT), Result.MISCONFIGURED),
        (200, connection(credentialsHash=...), Result.UNKNOWN),
        (404, error(404, "NotFound", ABSENT), Result.ABSENT),
        (404, error(404, "NotFound", "Project with ID 'x' not found"), Result.PROJECT_MISSING),
        (400, error(400, "BadRequest", 'App Connection with name x is not for App "open-router"'), Result.OTHER_APP),
        (401, error(401, "UnauthorizedError", REFUSED), Result.TOKEN_TROUBLE),
        (500, error(500, "Find one", "Something went wrong"), Result.UNKNOWN),
    ],
)
def test_look_ups(action: Action, status: int, body: bytes, seen: Result) -> None:
    """A look-up only finds the connection with that name in that project, and distinguishes absence from trouble."""
    assert read(status, body, action=action).result is seen


@pytest.mark.parametrize(
    ("action", "status", "body", "seen"),
    [
        (Action.REPLACE, 200, connection(), Result.UPDATED),
        (Action.REPLACE, 200, connection(projectId=None), Result.UPDATED),
        (Action.REPLACE, 200, connection(id=ORG), Result.UNKNOWN),
        (Action.REPLACE, 401, error(401, "UnauthorizedError", REFUSED), Result.KEY_REFUSED),
        (Action.REPLACE, 404, error(404, "NotFound", "Could not find App Connection with ID x"), Result.ABSENT),
        (Action.REPLACE, 409, error(409, "Conflict", TAKEN), Result.INVALID),
        (Action.REMOVE, 200, connection(), Result.REMOVED),
        (Action.REMOVE, 204, b"", Result.UNKNOWN),
        (Action.DELETE, 200, b"", Result.UNKNOWN),
        (Action.REMOVE, 404, error(404, "NotFound", "Could not find App Connection with ID x"), Result.ABSENT),
        (Action.REMOVE, 400, error(400, "BadRequest", "Cannot delete App Connection with existing"), Result.IN_USE),
        (Action.REMOVE, 200, connection(id=ORG), Result.UNKNOWN),
        (Action.DELETE, 200, connection(id=ORG), Result.UNKNOWN),
        (Action.UPDATE, 400, error(400, "BadRequest", TAKEN), Result.NAME_TAKEN),
    ],
)
def test_changes(action: Action, status: int, body: bytes, seen: Result) -> None:
    """A replacement is never taken for a create in the wrong scope, and a removal names what was removed."""
    assert read(status, body, action=action, connection_id=ID).result is seen


def test_unexplained_401() -> None:
    """Only a 401 whose reason is not known asks to be settled by another call."""
    assert is_unexplained(read(401, error(401, "UnauthorizedError", "Something new")))
    assert not is_unexplained(read(401, error(401, "UnauthorizedError", TOKEN_401[0])))
    assert not is_unexplained(read(401, error(401, "TokenError", "Your token has expired.")))
    assert not is_unexplained(read(401, error(401, "UnauthorizedError", REFUSED)))


@pytest.mark.parametrize(
    ("kind", "message", "words"),
    [
        ("PermissionDenied", NOT_ALLOWED, ["create-app-connections", PROJECT, "App Connections", "10 s"]),
        ("ProjectMembershipNotFound", "You are not a member of this project", [PROJECT, "add it there"]),
        ("ForbiddenError", "This project does not belong to your selected organization.", ["another organization"]),
        ("ForbiddenError", "You are not a member of this organization with ID x.", ["not in the organization"]),
    ],
)
def test_forbidden_says_what_to_mend(kind: str, message: str, words: list[str]) -> None:
    """A missing permission is named with its project, a remedy and Infisical's own words."""
    shown = read(403, error(403, kind, message)).message
    for word in [*words, message]:
        assert word in shown


def test_issues_are_joined() -> None:
    """A refused body lists every issue with its place."""
    issues = [*ISSUES, {"message": "must be a slug", "path": ["name"]}]
    shown = read(422, error(422, "ValidationFailure", issues)).message
    assert "credentials.apiKey: must not be empty; name: must be a slug" in shown


def test_request_id_is_kept() -> None:
    """Infisical's own id of a failed request is kept, and nothing that is no id."""
    assert read(500, error(500, "Create", "x")).req_id == REQ_ID
    for other in ("a b\n", KEY):
        assert read(500, error(500, "Create", "x", req_id=other)).req_id is None


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "message", "pause"),
    [
        ({"retry-after": "17", "x-ratelimit-reset": "42"}, "in 5 seconds", 17.0),
        ({"retry-after": formatdate(NOW + 20, usegmt=True)}, "", 20.0),
        ({"retry-after": formatdate(NOW - 20, usegmt=True), "x-ratelimit-reset": "42"}, "", 42.0),
        (
            {"retry-after": formatdate(NOW + 520, usegmt=True), "date": formatdate(NOW + 500, usegmt=True)},
            "",
            20.0,
        ),
        ({"x-ratelimit-reset": "42"}, "in 5 seconds", 42.0),
        ({}, "Rate limit exceeded. Please try again in 5 seconds", 5.0),
        ({}, "Please try again in 2 minutes", 120.0),
        ({}, "Please try again", USUAL_PAUSE),
        ({"retry-after": "-3"}, "", USUAL_PAUSE),
        ({"retry-after": "nan"}, "", USUAL_PAUSE),
        ({"retry-after": "1e9"}, "", USUAL_PAUSE),
        ({"retry-after": "1800000000"}, "", USUAL_PAUSE),
        ({"x-ratelimit-reset": "1800000000"}, "", USUAL_PAUSE),
        ({}, "again in 999999 seconds", USUAL_PAUSE),
        ({"retry-after": "0"}, "", 1.0),
    ],
)
def test_retry_after(headers: dict[str, str], message: str, pause: float) -> None:
    """A throttled answer's pause is the first of its sources that makes sense, and never nothing."""
    seen = read(429, error(429, "RateLimitExceeded", message), headers=headers, now=NOW)
    assert seen.retry_after == pytest.approx(pause)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, RateHeaders(limit=200, remaining=17, reset=42.0)),
        ({"x-ratelimit-reset": "0"}, RateHeaders(limit=200, remaining=17, reset=0.0)),
        ({"x-ratelimit-reset": "1800000000"}, None),
        ({"x-ratelimit-reset": "-1"}, None),
        ({"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-limit": "200, 200;w=60"}, None),
        ({"x-ratelimit-limit": "²"}, None),
        ({"x-ratelimit-remaining": "201"}, None),
        ({"x-ratelimit-remaining": "-1"}, None),
        ({"x-ratelimit-remaining": "1e3"}, None),
    ],
)
@pytest.mark.parametrize(("status", "body"), [(200, connection()), (500, error(500, "Create", "x"))])
def test_rate_headers(status: int, body: bytes, changes: dict[str, str], rate: RateHeaders | None) -> None:
    """The limiter's headers are believed on every answer, and only if they can be true."""
    assert read(status, body, headers={**JSON, **LIMITS, **changes}).rate == rate


@pytest.mark.parametrize("date", ["", "soon", "Mon, 99 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 99999 10:00:00 GMT"])
def test_broken_dates(date: str) -> None:
    """An invalid date says nothing about the clock."""
    assert read(200, connection(), headers={**JSON, "date": date}, now=NOW).skew is None


def test_list() -> None:
    """The list of a project's connections holds those of the project, and is refused whole if one cannot be read."""
    other = {**CONNECTION, "projectId": OTHER_PROJECT}
    body = json.dumps({"appConnections": [CONNECTION, other]}).encode()
    seen, connections = read_list(Reply(LISTED, 200, JSON, body))
    assert (seen.result, seen.metered, connections) == (Result.FOUND, True, (READ,))
    broken = json.dumps({"appConnections": [CONNECTION, {"id": ID}]}).encode()
    seen, connections = read_list(Reply(LISTED, 200, JSON, broken))
    assert (seen.result, connections) == (Result.UNKNOWN, ())
    seen, connections = read_list(Reply(LISTED, 403, JSON, error(403, "PermissionDenied", NOT_ALLOWED)))
    assert (seen.result, connections) == (Result.FORBIDDEN, ())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
telling = st.sampled_from([TAKEN, REFUSED, NOT_ALLOWED, FAR, ABSENT, *TOKEN_401, KEY, KEY[3:], KEY[:-8]])
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "reqId": st.just(REQ_ID) | json_values,
        "error": st.sampled_from(["TokenError", "BadRequest"]) | json_values,
        "message": telling | st.lists(st.fixed_dictionaries({"message": telling, "path": json_values})) | json_values,
        "appConnection": st.fixed_dictionaries(
            {name: st.just(value) | json_values for name, value in CONNECTION.items()}
        )
        | json_values,
        "appConnections": json_values,
    },
)
bodies = st.binary(max_size=200) | (envelopes | json_values).map(lambda value: json.dumps(value).encode())
header_names = st.sampled_from(
    ["content-type", "retry-after", "date", "location", *LIMITS, "x-ratelimit-reset", "content-length"]
)
header_values = st.text() | st.sampled_from(["application/json", "text/html", "17", "-1", "1800000000", KEY])


@given(
    action=st.sampled_from(Action),
    status=st.integers(0, 999) | st.sampled_from([200, 400, 401, 403, 404, 409, 422, 429, 500]),
    headers=st.dictionaries(header_names, header_values),
    body=bodies,
    now=st.none() | st.floats(0, 4e9),
)
def test_any_answer_is_read(
    action: Action, status: int, headers: dict[str, str], body: bytes, now: float | None
) -> None:
    """No answer raises, none is taken for success without its essentials, and no message holds the key."""
    seen = read(status, body, action=action, headers=headers, now=now)
    assert len(seen.message) <= ERROR_MESSAGE_LENGTH
    assert seen.message.isprintable()
    shown = seen.message + (seen.req_id or "")
    assert KEY[:BEGINNING] not in shown
    assert KEY[3:] not in shown
    if seen.result in {Result.CREATED, Result.FOUND, Result.UPDATED}:
        assert 200 <= status < 300
        assert seen.connection is not None
        assert seen.connection.credentials_hash
    if seen.result is Result.CREATED and seen.connection is not None:
        assert seen.connection.project_id == PROJECT
    if seen.result is Result.THROTTLED:
        assert seen.retry_after is not None
        assert 1.0 <= seen.retry_after <= 3600.0
    if status >= 500:
        assert not seen.metered


@given(status=st.sampled_from([200, 403, 500]), body=bodies)
def test_any_list_is_read(status: int, body: bytes) -> None:
    """No answer to a list raises."""
    seen, connections = read_list(Reply(LISTED, status, JSON, body))
    assert seen.result is Result.FOUND or not connections
