"""The login methods of a machine identity, and the interpretation of answers to a login.

Pure, except for reading a secret from its source: that happens at each login, so that a changed file takes effect at
once.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from provisioner.core.key_text import NoKey, key_in
from provisioner.core.secret import Secret
from provisioner.infisical.parts import Unreadable, clean, content, read_envelope, read_json, read_retry_after, shorten
from provisioner.infisical.refusals import elsewhere, misled_by, quoting

SecretSource = Secret | Callable[[], Secret]

# A token goes into a header: any other character would end the header or be refused by the HTTP library.
_is_token = re.compile(r"[!-~]{1,16384}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class UniversalAuth:
    """A client id with a client secret. `organization_slug` selects among the identity's organizations."""

    client_id: str
    client_secret: SecretSource
    organization_slug: str | None = None

    @property
    def method(self) -> str:
        """The login's name in the URL path."""
        return "universal-auth"

    def secret(self) -> Secret:
        """Return the present client secret. Raises `ValueError` if it cannot be one: a failed login counts."""
        return _checked(self.client_secret, "the client secret")

    def body(self, secret: Secret) -> bytes:
        """Return the body of a login. Raises `TypeError` for invalid Unicode."""
        body = {"clientId": self.client_id, "clientSecret": secret.reveal()}
        if self.organization_slug:
            body["organizationSlug"] = self.organization_slug
        return orjson.dumps(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """Exchanges another issuer's token, such as a Kubernetes service account's, for an access token."""

    method: Literal["kubernetes-auth", "oidc-auth", "jwt-auth"]
    identity_id: str
    jwt: SecretSource
    organization_slug: str | None = None

    def secret(self) -> Secret:
        """Return the issuer's present token. Raises `ValueError` if it cannot be one."""
        return _checked(self.jwt, "the identity's signed token")

    def body(self, secret: Secret) -> bytes:
        """Return the body of a login. Raises `TypeError` for invalid Unicode."""
        body = {"identityId": self.identity_id, "jwt": secret.reveal()}
        if self.organization_slug:
            body["organizationSlug"] = self.organization_slug
        return orjson.dumps(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticToken:
    """An access token from the settings: there is no login that could replace it."""

    token: SecretSource

    def secret(self) -> Secret:
        """Return the present token. Raises `ValueError` if no header can carry it."""
        return _checked(self.token, "the access token")


Auth = UniversalAuth | TokenExchange | StaticToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A login returned a token that lives for `lifetime` seconds; infinite if it never expires."""

    token: Secret
    lifetime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The login was refused, and a person may have to act.

    `counted`: Infisical counts the refusal, and locks the client id for everybody who uses it after three of them.
    `locked`: it has done so, and refuses even the right secret for a while.
    """

    message: str
    counted: bool = False
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """The rate limit of logins is reached: none may be sent for `pause` seconds."""

    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Nothing was decided; the same login may be tried again."""

    message: str


Login = Granted | Refused | Limited | Trouble

# What to do, by how Infisical's message begins; the first that fits.
_REMEDIES: Final = (
    ("Access denied due to expired client secret", "the client secret has expired: make a new one"),
    ("Access denied due to client secret usage limit", "the client secret is used up: make a new one without a limit"),
    ("You are not allowed to access this resource", "the identity does not trust this worker's address: add it there"),
    ("Sub organization with name", "there is no such organization: check organization_slug of the target"),
)
# Messages of an instance that does not know the identity: another one may know it.
_UNKNOWN: Final = "Invalid credentials"
_NOT_SET_UP: Final = "auth method not found for identity"
_LOCKED: Final = "temporarily locked"


def read_login(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    secret: Secret,
    method: str = "universal-auth",
    host: str = "",
) -> Login:
    """Interpret the answer to a login.

    `secret` is what was sent; no message contains it. `host` is who was asked: Infisical's cloud has regions.
    """
    if 200 <= status < 300:
        return _granted(status, headers, body)
    envelope = read_envelope(body, secret=secret.reveal())
    message = envelope.message if envelope else ""
    if status == 429:
        return Limited(pause=read_retry_after(headers, message, None))
    # A gateway may replace Infisical's refusal by its own page, but the refusal was counted all the same.
    counted = status == 401 and method == "universal-auth"
    if misled := misled_by(status, headers, envelope):
        return Refused(message=shorten(f"the login failed: {clean(misled, secret=secret.reveal())}"))
    if envelope is None:
        return _foreign(status, headers, counted=counted)
    if status in {400, 401, 403, 404, 409, 422}:
        return Refused(message=_advice(status, message, host), counted=counted, locked=_LOCKED in message)
    return Trouble(message=quoting(f"the login was answered with {status}", message))


def _foreign(status: int, headers: Mapping[str, str], *, counted: bool) -> Refused | Trouble:
    """Interpret an answer that does not come from Infisical."""
    said = f"the login was answered with {status} and {content(headers)}, which is not how Infisical answers"
    if status < 500:
        advice = "a gateway in front of it may require its own login; check the target's url and proxy"
        return Refused(message=f"{said}: {advice}", counted=counted)
    return Trouble(message=f"{said}: Infisical, or a gateway in front of it, has a problem")


def _granted(status: int, headers: Mapping[str, str], body: bytes) -> Granted | Trouble | Refused:
    try:
        data = read_json(body)
    except Unreadable:
        kind = content(headers)
        return Refused(
            message=f"the login was answered with {status} and {kind} instead of JSON: check the target's url"
        )
    token = data.get("accessToken") if isinstance(data, dict) else None
    if not isinstance(token, str) or not _is_token(token):
        return Trouble(message=f"the login was answered with {status} but brought no token: check the target's url")
    return Granted(token=Secret(token), lifetime=_lifetime(data.get("expiresIn")))


def _advice(status: int, message: str, host: str) -> str:
    """Say what to do about a refusal, followed by Infisical's own words."""
    if _LOCKED in message:
        advice = "logins of this identity are locked for a while after failed ones: check the client secret"
    elif message.startswith(_UNKNOWN):
        advice = f"check the client id and the client secret{elsewhere(host)}"
    elif _NOT_SET_UP in message:
        advice = f"check identity_id, and that this way of logging in is set up for the identity{elsewhere(host)}"
    else:
        fitting = (about for beginning, about in _REMEDIES if message.startswith(beginning))
        advice = next(fitting, f"Infisical refuses the machine identity with {status}")
    return quoting(advice, message)


def _lifetime(expires_in: object) -> float:
    """Return seconds; 0 means for ever. If the lifetime is missing, the token is used until it is refused."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or expires_in <= 0:
        return math.inf
    return float(expires_in)


def _checked(source: SecretSource, name: str) -> Secret:
    text = (source if isinstance(source, Secret) else source()).reveal()
    try:
        return key_in(text)
    except NoKey as flaw:
        raise ValueError(f"{name} {flaw}") from None
