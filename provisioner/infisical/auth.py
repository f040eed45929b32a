"""How a machine identity proves itself, and what Infisical answers to a login.

Pure, but for reading a secret from where it is kept: that happens anew at each login, so that a changed file counts at
once.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from provisioner.core.secret import Secret
from provisioner.infisical.headers import read_retry_after
from provisioner.infisical.remedies import quoting
from provisioner.infisical.shapes import Envelope, Unreadable, read_envelope, read_json

SecretSource = Secret | Callable[[], Secret]

# A token goes into a header: anything but these would end the header or be refused by the HTTP library.
_is_token = re.compile(r"[!-~]{1,16384}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class UniversalAuth:
    """A client id with a client secret. `organization_slug` chooses among the identity's organizations."""

    client_id: str
    client_secret: SecretSource
    organization_slug: str | None = None

    @property
    def method(self) -> str:
        """The login's name in its path."""
        return "universal-auth"

    def secret(self) -> Secret:
        """The client secret as it is now."""
        return _read(self.client_secret)

    def body(self, secret: Secret) -> bytes:
        """The body of a login; raises `TypeError` for text that is no Unicode."""
        body = {"clientId": self.client_id, "clientSecret": secret.reveal()}
        if self.organization_slug:
            body["organizationSlug"] = self.organization_slug
        return orjson.dumps(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """Another issuer's token, such as a Kubernetes service account's, is exchanged for an access token."""

    method: Literal["kubernetes-auth", "oidc-auth", "jwt-auth"]
    identity_id: str
    jwt: SecretSource
    organization_slug: str | None = None

    def secret(self) -> Secret:
        """The issuer's token as it is now."""
        return _read(self.jwt)

    def body(self, secret: Secret) -> bytes:
        """The body of a login; raises `TypeError` for text that is no Unicode."""
        body = {"identityId": self.identity_id, "jwt": secret.reveal()}
        if self.organization_slug:
            body["organizationSlug"] = self.organization_slug
        return orjson.dumps(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticToken:
    """An access token from the settings: there is no login, and none can replace it."""

    token: SecretSource

    def secret(self) -> Secret:
        """The token as it is now. Raises `ValueError` for what no header can carry."""
        text = _read(self.token).reveal().strip()
        if not _is_token(text):
            raise ValueError("the access token is empty or holds characters that no token has")
        return Secret(text)


Auth = UniversalAuth | TokenExchange | StaticToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A login brought a token that lives for `lifetime` seconds, infinitely long if it never expires."""

    token: Secret
    lifetime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A person has to mend something. `locked`: even the right secret is refused for a while."""

    message: str
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """Over the rate limit of logins: none for `pause` seconds."""

    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Nothing was decided; the same login may be tried again."""

    message: str


Login = Granted | Refused | Limited | Trouble

# What to mend, by how Infisical's message begins; the first that fits.
_REMEDIES: Final = (
    ("Invalid credentials", "check the client id and the client secret"),
    ("Access denied due to expired client secret", "the client secret has expired: make a new one"),
    ("Access denied due to client secret usage limit", "the client secret is used up: make a new one without a limit"),
    ("You are not allowed to access this resource", "the identity does not trust this worker's address: add it there"),
)
_LOCKED: Final = "temporarily locked"


def read_login(status: int, headers: Mapping[str, str], body: bytes, *, secret: Secret) -> Login:
    """What the answer to a login means. `secret` is what was sent: no message holds it or a part of it."""
    if 200 <= status < 300:
        return _granted(status, body)
    envelope = read_envelope(body, secret=secret.reveal())
    message = envelope.message if envelope else ""
    if status == 429:
        return Limited(pause=read_retry_after(headers, message, None))
    if status in {400, 401, 403, 404, 422} and envelope is not None:
        return _refused(status, envelope)
    return Trouble(message=quoting(f"the login was answered with {status}", message))


def _granted(status: int, body: bytes) -> Login:
    try:
        data = read_json(body)
    except Unreadable:
        data = None
    token = data.get("accessToken") if isinstance(data, dict) else None
    if not isinstance(token, str) or not _is_token(token):
        return Trouble(message=f"the login was answered with {status} but brought no token: check the target's url")
    return Granted(token=Secret(token), lifetime=_lifetime(data.get("expiresIn")))


def _lifetime(expires_in: object) -> float:
    """Seconds; 0 means for ever. Where it is not told, the token is used until it is refused."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or expires_in <= 0:
        return math.inf
    return float(expires_in)


def _refused(status: int, envelope: Envelope) -> Refused:
    message = envelope.message
    if _LOCKED in message:
        advice = "logins of this identity are locked for a while after failed ones: check the client secret"
        return Refused(message=quoting(advice, message), locked=True)
    for beginning, advice in _REMEDIES:
        if message.startswith(beginning):
            return Refused(message=quoting(advice, message))
    return Refused(message=quoting(f"Infisical refuses the machine identity with {status}", message))


def _read(source: SecretSource) -> Secret:
    return source if isinstance(source, Secret) else source()
