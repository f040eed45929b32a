"""What systemd is notified of, on a socket of its own kind."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provisioner.observe.systemd import Systemd
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ME = os.getpid()


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """Listen as systemd does; the path is short, because the kernel wants it to be."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(Path(directory) / "notify"))
        listening.setblocking(False)
        yield listening


async def heard(manager: socket.socket) -> dict[str, str]:
    """The next message."""
    async with asyncio.timeout(5):
        message = await asyncio.get_running_loop().sock_recv(manager, 4096)
    return dict(line.split("=", 1) for line in message.decode().splitlines())


@asynccontextmanager
async def attending(
    systemd: Systemd, *, absence: Callable[[], str] = str, ailment: Callable[[], str] = str
) -> AsyncIterator[None]:
    """Notify systemd until the end of the block."""
    task = asyncio.create_task(systemd.attend(absence=absence, ailment=ailment))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    """The variables that systemd sets for its service."""
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


async def test_it_is_told_once_nothing_is_missing(manager: socket.socket) -> None:
    """While something is missing systemd gets more time and a reason; then it is told that the worker is ready."""
    missing = ["starting"]
    systemd = Systemd.from_environment(environment(manager), pid=ME)
    async with attending(systemd, absence=lambda: "".join(missing)):
        assert await heard(manager) == {"EXTEND_TIMEOUT_USEC": "30000000", "STATUS": "starting"}
        missing.clear()
        while (message := await heard(manager)).get("STATUS") == "starting":
            pass
    assert message == {"READY": "1", "STATUS": "working"}


async def test_the_watchdog_is_fed_while_all_is_well(manager: socket.socket) -> None:
    """The watchdog gets its signs of life in time, and none once something is wrong."""
    asked, ailing = 0, ""

    def ailment() -> str:
        nonlocal asked
        asked += 1
        return ailing

    systemd = Systemd.from_environment(environment(manager, WATCHDOG_USEC="300000", WATCHDOG_PID=str(ME)), pid=ME)
    async with attending(systemd, ailment=ailment):
        assert "READY" in await heard(manager)
        began = asyncio.get_running_loop().time()
        assert [await heard(manager) for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
        assert asyncio.get_running_loop().time() - began < 0.3
        ailing, before = "maintenance has not run for 60 s", asked
        await eventually(lambda: asked >= before + 2)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}])
async def test_no_watchdog_is_fed_that_is_not_ours(manager: socket.socket, more: dict[str, str]) -> None:
    """Without a watchdog, or with one for another process, there is nothing more to say after READY."""
    systemd = Systemd.from_environment(environment(manager, **more), pid=ME)
    async with asyncio.timeout(5):
        await systemd.attend(absence=str, ailment=str)
    assert "READY" in await heard(manager)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


async def test_it_hears_that_the_end_has_begun(manager: socket.socket) -> None:
    """A stop is announced."""
    Systemd.from_environment(environment(manager), pid=ME).stopping()
    assert await heard(manager) == {"STOPPING": "1"}


async def test_a_name_outside_the_file_system_is_understood() -> None:
    """A socket whose name begins with @ is an abstract one."""
    name = f"provisioner-test-{ME}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        Systemd.from_environment({"NOTIFY_SOCKET": f"@{name}"}, pid=ME).stopping()
        assert await heard(listening) == {"STOPPING": "1"}


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
async def test_without_systemd_nothing_is_the_matter(environment: dict[str, str]) -> None:
    """Without a service manager the daemon works as usual."""
    systemd = Systemd.from_environment(environment, pid=ME)
    systemd.stopping()
    async with asyncio.timeout(5):
        await systemd.attend(absence=str, ailment=str)
