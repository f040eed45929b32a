"""How a machine identity gets access tokens, and how they are verified, renewed and revoked."""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from typing import Any, Final, cast

import orjson

from provisioner.sandbox.simulator.answers import Refusal, internal, not_found
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.model import UUID, Token
from provisioner.sandbox.simulator.validation import JS_SPACE, organization_slug, strings
from provisioner.sandbox.simulator.world import World

__all__ = [
    "LONGEST",
    "authenticate",
    "by_jwt",
    "decode_unverified",
    "encode",
    "expired",
    "mint",
    "renew",
    "revoke",
    "sign",
    "signature",
    "signed",
    "universal",
]

LONGEST: Final = 7_776_000
"""The lifetime of a token without a time to live, in seconds."""

SCHEME_LENGTH: Final = len("Bearer ")
ATTEMPTS: Final = 3
LOCKED_FOR: Final = 300.0  # seconds
FORGOTTEN_AFTER: Final = 30.0  # seconds
METHODS: Final = {"kubernetes-auth": "Kubernetes", "oidc-auth": "OIDC", "jwt-auth": "JWT"}

SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")
MALFORMED: Final = (
    "The provided access token is malformed. Please use a valid token or generate a new one and try again."
)
EXPIRED: Final = "Your token has expired. Please re-authenticate."
PARTS: Final = 3


# Logging in.


async def universal(exchange: Exchange) -> dict[str, Any]:
    """POST a login with client id and secret."""
    client_id, secret = (text.strip(JS_SPACE) for text in strings(exchange.body, ("clientId", "clientSecret")))
    organization = organization_slug(exchange.body)
    world, identity, now = exchange.world, exchange.world.identity, exchange.world.clock()
    if "\0" in client_id:
        raise internal(error="Find one")
    if client_id != identity.client_id or identity.standing == "removed":
        raise _refused_login(world, "Invalid credentials")
    if now < identity.locked_until:
        message = "This identity auth method is temporarily locked, please try again later"
        raise _refused_login(world, message, count="locked")
    right = hmac.compare_digest(secret.encode(), identity.client_secret.encode())
    if not right:
        _note_failure(world, now)
    if not right or identity.secret_revoked:
        raise _refused_login(world, "Invalid credentials")
    identity.failures = 0
    _require_organization(world, organization)
    _spend_secret(world, now)
    return _login(world)


def _note_failure(world: World, now: float) -> None:
    identity = world.identity
    if now - identity.last_failure > FORGOTTEN_AFTER:
        identity.failures = 0
    identity.last_failure = now
    identity.failures += 1
    if identity.failures >= ATTEMPTS:
        identity.failures = 0
        identity.locked_until = now + LOCKED_FOR


def _spend_secret(world: World, now: float) -> None:
    identity, settings = world.identity, world.settings
    if settings.secret_ttl and now > identity.secret_made + settings.secret_ttl:
        identity.secret_revoked = True
        raise _refused_login(world, "Access denied due to expired client secret")
    if settings.secret_uses and identity.secret_uses >= settings.secret_uses:
        identity.secret_revoked = True
        raise _refused_login(world, "Access denied due to client secret usage limit reached")
    identity.secret_uses += 1


async def by_jwt(exchange: Exchange) -> dict[str, Any]:
    """POST a login with another issuer's token: any token with three parts that has not expired."""
    identity_id, text = strings(exchange.body, ("identityId", "jwt"))
    organization = organization_slug(exchange.body)
    world = exchange.world
    if not UUID.match(identity_id):
        raise internal(error="Find one")
    if identity_id != world.identity.id or world.identity.standing == "removed":
        world.logins["refused"] += 1
        kind = METHODS[exchange.request.path.split("/")[4]]
        raise not_found(f"{kind} auth method not found for identity, did you configure {kind} auth?")
    if len(text.split(".")) != PARTS or not all(text.split(".")):
        raise _refused_login(world, "Access denied: invalid token")
    expires = (decode_unverified(text) or {}).get("exp")
    if isinstance(expires, int | float) and world.clock() >= expires:
        raise _refused_login(world, "Access denied: jwt expired")
    _require_organization(world, organization)
    return _login(world)


def _require_organization(world: World, slug: str | None) -> None:
    """Refuse a login that names another organization."""
    if slug is not None and slug != world.settings.organization_slug:
        world.logins["refused"] += 1
        raise not_found(f"Sub organization with name {slug} not found")


def _login(world: World) -> dict[str, Any]:
    world.logins["ok"] += 1
    settings = world.settings
    ttl, max_ttl = settings.token_ttl or LONGEST, settings.token_max_ttl or settings.token_ttl
    return _granted(mint(world, ttl=ttl, max_ttl=max_ttl, uses_limit=settings.token_uses), ttl, max_ttl)


def _granted(token: str, ttl: int, max_ttl: int) -> dict[str, Any]:
    return {"accessToken": token, "expiresIn": ttl, "accessTokenMaxTTL": max_ttl, "tokenType": "Bearer"}


def _refused_login(world: World, message: str, *, count: str = "refused") -> Refusal:
    world.logins[count] += 1
    return _unauthorized(message)


# The life of a token.


def mint(world: World, *, ttl: int, max_ttl: int = 0, uses_limit: int = 0) -> str:
    """Return a new access token that lives `ttl` seconds; 0 means for ever."""
    now = world.clock()
    token = Token(id=world.seeds.uuid(), ttl=ttl, max_ttl=max_ttl, uses_limit=uses_limit, created=now, renewed=now)
    world.tokens[token.id] = token
    return signed(world, token)


def signed(world: World, token: Token) -> str:
    """Return a token in the form that its owner gets."""
    issued = int(token.renewed)
    payload: dict[str, object] = {
        "identityId": world.identity.id,
        "clientSecretId": world.seeds.named_uuid("client secret id"),
        "identityAccessTokenId": token.id,
        "authTokenType": "identityAccessToken",
        "iat": issued,
    }
    return sign(payload | {"exp": issued + token.ttl} if token.ttl else payload, world.signing_key)


def authenticate(world: World, authorization: str | None) -> Token:
    """Return the token in a header, or refuse it. This counts as one use of the token."""
    if not authorization:
        raise _unauthorized("Token missing")
    # The server removes seven characters, whatever they are.
    text = authorization[SCHEME_LENGTH:]
    if text.startswith("st."):
        raise not_found(f"Service token with ID '{text.split('.')[1]}' not found")
    token = _known(world, text)
    if token.end == "lapsed":
        raise _unauthorized("Identity access token exceeded max age, please re-authenticate")
    if token.end != "open":
        raise _unauthorized(f"Failed to authorize: {_revoked(token.end)}")
    match world.identity.standing:
        case "untrusted-address":
            message = "You are not allowed to access this resource from the current IP address"
            raise Refusal(403, "ForbiddenError", message)
        case "removed":
            raise _unauthorized("Identity is not a member of the organization")
        case "inactive":
            raise _unauthorized("Identity organization membership is inactive")
    if token.uses_limit and token.uses >= token.uses_limit:
        raise _unauthorized("Failed to authorize: token usage limit reached")
    token.uses += 1
    return token


def _known(world: World, text: str) -> Token:
    payload = _verified(text, world.signing_key, world.clock())
    if payload.get("authTokenType") != "identityAccessToken":
        raise _unauthorized("Token missing")
    if not all(isinstance(payload.get(claim), str) for claim in ("identityId", "identityAccessTokenId")):
        raise _unauthorized("Invalid identity access token claims, please re-authenticate")
    token = world.tokens.get(str(payload["identityAccessTokenId"]))
    if token is None:
        raise _unauthorized("No identity access token found")
    if token.end == "expired":
        raise expired()
    return token


async def renew(exchange: Exchange) -> dict[str, Any]:
    """POST a renewal: it returns a second token, and both remain valid."""
    world = exchange.world
    token = _known(world, *strings(exchange.body, ("accessToken",)))
    if token.end != "open":
        raise _unauthorized(f"Cannot renew: {_revoked(token.end)}")
    another = replace(token, id=world.seeds.uuid(), renewed=world.clock(), uses=0)
    world.tokens[another.id] = another
    return _granted(signed(world, another), another.ttl, another.max_ttl)


async def revoke(exchange: Exchange) -> dict[str, Any]:
    """POST a revocation; a token that has ended already stays as it is."""
    token = _known(exchange.world, *strings(exchange.body, ("accessToken",)))
    if token.end == "open":
        token.end = "token"
    return {"message": "Successfully revoked access token"}


def _revoked(what: str) -> str:
    return f"{what} {'have' if what.endswith('s') else 'has'} been revoked"


def expired() -> Refusal:
    """Return the refusal of an expired token."""
    return _invalid(EXPIRED)


def _invalid(message: str) -> Refusal:
    return Refusal(403, "TokenError", message)


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, "UnauthorizedError", message)


# JSON Web Tokens signed with HS256, with the error messages of Infisical's library.


def encode(raw: bytes) -> str:
    """Encode bytes as a part of a token."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(part: str) -> Any:
    try:
        return orjson.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return None


HEADER: Final = encode(orjson.dumps({"alg": "HS256", "typ": "JWT"}))


def signature(key: bytes, text: str) -> str:
    """Return the third part of a token, for the first two."""
    return encode(hmac.digest(key, text.encode(), hashlib.sha256))


def sign(payload: dict[str, Any], key: bytes) -> str:
    """Return the token with this payload."""
    text = f"{HEADER}.{encode(orjson.dumps(payload))}"
    return f"{text}.{signature(key, text)}"


def decode_unverified(token: str) -> dict[str, Any] | None:
    """Return the payload without checking the signature; None if it cannot be read."""
    parts = token.split(".")
    payload = _decode(parts[1]) if len(parts) == PARTS else None
    return cast("dict[str, Any]", payload) if isinstance(payload, dict) else None


def _verified(token: str, key: bytes, now: float) -> dict[str, Any]:
    """Return the payload of a token that is valid at `now`, or refuse it. The order of the checks matters."""
    if not token:
        raise _invalid("jwt must be provided")
    if token.count(".") != PARTS - 1:
        raise _invalid(MALFORMED)
    text, _, given = token.rpartition(".")
    if not SHAPE.match(token):
        raise _invalid("invalid token")
    header, payload = (_decode(part) for part in text.split("."))
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise _invalid("invalid token")
    if not given:
        raise _invalid("jwt signature is required")
    if header.get("alg") != "HS256":
        raise _invalid("invalid algorithm")
    if not hmac.compare_digest(signature(key, text), given):
        raise _invalid("invalid signature")
    expires = payload.get("exp")
    if isinstance(expires, int | float) and int(now) >= expires:
        raise _invalid(EXPIRED)
    return cast("dict[str, Any]", payload)
