"""How the server reads a request's body, which it does before it counts or checks anything."""

import codecs
import json
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import aiohttp
import orjson
from aiohttp import web

from provisioner.sandbox.simulator.answers import Cut, internal

__all__ = ["TOO_LARGE", "parse", "read"]

MAX_BYTES = 1024 * 1024
TOO_LARGE = b"\0too large"
"""Stands for a body that was not read."""
# A DELETE that announces JSON of length 0 is refused; one that announces only JSON is not.
LENGTHS = {"Content-Length", "Transfer-Encoding"}


async def read(request: web.BaseRequest) -> bytes:
    """Return the body as it came, or `TOO_LARGE`; raise `Cut` when the client left before its end."""
    if (request.content_length or 0) > MAX_BYTES:
        return TOO_LARGE
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return TOO_LARGE
    except (ConnectionError, aiohttp.ClientPayloadError, web.PayloadAccessError, web.RequestPayloadError):
        raise Cut from None


def parse(raw: bytes, request: web.BaseRequest) -> Any:
    """Return what the body says; everything unreadable is the same 500."""
    if raw is TOO_LARGE:
        raise internal(close=True)
    content_type = request.headers.get("Content-Type")
    if content_type is None:
        if raw and request.method != "DELETE":
            raise internal()
        return None
    if request.method == "DELETE" and not request.headers.keys() & LENGTHS:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    try:
        match kind:
            case "application/json" | "application/scim+json":
                return _json(raw)
            case "text/plain":
                return raw.decode(errors="replace")
            case "application/x-www-form-urlencoded":
                return dict(parse_qsl(raw.decode(errors="replace"), keep_blank_values=True))
    except ValueError:
        raise internal(close=True) from None
    raise internal()


def _json(raw: bytes) -> Any:
    text = raw.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
    try:
        value = orjson.loads(text)
    except ValueError:
        # Half of a surrogate pair is good JSON; the database stores it as the replacement character.
        lenient = json.dumps(json.loads(text, parse_constant=_refuse), ensure_ascii=False)
        value = orjson.loads(lenient.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    _check_prototypes(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_prototypes(value: Any) -> None:
    """Raise `ValueError` for keys that would change JavaScript's own objects."""
    if isinstance(value, list):
        for item in value:
            _check_prototypes(item)
    elif isinstance(value, dict):
        constructor = value.get("constructor")
        if "__proto__" in value or (isinstance(constructor, dict) and "prototype" in constructor):
            raise ValueError("a prototype is not to be changed")
        for item in value.values():
            _check_prototypes(item)
