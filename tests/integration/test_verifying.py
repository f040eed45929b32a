"""Standing verification against a database and a scripted Infisical: rounds, replicas that lag, workers that die."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from provisioner.core.model import Connection, Observation, Result
from provisioner.postgres.pool import Database
from provisioner.postgres.reports import read_gauges, read_status
from provisioner.postgres.search import read_request
from provisioner.postgres.verifying import DriftLedger
from provisioner.sandbox.simulator import Options
from provisioner.worker import verifier as module
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.verifier import Verifier
from tests.support import eventually
from tests.support.builders import a_connection
from tests.support.cli import query
from tests.support.fleet import Fleet
from tests.support.operators import ask, finish
from tests.support.small_world import Ledger
from tests.support.ways import daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from tests.support.postgres import Database as Lent

DAY = timedelta(days=1)
ROUND_OVER = "SELECT finished_at IS NOT NULL FROM provisioner.verify_rounds"
STATUS = "SELECT id, drift, verified_at IS NOT NULL FROM provisioner.request_status ORDER BY id"


@dataclass
class Infisical:
    """The contents of projects; `refusing` projects may not be read, and with `away` nothing answers."""

    connections: dict[str, list[Connection]] = field(default_factory=dict)
    refusing: set[str] = field(default_factory=set)
    away: bool = False
    asked: list[str] = field(default_factory=list)

    async def list(self, project_id: str | None) -> tuple[Observation, tuple[Connection, ...]]:
        """Return a project's contents."""
        assert project_id is not None
        self.asked.append(project_id)
        if self.away:
            return Observation(result=Result.UNKNOWN, message="cut"), ()
        if project_id in self.refusing:
            return Observation(result=Result.FORBIDDEN, status=403), ()
        return Observation(result=Result.FOUND, status=200), tuple(self.connections.get(project_id, ()))


def recorded(database: Lent, number: int) -> tuple[list[int], Infisical]:
    """A number of succeeded requests, and an Infisical with their connections."""
    ids = ask(database, number)
    finish(database, ids)
    query(database, "UPDATE provisioner.connection_requests SET finished_at = now() - interval '1 hour'")
    infisical = Infisical()
    rows = query(database, "SELECT project_id, name, connection_id FROM provisioner.connection_requests ORDER BY id")
    for line in rows.splitlines():
        project, name, connection = line.split("|")
        made = a_connection(id=connection, project_id=project, name=name, description=None)
        infisical.connections[project] = [made]
    return ids, infisical


def project_of(database: Lent, request: int) -> str:
    """The project of a request."""
    return query(database, f"SELECT project_id FROM provisioner.connection_requests WHERE id = {request}")


@asynccontextmanager
async def verifying(lent: Lent, infisical: Infisical, *, workers: int = 1) -> AsyncIterator[Database]:
    """Let workers verify until the end of the block."""
    database = Database(lent.url, size=3)
    tasks = []
    for number in range(workers):
        clock = DatabaseClock(wall=lambda: datetime.now(UTC), monotonic=asyncio.get_running_loop().time)
        ledger = DriftLedger(database, holder=f"w-{number}", every=DAY)
        verifier = Verifier("default", lister=infisical, reads=Ledger(), ledger=ledger, clock=clock, poll=0.05)
        verifier.pause = 0.0
        tasks.append(asyncio.create_task(verifier.run()))
    try:
        yield database
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()


async def test_a_round_is_made_once_by_the_fleet(database: Lent) -> None:
    """Several workers read each project once per round; an unchanged connection gets a time, and no row of its own."""
    ids, infisical = recorded(database, 7)
    async with verifying(database, infisical, workers=3):
        await eventually(lambda: query(database, ROUND_OVER) == "t")
    assert sorted(infisical.asked) == sorted(infisical.connections)
    assert query(database, STATUS).splitlines() == [f"{number}||t" for number in ids]
    assert query(database, "SELECT count(*) FROM provisioner.drifts") == "0"
    (late,) = ask(database)
    finish(database, [late])
    assert query(database, STATUS).splitlines()[-1] == f"{late}||f"


async def test_what_differs_is_told_everywhere_and_taken_back(database: Lent) -> None:
    """A renamed connection is a drift in the view, the status, the gauges; as recorded again, it is none."""
    ids, infisical = recorded(database, 3)
    where = project_of(database, ids[1])
    (made,) = infisical.connections[where]
    infisical.connections[where] = [replace(made, name="other")]
    infisical.refusing.add(project_of(database, ids[2]))
    async with verifying(database, infisical) as ours:
        await eventually(lambda: query(database, ROUND_OVER) == "t")
        assert query(database, STATUS).splitlines() == [f"{ids[0]}||t", f"{ids[1]}|renamed|t", f"{ids[2]}||f"]
        assert (await read_status(ours)).drifted == 1
        story = await read_request(ours, ids[1])
        assert story is not None
        assert (story.drift, story.verified_at is not None) == ("renamed", True)
        assert (await read_gauges(ours)).drifted == {"default": 1}
        infisical.connections[where] = [made]
        infisical.refusing.clear()
        query(database, "UPDATE provisioner.verify_rounds SET started_at = now() - interval '2 days'")
        await eventually(lambda: len(infisical.asked) == 6 and query(database, ROUND_OVER) == "t")
        assert query(database, STATUS).splitlines() == [f"{number}||t" for number in ids]
        assert (await read_status(ours)).drifted == 0


async def test_a_replica_that_lags_makes_nothing_gone(database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing connection is checked again before the round ends: an existing one is fine, a missing one is gone."""
    wait = timedelta(seconds=0.3)
    for place in ("provisioner.core.verifying.RECHECK_AFTER", "provisioner.postgres.verifying.RECHECK_AFTER"):
        monkeypatch.setattr(place, wait)
    ids, infisical = recorded(database, 3)
    lagging, gone = project_of(database, ids[0]), project_of(database, ids[1])
    made = infisical.connections.pop(lagging)
    infisical.connections.pop(gone)
    async with verifying(database, infisical):
        await eventually(lambda: query(database, "SELECT count(*) FROM provisioner.drifts") == "2")
        assert query(database, "SELECT count(*) FROM provisioner.request_status WHERE drift IS NOT NULL") == "0"
        infisical.connections[lagging] = made
        await eventually(lambda: query(database, ROUND_OVER) == "t")
    assert query(database, "SELECT id, drift FROM provisioner.drifts").splitlines() == [f"{ids[1]}|gone"]
    assert infisical.asked.count(lagging) == infisical.asked.count(gone) == 2
    query(database, f"DELETE FROM provisioner.connection_requests WHERE id = {ids[1]}")
    query(database, "UPDATE provisioner.verify_rounds SET started_at = now() - interval '2 days'")
    async with verifying(database, infisical):
        await eventually(lambda: query(database, "SELECT count(*) FROM provisioner.drifts") == "0")


async def test_another_worker_goes_on_where_a_dead_one_was(database: Lent) -> None:
    """Nothing is read twice; while the target is in trouble the round waits, and then it continues."""
    _, infisical = recorded(database, 6)
    ours = Database(database.url, size=1)
    dead = DriftLedger(ours, holder="dead", every=DAY)
    turn = await dead.take("default")
    assert turn is not None
    places = await dead.page(turn)
    done = list(places)[:4]
    for project in done:
        assert await dead.save(turn, [], behind=places[project][-1])
    infisical.away = True
    async with verifying(database, infisical):
        query(database, "UPDATE provisioner.verify_rounds SET lease_until = now()")
        await eventually(lambda: len(infisical.asked) >= 2)
        assert set(infisical.asked) == {list(places)[4]}
        infisical.away = False
        await eventually(lambda: query(database, ROUND_OVER) == "t")
    assert set(infisical.asked) == set(list(places)[4:])
    assert not await dead.save(turn, [], behind=None)  # it was frozen, and changes nothing
    await ours.close()


def test_the_module_is_gentle() -> None:
    """At most two reads a second, whatever the limit allows."""
    assert module.PAUSE >= 0.5


async def test_the_daemon_verifies(database: Lent) -> None:
    """With the setting, a worker compares its target with the records and its keys; without it, nothing is read."""
    ids = ask(database, 3)
    async with Fleet(database.url, Options(any_project=True), way=daemon) as fleet:
        await fleet.start()
        await fleet.done()
        await fleet.stop()
        assert await fleet.states() == {"succeeded": 3}
        assert query(database, "SELECT count(*) FROM provisioner.verify_rounds") == "0"
        query(
            database,
            f"UPDATE provisioner.connection_requests SET credentials_hash = 'another' WHERE id = {ids[0]};"
            f"UPDATE provisioner.connection_requests SET key_fingerprint = 'of an older key' WHERE id = {ids[2]}",
        )
        await fleet.start(PROVISIONER_VERIFY__EVERY="1d")
        await eventually(lambda: query(database, ROUND_OVER).split() == ["t", "t"])  # of each kind
    assert query(database, STATUS).splitlines() == [
        f"{ids[0]}|rewritten|t",
        f"{ids[1]}||t",
        f"{ids[2]}|another key|t",
    ]
