"""New projects get their request by themselves."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from provisioner.core.projects import ProjectFilter
from provisioner.postgres.discovering import DiscoveredRequests
from provisioner.postgres.permits import LonePermits
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.simulator import Options, Simulator
from provisioner.targets import open_infisical
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.discoverer import Discoverer
from tests.support import eventually
from tests.support.daemon import settings_for, told, working
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database

LIST = "GET /api/v1/projects"
NEW = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
BEFORE = (
    "INSERT INTO provisioner.connection_requests (project_id, project_name, status) VALUES ($1::uuid, '-', 'cancelled')"
)
ROWS = (
    "SELECT project_id::text, project_name, credential, batch, status FROM provisioner.connection_requests"
    " ORDER BY project_name"
)
OPTIONS = Options(mode="self-hosted", projects=5)


@asynccontextmanager
async def discovering(database: Database, simulator: Simulator, wanted: ProjectFilter) -> AsyncIterator[None]:
    """Look for new projects all the time, until the end of the block."""
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    settings, pool = settings_for(simulator), Pool(database.url)
    async with open_infisical(settings, "default", clock, partial(LonePermits, clock)) as way:
        requests = DiscoveredRequests(pool, every=timedelta(0), credential="team", batch="found")
        discoverer = Discoverer(
            "default", joined=way.connections, reads=way.reads, requests=requests, wanted=wanted, every=0.05
        )
        task = asyncio.create_task(discoverer.run())
        try:
            yield
        finally:
            task.cancel()
            await pool.close()


async def test_new_projects_get_their_request(database: Database) -> None:
    """What matches is asked for once, with its name, credential and batch; what comes later in a later round."""
    wanted = ProjectFilter(names=("team *",), exclude=("*sandbox",))
    async with Simulator(OPTIONS) as simulator, connected(database.url) as session:
        alpha, beta, sandbox, foreign, other = simulator.projects
        names = {alpha: "Team Alpha", beta: "Team Beta", sandbox: "Team Sandbox", foreign: "Team Foreign"}
        simulator.configure(
            projects={id_: {"name": name} for id_, name in names.items()} | {other: {"name": "Team K", "type": "kms"}},
            permissions={foreign: "none"},
        )
        await session.execute(BEFORE, beta)
        with structlog.testing.capture_logs() as logs:
            async with discovering(database, simulator, wanted):
                await eventually(lambda: told(logs, "projects_discovered") == 1)
                simulator.configure(projects={NEW: {"name": "Team New"}})
                await eventually(lambda: told(logs, "projects_discovered") == 2)
                # A list that is empty, and one that is not to be had, change nothing.
                simulator.configure(permissions=dict.fromkeys([*simulator.projects, NEW], "none"))
                await eventually(_after(simulator, 3))
                simulator.configure(outage="refuse")
                await eventually(lambda: told(logs, "discovery_failed"))
        assert [tuple(row) for row in await session.fetch(ROWS)] == [
            (beta, "-", "default", None, "cancelled"),
            (alpha, "Team Alpha", "team", "found", "pending"),
            (NEW, "Team New", "team", "found", "pending"),
        ]


def _after(simulator: Simulator, rounds: int) -> Any:
    """Whether so many lists more have been read by now."""
    before = simulator.world.requests[LIST]["200"]
    return lambda: simulator.world.requests[LIST]["200"] >= before + rounds


async def test_the_daemon_discovers_if_it_is_told_to(database: Database) -> None:
    """With the setting a worker asks for all projects and makes their connections."""
    settings = {"PROVISIONER_DATABASE_URL": database.url, "PROVISIONER_DISCOVER__EVERY": "1h"}
    async with Simulator(OPTIONS) as simulator, connected(database.url) as session:
        async with working(simulator, **settings):
            await eventually(lambda: _succeeded(session, 5))
        assert simulator.world.requests[LIST] == {"200": 1}


async def _succeeded(session: Any, count: int) -> Any:
    return [row["status"] for row in await session.fetch(ROWS)] == ["succeeded"] * count


async def test_one_worker_of_the_fleet_takes_a_round(database: Database) -> None:
    """Of several that ask at once one may read, and nobody for as long as the period lasts."""
    pool = Pool(database.url)
    requests = DiscoveredRequests(pool, every=timedelta(hours=1), credential="default", batch=None)
    try:
        taken = await asyncio.gather(*(requests.take("default") for _ in range(5)))
        assert sorted(taken) == [False] * 4 + [True]
        assert await requests.take("other")
    finally:
        await pool.close()
