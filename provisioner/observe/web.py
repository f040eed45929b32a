"""The status port: probes, metrics and the page. It only reads, answers quickly, and shows no secret."""

import asyncio
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import orjson
import structlog
from aiohttp import web

from provisioner.core.alerts import alert_messages, incidents
from provisioner.core.errors import ProvisionerError
from provisioner.core.history import History
from provisioner.core.reports import Gauges, Status
from provisioner.core.requests import Found, Query, RequestHistory
from provisioner.observe import metrics
from provisioner.observe.browsing import ListView, RequestView, parse_id, parse_query, render_list, render_story
from provisioner.observe.cached_reads import EVERY, CachedQuery, CachedRead, Gate, KeyedCachedQuery
from provisioner.observe.connection_limits import HEADER_TIME, ConnectionLimits, LimitedConnection
from provisioner.observe.errors_page import render_errors
from provisioner.observe.health import Health
from provisioner.observe.logs import redact_event
from provisioner.observe.meter import Meter
from provisioner.observe.page import View, render_main, render_page
from provisioner.observe.words import asset

log = structlog.stdlib.get_logger()

STATUS_TIME: Final = 5.0  # seconds; a status reads the whole table
GAUGES_TIME: Final = 2.0  # seconds; less than a scraper's timeout, even if it first waits for a status
SEARCH_TIME: Final = 2.0  # seconds; a longer search has to be narrowed
BETWEEN_CLICKS: Final = 0.1  # seconds
HISTORY_FRESH: Final = 10.0  # seconds; workers update it this often
STREAMS: Final = 32  # pages that are open at once: half of the connections, so that probes always get through
STREAM_WRITE: Final = 5.0  # seconds for a page to accept what it is sent
HEARTBEAT: Final = 15  # statuses without a change after which a page gets a sign of life
REQUEST_SIZE: Final = 8190  # bytes of one header; a browser sends the cookies of everything on this host

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Server": "provisioner",
    "Connection": "close",
}
# Mistakes of clients must not fill our log.
_SILENT: Final = logging.Logger("status port", logging.CRITICAL + 1)  # noqa: LOG001  # nothing else is to find it
_ASSETS: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of the port's answers. All but the first two query the database, and raise `ProvisionerError`."""

    health: Health
    meter: Meter
    read_status: Callable[[], Awaitable[Status]]
    read_gauges: Callable[[], Awaitable[Gauges]]
    read_history: Callable[[], Awaitable[History]]
    find: Callable[[Query], Awaitable[Found]]
    read_request: Callable[[int], Awaitable[RequestHistory | None]]


class PortUnusable(ProvisionerError):
    """The status port cannot be opened; set listen.address to a free one, or to off."""


class StatusPort:
    """Serves all answers on one port."""

    def __init__(self, sources: Sources, *, monotonic: Callable[[], float], stream_time: float = STREAM_WRITE) -> None:
        self._stream_time = stream_time
        gate = Gate(monotonic=monotonic)
        self._sources = sources
        self._status = CachedQuery(sources.read_status, gate, timeout=STATUS_TIME)
        self._gauges = CachedQuery(sources.read_gauges, gate, timeout=GAUGES_TIME)
        # Clicks are answered at once, and not after the queries that a page repeats every second.
        clicks = Gate(monotonic=monotonic, every=BETWEEN_CLICKS)
        self._history = CachedQuery(sources.read_history, clicks, timeout=GAUGES_TIME, fresh=HISTORY_FRESH)
        self._found = KeyedCachedQuery(sources.find, clicks, timeout=SEARCH_TIME)
        self._one_request = KeyedCachedQuery(sources.read_request, clicks, timeout=SEARCH_TIME)
        self._closing = asyncio.Event()
        self._streams = 0
        self.local = True

    def application(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(middlewares=[self._admit], client_max_size=1024)
        application.on_response_prepare.append(_harden)
        application.on_shutdown.append(self._close)
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/requests", self._requests),
                web.get("/requests/{id}", self._request),
                web.get("/errors", self._errors),
                web.get("/events", self._events, allow_head=False),
                web.get("/healthz", self._healthz),
                web.get("/metrics", self._metrics),
                web.get("/readyz", self._readyz),
                web.get("/status.json", self._document),
                *(web.get(f"/assets/{name}", partial(_send_asset, name, kind)) for name, kind in _ASSETS.items()),
            ]
        )
        return application

    @web.middleware
    async def _admit(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Note that a request is complete, and refuse pages of other sites that point their own name at this host."""
        if peer := _peer(request):
            peer.asked()
        if self.local and not _is_unforgeable(request.headers.get("Host", "")):
            return web.Response(status=421, text="use localhost or an IP address as the host\n")
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:  # the port must not stop the work, nor show a traceback
            log.exception("status_port_failed", path=request.path)
            return web.Response(status=500, text="internal error; see the log\n")

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _verdict(self._sources.health.ailment())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict(self._sources.health.absence())

    async def _metrics(self, _request: web.Request) -> web.Response:
        health = self._sources.health
        read = await self._gauges.read()
        gauges = None if read.trouble else read.seen
        body = metrics.exposition(self._sources.meter, health.vitals, gauges, ready=not health.absence())
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _document(self, _request: web.Request) -> web.Response:
        read = await self._status.read()
        document = self._described(read)
        status = 503 if read.trouble else 200
        body = orjson.dumps(redact_event(None, "", document))
        return web.Response(status=status, body=body, content_type="application/json")

    def _described(self, read: CachedRead[Status]) -> dict[str, object]:
        status = read.seen
        known = {} if status is None else asdict(status)
        health = self._sources.health
        return {
            **known,
            "concerns": alert_messages(status) if status else (),
            "incidents": incidents(status) if status else (),
            "error": read.trouble or None,
            "worker": {**asdict(health.vitals), "absence": health.absence() or None},
        }

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=render_page(await self._view()), content_type="text/html")

    async def _view(self) -> View:
        read, health = await self._status.read(), self._sources.health
        history = None if read.trouble else (await self._history.read()).seen
        return View(
            status=read.seen, trouble=read.trouble, absence=health.absence(), vitals=health.vitals, history=history
        )

    async def _requests(self, request: web.Request) -> web.Response:
        query = parse_query(request.query)
        read = await self._found.read(query)
        view = ListView(query=query, found=None if read.trouble else read.seen, trouble=_slow(read.trouble))
        return web.Response(status=503 if read.trouble else 200, text=render_list(view), content_type="text/html")

    async def _request(self, request: web.Request) -> web.Response:
        number = parse_id(request.match_info["id"])
        if number is None:
            raise web.HTTPNotFound(text="a request is named by a number\n")
        read = await self._one_request.read(number)
        view = RequestView(request=number, story=None if read.trouble else read.seen, trouble=read.trouble)
        status = 503 if read.trouble else 200 if read.seen else 404
        return web.Response(status=status, text=render_story(view), content_type="text/html")

    async def _errors(self, _request: web.Request) -> web.Response:
        return web.Response(text=render_errors(), content_type="text/html")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send the page's main part whenever it has changed."""
        if self._streams >= STREAMS:
            return web.Response(status=503, text="too many open pages\n", headers={"Retry-After": "5"})
        peer = _peer(request)
        if peer is None:
            return web.Response()
        self._streams += 1
        try:
            peer.asked(lasts=True)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            async for block in self._blocks(peer):
                async with asyncio.timeout(self._stream_time):
                    await response.write(block)
        except (TimeoutError, ConnectionError):
            peer.cut()
        finally:
            self._streams -= 1
        return response

    async def _blocks(self, peer: LimitedConnection) -> AsyncIterator[bytes]:
        shown, silent = "", 0
        while not self._closing.is_set() and not peer.is_gone:
            main = render_main(await self._view())
            silent = 0 if main != shown else silent + 1
            if not silent:
                lines = "\n".join(f"data: {line}" for line in main.splitlines())
                yield f"event: look\n{lines}\n\n".encode()
                shown = main
            elif silent % HEARTBEAT == 0:
                yield b": still here\n\n"
            try:
                async with asyncio.timeout(EVERY):
                    await self._closing.wait()
            except TimeoutError:
                pass

    async def _close(self, _application: web.Application) -> None:
        self._closing.set()


@asynccontextmanager
async def serving(port: StatusPort, host: str, number: int, *, header_time: float = HEADER_TIME) -> AsyncIterator[int]:
    """Serve until the end of the block; provides the port's number. Raises `PortUnusable`."""
    runner = web.AppRunner(
        port.application(),
        handle_signals=False,
        access_log=None,
        logger=_SILENT,
        keepalive_timeout=0,
        lingering_time=0,
        max_line_size=2048,
        max_field_size=REQUEST_SIZE,
        shutdown_timeout=2.0,
    )
    await runner.setup()
    try:
        port.local = _is_loopback(host)
        server = await _bind(runner, host, number, header_time)
        try:
            bound: int = server.sockets[0].getsockname()[1]
            log.info("status_port_opened", host=host, port=bound)
            yield bound
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _bind(runner: web.AppRunner, host: str, number: int, header_time: float) -> asyncio.Server:
    protocol = runner.server
    if protocol is None:  # `setup` has created it
        raise AssertionError
    try:
        return await asyncio.get_running_loop().create_server(
            ConnectionLimits(protocol, header_time=header_time), host, number, backlog=128
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise PortUnusable(
            f"cannot listen on {host}:{number}: {reason}; each worker on a host needs its own address: set"
            " listen.address (or --listen) to a free one, to port 0 for any free port (the log says which), or to off"
        ) from error


def _slow(trouble: str) -> str:
    """Say what to do about a search that took too long."""
    return f"{trouble}; choose a batch or a target to search less" if "did not answer" in trouble else trouble


def _peer(request: web.Request) -> LimitedConnection | None:
    """The other end of a request; nobody when it has gone meanwhile."""
    peer = request.transport.get_protocol() if request.transport is not None else None
    return peer if isinstance(peer, LimitedConnection) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_unforgeable(host: str) -> bool:
    """Whether nobody can have pointed this name here: an address, localhost, or none at all."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return not host or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.force_close()


def _verdict(complaint: str) -> web.Response:
    return web.Response(status=503 if complaint else 200, text=f"{complaint or 'ok'}\n")


async def _send_asset(name: str, kind: str, _request: web.Request) -> web.Response:
    return web.Response(text=asset(name), content_type=kind)
