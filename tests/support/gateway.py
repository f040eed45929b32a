"""A gateway before an Infisical: it passes everything on, and answers single creates as a test says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CREATES = "/api/v1/app-connections/open-router"
# Hop by hop, or told anew.
DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The fate of one create: how often it is passed on, and its client's answer; None is Infisical's last answer.

    `edit` changes the body before it is handed on, `meanwhile` happens after that. An empty answer resets the
    connection.
    """

    sent_on: int = 1
    answer: bytes | Callable[[Any], bytes] | None = None
    edit: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    meanwhile: Callable[[], Awaitable[None]] | None = None


class Gateway:
    """A gateway in front of `target`, until the end of the block.

    `script` has the steps of each project's creates, in order; what has none is handed on. `date_off` is added to every
    `Date`. While `no_reads`, look-ups are answered with 503.
    """

    def __init__(self, target: str) -> None:
        self.script: defaultdict[str, list[Step]] = defaultdict(list)
        self.creates: Counter[str] = Counter()
        self.deletes = 0
        self.date_off = 0.0
        self.no_reads = False
        self.answered_late: list[asyncio.Task[None]] = []
        self._target = target
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = [task for task in self._tasks if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = lines[0].split(" ", 2)
                await self._answer(writer, method, path, lines[1:], body)
        writer.transport.abort() if writer.is_closing() else writer.close()
        self._tasks.discard(task)

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, lines: list[str], body: bytes
    ) -> None:
        headers = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines if ": " in line}
        self.deletes += method == "DELETE"
        if method == "GET" and self.no_reads:
            writer.write(plain(503, b"upstream is away", "text/plain"))
            return
        step = Step()
        if method == "POST" and path == CREATES:
            project = json.loads(body)["projectId"]
            self.creates[project] += 1
            if self.script[project]:
                step = self.script[project].pop(0)
        if step.edit is not None:
            body = json.dumps(step.edit(json.loads(body))).encode()
        answer = plain(502, b"", "text/plain")
        received = None
        for _ in range(step.sent_on):
            answer, received = await self._hand_on(method, path, headers, body)
        if step.meanwhile is not None:
            await step.meanwhile()
        if step.answer is None:
            writer.write(answer)
            return
        chosen = step.answer(received) if callable(step.answer) else step.answer
        if chosen:
            writer.write(chosen)
            with suppress(ConnectionError):
                await writer.drain()
        writer.close()

    async def _hand_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[bytes, Any]:
        kept = {name: value for name, value in headers.items() if name.lower() not in {"host", "content-length"}}
        async with self._session.request(
            method, self._target + path, headers=kept, data=body or None, allow_redirects=False
        ) as answer:
            content = await answer.read()
            date = parsedate_to_datetime(answer.headers["date"]).timestamp() + self.date_off
            lines = [f"{name}: {value}" for name, value in answer.headers.items() if name.lower() not in DROPPED]
            lines += [f"date: {formatdate(date, usegmt=True)}", f"content-length: {len(content)}"]
            head = f"HTTP/1.1 {answer.status} X\r\n" + "\r\n".join(lines) + "\r\n\r\n"
            try:
                received = json.loads(content)
            except ValueError:
                received = None
            return head.encode("latin-1") + content, received


def plain(status: int, body: bytes, kind: str = "text/html", *lines: str) -> bytes:
    """An answer as bytes."""
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *lines]
    if kind:
        head.append(f"content-type: {kind}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def in_json(status: int, content: object) -> bytes:
    """An answer in JSON as bytes."""
    return plain(status, json.dumps(content).encode(), "application/json")
