"""The daemon as `provisioner run` runs it, in the event loop of a test."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from provisioner.service import run_daemon
from provisioner.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from provisioner.sandbox.simulator import Simulator
    from provisioner.settings import Settings


def settings_for(simulator: Simulator, **settings: str) -> Settings:
    """The settings of a worker for a simulator; `settings` are variables of the environment."""
    return load_settings(
        environ={
            "INFISICAL_HOST": simulator.url,
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": simulator.client_id,
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": simulator.client_secret,
            "PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-good",
            "PROVISIONER_LISTEN__ADDRESS": "off",
            "PROVISIONER_WORKER__POLL": "0.1",
            **settings,
        }
    )


@asynccontextmanager
async def working(simulator: Simulator, **settings: str) -> AsyncIterator[asyncio.Task[object]]:
    """Work for a simulator until the end of the block; `settings` are variables of the environment."""
    task: asyncio.Task[object] = asyncio.create_task(run_daemon(settings_for(simulator, **settings)))
    try:
        yield task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)  # as its supervisor stops it
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)


def told(logs: list[Any], event: str) -> int:
    """How often something was logged."""
    return sum(line["event"] == event for line in logs)
