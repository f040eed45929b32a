"""A headless Chromium, driven by its debugging protocol, without a driver or another package."""

from __future__ import annotations

import asyncio
import atexit
import base64
import itertools
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-component-extensions-with-background-pages",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-default-apps",
    "--mute-audio",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_ADDRESS = re.compile(rb"DevTools listening on (ws://([^/\s]+)/\S+)")


class Tab:
    """One page, and its events so far."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        self.requested: list[str] = []

    async def listen(self) -> None:
        """Process the browser's messages, until it closes the connection."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            elif said["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.complaints.append(str(said["params"]))

    async def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """Let the browser do something; returns its answer."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression on the page."""
        said = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def press(self, key: str, text: str = "") -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            await self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text * (kind == "keyDown"))

    async def open(self, url: str) -> None:
        """Go somewhere, and wait until it is loaded."""
        await self.command("Page.navigate", url=url)
        await self.until(f"document.readyState + location.href === 'complete{url}'")

    async def shows(self, condition: str) -> bool:
        """Whether a condition, as JavaScript, holds on the page."""
        return bool(await self.evaluate(condition))

    async def until(self, condition: str) -> None:
        """Wait until a condition holds on the page."""
        check: Callable[[], bool | Awaitable[bool]] = lambda: self.shows(condition)  # noqa: E731 - only so it has a type
        await eventually(check)

    async def picture(self) -> bytes:
        """A picture of the page from top to bottom, as PNG."""
        said = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(said["data"])

    async def look(self, *, width: int, dark: bool = False) -> None:
        """Set the window's width, and the preferred colour scheme."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])


@cache
def _browser() -> tuple[str, str]:
    """Start the browser that all tests of this process share; returns its host and port, and where it is talked to."""
    assert PROGRAM
    profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [PROGRAM, *OPTIONS, f"--user-data-dir={profile.name}", "about:blank"], stderr=subprocess.PIPE
    )

    def end() -> None:
        process.kill()
        process.communicate()
        profile.cleanup()

    atexit.register(end)
    assert process.stderr
    for line in process.stderr:
        if found := _ADDRESS.search(line):
            # Nobody reads its other output, and it must not block on it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[2].decode(), found[1].decode()
    raise AssertionError("the browser did not start")


@asynccontextmanager
async def _talking(session: aiohttp.ClientSession, url: str) -> AsyncIterator[Tab]:
    async with session.ws_connect(url, max_msg_size=0) as socket:
        tab = Tab(socket)
        listening = asyncio.create_task(tab.listen())
        yield tab
    await listening


@asynccontextmanager
async def browsing() -> AsyncIterator[Tab]:
    """Lend a tab in a profile of its own, which has nothing of what others left: no cache, no storage, no cookies."""
    address, whole = await asyncio.to_thread(_browser)
    async with aiohttp.ClientSession() as session, _talking(session, whole) as browser:
        profile = (await browser.command("Target.createBrowserContext"))["browserContextId"]
        made = await browser.command("Target.createTarget", url="about:blank", browserContextId=profile)
        async with _talking(session, f"ws://{address}/devtools/page/{made['targetId']}") as tab:
            for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
                await tab.command(f"{domain}.enable")
            yield tab
        await browser.command("Target.disposeBrowserContext", browserContextId=profile)
