"""A taken name: by us, by somebody else, by another app, before we came or while we look."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.sandbox.simulator.options import Options
from tests.support.fleet import UNLIMITED, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ways import Process

pytestmark = pytest.mark.xdist_group("faults-b")

CHOICES = ("fail", "adopt", "replace")
MARKED = {"PROVISIONER_TARGETS__DEFAULT__MARKER": "true"}
# One counted attempt, so that trouble of its own ends a request at once.
ONCE = {"PROVISIONER_RETRY__MAX_ATTEMPTS": "1"}


@dataclass(slots=True)
class Rivals:
    """Somebody else, quick or slow, with a connection of the same name in a project."""

    it: Fleet[Process]

    def plant(self, project: str, *, description: str | None = None, app: str = "open-router") -> None:
        """Make a connection of theirs."""
        plant = {"name": "openrouter", "projectId": project, "description": description, "app": app}
        self.it.simulator.configure(plant=[plant])
        self.it.tally["planted by others"] += 1

    async def plant_after_a_lost_create(self, projects: list[str], *, description: str | None) -> None:
        """Wait until our create was lost in each of these projects, and take the name before our look-up."""
        left = set(projects)
        creates = self.it.simulator.world.creates
        while left:
            await asyncio.sleep(0.005)  # an answer that is lost tells nobody
            for one in creates:
                if one.project_id in left and one.fault is not None:
                    left.remove(one.project_id)
                    self.plant(one.project_id, description=description)

    def of(self, project: str) -> Any:
        """The connection of that name in a project."""
        return self.it.simulator.world.named("openrouter", project)


def _outcome(row: Any) -> tuple[str, str | None, bool]:
    return row["status"], row["error_code"], row["adopted"]


@pytest.mark.parametrize("settings", [{}, MARKED], ids=["unmarked", "marked"])
async def test_a_name_that_others_had_before(world: Callable[..., Fleet[Process]], settings: dict[str, str]) -> None:
    """`fail` leaves it alone, `adopt` records it, `replace` gives it our key; another app's is never touched."""
    options = Options(mode="self-hosted", projects=6, seed=61)
    async with world(options, **settings, **UNLIMITED) as it:
        rivals = Rivals(it)
        theirs, apps = it.simulator.projects[:3], it.simulator.projects[3:]
        for project in theirs:
            rivals.plant(project, description="theirs")
        for project in apps:
            rivals.plant(project, app="github")
        before = {project: rivals.of(project).credentials_hash for project in it.simulator.projects}
        requests = [
            (await it.insert([project], on_conflict=choice))[0]
            for projects in (theirs, apps)
            for project, choice in zip(projects, CHOICES, strict=True)
        ]
        await it.start()
        await it.done(within=20)
        rows = [await it.row(request) for request in requests]
        assert [_outcome(row) for row in rows] == [
            ("failed", "name_conflict", False),
            ("succeeded", None, True),
            ("succeeded", None, True),
            *[("failed", "name_conflict", False)] * 3,
        ]
        changed = [rivals.of(project).credentials_hash != before[project] for project in it.simulator.projects]
        assert changed == [False, False, True, False, False, False]
        assert [rivals.of(project).description for project in theirs] == ["theirs"] * 3
        await it.audit()


@pytest.mark.parametrize(("settings", "description"), [({}, "theirs"), (MARKED, None)], ids=["unmarked", "marked"])
async def test_others_come_between_a_lost_create_and_the_look_up(
    world: Callable[..., Fleet[Process]], settings: dict[str, str], description: str | None
) -> None:
    """A connection found after a lost answer may be others'; with the marker, even if all else matches."""
    options = Options(mode="self-hosted", projects=9, seed=62, faults={"cut-before-commit": 1.0})
    async with world(options, **settings, **UNLIMITED) as it:
        rivals = Rivals(it)
        requests = [
            request
            for number, choice in enumerate(CHOICES)
            for request in await it.insert(it.simulator.projects[3 * number : 3 * number + 3], on_conflict=choice)
        ]
        await it.start()
        async with asyncio.timeout(20):
            await rivals.plant_after_a_lost_create(it.simulator.projects, description=description)
        await it.done(within=20)
        rows = [await it.row(request) for request in requests]
        assert [_outcome(row) for row in rows] == [
            *[("failed", "name_conflict", False)] * 3,
            *[("succeeded", None, True)] * 6,
        ]
        found = await it.audit()
        assert found.made == 0


@pytest.mark.parametrize("settings", [{}, MARKED], ids=["unmarked", "marked"])
async def test_what_a_failed_request_had_made_is_its_own(
    world: Callable[..., Fleet[Process]], settings: dict[str, str]
) -> None:
    """A request that failed with its outcome unknown finds its connection when it is tried again."""
    faults = {"error-after-commit": 1.0}
    options = Options(mode="self-hosted", projects=3, seed=63, clock_offset=-170.0, replica_lag=3600.0, faults=faults)
    async with world(options, **settings, **ONCE, **UNLIMITED) as it:
        requests = [
            request
            for project, choice in zip(it.simulator.projects, CHOICES, strict=True)
            for request in await it.insert([project], on_conflict=choice)
        ]
        await it.start()
        await it.done(within=20)
        # Its name is taken, but nobody can see by what: a person has to look.
        rows = [await it.row(request) for request in requests]
        assert [_outcome(row) for row in rows] == [("failed", "gave_up", False)] * 3
        connections = list(it.simulator.world.connections.values())
        hashes = [one.credentials_hash for one in connections]
        for one in connections:
            one.visible_at = 0.0
        await it.fetch("SELECT provisioner.retry($1)", requests)
        await it.done(within=20)
        rows = [await it.row(request) for request in requests]
        assert [_outcome(row) for row in rows] == [("succeeded", None, False)] * 3
        assert hashes == [one.credentials_hash for one in it.simulator.world.connections.values()]
        await it.audit()


async def test_the_mark_needs_no_clock(world: Callable[..., Fleet[Process]]) -> None:
    """A marked connection is ours even when the server's clock has been set back by hours in between."""
    options = Options(mode="self-hosted", projects=4, seed=64, faults={"cut-after-commit": 1.0}, clock_offset=-9000.0)
    async with world(options, **MARKED, **UNLIMITED) as it:
        await it.insert()
        await it.start()
        await it.simulator.until(lambda: len(it.simulator.world.connections) == 4)
        it.simulator.configure(clock_offset=9000.0, faults={})
        await it.done(within=20)
        found = await it.audit()
        assert (found.states, found.made, found.adopted, found.found_again) == ({"succeeded": 4}, 4, 0, 4)


async def test_an_older_request_of_the_same_name_is_another(world: Callable[..., Fleet[Process]]) -> None:
    """A row that was deleted and inserted again has no claim to the first one's connection."""
    options = Options(mode="self-hosted", projects=1, seed=65)
    async with world(options, **UNLIMITED) as it:
        await it.insert()
        (worker,) = await it.start()
        await it.done(within=20)
        await it.fetch("DELETE FROM provisioner.connection_requests")
        again = await it.insert()
        await it.done(within=20)
        assert _outcome(await it.row(again[0])) == ("failed", "name_conflict", False)
        assert worker.alive
