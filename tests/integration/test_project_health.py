"""Projects in which the identity may not create: found out with few creates, waited for, and gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.sandbox.simulator import Options
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from tests.support.postgres import Database

WAITING = "SELECT count(*) FROM provisioner.waiting WHERE quarantine LIKE 'project:%'"
LIST = "GET /api/v1/projects"
INSERT = (
    "INSERT INTO provisioner.connection_requests (project_id, name)"
    " SELECT p::uuid, n.name FROM unnest($1::text[]) AS p CROSS JOIN unnest($2::text[]) AS n (name)"
)
ALLOWED = ["create-app-connections", "read-app-connections"]
# The list may be read again, and a probe is due, whenever a worker checks.
DUE = (
    "UPDATE provisioner.project_checks SET read_pause = '0 seconds', probed_at = NULL",
    "UPDATE provisioner.project_health SET probe_at = now() WHERE cause = 'no_permission'",
)


def options(projects: int) -> Options:
    """An Infisical without a limiter."""
    return Options(mode="self-hosted", projects=projects, latency=0.02)


@pytest.mark.parametrize("workers", [1, 3])
async def test_many_projects_that_nobody_joined_cost_five_creates(
    database: Database, logged: list[dict[str, object]], workers: int
) -> None:
    """One refusal and one list identify them all: they wait, none fails, and they continue once the identity joins."""
    async with Fleet(database.url, options(150), workers=workers) as fleet:
        projects = fleet.simulator.projects
        fleet.simulator.configure(permissions=dict.fromkeys(projects, "none"))
        await fleet.insert(150)
        await fleet.start()
        await fleet.until(WAITING, 150)
        creates, reads = len(fleet.simulator.world.creates), fleet.simulator.world.requests[LIST]
        assert creates <= 5
        assert reads == {"200": 1}
        assert await fleet.states() == {"pending": 150}
        row = await fleet.session.fetchrow(
            "SELECT count(*) AS projects, sum(requests) AS requests, count(DISTINCT cause) AS causes"
            " FROM provisioner.quarantined_projects"
        )
        assert tuple(row or ()) == (150, 150, 1)
        fleet.simulator.configure(permissions=dict.fromkeys(projects, ALLOWED))
        await fleet.session.execute(DUE[0])
        await fleet.done(within=30)
        assert await fleet.states() == {"succeeded": 150}
        assert len(fleet.simulator.world.creates) == creates + 150
        assert await fleet.session.fetchval("SELECT count(*) FROM provisioner.project_health") == 0
    assert "projects_released" in {entry["event"] for entry in logged}


async def test_the_others_go_on(database: Database) -> None:
    """Of two hundred projects the fifty without the identity wait, and the others are done meanwhile."""
    async with Fleet(database.url, options(200)) as fleet:
        outside = fleet.simulator.projects[::4]
        fleet.simulator.configure(permissions=dict.fromkeys(outside, "none"))
        await fleet.insert(200)
        await fleet.start()
        await fleet.until(WAITING, 50)
        await fleet.comes_to({"succeeded": 150, "pending": 50})
        assert len(fleet.simulator.world.creates) <= 150 + 8
        # Later requests wait without a create, and without another read as long as the list is fresh.
        created = len(fleet.simulator.world.creates)
        await fleet.insert(200, name="later")
        await fleet.until(WAITING, 100)
        await fleet.comes_to({"succeeded": 300, "pending": 100})
        assert len(fleet.simulator.world.creates) == created + 150


async def test_a_missing_permission_is_probed(database: Database) -> None:
    """A role without the permission costs one create per project; single probes find out when it was granted."""
    async with Fleet(database.url, options(3)) as fleet:
        projects = fleet.simulator.projects
        fleet.simulator.configure(permissions={project: ["read-app-connections"] for project in projects})
        for number in range(10):
            await fleet.insert(3, name=f"n-{number}")
        await fleet.start()
        await fleet.until(WAITING, 30)
        assert len(fleet.simulator.world.creates) <= 8
        before = len(fleet.simulator.world.creates)
        await fleet.session.execute(DUE[0])
        await fleet.session.execute(DUE[1])
        await fleet.simulator.until(lambda: len(fleet.simulator.world.creates) > before)
        await fleet.until(WAITING, 30)
        assert len(fleet.simulator.world.creates) == before + 1
        fleet.simulator.configure(permissions=dict.fromkeys(projects, ALLOWED))
        await fleet.session.execute(DUE[0])
        await fleet.session.execute(DUE[1])
        await fleet.done(within=30)
        assert await fleet.states() == {"succeeded": 30}


async def test_a_list_that_leaves_out_what_can_be_used_holds_nobody(database: Database) -> None:
    """If a create passed in a project that the list lacks, only projects that were themselves refused wait."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=1, any_project=True)) as fleet:
        (one,) = fleet.simulator.projects
        insert = (
            "INSERT INTO provisioner.connection_requests (project_id)"
            " SELECT gen_random_uuid() FROM generate_series(1, $1::int)"
        )
        await fleet.session.execute(insert, 1)
        await fleet.start()
        await fleet.done()
        fleet.simulator.configure(permissions={one: "none"})
        await fleet.insert(1)
        await fleet.until(WAITING, 1)
        await fleet.session.execute(insert, 20)
        await fleet.comes_to({"succeeded": 21, "pending": 1})


async def test_retry_looks_at_once(database: Database) -> None:
    """`retry` of a request that waits for its project reads the list again, and the request continues."""
    async with Fleet(database.url, options(1)) as fleet:
        (one,) = fleet.simulator.projects
        fleet.simulator.configure(permissions={one: "none"})
        await fleet.insert(1)
        await fleet.insert(1, name="second")
        await fleet.start()
        await fleet.until(WAITING, 2)
        fleet.simulator.configure(permissions={one: ALLOWED})
        await fleet.session.execute("SELECT provisioner.retry(ARRAY[min(id)]) FROM provisioner.connection_requests")
        await fleet.done()
        assert await fleet.states() == {"succeeded": 2}


async def test_events_call_projects_by_their_names(database: Database, logged: list[dict[str, object]]) -> None:
    """Quarantined and failed requests name their project, by the name that people use."""
    async with Fleet(database.url, options(2)) as fleet:
        outside, taken = fleet.simulator.projects
        fleet.simulator.configure(
            permissions={outside: "none"}, plant=[{"name": "openrouter", "projectId": taken, "description": "theirs"}]
        )
        await fleet.insert(2)
        await fleet.session.execute("UPDATE provisioner.connection_requests SET project_name = 'of ' || project_id")
        await fleet.start()
        await fleet.comes_to({"failed": 1, "pending": 1})
        await fleet.until(WAITING, 1)
    names = {entry["event"]: entry["project_name"] for entry in logged if "project" in entry}
    assert names == {"project_quarantined": f"of {outside}", "request_failed": f"of {taken}"}


METERED = Options(mode="cloud", projects=300, write_limit=100_000, read_limit=100_000, latency=0.05, pool=0)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("projects", "names"), [(1, 200), (299, 1)])
async def test_many_in_flight_cost_five_creates_too(
    database: Database, workers: int, projects: int, names: int
) -> None:
    """With a known key and room for dozens at once, only a few creates are sent in unknown projects.

    Neither three hundred projects cost more, nor one project with as many requests.
    """
    async with Fleet(database.url, METERED, workers=workers) as fleet:
        home, *outside = fleet.simulator.projects
        fleet.simulator.configure(permissions=dict.fromkeys(outside, "none"))
        await fleet.start()
        await fleet.session.execute(INSERT, [home], [f"warm-{number}" for number in range(100)])
        await fleet.done()
        creates = len(fleet.simulator.world.creates)
        await fleet.session.execute(INSERT, outside[:projects], [f"name-{number}" for number in range(names)])
        await fleet.until(WAITING, projects * names)
        assert len(fleet.simulator.world.creates) - creates <= 5
        assert fleet.simulator.world.requests[LIST] == {"200": 1}
        assert await fleet.states() == {"succeeded": 100, "pending": projects * names}


async def test_who_is_put_back_after_the_release_is_released_too(database: Database) -> None:
    """A claim of a worker that did not know yet may begin to wait for a project that is no longer quarantined."""
    async with Fleet(database.url, options(1)) as fleet:
        (one,) = fleet.simulator.projects
        strand = (
            "UPDATE provisioner.waiting SET run_at = now() + interval '1 hour', quarantine = 'project:' || project_id"
        )
        later = (
            "INSERT INTO provisioner.connection_requests (project_id, name, not_before)"
            " VALUES ($1::uuid, $2, now() + interval '1 hour')"
        )
        await fleet.session.execute(later, one, "before-the-start")
        await fleet.session.execute(strand)
        await fleet.start()
        await fleet.comes_to({"succeeded": 1})
        fleet.simulator.configure(permissions={one: "none"})
        await fleet.insert(1)
        await fleet.until(WAITING, 1)
        fleet.simulator.configure(permissions={one: ALLOWED})
        await fleet.session.execute(DUE[0])
        await fleet.done()
        await fleet.session.execute(later, one, "after-the-release")
        await fleet.session.execute(strand)
        await fleet.comes_to({"succeeded": 3})
