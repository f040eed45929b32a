"""The status port: its contents, its clients, and its resistance to the slow and the hostile."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import orjson
import pytest

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.requests import Found, Query
from provisioner.observe.cached_reads import KEPT
from provisioner.observe.connection_limits import MOST
from provisioner.observe.health import Health
from provisioner.observe.meter import Meter
from provisioner.observe.web import STREAMS, PortUnusable, Sources, StatusPort, serving
from provisioner.postgres.pool import Database
from provisioner.postgres.reports import read_gauges, read_history, read_status
from provisioner.postgres.search import find, read_request
from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.fleet import Fleet
from tests.support.scripted import free_port
from tests.support.sessions import connected, insert_many
from tests.support.situations import browsable
from tests.support.status_port import Answers, a_progress, a_status, a_troubled_status, served
from tests.support.virtual_time import in_virtual_time
from tests.support.ways import daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database as Lent

PATHS = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/status.json",
    "/requests",
    "/errors",
    "/assets/page.css",
    "/assets/page.js",
    "/assets/icon.svg",
]


@asynccontextmanager
async def asked(url: str, method: str = "GET", **options: object) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to one request."""
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:  # type: ignore[arg-type]  # aiohttp types each option
        yield answer


async def text_of(url: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    async with asked(url) as answer:
        return answer.status, await answer.text()


async def raw(url: str, *lines: str, end: bool = True) -> bytes:
    """Return the answer to a request that is written by hand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write("\r\n".join([*lines, *(["", ""] if end else [])]).encode())
    try:
        return await reader.read()
    finally:
        writer.close()


# Contents


async def test_probes_tell_whether_the_worker_is_well() -> None:
    """A worker at work is alive and ready."""
    async with served(Answers()) as url:
        assert await text_of(f"{url}/healthz") == (200, "ok\n")
        assert await text_of(f"{url}/readyz") == (200, "ok\n")


async def test_a_worker_whose_maintenance_hangs_is_to_be_restarted(
    database: Lent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon watches itself: when its maintenance makes no progress, it says so to its supervisor."""
    hung = asyncio.Event()
    monkeypatch.setattr("provisioner.observe.health.PATIENCE", 0.0)
    monkeypatch.setattr("provisioner.observe.health.EVERY", 0.3)
    monkeypatch.setattr("provisioner.worker.maintenance.Maintenance._round", lambda _: hung.wait())
    number = free_port()
    async with Fleet(database.url, Options(), way=daemon) as fleet:
        await fleet.start(PROVISIONER_LISTEN__ADDRESS=f"127.0.0.1:{number}")

        async def ailing() -> bool:
            with suppress(aiohttp.ClientError):
                status, text = await text_of(f"http://127.0.0.1:{number}/healthz")
                return status == 503 and text.startswith("maintenance has not run")
            return False

        await eventually(ailing)  # type: ignore[arg-type]  # mypy infers no T for a coroutine function


async def test_a_worker_that_stops_is_alive_and_not_ready() -> None:
    """A load balancer sees that no more requests are taken on, and nothing in flight is killed."""
    answers = Answers()
    answers.vitals = replace(answers.vitals, stopping=True)
    async with served(answers) as url:
        assert await text_of(f"{url}/healthz") == (200, "ok\n")
        assert await text_of(f"{url}/readyz") == (503, "stopping\n")


async def test_the_document_is_what_the_status_command_shows() -> None:
    """`/status.json` has the status, what needs a person, and how this worker is."""
    async with served(Answers(status=a_troubled_status())) as url, asked(f"{url}/status.json") as answer:
        document = await answer.json()
    assert (document["progress"]["succeeded"], document["workers"]["lost"]) == (4, 1)
    assert "3 requests have failed: fix the cause, then run `provisioner retry --error gave_up`" in document["concerns"]
    assert "target default is over its rate limit: nothing is sent until the limit resets" in document["incidents"]
    assert (document["worker"]["worker"], document["worker"]["absence"], document["error"]) == (7, None, None)
    stopped, other = document["targets"]
    assert (stopped["in_flight_limit"], stopped["cliff"], stopped["cliff_at"]) == (6, 8, "2026-03-01T12:00:00+00:00")
    assert (other["in_flight_limit"], other["cliff"], other["cliff_at"], other["stalled_at"]) == (
        None,
        None,
        None,
        None,
    )


async def test_secrets_do_not_leave_by_this_door() -> None:
    """Foreign text that looks like a key is shown neither on the page nor in the document."""
    key = "sk-or-v1-0123456789abcdef"
    status = a_troubled_status()
    failures = tuple(replace(each, example=f"refused {key}") for each in status.failures)
    targets = tuple(replace(each, trouble=f"no {key}") for each in status.targets)
    async with served(Answers(status=replace(status, failures=failures, targets=targets))) as url:
        for path in ("/", "/status.json"):
            _, text = await text_of(url + path)
            assert "refused [redacted]" in text
            assert key not in text


async def test_the_database_being_away_is_told_and_old_numbers_stay() -> None:
    """Without a database the port still answers: the last status, and why there is nothing newer."""
    answers = Answers()
    async with served(answers) as url:
        assert (await text_of(f"{url}/status.json"))[0] == 200
        answers.error = DatabaseUnavailable("connection refused")

        async def is_told() -> bool:
            return (await text_of(f"{url}/status.json"))[0] == 503

        await eventually(is_told)  # type: ignore[arg-type]  # mypy infers no T for a coroutine function
        _, text = await text_of(f"{url}/status.json")
        document = orjson.loads(text)
        assert document["error"] == "the database cannot be reached: connection refused"
        assert document["progress"]["succeeded"] == 4
        assert "provisioner_database_up 0.0" in (await text_of(f"{url}/metrics"))[1]
        assert "The database is unavailable" in (await text_of(f"{url}/"))[1]
        assert await text_of(f"{url}/healthz") == (200, "ok\n")


async def test_a_database_that_never_answered_is_told() -> None:
    """A page without any status says so instead of showing zeros."""
    async with served(Answers(error=DatabaseUnavailable("no route"))) as url:
        status, text = await text_of(f"{url}/")
    assert status == 200
    assert "The database cannot be reached" in text
    assert "No requests yet" not in text


async def test_it_tells_what_is_in_the_database(database: Lent) -> None:
    """Queue, budgets and progress on a real database arrive in the metrics and the document."""
    ours = Database(database.url, size=1)
    vitals = Answers().vitals
    sources = Sources(
        health=Health(lambda: vitals, poll=1.0),
        meter=Meter(),
        read_status=lambda: read_status(ours, batches=5),
        read_gauges=lambda: read_gauges(ours),
        read_history=lambda: read_history(ours),
        find=partial(find, ours),
        read_request=partial(read_request, ours),
    )
    async with connected(database.url) as session, AsyncExitStack() as stack:
        stack.push_async_callback(ours.close)
        await insert_many(session, 3, each=2)
        await session.execute(
            "INSERT INTO provisioner.permits (target, kind, metered, permits, period, used, ends_at)"
            " VALUES ('default', 'write', true, 200, 60, 42, extract(epoch FROM now()) + 30),"
            " ('default', 'read', true, 350, 60, 7, extract(epoch FROM now()) - 1)"
        )
        await session.execute(
            "UPDATE provisioner.connection_requests SET created_at = now() - interval '1 hour' WHERE id = 1"
        )
        await session.execute(
            "INSERT INTO provisioner.workers (name, version, targets, lease_until, pace, created)"
            " VALUES ('w-1', '1', '{default}', now() + interval '1 hour', 2.5, 11),"
            " ('w-2', '1', '{}', now() - interval '1 s', 9, 0)"
        )
        port = StatusPort(sources, monotonic=asyncio.get_running_loop().time)
        number = await stack.enter_async_context(serving(port, "127.0.0.1", 0))
        _, metrics = await text_of(f"http://127.0.0.1:{number}/metrics")
        _, document = await text_of(f"http://127.0.0.1:{number}/status.json")
    series = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("provisioner_"))
    assert series['provisioner_queue_requests{state="ready",target="default"}'] == "6.0"
    assert float(series['provisioner_queue_oldest_seconds{state="ready",target="default"}']) == pytest.approx(
        3600, abs=60
    )
    assert series['provisioner_permits_used{kind="write",target="default"}'] == "42.0"
    assert series['provisioner_permits_used{kind="read",target="default"}'] == "0.0", (
        "a window that is over used nothing"
    )
    assert series['provisioner_permits_limit{kind="read",target="default"}'] == "350.0"
    assert (series['provisioner_workers{state="alive"}'], series['provisioner_workers{state="lost"}']) == ("1.0", "1.0")
    seen = orjson.loads(document)
    assert (seen["progress"]["ready"], seen["workers"]["pace"]) == (6, 2.5)
    assert [(each["name"], each["alive"], each["created"]) for each in seen["crew"]] == [
        ("w-1", True, 11),
        ("w-2", False, 0),
    ]


async def test_requests_are_found_and_told() -> None:
    """A search asks for what its address says; a request has a page, an unknown one too; a wrong number has none."""
    answers = browsable(Answers())
    async with served(answers) as url:
        status, text = await text_of(f"{url}/requests?q=Team&state=failed&error=name_conflict&before=200")
        assert (status, "Team 140" in text) == (200, True)
        wanted = Query(text="Team", state="failed", error="name_conflict", before=200)
        assert answers.queries == [wanted]
        status, text = await text_of(f"{url}/requests/140")
        assert (status, "Request 140: failed" in text, "provisioner retry 140" in text) == (200, True, True)
        status, text = await text_of(f"{url}/requests/7")
        assert (status, "There is no request 7" in text) == (404, True)
        assert [await text_of(f"{url}/requests/{word}") for word in ("x", "0", "9" * 30)] == [
            (404, "a request is named by a number\n")
        ] * 3


async def test_a_search_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for more than some seconds, and the page says how to narrow the search."""
    monkeypatch.setattr("provisioner.observe.web.SEARCH_TIME", 0.05)

    async def search(_answers: Answers, _query: Query) -> Found:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(Answers, "find", search)
    async with served(Answers()) as url:
        status, text = await text_of(f"{url}/requests?q=x")
    assert (status, "choose a batch or a target" in text) == (503, True)


async def test_what_is_looked_for_again_is_not_asked_again() -> None:
    """Many readers of the same page cause one query, and old queries are forgotten."""
    answers = Answers()
    async with served(answers) as url:
        await asyncio.gather(*(text_of(f"{url}/requests?q=a") for _ in range(5)))
        assert len(answers.queries) == 1
        for number in range(KEPT + 1):
            await text_of(f"{url}/requests?batch={number}")
        assert len(answers.queries) == KEPT + 2


# Whom it answers, and how


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/assets/../page.py"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_every_answer_carries_the_security_headers(path: str, method: str) -> None:
    """Whatever is asked, the answer forbids framing, sniffing, foreign sources, caching and a second request."""
    async with served(Answers()) as url, asked(url + path, method) as answer:
        headers = answer.headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert (headers["Server"], headers["Connection"]) == ("provisioner", "close")
    assert not [name for name in headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", [*PATHS, "/events"])
async def test_it_reads_only(method: str, path: str) -> None:
    """Nothing can be changed here: every other method is refused, without a query."""
    answers = Answers()
    async with served(answers) as url, asked(url + path, method, data=b"x" * 100) as answer:
        assert answer.status == 405
    assert answers.looks == 0


@pytest.mark.parametrize("path", PATHS)
async def test_heads_are_answered_without_a_body(path: str) -> None:
    """HEAD has the headers of GET, and no body."""
    async with served(Answers()) as url:
        said = await raw(url, f"HEAD {path} HTTP/1.1", "Host: localhost")
    head, _, body = said.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9464", b"200"),
        ("127.0.0.1", b"200"),
        ("[::1]:9464", b"200"),
        ("10.1.2.3:9464", b"200"),
        ("evil.example", b"421"),
        ("evil.example:9464", b"421"),
        ("localhost.evil.example", b"421"),
        ("127.0.0.1.evil.example", b"421"),
        ("[::1", b"421"),
    ],
)
async def test_a_foreign_page_cannot_point_its_name_here(host: str, status: bytes) -> None:
    """On loopback only addresses and localhost are answered, because others may control any other name."""
    async with served(Answers()) as url:
        said = await raw(url, "GET /status.json HTTP/1.1", f"Host: {host}")
    assert said.split(b" ")[1] == status
    assert (b"progress" in said) is (status == b"200")


async def test_elsewhere_names_are_welcome() -> None:
    """If the port listens on the network, it can be reached by the names in use there."""
    async with served(Answers(), host="0.0.0.0") as url:  # noqa: S104 - this is what the test is about
        said = await raw(url, "GET /healthz HTTP/1.1", "Host: provisioner.internal:9464")
    assert said.startswith(b"HTTP/1.1 200")


async def test_a_port_in_use_is_told_in_one_line() -> None:
    """The error names the address and the setting that fixes it."""
    async with served(Answers()) as url:
        number = int(url.rpartition(":")[2])
        with pytest.raises(PortUnusable) as raised:
            async with served(Answers(), number=number):
                pass
    assert str(raised.value) == (
        f"cannot listen on 127.0.0.1:{number}: Address already in use; each worker on a host needs its own address: set"
        " listen.address (or --listen) to a free one, to port 0 for any free port (the log says which), or to off"
    )


# How it treats the database


async def test_the_database_is_asked_at_most_once_a_second() -> None:
    """Twenty readers of the document, ten open pages and ten scrapers cause at most one query a second."""
    answers = Answers()
    loop = asyncio.get_running_loop()
    async with served(answers) as url:
        began = loop.time()

        async def read(path: str) -> None:
            while loop.time() < began + 3:
                await text_of(url + path)

        async def watch() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(3), asked(f"{url}/events") as answer:
                    await answer.read()

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(read("/status.json"))
                group.create_task(read("/"))
                group.create_task(read("/metrics"))
                group.create_task(watch())
        assert 2 <= answers.looks <= loop.time() - began + 1


@in_virtual_time
async def test_nobody_looks_when_nobody_wants_to_know() -> None:
    """Probes ask the database nothing, and when the last page is closed nothing asks it any more."""
    answers = Answers()
    async with served(answers) as url:
        for path in ("/healthz", "/readyz", "/assets/page.js"):
            await text_of(url + path)
        assert answers.looks == 0
        async with asked(f"{url}/events") as answer:
            await answer.content.readuntil(b"\n\n")
            await eventually(lambda: answers.looks >= 2)
        # The page may be about to read once more. An hour later nobody has.
        await asyncio.sleep(1.5)
        looks = answers.looks
        await asyncio.sleep(3600)
        assert answers.looks == looks


async def test_a_page_hears_of_changes_only() -> None:
    """The stream sends the main part when it differs, and keeps quiet while nothing moves."""
    answers = Answers()
    async with served(answers) as url, asked(f"{url}/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        first = await answer.content.readuntil(b"\n\n")
        before = answers.looks
        await eventually(lambda: answers.looks >= before + 2)
        answers.status = a_status(progress=a_progress(succeeded=5))
        second = await answer.content.readuntil(b"\n\n")
    assert first.startswith(b"event: look\ndata: <section")
    assert b"4 of 10" in first
    assert b"5 of 10" in second


# The slow and the hostile


async def test_a_request_that_never_arrives_is_cut() -> None:
    """A client that sends its request byte by byte, or not at all, is cut when its time is over."""
    async with served(Answers(), header_time=0.3) as url, asyncio.timeout(5):
        for lines in ([], ["GET / HTTP/1.1", "Host: localhost", "X-Slow: "]):
            with pytest.raises(ConnectionResetError):
                await raw(url, *lines, end=False)


async def test_open_connections_keep_nobody_out() -> None:
    """However many connections somebody holds open without asking anything, the probes are answered."""
    answers = Answers()
    async with served(answers) as url, AsyncExitStack() as stack:
        number = int(url.rpartition(":")[2])
        readers = []
        for _ in range(2 * MOST):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            stack.callback(writer.close)
            readers.append(reader)
        async with asyncio.timeout(3):
            assert await text_of(f"{url}/healthz") == (200, "ok\n")
            with pytest.raises(ConnectionResetError):  # the longest waiting have been cut
                await readers[0].read()


async def test_too_many_open_pages_are_refused_and_probes_are_not() -> None:
    """Pages may take half of the connections; another is told to come back, and a closed one makes room."""
    async with served(Answers()) as url, AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(asked(f"{url}/events")) for _ in range(STREAMS)]
        assert {page.status for page in pages} == {200}
        async with asked(f"{url}/events") as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert await text_of(f"{url}/healthz") == (200, "ok\n")


async def test_a_page_that_does_not_listen_is_cut() -> None:
    """A client that receives nothing of its answer loses its connection, and its place is free again."""
    many = tuple(a_progress(batch="b" * 200, total=False) for _ in range(3_000))
    async with served(Answers(status=a_status(batches=many)), stream_time=0.3) as url, AsyncExitStack() as stack:
        for _ in range(2):
            deaf = socket.socket()
            stack.callback(deaf.close)
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, ("127.0.0.1", int(url.rpartition(":")[2])))
            await loop.sock_sendall(deaf, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")

        await eventually(lambda: deaf.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET, within=20)


@pytest.mark.parametrize(
    "request_lines",
    [
        ["GET /" + "x" * 5000 + " HTTP/1.1", "Host: localhost"],
        ["GET / HTTP/1.1", "Host: localhost", "X-Long: " + "x" * 20000],
        ["GET / HTTP/1.1", "Host: localhost", *(f"X-{n}: x" for n in range(500))],
        ["\x00\x01\x02 not http at all"],
        ["GET / HTTP/1.1", "Host: localhost", "Content-Length: -1"],
        ["GET / HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", "Content-Length: 5"],
    ],
)
async def test_malformed_requests_are_refused_in_silence(
    request_lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests that are too large or not HTTP get a 400, streams stay open, and the log is not filled."""
    async with served(Answers()) as url, asyncio.timeout(5):
        capsys.readouterr()
        said = await raw(url, *request_lines)
    assert said.split(b" ")[1] in {b"400", b"414", b"431"}
    assert b"<section" not in said
    assert b"Traceback" not in said
    assert capsys.readouterr() == ("", "")


async def test_a_body_is_not_waited_for() -> None:
    """A client that announces a large body and sends it slowly is answered at once, and cut off."""
    async with served(Answers()) as url, asyncio.timeout(5):
        said = await raw(url, "GET /healthz HTTP/1.1", "Host: localhost", "Content-Length: 1000000000")
    assert said.startswith(b"HTTP/1.1 200")


async def test_one_connection_carries_one_request() -> None:
    """Pipelined requests are not answered."""
    one = ["GET /healthz HTTP/1.1", "Host: localhost", ""]
    async with served(Answers()) as url, asyncio.timeout(5):
        said = await raw(url, *one, *one, *one)
    assert said.count(b"HTTP/1.1") == 1
