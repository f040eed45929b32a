"""JSON Web Tokens signed with HS256, and the complaints of the library that Infisical checks them with."""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, cast

import orjson

__all__ = ["InvalidToken", "decode_unverified", "sign", "verify"]

SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")
MALFORMED = "The provided access token is malformed. Please use a valid token or generate a new one and try again."
EXPIRED = "Your token has expired. Please re-authenticate."
PARTS = 3


class InvalidToken(ValueError):
    """A token that is not to be believed; the message is the server's."""


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(part: str) -> Any:
    try:
        return orjson.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return None


HEADER = _encode(orjson.dumps({"alg": "HS256", "typ": "JWT"}))


def _signature(key: bytes, signed: str) -> str:
    return _encode(hmac.digest(key, signed.encode(), hashlib.sha256))


def sign(payload: dict[str, Any], key: bytes) -> str:
    """Return the token of this payload."""
    signed = f"{HEADER}.{_encode(orjson.dumps(payload))}"
    return f"{signed}.{_signature(key, signed)}"


def decode_unverified(token: str) -> dict[str, Any] | None:
    """Return the payload without looking at the signature; None if it cannot be read."""
    parts = token.split(".")
    payload = _decode(parts[1]) if len(parts) == PARTS else None
    return cast("dict[str, Any]", payload) if isinstance(payload, dict) else None


def verify(token: str, key: bytes, now: float) -> dict[str, Any]:
    """Return the payload of a token that holds at `now`, or raise `InvalidToken`. The order of the checks matters."""
    if not token:
        raise InvalidToken("jwt must be provided")
    if token.count(".") != PARTS - 1:
        raise InvalidToken(MALFORMED)
    signed, _, signature = token.rpartition(".")
    if not SHAPE.match(token):
        raise InvalidToken("invalid token")
    header, payload = (_decode(part) for part in signed.split("."))
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise InvalidToken("invalid token")
    if not signature:
        raise InvalidToken("jwt signature is required")
    if header.get("alg") != "HS256":
        raise InvalidToken("invalid algorithm")
    if not hmac.compare_digest(_signature(key, signed), signature):
        raise InvalidToken("invalid signature")
    expires = payload.get("exp")
    if isinstance(expires, int | float) and int(now) >= expires:
        raise InvalidToken(EXPIRED)
    return cast("dict[str, Any]", payload)
