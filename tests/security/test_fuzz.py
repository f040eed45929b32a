"""Whatever comes from outside is read or refused in words: no traceback, no hang, no memory without bounds.

The pure readers of answers, rows and settings have such tests beside them in `tests/unit`; here are the ways in that
they do not cover. `make fuzz` runs all of them for longer.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import tempfile
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import example, given, settings, strategies as st
from nacl.public import PublicKey, SealedBox
from yarl import URL

from provisioner.core.errors import CredentialUnreadable
from provisioner.core.model import Action
from provisioner.core.secret import Secret
from provisioner.credentials.sealing import BoxOpener, KeyFileUnusable, SealingPair, add_to_file, read_file
from provisioner.infisical.answers import read_answer, read_list
from provisioner.infisical.auth import read_login
from provisioner.infisical.parts import Expected, Reply
from provisioner.infisical.transport import LONGEST_ANSWER, AnswerLost, NotSent, Transport, TransportOptions
from provisioner.intake.checked import check_file
from provisioner.intake.errors import FileUnusable
from provisioner.intake.reading import LONGEST, Format
from provisioner.intake.rows import API_KEY, COLUMNS
from provisioner.postgres.listener import read_payload
from provisioner.sandbox.simulator import Options
from provisioner.settings import SettingsError, load_settings
from tests.support import eventually
from tests.support.builders import a_request, project
from tests.support.fleet import Fleet
from tests.support.status_port import Answers, served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.postgres import Database

MEBIBYTE = 2**20
SLOW = settings.default.max_examples * 2 // 5 if settings.default else 40  # examples of tests that open sockets
KEY = "sk-or-v1-planted-in-the-file-4711"


@pytest.fixture
def bounded() -> Iterator[Callable[[], float]]:
    """Provide a function that returns the peak memory in MiB that Python has used."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    yield lambda: (tracemalloc.get_traced_memory()[1] - before) / MEBIBYTE
    tracemalloc.stop()


async def answered(answer: bytes, ask: Callable[[Transport, URL], Awaitable[None]]) -> None:
    """Ask a server that gives these bytes for an answer, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Transport(TransportOptions(base_url=url, timeout=5.0)) as transport:
        await ask(transport, URL(url))


async def read_whatever(transport: Transport, url: URL) -> None:
    """Read an answer in every way in which answers are read."""
    try:
        answer = await transport.send("GET", url, {"Authorization": "Bearer a-token-of-ours"})
    except (AnswerLost, NotSent) as error:
        assert len(str(error)) < 1000  # noqa: PT017 - either end is right
        return
    for action in Action:
        asked = Expected(action, project(1), "a", key=KEY)
        read_answer(Reply(asked, answer.status, answer.headers, answer.body, now=1e9))
    read_list(Reply(Expected(Action.LOOK_UP, project(1)), answer.status, answer.headers, answer.body))
    read_login(answer.status, answer.headers, answer.body, secret=Secret(KEY))


LINES = st.sampled_from(
    [
        b"Content-Type: application/json",
        b"Content-Encoding: gzip",
        b"Content-Encoding: br, deflate, gzip",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5",
        b"Content-Length: 99999999999999999999",
        b"Content-Length: -1",
        b"x-ratelimit-limit: 1e400",
        b"x-ratelimit-remaining: \xff\xfe",
        b"x-ratelimit-reset: -9",
        b"retry-after: Thu, 99 Foo",
        b"date: \x00",
        b"Location: http://[::1",
        b"Set-Cookie: \x01=\x02",
    ]
) | st.binary(max_size=60)
BODIES = (
    st.binary(max_size=300)
    | st.binary(max_size=200).map(gzip.compress)
    | st.sampled_from(
        [b"[" * 50000, b'{"a":' * 50000, b'{"appConnection":' * 999, b"\xff" * 3000, b"5\r\nhello\r\n0\r\n\r\n"]
    )
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(lambda value: json.dumps({"appConnection": value, "message": value, "error": value}).encode())
)


@settings(max_examples=SLOW)
@given(
    status=st.sampled_from([b"200", b"204", b"401", b"429", b"500", b"999", b"1", b"xx"]),
    lines=st.lists(LINES, max_size=4),
    body=BODIES,
)
async def test_any_bytes_for_an_answer(status: bytes, lines: list[bytes], body: bytes) -> None:
    """Whatever a server sends, it is an answer that can be read, or one that was lost."""
    head = b"HTTP/1.1 " + status + b" Said\r\n" + b"".join(line + b"\r\n" for line in lines)
    await answered(head + b"\r\n" + body, read_whatever)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_a_bomb_for_an_answer(encoding: str, bounded: Callable[[], float]) -> None:
    """An answer that grows to a hundred times the accepted size is given up before it fills the memory."""
    million = b" " * MEBIBYTE
    if encoding == "identity":
        content = million * 4
    else:
        packer = zlib.compressobj(level=9, wbits={"gzip": 31, "deflate": 15}[encoding])
        content = b"".join(packer.compress(million) for _ in range(100)) + packer.flush()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\n"
    answer = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    before = bounded()

    async def ask(transport: Transport, url: URL) -> None:
        with pytest.raises(AnswerLost):
            await transport.send("GET", url, {}, most=LONGEST_ANSWER)

    await answered(answer, ask)
    assert bounded() - before < len(answer) / MEBIBYTE + 8


CELLS = st.sampled_from(
    ["\0", "\ufeff", '"', '""', ",", ";", "\t", "\r", "\n", "\r\n", "'", "=1+1", "{", "[", "\\", "\x85", "\u2028"]
)
NAMES = st.sampled_from([*COLUMNS, API_KEY, "project_id", project(1)])
TEXTS = st.lists(CELLS | NAMES | st.text(max_size=5), max_size=40).map("".join)
OCTETS = (
    st.binary(max_size=300)
    | TEXTS.map(str.encode)
    | TEXTS.map(lambda text: text.encode("utf-16"))
    | TEXTS.map(lambda text: text.encode("latin-1", "replace"))
    | st.tuples(st.just(b"project_id,api_key,description\n"), TEXTS.map(str.encode), st.binary(max_size=50)).map(
        b"".join
    )
)


def seal(api_key: Secret, *, project_id: str, name: str) -> str:
    """A substitute for sealing, which reading does not depend on."""
    return f"sealed:k1:{'A' * 80}{len(api_key.reveal() + project_id + name)}"


@given(
    content=OCTETS, name=st.sampled_from(["-", "x.csv", "x.jsonl", "x.json"]), form=st.none() | st.sampled_from(Format)
)
@example(content=b'target\t""0', name="x.csv", form=None)
@example(content=b'{"priority": 1e999}', name="x.jsonl", form=None)
@example(content=b'{"project_id": ' + b"[" * 100000, name="x.jsonl", form=None)
@example(content=b'{"priority": ' + b"9" * 5000 + b"}", name="x.jsonl", form=None)
@example(content=b"project_id\n" + b'"' * 200001, name="x.csv", form=None)
def test_any_bulk_file(content: bytes, name: str, form: Format | None) -> None:
    """Any file ends in rows and problems with their lines, or is refused as a whole in a sentence."""
    try:
        with check_file(io.BufferedReader(io.BytesIO(content)), name=name, form=form, seal=seal) as found:
            assert len(list(found.rows())) == found.good
            problems = [str(problem) for problem in found.problems]
    except FileUnusable as error:
        problems = [str(error)]
    assert all(problem.isprintable() and len(problem) < 2000 for problem in problems)


@pytest.mark.parametrize("line", [b"x" * 10, b'"' + b"x" * 10, b'{"a": "', b"[" * 10], ids=repr)
def test_a_gigantic_line(line: bytes, tmp_path: Path, bounded: Callable[[], float]) -> None:
    """A line of many megabytes is refused before it is in memory, quoted or not."""
    file = tmp_path / "x"
    with file.open("wb") as out:
        out.write(b"project_id\n" if line[:1] != b"{" else b"")
        out.write(line)
        for _ in range(40):
            out.write(b" " * MEBIBYTE)
    with file.open("rb") as stream, pytest.raises(FileUnusable, match="longer than"):
        check_file(stream, name="-", seal=seal)
    assert bounded() < 16 * LONGEST / MEBIBYTE


CONTENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["apiKey", "projectId", "name"]) | st.text(), inner)
    ),
)


@given(inside=CONTENTS.map(orjson.dumps) | st.binary(max_size=200) | st.just(b"[" * 100000))
def test_any_box(inside: bytes) -> None:
    """Anyone with the public key may seal anything: opening it yields a key for this row or a reason."""
    with tempfile.TemporaryDirectory() as folder:
        file, pair = Path(folder) / "keys", SealingPair.generate()
        add_to_file(file, pair)
        box = SealedBox(PublicKey(pair.key.public)).encrypt(inside)
        credential = f"sealed:{pair.key.key_id}:{base64.b64encode(box).decode()}"
        try:
            assert BoxOpener(file).open(a_request(credential=credential)).reveal().strip()
        except CredentialUnreadable as error:
            assert str(error).isprintable()  # noqa: PT017 - either end is right


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
@example(b"k1 " + b"A" * 100000)
@example(b"\xef\xbb\xbfk1 QUJD\n")
def test_any_key_file(content: bytes) -> None:
    """Any file is read as keys or refused by its name and line, without a part of its contents."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.touch(0o600)
        file.write_bytes(b"planted-4711 " + content)
        try:
            read_file(file)
        except KeyFileUnusable as error:
            assert str(error).isprintable()  # noqa: PT017 - either end is right
            assert "planted" not in str(error)  # noqa: PT017


TOML = st.lists(
    st.sampled_from(
        [
            "[",
            "]",
            "[[",
            "=",
            '"',
            '"""',
            "'",
            "\n",
            ".",
            "#",
            "{",
            "}",
            "retry",
            "targets.default",
            "url",
            "1979-05-27",
            "inf",
            "0x",
            "\\u",
            "\0",
        ]
    )
    | st.text(max_size=4),
    max_size=30,
).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))


@given(TOML | st.binary(max_size=100))
@example(b"a = " + b"[" * 5000)
@example(b"a = " + b"{a = " * 5000)
@example(b"a." * 5000 + b"a = 1")
@example(b"[retry]\nbase = " + b"9" * 5000)
def test_any_settings_file(content: bytes) -> None:
    """Any file of settings loads or is refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "provisioner.toml"
        file.write_bytes(content)
        try:
            load_settings(cwd=Path(folder), environ={"PROVISIONER_CONFIG": str(file)})
        except SettingsError as error:
            assert str(error).isprintable()  # noqa: PT017 - either end is right


PAYLOADS = st.text(max_size=60) | st.lists(
    st.tuples(st.sampled_from(["default", "", "eu"]), st.integers(), st.integers()), max_size=4
).map(lambda parts: ";".join(f"{target},{rank},{turn}" for target, rank, turn in parts))


@given(PAYLOADS)
@example("default," + "9" * 7000 + ",1")
@example("default,-99999999999,1")
def test_any_notification(payload: str) -> None:
    """Whatever somebody notifies, the places that are taken from it fit the columns that they are compared with."""
    for place in read_payload(payload).values():
        assert abs(place.rank) < 2**31
        assert abs(place.turn) < 2**63


async def test_notifications_of_strangers_stop_no_worker(database: Database) -> None:
    """Any role that can connect may notify: at worst that costs a poll of the queue."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=4)) as fleet:
        await fleet.insert(2)
        await fleet.start()
        await fleet.done()

        async def listened() -> Any:
            return await fleet.session.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )

        await eventually(listened)
        for payload in (
            "default,-99999999999999999999,-5",
            "default,-5,-99999999999999999999999",
            ";,;",
            "default,0,0;" * 500,
        ):
            await fleet.session.execute("SELECT pg_notify('provisioner', $1)", payload)
        await fleet.insert(4, name="later")
        await fleet.done()


HEAD = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ]
)
PART = st.binary(max_size=100) | st.sampled_from(
    [
        b"Host: localhost\r\n",
        b"Content-Length: 99999999999999999\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"X: " + b"y" * 9000 + b"\r\n",
        b"\r\n",
        b"\0" * 50,
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Expect: 100-continue\r\n",
    ]
)


async def exchange(port: int, asked: bytes) -> bytes:
    """Send these bytes, and read what comes until the other side hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            writer.write(asked)
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@settings(max_examples=SLOW)
@given(head=HEAD | st.binary(max_size=50), parts=st.lists(PART, max_size=5))
async def test_any_bytes_to_the_status_port(head: bytes, parts: list[bytes]) -> None:
    """Garbage is refused or ignored quickly, without parsing it, and the next client is served."""
    async with served(Answers(), header_time=0.1) as url:  # half a request is not waited for
        port = URL(url).port or 0
        said = await exchange(port, head + b"".join(parts))
        assert b"Traceback" not in said
        assert not said or said.startswith(b"HTTP/1.")
        assert b" 200 OK" in await exchange(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
