"""New projects get their request by themselves."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from provisioner.core.projects import ProjectFilter
from provisioner.postgres.discovering import DiscoveredRequests
from provisioner.postgres.permits import LonePermits
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.simulator import Options, Simulator
from provisioner.targets import open_infisical
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.discoverer import Discoverer, Removing
from tests.support import eventually, told
from tests.support.fleet import Fleet
from tests.support.ways import Daemon, daemon

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
REQUESTS = "provisioner.connection_requests"
INSERT = f"INSERT INTO {REQUESTS} (project_id, name, status) VALUES ($1::uuid, $2, $3)"
NONE = ProjectFilter(names=("nothing is called so",))
OPTIONS = Options(mode="self-hosted", projects=5)


@asynccontextmanager
async def discovering(
    fleet: Fleet[Daemon], wanted: ProjectFilter, *, address: str | None = None
) -> AsyncIterator[None]:
    """Discover new projects until the end of the block, and deleted ones if an address is given."""
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    pool = Pool(fleet.url)
    async with open_infisical(fleet.settings(), "default", clock, partial(LonePermits, clock)) as way:
        requests = DiscoveredRequests(pool, every=timedelta(0), credential="team", batch="found")
        discoverer = Discoverer(
            "default",
            joined=way.connections,
            reads=way.reads,
            requests=requests,
            wanted=wanted,
            every=0.05,
            removing=Removing(address=address, clock=clock, lasting=timedelta(0)) if address else None,
        )
        task = asyncio.create_task(discoverer.run())
        try:
            yield
        finally:
            task.cancel()
            await pool.close()


async def test_new_projects_get_their_request(database: Database) -> None:
    """Each match is requested once, with its name, credential and batch; later projects in a later round."""
    wanted = ProjectFilter(names=("team *",), exclude=("*sandbox",))
    async with Fleet(database.url, OPTIONS, way=daemon) as fleet:
        simulator, session = fleet.simulator, fleet.session
        alpha, beta, sandbox, foreign, other = simulator.projects
        names = {alpha: "Team Alpha", beta: "Team Beta", sandbox: "Team Sandbox", foreign: "Team Foreign"}
        simulator.configure(
            projects={id_: {"name": name} for id_, name in names.items()} | {other: {"name": "Team K", "type": "kms"}},
            permissions={foreign: "none"},
        )
        await session.execute(BEFORE, beta)
        with structlog.testing.capture_logs() as logs:
            async with discovering(fleet, wanted):
                await eventually(lambda: told(logs, "projects_discovered") == 1)
                simulator.configure(projects={NEW: {"name": "Team New"}})
                await eventually(lambda: told(logs, "projects_discovered") == 2)
                # An empty list, and an unavailable one, change nothing.
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
    """Whether this many more lists have been read."""
    before = simulator.world.requests.get(LIST, {}).get("200", 0)
    return lambda: simulator.world.requests.get(LIST, {}).get("200", 0) >= before + rounds


async def test_the_daemon_discovers_if_it_is_told_to(database: Database) -> None:
    """With the setting a worker asks for all projects and makes their connections."""
    async with Fleet(database.url, OPTIONS, way=daemon) as fleet:
        await fleet.start(PROVISIONER_DISCOVER__EVERY="1h")
        await fleet.comes_to({"succeeded": 5})
        await fleet.stop()
        assert fleet.simulator.world.requests[LIST] == {"200": 1}


ASKED = "GET /api/v1/projects/{projectId}"
SEEN = "SELECT project_id::text, missed FROM provisioner.seen_projects WHERE target = 'default' ORDER BY missed DESC"


async def test_a_project_that_is_gone_has_its_requests_removed(database: Database) -> None:
    """Only a deleted project's requests, only with the setting, and each connection is deleted by its id."""
    async with Fleet(database.url, OPTIONS, way=daemon) as fleet:
        simulator, session = fleet.simulator, fleet.session
        first, kept, *_ = simulator.projects
        await fleet.start(PROVISIONER_DISCOVER__EVERY="1h")
        await fleet.comes_to({"succeeded": 5})
        await session.execute(INSERT, first, "second", "pending")
        await session.execute(INSERT, first, "third", "cancelled")
        await eventually(lambda: _count(session, f"project_id = '{first}' AND status = 'succeeded'", 2))
        simulator.configure(removeProjects=[first])
        async with discovering(fleet, NONE):  # without the setting
            await eventually(_after(simulator, 8))
        assert await _count(session, "wanted = 'absent'", 0)
        # No worker with the setting has ever seen it, so it cannot be missed.
        async with discovering(fleet, NONE, address="a"):
            await eventually(_after(simulator, 8))
        assert await _count(session, "wanted = 'absent'", 0)
        await session.execute(
            "INSERT INTO provisioner.seen_projects (target, project_id, address) VALUES ('default', $1::uuid, 'a')",
            first,
        )
        with structlog.testing.capture_logs() as logs:
            async with discovering(fleet, NONE, address="a"):
                await eventually(lambda: _count(session, "status = 'removed'", 2))
                await eventually(_after(simulator, 4))
        assert [
            (line["project"], line["project_name"], line["requests"])
            for line in logs
            if line["event"] == "project_gone"
        ] == [(first, "project 1", 2)]
        await fleet.stop()
        assert simulator.world.requests["DELETE /api/v1/app-connections/open-router/{connectionId}"] == {"404": 2}
        assert simulator.world.requests[ASKED] == {"404": 1}
        assert await _count(session, "name = 'third' AND status = 'cancelled'", 1)
        assert await _count(session, "wanted = 'absent' OR status = 'removed'", 2)
        assert kept in {row["project_id"] for row in await session.fetch(SEEN)}


@pytest.mark.parametrize(
    ("removed", "told_of"), [("none", {"403"}), ("foreign", {"403"})], ids=["not a member", "another organization"]
)
async def test_membership_that_was_lost_is_no_removal(database: Database, removed: str, told_of: set[str]) -> None:
    """A project that the identity was removed from is queried now and then, and nothing is marked."""
    async with Fleet(database.url, OPTIONS, way=daemon) as fleet:
        simulator, session = fleet.simulator, fleet.session
        first = simulator.projects[0]
        async with discovering(fleet, ProjectFilter(), address="a"):
            await eventually(lambda: _seen(session, 5))
            simulator.configure(permissions={first: removed})
            await eventually(lambda: sum(simulator.world.requests.get(ASKED, {}).values()) >= 2)
        assert simulator.world.requests[ASKED].keys() == told_of
        assert await _count(session, "wanted = 'absent'", 0)


async def test_another_infisical_at_the_target_is_no_removal(database: Database) -> None:
    """Whose address changed misses nothing of the old one, though each of its projects is answered with 404."""
    async with Fleet(database.url, OPTIONS, way=daemon) as fleet:
        session = fleet.session
        async with discovering(fleet, ProjectFilter(), address="a"):
            await eventually(lambda: _seen(session, 5))
        async with Fleet(database.url, Options(mode="self-hosted", projects=2, seed=7), way=daemon) as elsewhere:
            other = elsewhere.simulator
            async with discovering(elsewhere, NONE, address="b"):
                await eventually(_after(other, 8))
            assert ASKED not in other.world.requests
            # Nor is it believed under the same address: too many are missing at once.
            with structlog.testing.capture_logs() as logs:
                async with discovering(elsewhere, NONE, address="a"):
                    await eventually(_after(other, 8))
            assert ASKED not in other.world.requests
            assert told(logs, "missing_projects_doubted") == 1
        assert await _count(session, "wanted = 'absent'", 0)


async def _seen(session: Any, count: int) -> Any:
    """Whether this many projects are known, and none is missing."""
    return [row["missed"] for row in await session.fetch(SEEN)] == [0] * count


async def _count(session: Any, where: str, count: int) -> Any:
    row = await session.fetchrow(f"SELECT count(*) FROM {REQUESTS} WHERE {where}")
    return row["count"] == count


async def test_one_worker_of_the_fleet_takes_a_round(database: Database) -> None:
    """Of several workers at once, one may read, and then none until the period is over."""
    pool = Pool(database.url)
    requests = DiscoveredRequests(pool, every=timedelta(hours=1), credential="default", batch=None)
    try:
        taken = await asyncio.gather(*(requests.take("default") for _ in range(5)))
        assert sorted(taken) == [False] * 4 + [True]
        assert await requests.take("other")
    finally:
        await pool.close()
