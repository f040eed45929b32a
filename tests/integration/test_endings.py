"""The database records what the core decided about each ending, whatever was requested during the claim."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import pytest

from provisioner.core.doubt import LATE_COMMIT, REPLICA_LAG
from provisioner.core.endings import Status, status_after
from provisioner.core.model import Cancel, ErrorCode, Fail, Outcome, Remove, Retry, Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from tests.support.builders import a_connection, a_settlement, doubted, project
from tests.support.sessions import SEALED, WIPED, connected, soon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.postgres import Database
    from tests.support.sessions import Session

OUTCOMES: Sequence[Outcome] = (
    Succeed(connection=a_connection()),
    Fail(code=ErrorCode.GAVE_UP, message="no"),
    Retry(delay=60.0, message="later"),
    Cancel(),
    Remove(),
)
PLACES = """
SELECT (SELECT count(*) FROM provisioner.ready AS r WHERE r.id = $1)
    + (SELECT count(*) FROM provisioner.waiting AS w WHERE w.id = $1)
    + (SELECT count(*) FROM provisioner.in_flight AS f WHERE f.id = $1)
"""


class Case(NamedTuple):
    """An outcome of a claim, and what happened to its request meanwhile."""

    outcome: Outcome
    absent: bool
    in_doubt: bool
    cancelled: bool
    wished: bool
    rekeyed: bool

    def expected(self) -> Status:
        """The core's decision."""
        stands = status_after(type(self.outcome), doubted=self.in_doubt)
        match self.outcome:
            case Succeed():
                edited = self.wished or self.rekeyed
            case Remove():  # a wanted connection that was found gone is made again
                edited = self.absent == self.wished
            case Retry():  # a retry uses the values at its own claim
                edited = False
            case _:
                edited = self.wished
        return stands.if_edited if edited else stands.if_cancelled if self.cancelled else stands.status


def cases(*, keys: bool) -> list[Case]:
    """Every possible combination: what is not wanted is never made."""
    every = (Case(outcome, *flags) for outcome in OUTCOMES for flags in product((False, True), repeat=5))
    return [
        case for case in every if (keys or not case.rekeyed) and not (isinstance(case.outcome, Succeed) and case.absent)
    ]


async def ask(session: Session, table: str, every: Sequence[Case]) -> dict[int, Case]:
    """Ask for one request a case, each in a project of its own, and put it in line."""
    columns = "project_id, wanted" if table == "rotation_requests" else "credential, project_id, wanted"
    value = "" if table == "rotation_requests" else f"'{SEALED}', "
    asked = {}
    for number, case in enumerate(every):
        wanted = "absent" if case.absent else "present"
        if table == "rotation_requests":
            await session.execute(
                "INSERT INTO provisioner.connection_requests (project_id, status, connection_id)"
                " VALUES ($1, 'succeeded', gen_random_uuid())",
                project(number),
            )
        insert = f"INSERT INTO provisioner.{table} ({columns}) VALUES ({value}$1, $2) RETURNING id"
        asked[int(await session.fetchval(insert, project(number), wanted))] = case
    await soon(session)
    return asked


@pytest.mark.parametrize(
    ("table", "line"), [("connection_requests", "default"), ("rotation_requests", "default/rotations")]
)
async def test_each_ending_in_each_case(database: Database, table: str, line: str) -> None:
    """The status is the core's, a request that is pending has one place, and a key is wiped once it is of no use."""
    keys = table == "connection_requests"
    async with connected(database.url) as session:
        asked = await ask(session, table, cases(keys=keys))
        pool = Pool(database.url, size=1)
        queue = PostgresQueue(pool)
        worker = await queue.register(name="one", targets=[line], lease=600)
        await queue.promote(1000)
        claims = (await queue.claim(worker, target=line, start=FRONT, limit=1000)).claims
        assert {claim.request.id for claim in claims} == asked.keys()
        for id_, case in asked.items():
            if case.cancelled:
                await session.execute("SELECT provisioner.cancel(ARRAY [$1::bigint])", id_)
            if case.wished:
                wanted = "present" if case.absent else "absent"
                await session.execute(f"UPDATE provisioner.{table} SET wanted = $2 WHERE id = $1", id_, wanted)
            if case.rekeyed:
                await session.execute(f"UPDATE provisioner.{table} SET credential = 'team-a' WHERE id = $1", id_)
        endings = [(doubted(one) if asked[one.request.id].in_doubt else one, asked[one.request.id]) for one in claims]
        report = await queue.settle(worker, [a_settlement(claim, case.outcome) for claim, case in endings])
        assert report.settled == asked.keys()
        await pool.close()
        for id_, case in asked.items():
            row = await session.fetchrow(f"SELECT * FROM provisioner.{table} WHERE id = $1", id_)
            assert row is not None
            assert row["status"] == case.expected(), case
            assert await session.fetchval(PLACES, id_) == (row["status"] == "pending"), case
            if keys and not case.rekeyed:
                wiped = isinstance(case.outcome, Succeed) or row["status"] in {"cancelled", "removed"}
                assert row["credential"] == (WIPED if wiped else SEALED), case


async def test_edits_wait_for_late_changes_as_long_as_decisions_do(database: Database) -> None:
    """An edit after a lost call is sent when that call's result is visible: the core uses the same time."""
    async with connected(database.url) as session:
        waits = await session.fetchval("SELECT provisioner.time_to_show()")
    assert waits.total_seconds() == LATE_COMMIT + REPLICA_LAG
