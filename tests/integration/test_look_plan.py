"""No query for a person, a monitor or a worker reads the whole table of requests.

The real statements run against many requests in every state; the server's own counters show what was read.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from provisioner.core.queue_values import FRONT
from provisioner.core.requests import Query, State
from provisioner.postgres.browse import exporting, requested_targets, unknown_batches
from provisioner.postgres.candidates import is_narrow
from provisioner.postgres.desired_changes import TakesTooLong, outdated
from provisioner.postgres.filters import Filter
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queries import statements
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.reports import read_gauges, read_history, read_leftovers, read_outlook, read_status
from provisioner.postgres.search import find, page, read_request
from tests.benchmarks.crowd import gather
from tests.support import eventually
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.postgres import Database, Databases
    from tests.support.sessions import Session

    Look = Callable[[Pool], Awaitable[object]]
    Read = dict[str, tuple[int, int]]

# One process makes the large database, once.
pytestmark = pytest.mark.xdist_group("look_plan")

ROWS: Final = 100_000  # enough for a plan to go wrong, and two seconds to make
WIDE: Final = ("connection_requests", "ready")
# Rows and index entries that one query may read of each: waiting requests are read one by one, and there are 750.
ENOUGH: Final = 40_000
STATUS: Final[dict[str, Look]] = {
    "status": partial(read_status, batches=50),
    "status of a batch": partial(read_status, batch="import-0290"),
    "metrics": read_gauges,
    "outlook": read_outlook,
    "leftovers": lambda pool: read_leftovers(pool, ["default", "eu"]),
    "history": read_history,
    "batch_progress": lambda pool: pool.fetch("SELECT * FROM provisioner.batch_progress"),
    "request_status": lambda pool: pool.fetch("SELECT * FROM provisioner.request_status WHERE id = 95000"),
    "story": lambda pool: read_request(pool, 95_000),
    "targets": requested_targets,
    "batches": lambda pool: unknown_batches(pool, ["import-0001", "no such batch"]),
    "worker": lambda pool: PostgresQueue(pool).poll(marks={"default": FRONT, "default/rotations": FRONT}, served={}),
}
FILTERS: Final[tuple[dict[str, Any], ...]] = (
    {},
    *({"states": [state]} for state in State),
    {"states": [State.FAILED], "errors": ["invalid_request"]},
    {"states": [State.FAILED], "batches": ["import-0010"]},
    {"states": [State.READY], "batches": ["import-0010"]},
    {"errors": ["outcome_unknown"]},
    {"errors": ["no such error"]},
    {"batches": ["import-0010"]},
    {"batches": ["no such batch"]},
    {"targets": ["eu"]},
    {"targets": ["nowhere"]},
    {"projects": ["00000000-0000-0000-0000-000000000001"]},
    {"ids": [7, 70, 95_000]},
)
SOUGHT: Final[tuple[dict[str, Any], ...]] = (
    *({"state": str(state)} for state in (*State, "pending")),
    {"error": "permission_denied"},
    {"state": "failed", "error": "gave_up", "batch": "import-0010"},
    {"state": "pending", "target": "eu", "after": 5000},
    {"batch": "import-0010", "text": "ledger"},
)
TEXTS: Final = ("openrouter-49", "payments 1230", "import-0010", "95000")


@pytest.fixture(scope="module")
def crowd(databases: Databases, template_database: str) -> Iterator[Database]:
    """Lend a database with requests in every state, made once."""
    with databases.fresh(template_database) as made:
        with ThreadPoolExecutor(1) as thread:  # so that the event loops of the tests are not affected
            thread.submit(asyncio.run, _fill(made.url)).result()
        yield made


async def _fill(url: str) -> None:
    async with connected(url, recount=False) as session:
        await gather(session, ROWS)


@dataclass(slots=True)
class Meter:
    """Counts how often each wide table was read from end to end, and how many of its rows were touched."""

    url: str
    session: Session

    async def of(self, look: Look) -> dict[str, tuple[int, int]]:
        """Return what a query reads."""
        before = await self._counters()
        pool = Pool(self.url, size=1)
        try:
            await look(pool)
        finally:
            await pool.close()
        await eventually(self._alone)  # a session reports its statistics when it ends
        after = await self._counters()
        return {table: (after[table][0] - before[table][0], after[table][1] - before[table][1]) for table in WIDE}

    async def _alone(self) -> Any:
        return not await self.session.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )

    async def _counters(self) -> dict[str, tuple[int, int]]:
        rows = await self.session.fetch(
            "SELECT t.relname AS name, t.seq_scan AS whole,"
            " coalesce(t.idx_tup_fetch, 0) + coalesce(sum(i.idx_tup_read), 0) AS read"
            " FROM pg_stat_user_tables AS t LEFT JOIN pg_stat_user_indexes AS i USING (relid)"
            " WHERE t.schemaname = 'provisioner' GROUP BY t.relname, t.seq_scan, t.idx_tup_fetch"
        )
        return {row["name"]: (row["whole"], int(row["read"])) for row in rows}


async def beyond(crowd: Database, looks: dict[str, Look], enough: int = ENOUGH) -> dict[str, Read]:
    """The queries that read a wide table whole, or too much of it."""
    found: dict[str, Read] = {}
    async with connected(crowd.url, recount=False) as session:
        meter = Meter(crowd.url, session)
        for name, look in looks.items():
            read = await meter.of(look)
            if any(whole or rows > enough for whole, rows in read.values()):
                found[name] = read
    return found


async def test_no_report_reads_the_table_whole(crowd: Database) -> None:
    """The status, the metrics, the views, a history, and a worker's poll."""
    assert await beyond(crowd, STATUS) == {}


async def test_no_list_reads_the_table_whole(crowd: Database) -> None:
    """Each filter of `list`, from either end, and the first rows of an export."""

    def listed(wanted: dict[str, Any], *, oldest_first: bool) -> Look:
        return lambda pool: page(pool, Filter(**wanted), limit=50, oldest_first=oldest_first)

    def exported(wanted: dict[str, Any]) -> Look:
        async def first(pool: Pool) -> None:
            async with exporting(pool, Filter(**wanted)) as snapshot:
                async for _ in snapshot.rows:
                    return

        return first

    looks = {
        f"{wanted} oldest first: {oldest_first}": listed(wanted, oldest_first=oldest_first)
        for wanted in FILTERS
        for oldest_first in (False, True)
    } | {f"export of {wanted}": exported(wanted) for wanted in FILTERS if is_narrow(Filter(**wanted))}
    assert await beyond(crowd, looks, enough=4 * ENOUGH) == {}  # a page, and the count behind it


async def test_no_search_reads_the_table_whole(crowd: Database) -> None:
    """Each search of the page; only a part of a rare name is searched in the whole table."""

    def sought(**wanted: Any) -> Look:
        return lambda pool: find(pool, Query(**wanted))

    looks = {text: sought(text=text) for text in TEXTS} | {f"{wanted}": sought(**wanted) for wanted in SOUGHT}
    found = await beyond(crowd, looks)
    assert {name for name, read in found.items() if any(whole for whole, _ in read.values())} == set()
    assert set(found) <= {"payments 1230", "import-0010"}


async def test_old_keys_are_not_counted_for_longer_than_a_person_waits(
    crowd: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compare all keys reads the whole table: that ends in time, and says so."""
    pool = Pool(crowd.url, size=1)
    try:
        monkeypatch.setattr("provisioner.postgres.desired_changes.SOON", 60_000)
        assert await outdated(pool, {"default": "another"}, None, of=ROWS) > 0
        monkeypatch.setattr("provisioner.postgres.desired_changes.SOON", 1)
        with pytest.raises(TakesTooLong):
            await outdated(pool, {"default": "another"}, None, of=ROWS)
        with pytest.raises(TakesTooLong):
            await outdated(pool, {"default": "another"}, None, of=10_000_000)
        assert await pool.fetchrow("SELECT 1")
    finally:
        await pool.close()


async def test_keys_left_behind_are_counted_by_an_index_of_their_own(database: Database) -> None:
    """However many rotations there are, only those that may have left some are read."""
    async with connected(database.url, recount=False) as session:
        await session.execute("SET session_replication_role = replica")
        await session.execute(
            "INSERT INTO provisioner.rotation_requests (project_id, name, status, left_behind)"
            " SELECT gen_random_uuid(), 'r' || n, 'succeeded', CASE WHEN n % 1000 = 0 THEN 'look' END"
            " FROM generate_series(1, 5000) AS n"
        )
        await session.execute("ANALYZE provisioner.rotation_requests")
        counted = await session.fetch(statements("reports")["left_behind"], None)
        assert [(row["target"], row["rotations"]) for row in counted] == [("default", 5)]
        plan = await session.fetch(f"EXPLAIN {statements('reports')['left_behind']}".replace("$1", "NULL"))
    said = "\n".join(row[0] for row in plan)
    assert "rotation_requests_left_behind" in said
    assert "Seq Scan" not in said
