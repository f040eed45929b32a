"""Every supported major that is here: the schema, a claim and its settlement, the plan, the views, a whole journey."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from provisioner.core.model import Succeed
from provisioner.core.queue_values import FRONT
from provisioner.postgres.condition import holders, read_server
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queries import statements
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.reports import read_status
from provisioner.sandbox.postgres import PostgresServer
from tests.support import majors
from tests.support.builders import a_connection, a_settlement
from tests.support.cli import provisioner
from tests.support.infisical import simulated
from tests.support.postgres import QUICK
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The newest is what all the other tests run on; `make test-postgres` runs them on every one.
OLDER = (14, 16)
HERE = majors.installed()


@pytest.fixture(params=OLDER)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """Run a server of an older major."""
    if request.param not in HERE:
        pytest.skip(f"PostgreSQL {request.param} is not here; `python -m tests.support.majors` installs it")
    with PostgresServer(bin_directory=HERE[request.param], settings=QUICK) as running:
        assert running.version.startswith(f"{request.param}.")
        yield running


def test_the_work_is_done(server: PostgresServer) -> None:
    """Migrations apply, a worker does all requests, and the reports show it."""
    told = {"PROVISIONER_DATABASE_URL": server.url()}
    with simulated("--mode", "self-hosted", "--projects", "20") as infisical:
        assert provisioner("migrate", more=told).returncode == 0
        asyncio.run(_request(server.url(), infisical.projects))
        done = provisioner("run", "--drain", "--listen", "off", more=told | infisical.variables)
        assert done.returncode == 0, done.stderr
    asyncio.run(_look_inside(server.url()))


async def _request(url: str, projects: Sequence[str]) -> None:
    async with connected(url) as session:
        await session.execute(
            "INSERT INTO provisioner.connection_requests (project_id) SELECT p::uuid FROM unnest($1::text[]) AS p",
            projects,
        )


async def _look_inside(url: str) -> None:
    pool = Pool(url)
    try:
        server = await read_server(pool)
        assert (server.pooled, server.standby, server.notifies) == (False, False, True)
        assert list(await holders(pool, older_than=60)) == []
        rows = await pool.fetch("SELECT state, count(*) AS n FROM provisioner.request_status GROUP BY state")
        assert [tuple(row) for row in rows] == [("succeeded", 20)]
        status = await read_status(pool)
        assert status.progress is not None
        assert status.progress.succeeded == 20
        await _cycle(pool, url)
    finally:
        await pool.close()


async def _cycle(pool: Pool, url: str) -> None:
    """Claim and settle one request of many, and see that the claim reads the index, in order."""
    await pool.execute(
        "INSERT INTO provisioner.connection_requests (project_id) SELECT gen_random_uuid()"
        " FROM generate_series(1, 2000)"
    )
    queue = PostgresQueue(pool)
    worker = await queue.register(name="one", targets=["default"], lease=60)
    claim = (await queue.claim(worker, target="default", start=FRONT, limit=1)).claims[0]
    await queue.settle(worker, [a_settlement(claim, Succeed(connection=a_connection()))])
    row = await pool.fetchrow("SELECT status FROM provisioner.connection_requests WHERE id = $1", claim.request.id)
    assert row is not None
    assert row["status"] == "succeeded"
    async with connected(url) as session:
        await session.execute("ANALYZE provisioner.ready")
        explain = "EXPLAIN " + statements("claim")["claim"]
        plan = await session.fetch(explain, "default", FRONT.rank, FRONT.turn, 10, worker, FRONT.id, 1)
    told = "\n".join(line[0] for line in plan)
    assert "using ready_in_order" in told
    assert "Seq Scan on ready" not in told
