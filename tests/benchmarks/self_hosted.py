"""How fast it is at a self-hosted Infisical with its pool of ten database connections, by itself and by fixed numbers.

The server is `provisioner simulate --mode self-hosted`. All runs of one repetition follow each other, so that their
ratio says something even on a busy machine.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.benchmarks.stage import fill, until
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from tests.benchmarks.stage import Stage

FIXED = (4, 8, 11, 16)
WORKERS = 2
# OpenRouter's answer takes three seconds with this key, times the simulator's pace.
KEY = "sk-or-v1-bench-mode-delay3"
# Under the first letters of the measures' keys: requests, and what OpenRouter's three seconds are multiplied by.
LOADS = {"quick": (300, 0.0), "upstream": (200, 0.1)}
ENDED = "SELECT count(*) = $1 FROM provisioner.connection_requests WHERE status = 'succeeded'"
LIVING = "SELECT count(*) = $1 FROM provisioner.workers"


async def self_hosted(stage: Stage) -> dict[str, float]:
    """Two workers over requests that are inserted when both are there; by default, then with each fixed number."""
    figures: dict[str, float] = {}
    for load, (requests, pace) in LOADS.items():
        stalled = 0
        for most in ("auto", *FIXED):
            took, in_vain = await _run(stage, requests, pace=pace, most=str(most))
            figures[f"selfhosted.{load}.{most}"] = took
            stalled += in_vain > 0
            if most == "auto":
                figures[f"selfhosted.{load}.auto_stalled"] = stalled
        fastest = min(figures[f"selfhosted.{load}.{most}"] for most in FIXED)
        figures[f"selfhosted.{load}.share"] = figures[f"selfhosted.{load}.auto"] / fastest
        figures[f"selfhosted.{load}.stalled"] = stalled
    return figures


async def _run(stage: Stage, requests: int, *, pace: float, most: str) -> tuple[float, int]:
    """Seconds from the insert to the last result, and how often the server's pool was waited for in vain."""
    with ExitStack() as stack:
        infisical = stack.enter_context(simulated("--mode", "self-hosted", "--any-project"))
        infisical.set(upstreamPace=pace)
        settings = {
            "INFISICAL_HOST": infisical.url,
            "INFISICAL_TOKEN": infisical.log_in(),
            "OPENROUTER_PROVISIONING_KEY": KEY,
            "PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": most,
        }
        async with stage.database() as database, stage.session(database) as session:
            with ExitStack() as working:
                workers = [working.enter_context(stage.worker(database, settings)) for _ in range(WORKERS)]
                await until(lambda: session.fetchval(LIVING, WORKERS), *workers)
                began = time.perf_counter()
                await fill(session, requests)
                await until(lambda: session.fetchval(ENDED, requests), *workers)
                took = time.perf_counter() - began
        return took, infisical.state()["pool"]["timedOut"]
