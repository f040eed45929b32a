"""One Infisical under two target names, which the settings cannot always tell: no connection is recorded twice."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.keyring import open_vault
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queries import statements
from provisioner.postgres.queue import PostgresQueue
from provisioner.sandbox.simulator import Options, Simulator
from provisioner.settings import load_settings
from provisioner.targets import open_lines
from provisioner.worker.clock import DatabaseClock
from provisioner.worker.worker import Worker, WorkerOptions
from tests.support import eventually
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database


@asynccontextmanager
async def worker(url: str, simulator: Simulator, target: str) -> AsyncIterator[None]:
    """A worker for one of the names, with an access token of its own, until the end of the block."""
    name = target.upper()
    settings = load_settings(
        environ={
            f"PROVISIONER_TARGETS__{name}__URL": simulator.url,
            f"PROVISIONER_TARGETS__{name}__TOKEN": simulator.token(),
            "PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-good",
        }
    )
    pool = Pool(url)
    clock = DatabaseClock(wall=partial(datetime.now, UTC), monotonic=time.monotonic)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(pool.close)
        opening = open_lines(settings, target, pool, clock, open_vault(settings))
        opened = (await stack.enter_async_context(opening)).connections
        one = Worker(
            [(opened, 4)],
            options=WorkerOptions(name=target, lease=5.0, grace=2.0, poll=0.2),
            queue=PostgresQueue(pool),
            clock=clock,
            random=lambda: 0.5,
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(one.run())
        yield
        one.stop()


@pytest.mark.parametrize("on_conflict", ["fail", "adopt", "replace"])
async def test_a_connection_is_recorded_by_one_request(database: Database, on_conflict: str) -> None:
    """Whatever the second request is to do when its name is taken: the first one's connection stays the first one's."""
    async with Simulator(Options(mode="self-hosted", projects=5)) as simulator, connected(database.url) as session:
        for target in ("one", "two"):
            await session.execute(
                "INSERT INTO provisioner.connection_requests (target, project_id, on_conflict)"
                " SELECT $1, p::uuid, $2 FROM unnest($3::text[]) AS p",
                target,
                on_conflict,
                simulator.projects,
            )

            async def ended() -> Any:
                left = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'pending'"
                return await session.fetchval(left) == 0

            async with worker(database.url, simulator, target):
                await eventually(ended)
        rows = await session.fetch(
            "SELECT target, status, error_code, error_message, connection_id FROM provisioner.connection_requests"
        )
    recorded = [row["connection_id"] for row in rows if row["connection_id"] is not None]
    assert len(recorded) == len(set(recorded)) == 5
    assert {(row["target"], row["status"], row["error_code"]) for row in rows} == {
        ("one", "succeeded", None),
        ("two", "failed", "name_conflict"),
    }
    told = [row["error_message"] for row in rows if row["target"] == "two"]
    assert all("of target one has already recorded this connection" in message for message in told)
    assert not [route for route in simulator.state()["requests"] if route.startswith("PATCH")]


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_the_other_targets_request_is_found_by_the_unique_index(database: Database, mode: str) -> None:
    """However many requests there are, one name in one project is looked for, once a target."""
    statement = statements("recorded")["elsewhere"]
    async with connected(database.url) as session:
        await session.execute("INSERT INTO provisioner.targets (target) SELECT 't' || n FROM generate_series(1, 3) n")
        await session.execute(
            "INSERT INTO provisioner.connection_requests (target, project_id)"
            " SELECT 't' || n % 3, gen_random_uuid() FROM generate_series(1, 5000) n"
        )
        await session.execute(f"SET plan_cache_mode = {mode}")
        await session.execute(f"PREPARE elsewhere (text, uuid, text, uuid) AS {statement.rstrip().rstrip(';')}")
        rows = await session.fetch(
            "EXPLAIN EXECUTE elsewhere ('t1', gen_random_uuid(), 'openrouter', gen_random_uuid())"
        )
    plan = "\n".join(row[0] for row in rows)
    assert "Index Cond" in plan
    assert "Seq Scan on connection_requests" not in plan
