"""A refusal that is about the access token is known by its kind, and never mistaken for one that is about the key."""

import json

import pytest
from hypothesis import given, strategies as st

from provisioner.core.model import Action, Observation, Result
from provisioner.infisical.answers import is_unexplained, read_answer
from provisioner.infisical.parts import Expected, Reply
from provisioner.infisical.refusals import is_used_up

KEY_REFUSED = "Unable to validate connection: invalid API key or insufficient permissions"
# The messages of a server of July 2026, and of older ones.
DEAD = (
    "Failed to authorize: token has been revoked",
    "Failed to authorize: auth method has been revoked",
    "Failed to authorize: token usage limit reached",
    "Failed to authorize: client secret has been revoked",
    "Failed to authorize: identity tokens have been revoked",
    "Cannot renew revoked or unknown access token",
    "Cannot renew: token has been revoked",
    "Invalid identity access token claims, please re-authenticate",
    "Identity access token exceeded max age, please re-authenticate",
    "Identity is not a member of the organization",
    "Identity organization membership is inactive",
    "Token missing",
    "No identity access token found",
    "Failed to renew MI access token due to TTL expiration",
    "Unable to renew because access token number of uses limit reached",
)
WITH_KEY = (Action.CREATE, Action.REPLACE)


def refused(
    message: object, *, action: Action = Action.CREATE, error: str = "UnauthorizedError", **more: object
) -> Observation:
    """Read a 401 of Infisical's."""
    body = {"reqId": "req-Ab3dE6gH9jK2mN", "statusCode": 401, "error": error, "message": message, **more}
    asked = Expected(action, "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d", "openrouter", None, "sk-or-v1-key-of-the-test")
    return read_answer(Reply(asked, 401, {"content-type": "application/json"}, json.dumps(body).encode()))


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("message", DEAD)
def test_each_dead_token_is_known_at_once(message: str, action: Action) -> None:
    """A server's message about a dead token is understood without another call."""
    seen = refused(message, action=action)
    assert seen.result is Result.TOKEN_TROUBLE
    assert not is_unexplained(seen)
    assert is_used_up(seen.message) == ("limit" in message)


subjects = st.sampled_from(
    [
        "Token",
        "The access token",
        "Identity",
        "Identity access token",
        "Auth method",
        "Client secret",
        "JWT",
        "Membership",
    ]
)
predicates = st.sampled_from(
    ["has been revoked", "is inactive", "was deleted", "has expired", "is not known here", "exceeded its usage limit"]
)
openings = st.sampled_from(["", "Failed to authorize: ", "Cannot renew: ", "Access denied, "])


@given(
    opening=openings,
    subject=subjects,
    predicate=predicates,
    close=st.sampled_from(["", ".", ", please re-authenticate"]),
)
def test_a_sentence_that_nobody_has_seen_is_known_by_its_kind(
    opening: str, subject: str, predicate: str, close: str
) -> None:
    """A server of next year words it differently and speaks of the same things."""
    seen = refused(f"{opening}{subject} {predicate}{close}")
    assert seen.result is Result.TOKEN_TROUBLE
    assert not is_unexplained(seen)


@given(
    rest=st.text() | st.sampled_from(DEAD),
    action=st.sampled_from(WITH_KEY),
    error=st.text() | st.just("UnauthorizedError"),
)
def test_the_refusal_of_a_key_is_never_taken_for_a_token_error(rest: str, action: Action, error: str) -> None:
    """Whatever follows in the sentence, be it about tokens: a key that was not accepted causes no login."""
    assert refused(f"{KEY_REFUSED}{rest}", action=action, error=error).result is Result.KEY_REFUSED


@given(message=st.text() | st.sampled_from([*DEAD, "OpenRouter API key has expired", "invalid token for OpenRouter"]))
def test_a_token_error_is_never_taken_for_the_refusal_of_a_key(message: str) -> None:
    """Only one sentence blames the key; an ambiguous one is left open, for another call to settle."""
    seen = refused(message)
    if not message.startswith("Unable to validate connection"):
        assert seen.result is Result.TOKEN_TROUBLE
        if "API key" in message or "OpenRouter" in message:
            assert is_unexplained(seen)


@pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY, Action.REMOVE])
def test_without_a_key_it_is_the_token(action: Action) -> None:
    """A call without a key can only be refused with 401 because of its token."""
    assert refused(KEY_REFUSED, action=action).result is Result.TOKEN_TROUBLE


@pytest.mark.parametrize("error", ["UnauthorizedError", "TokenError", "Unauthorized"])
@pytest.mark.parametrize("message", [*DEAD, "Unauthorized"])
def test_only_infisicals_own_envelope_speaks_of_the_token(message: str, error: str) -> None:
    """A 401 without Infisical's request id may be a gateway's, which proves nothing about what went on behind it."""
    assert is_unexplained(refused(message, error=error, reqId=None))


@pytest.mark.parametrize(
    ("message", "used_up"),
    [
        ("Failed to authorize: token usage limit reached", True),
        ("The token's uses limit was met", True),
        ("The token has reached its maximum number of uses", True),
        ("Token has expired", False),
    ],
)
def test_a_token_that_is_used_up_is_known(message: str, used_up: bool) -> None:
    """Each wording is recognised on its own."""
    assert is_used_up(message) is used_up
