"""The answer to a login grants a token, needs a person, or asks for another try later."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from provisioner.core.secret import Secret
from provisioner.infisical.auth import (
    Granted,
    Limited,
    Login,
    Refused,
    StaticToken,
    TokenExchange,
    Trouble,
    UniversalAuth,
    read_login,
)

SECRET = Secret("a-client-secret-of-some-length")
GRANT = {"accessToken": "eyJ.abc.def", "expiresIn": 7200, "accessTokenMaxTTL": 7200, "tokenType": "Bearer"}


def login(status: int, body: object, **headers: str) -> Login:
    """Read an answer to a login."""
    return read_login(status, headers, json.dumps(body).encode(), secret=SECRET)


def refusal(status: int, message: object) -> Login:
    """Read an error of Infisical."""
    return login(status, {"reqId": "req-1", "statusCode": status, "error": "UnauthorizedError", "message": message})


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(7200, 7200.0), (0, math.inf), (None, math.inf), ("7200", math.inf), (True, math.inf), (-5, math.inf)],
)
def test_granted(expires_in: object, lifetime: float) -> None:
    """A token's lifetime is as stated; 0 and unreadable values mean for ever."""
    assert login(200, {**GRANT, "expiresIn": expires_in}) == Granted(token=Secret("eyJ.abc.def"), lifetime=lifetime)


@pytest.mark.parametrize("body", [{}, [], None, {"accessToken": 5}, {"accessToken": ""}, {"accessToken": "a\r\nb: c"}])
def test_success_without_a_token(body: object) -> None:
    """A success without a usable token is trouble, not a token."""
    assert isinstance(login(200, body), Trouble)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Invalid credentials", "check the client id and the client secret"),
        ("Access denied due to expired client secret", "has expired"),
        ("Access denied due to client secret usage limit reached", "used up"),
        ("You are not allowed to access this resource from the current IP address", "address"),
        ("Something new", "refuses the machine identity with 401"),
    ],
)
def test_refused(message: str, advice: str) -> None:
    """A refused login says what to fix, in our words and in Infisical's."""
    found = refusal(401, message)
    assert isinstance(found, Refused)
    assert not found.locked
    assert advice in found.message
    assert message in found.message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusing_statuses(status: int) -> None:
    """Every status by which Infisical refuses a login waits for a person."""
    assert isinstance(refusal(status, [{"path": ["clientId"], "message": "Required"}]), Refused)


def test_locked() -> None:
    """A locked identity is recognised: even the right secret does not help it."""
    found = refusal(401, "This identity auth method is temporarily locked, please try again later")
    assert isinstance(found, Refused)
    assert found.locked


def test_limited() -> None:
    """A login over the rate limit says how long to wait."""
    assert login(429, {"error": "RateLimitExceeded", "message": ""}, **{"retry-after": "17"}) == Limited(pause=17.0)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_trouble(status: int) -> None:
    """A refusal that is not Infisical's own may be tried again."""
    assert isinstance(read_login(status, {}, b"<html>", secret=SECRET), Trouble)


def test_bodies() -> None:
    """Each login method sends what Infisical expects, with the present secret."""
    universal = UniversalAuth(client_id="c", client_secret=SECRET)
    assert json.loads(universal.body(universal.secret())) == {"clientId": "c", "clientSecret": SECRET.reveal()}
    slugged = UniversalAuth(client_id="c", client_secret=SECRET, organization_slug="acme")
    assert json.loads(slugged.body(SECRET))["organizationSlug"] == "acme"
    jwts = iter([Secret("first"), Secret("second")])
    exchange = TokenExchange(method="oidc-auth", identity_id="i", jwt=lambda: next(jwts))
    assert json.loads(exchange.body(exchange.secret())) == {"identityId": "i", "jwt": "first"}
    assert exchange.secret() == Secret("second")


@pytest.mark.parametrize(
    "auth",
    [
        UniversalAuth(client_id="c", client_secret=SECRET),
        StaticToken(token=SECRET),
        TokenExchange(method="jwt-auth", identity_id="i", jwt=SECRET),
        Granted(token=SECRET, lifetime=1.0),
    ],
)
def test_secrets_do_not_show(auth: object) -> None:
    """No login method shows its secret when printed."""
    assert SECRET.reveal() not in repr(auth)


ENVELOPE = {"reqId": "req-Ab3dE6gH9jK2mN", "statusCode": 0, "error": "Whatever", "message": "Some reason"}
CONTENTS: dict[str, tuple[str, bytes]] = {
    "html": ("text/html; charset=utf-8", b"<html><h1>Sign in</h1></html>"),
    "text": ("text/plain", b"no"),
    "nothing": ("", b""),
    "half": ("application/json", b'{"accessToken": "eyJ.a'),
    "strange": ("application/json", b'["x"]'),
    "foreign": ("application/json", b'{"error": "Unauthorized"}'),
    "infisical": ("application/json", json.dumps(ENVELOPE).encode()),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("method", ["universal-auth", "kubernetes-auth", "oidc-auth"])
def test_every_answer_to_a_login_is_one_clear_sentence(kind: str, method: str) -> None:
    """Whatever status and content come back, the message says what came and, where a person must act, what to set."""
    content_type, body = CONTENTS[kind]
    for status in range(200, 600):
        headers = {"content-type": content_type, "location": "https://login.example.com/sign-in?next=x"}
        found = read_login(status, headers, body, secret=SECRET, method=method, host="vault.example.com")
        if isinstance(found, Limited):
            assert status == 429
            continue
        assert isinstance(found, Refused | Trouble)
        assert "\n" not in found.message
        assert (
            str(status) in found.message
            or "Some reason" in found.message
            or "does not know this route" in found.message
        )
        if 300 <= status < 400:
            assert "redirects to https://login.example.com: set the target's url" in found.message
        if status in {404, 405} and kind != "infisical":
            assert "check the target's url" in found.message
        if kind in {"html", "text"} and status < 300:
            assert f"{content_type.partition(';')[0]} instead of JSON: check the target's url" in found.message
        if isinstance(found, Refused):
            # Only these are answers after which the server may lock the client id.
            assert found.counted == (status == 401 and method == "universal-auth")
        else:
            assert status < 300 or status >= 500 or kind in {"infisical", "foreign"}


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("us.infisical.com", "is the US cloud; if the identity is in the EU cloud"),
        ("app.infisical.com", "set the target's url (INFISICAL_HOST for target default) to https://eu.infisical.com"),
        ("eu.infisical.com", "set the target's url (INFISICAL_HOST for target default) to https://us.infisical.com"),
        ("vault.example.com", "that the target's url is that of the Infisical that has the identity"),
    ],
)
@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "Invalid credentials"), (404, "OIDC auth method not found for identity, did you configure OIDC auth?")],
)
def test_an_unknown_identity_may_belong_to_another_region(status: int, message: str, host: str, said: str) -> None:
    """An identity that one region of the cloud does not know gets a hint about the other region and the setting."""
    body = json.dumps({**ENVELOPE, "message": message}).encode()
    found = read_login(status, {}, body, secret=SECRET, host=host)
    assert isinstance(found, Refused)
    assert said in found.message


messages = st.text() | st.sampled_from([SECRET.reveal(), f"bad secret {SECRET.reveal()[:20]}"])


@given(
    status=st.integers(100, 599),
    body=st.binary(max_size=100)
    | st.fixed_dictionaries({"error": st.text(), "message": messages | st.lists(messages)}).map(
        lambda value: json.dumps(value).encode()
    ),
    headers=st.dictionaries(st.just("retry-after"), st.text()),
)
def test_any_answer_is_read(status: int, body: bytes, headers: dict[str, str]) -> None:
    """No answer raises, and no message shows the client secret."""
    found: Any = read_login(status, headers, body, secret=SECRET)
    assert SECRET.reveal()[:20] not in getattr(found, "message", "")
