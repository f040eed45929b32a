"""The simulated Infisical as a server on the loopback address."""

import asyncio
import errno
from collections.abc import Callable
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from provisioner.sandbox.simulator import control, identity, pipeline
from provisioner.sandbox.simulator.answers import Answer
from provisioner.sandbox.simulator.options import Options
from provisioner.sandbox.simulator.world import Clock, World, steady_clock

__all__ = ["PortTaken", "Simulator"]

HOST = "127.0.0.1"
# How long open connections may take when the server stops.
SHUTDOWN_TIMEOUT = 0.2
# How long an idle connection is kept, and how long the header promises, in seconds.
KEPT = 73.0
KEEP_ALIVE = {"Connection": "keep-alive", "Keep-Alive": "timeout=72"}


class PortTaken(OSError):
    """Another program already listens on the port."""


class Simulator:
    """A simulated Infisical: `async with Simulator(Options()) as simulator` serves until the block ends.

    It may share its event loop with its clients. `clock` returns seconds since 1970 and determines windows, lifetimes,
    lockouts and timestamps; delays are real time. Raises `SettingsError` for invalid options.
    """

    def __init__(self, options: Options | None = None, *, clock: Clock | None = None) -> None:
        self.options = options or Options()
        self.world = World(self.options, clock or steady_clock())
        control.begin(self.world)
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._port = 0
        self._date = (0, "")

    async def __aenter__(self) -> Self:
        """Start listening. Raises `PortTaken` if the port is in use."""
        runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, keepalive_timeout=KEPT),
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            access_log=None,
        )
        await runner.setup()
        site = web.TCPSite(runner, HOST, self.options.port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(error.errno, f"port {self.options.port} is in use") from error
            raise
        self._runner, self._site, self._port = runner, site, runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening, and end the requests in progress."""
        if self._runner is not None and self._site is not None:
            await self._site.stop()
            waits = list(self.world.waits)
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            await self._runner.cleanup()
        self._runner = self._site = None

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://{HOST}:{self._port}"

    @property
    def client_id(self) -> str:
        """The client id of the one machine identity."""
        return self.world.identity.client_id

    @property
    def client_secret(self) -> str:
        """Its client secret."""
        return self.world.identity.client_secret

    @property
    def identity_id(self) -> str:
        """The identity's id, for logins with another issuer's token."""
        return self.world.identity.id

    @property
    def organization_id(self) -> str:
        """The organization's id."""
        return self.world.organization_id

    @property
    def projects(self) -> list[str]:
        """The ids of the projects."""
        return list(self.world.projects)

    def token(self) -> str:
        """Return a new access token that never expires."""
        return identity.mint(self.world, ttl=0)

    def state(self) -> dict[str, Any]:
        """Return what GET /_simulator/state shows."""
        return control.state(self.world)

    async def until(self, holds: Callable[[], object], *, within: float = 20.0) -> None:
        """Wait until a condition holds. It is checked when a request arrives, creates something or is answered.

        Raises `TimeoutError` after `within` seconds.
        """
        async with asyncio.timeout(within):
            while not holds():
                await self.world.happening()

    def configure(self, **changes: Any) -> None:
        """Change settings as POST /_simulator/settings does, with JSON or Python names. Raises `SettingsError`."""
        control.change(self.world, changes)

    def announcement(self) -> dict[str, Any]:
        """Return what the command line prints when the server listens."""
        return {
            "url": self.url,
            "clientId": self.client_id,
            "clientSecret": self.client_secret,
            "organizationId": self.organization_id,
            "projects": self.projects,
        }

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith(control.ROUTES):
            return self._response(await control.answer(self.world, request), keep=request.keep_alive)
        answer = await pipeline.answer(self.world, request)
        # After a cut nobody reads this: aiohttp notices the closed connection and drops it.
        return web.Response() if answer is None else self._response(answer, keep=request.keep_alive)

    def _response(self, answer: Answer, *, keep: bool) -> web.Response:
        headers = {"Content-Type": answer.content_type, "Date": self._now(), **answer.headers}
        keep = keep and not answer.close
        response = web.Response(
            status=answer.status, body=answer.body, headers=headers | KEEP_ALIVE if keep else headers
        )
        if not keep:
            response.force_close()
        return response

    def _now(self) -> str:
        second = int(self.world.clock() + self.world.settings.clock_offset)
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]
