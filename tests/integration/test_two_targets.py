"""One Infisical under two target names, which settings cannot always detect: no connection is recorded twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.postgres.queries import statements
from provisioner.sandbox.simulator import Options
from tests.support.fleet import Fleet
from tests.support.sessions import connected
from tests.support.ways import daemon

if TYPE_CHECKING:
    from tests.support.postgres import Database


@pytest.mark.parametrize("on_conflict", ["fail", "adopt", "replace"])
async def test_a_connection_is_recorded_by_one_request(database: Database, on_conflict: str) -> None:
    """Whatever the second request is to do when its name is taken: the first one's connection stays the first one's."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=5), way=daemon) as fleet:
        simulator = fleet.simulator
        second = {"PROVISIONER_TARGETS__TWO__URL": simulator.url, "PROVISIONER_TARGETS__TWO__TOKEN": simulator.token()}
        for target, settings in {"default": {}, "two": second}.items():
            await fleet.insert(target=target, on_conflict=on_conflict)
            await fleet.start(**settings)
            await fleet.done()
            await fleet.stop()
        rows = await fleet.read(
            "SELECT target, status, error_code, error_message, connection_id FROM provisioner.connection_requests"
        )
    recorded = [row["connection_id"] for row in rows if row["connection_id"] is not None]
    assert len(recorded) == len(set(recorded)) == 5
    assert {(row["target"], row["status"], row["error_code"]) for row in rows} == {
        ("default", "succeeded", None),
        ("two", "failed", "name_conflict"),
    }
    told = [row["error_message"] for row in rows if row["target"] == "two"]
    assert all("of target default has already recorded this connection" in message for message in told)
    assert not [route for route in simulator.state()["requests"] if route.startswith("PATCH")]


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_the_other_targets_request_is_found_by_the_unique_index(database: Database, mode: str) -> None:
    """However many requests there are, a name in a project is searched once per target."""
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
