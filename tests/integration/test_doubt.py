"""Creates with misleading or lost answers: what was made is found, and nothing of others is taken."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.sandbox.simulator.options import Options
from provisioner.settings.sections import Target
from tests.support import eventually
from tests.support.fleet import UNLIMITED, Fleet
from tests.support.gateway import Gateway, Step, in_json, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database

PAGE = b"<html><body>sign in</body></html>"
REFUSED = {"statusCode": 422, "error": "ValidationFailure", "message": "no"}
ANSWERS = {
    "200 as a page": plain(200, PAGE),
    "302": plain(302, b"", "", "location: https://login.example/"),
    "404 as a page": plain(404, PAGE),
    "403 in json": in_json(403, {"message": "sign in first", "error": "Forbidden"}),
    "429 as a page": plain(429, PAGE, "text/html", "retry-after: 1"),
    "422 in json": in_json(422, REFUSED),
    "401 in json": in_json(401, {"message": "who are you?", "error": "UnauthorizedError"}),
    "401 as a page": plain(401, PAGE),
    "407": plain(407, PAGE),
    "408": in_json(408, {"message": "too slow"}),
    "413": plain(413, PAGE),
    "500 of its own": in_json(
        500, {"reqId": "req-0123456789abcd", "error": "Create", "message": "Something went wrong"}
    ),
    "a promise that is not kept": in_json(200, {"appConnection": {"id": "7"}}),
    "a reset": b"",
    "half of it": plain(200, b'{"appConnection": {')[:-10],
    "gzip that is none": plain(200, b"{}", "application/json", "content-encoding: gzip"),
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the breaker probe soon, and a replica follow soon: this is not about how long anything waits."""
    monkeypatch.setattr("provisioner.core.target_health.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("provisioner.core.target_health.LONGEST_PAUSE", 0.2)
    monkeypatch.setattr("provisioner.core.policy.REPLICA_LAG", 1.0)


class Scene(Fleet):
    """A fleet behind a gateway."""

    gateway: Gateway

    async def work(self, **settings: str) -> None:
        """Start a worker that reaches Infisical through the gateway only."""
        await self.start(1, INFISICAL_HOST=self.gateway.url, **UNLIMITED, **settings)

    def plant(self, project: str, description: str | None = None) -> None:
        """Somebody else takes the name."""
        self.simulator.configure(plant=[{"name": "openrouter", "projectId": project, "description": description}])


@asynccontextmanager
async def scene(database: Database, projects: int = 1, **options: Any) -> AsyncIterator[Scene]:
    """A fleet behind a gateway, with no worker started yet."""
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(
            Scene(database.url, Options(mode="self-hosted", projects=projects, **options))
        )
        it.gateway = await stack.enter_async_context(Gateway(it.simulator.url))
        yield it
        await it.stop()


@pytest.mark.parametrize("sent_on", [1, 0], ids=["after the commit", "before it"])
async def test_an_answer_that_is_not_infisicals_own(database: Database, sent_on: int) -> None:
    """After a gateway's page, a redirect, a login page or half an answer, it is looked up, and made once."""
    async with scene(database, len(ANSWERS)) as it:
        for project, answer in zip(it.simulator.projects, ANSWERS.values(), strict=True):
            it.gateway.script[project] = [Step(sent_on=sent_on, answer=answer)]
        await it.insert(len(ANSWERS))
        await it.work()
        await it.done(within=60)
        rows = await it.session.fetch("SELECT status, error_code, error_message FROM provisioner.connection_requests")
        assert [row["status"] for row in rows] == ["succeeded"] * len(ANSWERS), [dict(row) for row in rows]
        assert set(it.gateway.creates.values()) == {2 - sent_on}
        await it.audit(explained=False)


async def test_a_gateway_that_repeats_the_create(database: Database) -> None:
    """The first copy commits and the second finds the name taken: made during our call, it is ours at once."""
    async with scene(database, 4) as it:
        for project in it.simulator.projects:
            it.gateway.script[project] = [Step(sent_on=2)]
        requests = await it.insert(4)
        await it.work()
        await it.done()
        for request in requests:
            row = await it.row(request)
            assert (row["status"], row["attempts"]) == ("succeeded", 1), row
        await it.audit(explained=False)


@pytest.mark.parametrize("measured", [False, True], ids=["at first", "later"])
async def test_a_stranger_half_a_second_before_us(database: Database, measured: bool) -> None:
    """A connection like ours in everything, made a moment before our only create, is a conflict."""
    async with scene(database, 3) as it:
        second = it.simulator.projects[1]
        await it.work()
        if measured:
            (made,) = await it.insert(1)
            await it.done(f"id = {made}")
        it.plant(second)
        await asyncio.sleep(0.5)  # the case is about this very time
        late = await it.session.fetchval(
            "INSERT INTO provisioner.connection_requests (project_id) VALUES ($1) RETURNING id", second
        )
        await it.done()
        row = await it.row(late)
        assert (row["status"], row["error_code"]) == ("failed", "name_conflict")


async def test_a_success_that_is_set_to_pending_by_hand(database: Database) -> None:
    """Its own recorded connection has the name: that is no conflict."""
    async with scene(database) as it:
        (request,) = await it.insert(1)
        await it.work()
        await it.done()
        await it.session.execute("UPDATE provisioner.connection_requests SET status = 'pending'")
        await it.done()
        row = await it.row(request)
        assert (row["status"], row["error_code"]) == ("succeeded", None)
        await it.audit(explained=False)


async def test_the_answer_is_another_projects_connection(database: Database) -> None:
    """A cache or a proxy that mixes answers up: nothing is deleted, and each row has its own."""
    async with scene(database, 2) as it:
        one, two = it.simulator.projects
        await it.insert(1)
        await it.work()
        await it.done()
        (theirs,) = it.simulator.state()["connections"]
        assert theirs["projectId"] == one
        it.gateway.script[two] = [Step(answer=in_json(200, {"appConnection": theirs}))]
        await it.session.execute("INSERT INTO provisioner.connection_requests (project_id) VALUES ($1)", two)
        await it.done()
        assert await it.states() == {"succeeded": 2}
        assert it.gateway.deletes == 0
        await it.audit(explained=False)


@pytest.mark.parametrize("kept", ["nothing", "null"])
async def test_an_answer_without_a_project(database: Database, kept: str) -> None:
    """A good connection is not deleted because an answer leaves its project out."""

    def without(answer: Any) -> bytes:
        fields = dict(answer["appConnection"])
        del fields["projectId"]
        return in_json(200, {"appConnection": fields | ({} if kept == "nothing" else {"projectId": None})})

    async with scene(database) as it:
        it.gateway.script[it.simulator.projects[0]] = [Step(answer=without)]
        (request,) = await it.insert(1)
        await it.work()
        await it.done()
        row = await it.row(request)
        assert (row["status"], row["attempts"], it.gateway.deletes) == ("succeeded", 1, 0)
        await it.audit(explained=False)


async def test_an_infisical_without_project_connections(database: Database) -> None:
    """A connection for the whole organization is inspected, deleted, and reported."""

    def organization_wide(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name != "projectId"}

    async with scene(database) as it:
        it.gateway.script[it.simulator.projects[0]] = [Step(edit=organization_wide)]
        (request,) = await it.insert(1)
        await it.work()
        await it.done()
        row = await it.row(request)
        assert (row["status"], row["error_code"]) == ("failed", "wrong_scope")
        assert it.gateway.deletes == 1
        assert not it.simulator.state()["connections"]


@pytest.mark.parametrize("named", ["theirs", "nobody's"])
async def test_an_answer_that_names_a_strangers_connection(database: Database, named: str) -> None:
    """It is inspected and left alone; then the row's own is made."""
    async with scene(database, 2) as it:
        ours, theirs = it.simulator.projects
        it.plant(theirs, "theirs")
        (stranger,) = it.simulator.state()["connections"]
        fields = {"id": stranger["id"] if named == "theirs" else "0" * 8 + "-0000-4000-8000-" + "0" * 12}
        fields |= {"name": "openrouter", "credentialsHash": "ab" * 32}
        it.gateway.script[ours] = [Step(sent_on=0, answer=in_json(200, {"appConnection": fields}))]
        await it.insert(1)
        await it.work()
        await it.done(within=40)
        assert await it.states() == {"succeeded": 1}
        assert it.gateway.deletes == 0
        assert stranger["id"] in {one["id"] for one in it.simulator.state()["connections"]}
        await it.audit(explained=False)


LOST = Step(sent_on=0, answer=b"")
BEFORE = """
UPDATE provisioner.sent_creates SET sent_at = sent_at - $1::interval, ended_at = ended_at - $1::interval
"""


@pytest.mark.parametrize("passed", ["50 seconds", "21 days"])
async def test_a_stranger_after_our_lost_create(database: Database, passed: str) -> None:
    """During an outage of reads, or weeks before a retry, somebody who takes the name is not mistaken for us."""
    async with scene(database) as it:
        (project,) = it.simulator.projects
        it.gateway.script[project] = [LOST]
        it.gateway.no_reads = True
        (request,) = await it.insert(1)
        await it.work()
        doubts = "SELECT count(*) FROM provisioner.sent_creates"
        await eventually(lambda: it.session.fetchval(doubts))
        kept: Any = await it.session.fetchrow("SELECT * FROM provisioner.sent_creates")
        assert (str(kept["project_id"]), kept["name"], kept["description"], kept["exact"]) == (
            project,
            "openrouter",
            "",
            True,
        )
        # Time passes while nothing can be looked up; no worker has this request while its evidence is moved.
        await it.session.execute("SELECT provisioner.pause('default')")
        await it.until("SELECT count(*) FROM provisioner.in_flight", 0)
        await it.session.execute(BEFORE, _interval(passed))
        it.plant(project)
        it.gateway.no_reads = False
        await it.session.execute("SELECT provisioner.resume('default'), provisioner.retry(ARRAY [$1::bigint])", request)
        await it.done()
        row = await it.row(request)
        assert (row["status"], row["error_code"]) == ("failed", "name_conflict")


def _interval(text: str) -> Any:
    number, unit = text.split()
    return timedelta(**{unit: int(number)})


@pytest.mark.parametrize("off", [-4.0, 4.0])
@pytest.mark.parametrize("plain_first", [0, 2], ids=["every answer lost", "after plain ones"])
async def test_created_at_is_another_clock_than_date(database: Database, off: float, plain_first: int) -> None:
    """With a database on another host and a CDN with its own time, all of ten lost answers are found."""
    async with scene(database, 10 + plain_first) as it:
        it.gateway.date_off = off
        for project in it.simulator.projects[plain_first:]:
            it.gateway.script[project] = [Step(answer=b"")]
        await it.insert(10 + plain_first)
        await it.work(PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT="2")
        await it.done(within=60)
        assert await it.states() == {"succeeded": 10 + plain_first}
        await it.audit(explained=False)


async def test_the_clock_is_known_to_the_next_worker(database: Database) -> None:
    """What plain answers showed about Infisical's clock outlives the worker that measured it."""
    async with scene(database, 1, clock_offset=77.0) as it:
        await it.insert(1)
        await it.work()
        await it.done()
        measured = it.workers[0].feeders["default"].target.clock.made.bounds
        assert measured is not None
        assert abs((measured.low + measured.high) / 2 - 77) < 2
        store = it.workers[0].feeders["default"].target.clock_store
        assert store is not None
        await store.save(measured)
        await it.work()
        known = it.workers[1].feeders["default"].target.clock.made
        await eventually(lambda: known.bounds == measured)


async def test_a_plain_success_leaves_no_evidence(database: Database) -> None:
    """Nothing is written for a request that is answered at once, beside its row and the log."""
    async with scene(database, 3) as it:
        await it.insert(3)
        await it.work()
        await it.done()
        written = await it.session.fetchval(
            "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
            " WHERE relname IN ('sent_creates', 'attempt_state')"
        )
        assert written == 0


def test_an_answer_after_a_minute_is_waited_for() -> None:
    """A real server cuts silent connections at 100 s, so its last answers come before ours are given up."""
    assert Target.model_fields["timeout"].default > 100
