"""One request on its way through the server: its content, its waits, and its faults."""

import asyncio
import codecs
import json
import math
import socket
import struct
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import parse_qs, parse_qsl

import aiohttp
import orjson
from aiohttp import web

from provisioner.sandbox.simulator.answers import Cut, internal
from provisioner.sandbox.simulator.chance import Faults
from provisioner.sandbox.simulator.model import CreateRecord
from provisioner.sandbox.simulator.validation import UNDEFINED, mismatch, refuse
from provisioner.sandbox.simulator.world import World

__all__ = ["Exchange"]

T = TypeVar("T")

# Closing with a linger time of zero sends RST instead of FIN.
RESET: Final = struct.pack("ii", 1, 0)
SLOW: Final = 1.0  # seconds
MAX_BYTES: Final = 1024 * 1024
# Stands for a body that was too large to read.
TOO_LARGE: Final = b"\0too large"
# A DELETE that declares JSON of length 0 is refused; one that only declares JSON is not.
LENGTHS: Final = {"Content-Length", "Transfer-Encoding"}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its result."""

    world: World
    request: web.BaseRequest
    request_id: str
    params: Mapping[str, str]
    query: str = ""
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    record: CreateRecord | None = None
    faults: Faults | None = None
    fault: str | None = None
    is_cut: bool = False
    cut_at: float = 0.0

    def __post_init__(self) -> None:
        self.cut_at = asyncio.get_running_loop().time() + self.world.settings.cut_after

    @property
    def address(self) -> str:
        """The client's address according to the load balancer."""
        forwarded = self.request.headers.get("X-Forwarded-For")
        return forwarded.partition(",")[0].strip() if forwarded else self.request.remote or ""

    def asked(self, name: str) -> str | None:
        """Return the value of a query parameter; one that is given twice is refused."""
        values = parse_qs(self.query).get(name, [])
        if len(values) > 1:
            refuse([mismatch("string", values, (name,))])
        return values[0] if values else None

    def needed(self, *names: str) -> list[str]:
        """Return the values of required query parameters; a missing one is refused."""
        values = [(name, self.asked(name)) for name in names]
        refuse([mismatch("string", UNDEFINED, (name,)) for name, value in values if value is None])
        return [str(value) for _, value in values]

    # Waiting.

    async def wait(self, seconds: float) -> None:
        """Wait. If the request goes unanswered for too long, its connection is cut, but its work continues."""
        if seconds <= 0:
            return
        if not self.is_cut:
            left = max(0.0, self.cut_at - asyncio.get_running_loop().time())
            await self._watched(asyncio.sleep(min(seconds, left)))
            if seconds < left:
                return
            self.cut()
            seconds -= left
        if math.isinf(seconds):
            raise Cut
        await self._watched(asyncio.sleep(seconds))

    async def until(self, future: asyncio.Future[T]) -> T:
        """Wait for a result; the connection may be cut meanwhile, as in `wait`."""
        if not self.is_cut:
            left = max(0.0, self.cut_at - asyncio.get_running_loop().time())
            done, _ = await self._watched(asyncio.wait((future,), timeout=left))
            if not done:
                self.cut()
        return await self._watched(future)

    async def _watched(self, awaitable: Awaitable[T]) -> T:
        """Wait in a way that the server can cancel when it stops."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self.world.waits.add(task)
        try:
            return await awaitable
        finally:
            self.world.waits.discard(task)

    # Faults.

    def strike(self) -> None:
        """Record that the fault took effect."""
        if self.fault is None or self.faults is None:
            return
        self.faults.strike(self.fault)
        if self.record is not None:
            self.record.fault = self.fault

    async def delay(self) -> None:
        """Take a second longer if the fault is `slow`."""
        if self.fault == "slow":
            self.strike()
            await self.wait(SLOW)

    async def before_commit(self, *, error: str = "Create") -> None:
        """Fail before anything is done, or continue although nobody is listening any more."""
        match self.fault:
            case "cut-before-commit":
                self.lose()
            case "error-before-commit":
                self.strike()
                raise internal(error=error)
            case "late-commit":
                self.strike()
                self.cut()
                await self.wait(self.world.settings.late_by)

    def after_commit(self, made: str | None = None) -> None:
        """Record what was created, and lose the answer if the fault says so."""
        if self.record is not None:
            self.record.committed = True
            self.record.connection_id = made
        match self.fault:
            case "cut-after-commit":
                self.lose()
            case "error-after-commit":
                self.strike()
                raise internal()

    def lose(self) -> NoReturn:
        """Cut the connection without an answer, as the fault demands."""
        self.strike()
        self.cut()
        raise Cut

    def cut(self) -> None:
        """Close the connection without an answer."""
        self.is_cut = True
        if self.request.transport is not None:
            self.request.transport.close()

    def reset(self) -> NoReturn:
        """Reset the connection, as a dead proxy would."""
        self.is_cut = True
        transport = self.request.transport
        if transport is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        raise Cut

    # The body.

    async def read(self) -> bytes:
        """Return the body, or `TOO_LARGE`. Raises `Cut` if the client left before its end."""
        if (self.request.content_length or 0) > MAX_BYTES:
            return TOO_LARGE
        try:
            return await self.request.read()
        except web.HTTPRequestEntityTooLarge:
            return TOO_LARGE
        except (ConnectionError, aiohttp.ClientPayloadError, web.PayloadAccessError, web.RequestPayloadError):
            raise Cut from None

    def parse(self, raw: bytes) -> None:
        """Parse the body; anything unreadable is the same 500."""
        self.body = _parsed(raw, self.request)
        if self.record is not None:
            self.record.note(self.body)


def _parsed(raw: bytes, request: web.BaseRequest) -> Any:
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
        # A lone surrogate is valid JSON; the database stores it as the replacement character.
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
