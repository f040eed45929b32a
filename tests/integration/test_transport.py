"""Over real sockets, a request that may have arrived is distinguished from an unsent one; nothing is sent twice."""

import asyncio
import base64
import resource
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from yarl import URL

from provisioner.core.secret import Secret
from provisioner.infisical.transport import LONGEST_ANSWER, AnswerLost, NotSent, Transport, TransportOptions
from tests.support import eventually
from tests.support.scripted import Handler, free_port, saying, serving

BEARER = {"Authorization": "Bearer a-token-of-the-test", "Content-Type": "application/json"}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def transport(**options: Any) -> AsyncIterator[Transport]:
    """A transport that is closed at the end."""
    async with Transport(TransportOptions(base_url="http://127.0.0.1", **options)) as made:
        yield made


async def test_an_answer_is_carried_back() -> None:
    """Status, headers in any case and the body are returned; the request identifies us and carries the token."""
    async with serving(saying(OK)) as (url, received), transport() as made:
        answer = await made.send("POST", url, BEARER, b"[1]")
    assert (answer.status, answer.body, answer.headers.get("content-type")) == (200, b"{}", "application/json")
    head = received.heads[0].lower()
    assert b"user-agent: provisioner/" in head
    assert b"authorization: bearer a-token-of-the-test" in head
    assert b"content-type: application/json" in head


async def test_connections_are_kept() -> None:
    """Requests one after the other use one connection."""
    async with serving(saying(OK)) as (url, received), transport() as made:
        for _ in range(3):
            await made.send("POST", url, BEARER, b"{}")
    assert (len(received.heads), received.connections) == (3, 1)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_post_on_a_closed_connection_is_not_sent_again(reset: bool) -> None:
    """When the server drops a kept connection under a POST, the POST arrives once and its outcome is unknown."""

    async def handle(_: bytes, writer: StreamWriter) -> None:
        await saying(OK if len(received.heads) == 1 else b"", reset=reset and len(received.heads) > 1)(b"", writer)
        if len(received.heads) > 1:
            writer.close()

    async with serving(handle) as (url, received), transport() as made:
        await made.send("POST", url, BEARER, b"{}")
        with pytest.raises(AnswerLost):
            await made.send("POST", url, BEARER, b"{}")
        assert (len(received.heads), received.connections) == (2, 1)


@pytest.mark.parametrize(
    "handler",
    [
        saying(b"", reset=True),
        saying(b"", close=True),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", reset=True),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", close=True),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{", close=True),
        saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!", close=True),
        saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 9\r\n\r\nnot gzip!", close=True),
        saying(b"SSH-2.0-OpenSSH_9.9\r\n", close=True),
        saying(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n", close=True),
        saying(b"HTTP/1.1 abc OK\r\n\r\n", close=True),
    ],
)
async def test_a_broken_answer_leaves_the_outcome_unknown(handler: Handler) -> None:
    """However an answer breaks off or turns out not to be one, a POST that was sent may have arrived, once."""
    async with serving(handler) as (url, received), transport() as made:
        with pytest.raises(AnswerLost):
            await made.send("POST", url, BEARER, b"{}")
    assert len(received.heads) == 1


async def test_an_endless_answer_is_cut() -> None:
    """An answer without end is given up at its largest size, and its connection is not used again."""
    written = 0

    async def handle(_: bytes, writer: StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            written += 0x10000

    async with serving(handle) as (url, received), transport() as made:
        with pytest.raises(AnswerLost, match="longer than"):
            await made.send("POST", url, BEARER, b"{}")
        with pytest.raises(AnswerLost, match="longer than"):
            await made.send("POST", url, BEARER, b"{}")
    assert written > LONGEST_ANSWER / 2
    assert received.connections == 2


async def test_a_silent_server_is_given_up() -> None:
    """After the timeout of the whole call its outcome is unknown, whether the head has come or not."""

    async def trickle(_: bytes, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()

    for handler in (saying(b""), trickle):
        async with serving(handler) as (url, _), transport(timeout=0.2) as made:
            with pytest.raises(AnswerLost, match=r"within 0\.2 s"):
                await made.send("POST", url, BEARER, b"{}")


async def test_redirects_are_not_followed() -> None:
    """A redirect is an answer like any other: the token goes nowhere else."""
    async with serving(saying(OK)) as (elsewhere, there):
        moved = b"HTTP/1.1 307 Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % str(elsewhere).encode()
        async with serving(saying(moved)) as (url, _), transport() as made:
            answer = await made.send("POST", url, BEARER, b"{}")
    assert answer.status == 307
    assert there.heads == []


async def test_cookies_are_not_kept() -> None:
    """Cookies are ignored."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(answer)) as (url, received), transport() as made:
        for _ in range(2):
            await made.send("GET", url, BEARER)
    assert b"cookie" not in received.heads[1].lower()


async def test_nothing_is_sent_where_nobody_listens() -> None:
    """A refused connection and a name that does not exist are certain to have sent nothing."""
    async with transport() as made:
        for url in (URL(f"http://127.0.0.1:{free_port()}/x"), URL("http://nobody.invalid/x")):
            with pytest.raises(NotSent, match="nothing was sent"):
                await made.send("POST", url, BEARER, b"{}")


async def test_nothing_is_sent_without_tls() -> None:
    """A server without TLS gets no request over https."""
    received: list[bytes] = []

    async def greet(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        received.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with transport() as made:
        with pytest.raises(NotSent):
            await made.send("POST", URL(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"), BEARER, b"{}")
    server.close()
    await eventually(lambda: received)
    assert b"Bearer" not in received[0]


async def test_nothing_is_sent_before_a_connection_is_there() -> None:
    """A connection that does not come about in its time is certain to have sent nothing."""
    # It answers nothing to the beginning of the TLS handshake, which has no blank line.
    async with serving(saying(OK)) as (url, received), transport(connect_timeout=0.2) as made:
        with pytest.raises(NotSent):
            await made.send("POST", url.with_scheme("https").with_port(url.port), BEARER, b"{}")
    assert received.heads == []


async def test_proxies() -> None:
    """A request goes through the proxy, which alone sees its own credentials; a refused tunnel has sent nothing."""
    async with serving(saying(OK)) as (proxy, received):
        secret = Secret(str(proxy.origin()).replace("//", "//user:a-proxy-password@"))
        async with transport(proxy=secret) as made:
            answer = await made.send("POST", URL("http://infisical.invalid/x"), BEARER, b"{}")
    assert answer.status == 200
    assert received.heads[0].startswith(b"POST http://infisical.invalid/x HTTP/1.1")
    assert base64.b64encode(b"user:a-proxy-password") in received.heads[0]
    denied = saying(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", close=True)
    async with serving(denied) as (proxy, received):
        secret = Secret(str(proxy.origin()).replace("//", "//user:a-proxy-password@"))
        async with transport(proxy=secret) as made:
            with pytest.raises(NotSent, match=r"\(407\)") as caught:
                await made.send("POST", URL("https://infisical.invalid/x"), BEARER, b"{}")
    assert received.heads[0].startswith(b"CONNECT ")
    assert b"Bearer" not in received.heads[0]
    assert "a-proxy-password" not in str(caught.value)
    async with transport(proxy=Secret(f"http://127.0.0.1:{free_port()}")) as made:
        with pytest.raises(NotSent):
            await made.send("POST", URL("http://infisical.invalid/x"), BEARER, b"{}")


def heads(*lines: bytes) -> bytes:
    """An answer with these headers."""
    return b"\r\n".join(
        [b"HTTP/1.1 200 OK", b"Content-Type: application/json", *lines, b"Content-Length: 2", b"", b"{}"]
    )


@pytest.mark.parametrize(
    "answer",
    [
        heads(b"Content-Security-Policy: " + b"x" * 8_200),
        heads(b"X-Long: " + b"x" * 200_000),
        heads(b"X-" + b"n" * 20_000 + b": long name"),
        heads(*(b"Set-Cookie: c%d=%s" % (number, b"x" * 100) for number in range(150))),
        heads(*(b"X-%d: y" % number for number in range(4_000))),
        heads(*(b"Set-Cookie: c%d=%s" % (number, b"x" * 4_000) for number in range(300))),
        heads(b"Server: one", b"Server: two", b"Date: Sat, 28 Nov 2026 09:00:00 GMT", b"Date: nonsense"),
        heads(b"Content-Type: text/plain", b"Etag: a", b"Etag: b", b"X-Utf: \xc3\xbc \xff"),
        heads().replace(b"200 OK", b"200 " + b"very " * 4_000 + b"OK"),
    ],
)
async def test_an_answer_with_long_or_many_headers_is_read(answer: bytes) -> None:
    """Long or numerous headers from gateways do not prevent reading the answer."""
    async with serving(saying(answer)) as (url, received), transport() as made:
        assert (await made.send("POST", url, BEARER, b"{}")).body == b"{}"
        assert (await made.send("POST", url, BEARER, b"{}")).status == 200
    assert received.connections == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (heads(b"X-Long: " + b"x" * 300_000), "has a header longer than 262144 bytes"),
        (heads(*(b"X-%d: y" % number for number in range(5_000))), "has more than 4096 headers"),
        (b"HTTP/1.1 twohundred OK\r\n\r\n", "is not valid HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "is not valid HTTP"),
    ],
)
async def test_an_answer_that_cannot_be_read_is_named(answer: bytes, said: str) -> None:
    """An unreadable answer is reported as such, not as a broken connection."""
    async with serving(saying(answer)) as (url, _), transport() as made:
        with pytest.raises(AnswerLost, match=said):
            await made.send("POST", url, BEARER, b"{}")


async def test_cancelling_leaves_nothing_behind() -> None:
    """A cancelled call ends at once, as cancelled, and its connection is not used again."""
    arrived = asyncio.Event()

    async def handle(_: bytes, writer: StreamWriter) -> None:
        if len(received.heads) == 1:
            arrived.set()
        else:
            writer.write(OK)

    async with serving(handle) as (url, received), transport() as made:
        call = asyncio.ensure_future(made.send("POST", url, BEARER, b"{}"))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await made.send("POST", url, BEARER, b"{}")
    assert received.connections == 2


async def test_a_host_without_open_files_left_is_not_the_targets_fault() -> None:
    """When this process may open nothing more, the message says so and what to do."""
    async with transport() as made:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            with pytest.raises(NotSent, match="cannot open more files and connections; raise the limit"):
                await made.send("POST", URL("http://127.0.0.1:9/x"), BEARER, b"{}")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_an_unusable_ca_file_is_named() -> None:
    """A file without certificate authorities is refused at once, by its name."""
    with pytest.raises(ValueError, match=r"/nowhere/ca\.pem"):
        Transport(TransportOptions(base_url="https://127.0.0.1", ca_file="/nowhere/ca.pem"))
