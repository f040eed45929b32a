"""Every SQLSTATE at every moment of a worker: it ends only for trouble that a person must fix before the start."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Final

import asyncpg.exceptions
import pytest
from structlog.testing import capture_logs
from tenacity import wait_none

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
from provisioner.core.sqlstates import Blame, blame
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queries import statements
from provisioner.sandbox.simulator import Options
from provisioner.service import _require_place
from tests.support import eventually, told
from tests.support.builders import project
from tests.support.fleet import Fleet
from tests.support.ways import daemon
from tests.support.wire import ScriptedServer, Severity, Strike

if TYPE_CHECKING:
    from tests.support.postgres import Database


def meaning(state: str) -> tuple[int, int]:
    """The meaning of a code, for a statement and for a session."""
    return blame(state, fatal=False).value, blame(state, fatal=True).value


ALL: Final = sorted(
    {
        kind.sqlstate
        for kind in vars(asyncpg.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, asyncpg.PostgresError) and getattr(kind, "sqlstate", None)
    }
)
# Observed with poolers, proxies and hosted servers; a deadlock and a statement that took too long.
SEEN: Final = (
    "40P01",
    "57014",
    "08P01",
    "25006",
    "28P01",
    "3D000",
    "42501",
    "42P01",
    "53300",
    "55000",
    "57P01",
    "57P03",
    "58000",
    "XX000",
)
# Two codes of each meaning, because the worker knows no more about a code: `make soak` has all of them.
MEANINGS: Final = groupby(sorted(ALL, key=meaning), key=meaning)
SAMPLE: Final = sorted({*SEEN, *chain.from_iterable(islice(alike, 2) for _, alike in MEANINGS), "ZZ999"})
EXHAUSTIVE: Final = [
    pytest.param(SAMPLE, id="sample"),
    pytest.param(ALL, id="all", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
]
MOMENTS: Final = {
    "claiming": statements("claim")["claim"][:200].encode(),
    "settling": statements("settle")["succeed"][:200].encode(),
}
SEVERITIES: Final[tuple[Severity, ...]] = ("FATAL", "ERROR")
LISTENS: Final = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
PERSONS: Final = {Blame.ACCESS, Blame.RIGHTS, Blame.SCHEMA, Blame.SESSION}


def test_there_are_many() -> None:
    """The driver knows every code of the manual's appendix."""
    assert len(ALL) > 230
    assert {"08006", "28P01", "57P03", "XX000"} <= set(ALL)


@pytest.mark.parametrize("states", EXHAUSTIVE)
async def test_at_the_start(database: Database, states: list[str]) -> None:
    """A session that is refused in the beginning ends the start only where a person has to act, in one line."""
    async with ScriptedServer(database.server.port) as wire:
        for state in states:
            for severity in SEVERITIES:
                pool = Pool(wire.url(database.url), size=1)
                wire.plan(Strike(state, severity), stubborn=True)
                meaning = blame(state, fatal=True)
                expected = DatabaseUnusable if meaning in PERSONS else DatabaseUnavailable
                with pytest.raises(expected) as caught:
                    await _require_place(pool)
                assert "\n" not in str(caught.value)
                wire.plan(None)
                await _require_place(pool)
                await pool.close()


@pytest.mark.parametrize("states", EXHAUSTIVE)
@pytest.mark.parametrize("moment", [*MOMENTS, "idle", "listening"])
async def test_at_work(database: Database, moment: str, states: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever error occurs during work, the worker continues, and every request is recorded."""
    # Outcomes that are set aside are retried soon, because this test is not about that delay.
    monkeypatch.setattr("provisioner.postgres.outcomes.FIRST_PAUSE", timedelta(seconds=0.05))
    monkeypatch.setattr("provisioner.worker.upkeep.SET_ASIDE_INTERVAL", 0.1)
    # Nor is it about pauses that keep many workers apart: there is one.
    monkeypatch.setattr("provisioner.postgres.listener.wait_random", lambda _low, _high: wait_none())
    with capture_logs() as logs:
        async with (
            ScriptedServer(database.server.port) as wire,
            Fleet(database.url, Options(mode="self-hosted", any_project=True), way=daemon) as fleet,
        ):
            (worker,) = await fleet.start(PROVISIONER_DATABASE_URL=wire.url(database.url))
            await eventually(lambda: told(logs, "worker_started"))
            for number, state in enumerate(states):
                severity: Severity = ("ERROR", "FATAL", "PANIC")[number % 3] if moment in MOMENTS else "FATAL"
                await strike(wire, moment, Strike(state, severity, MOMENTS.get(moment, b"LISTEN")))
                (request,) = await fleet.insert([project(number + 1)])
                await fleet.done(f"id = {request}", within=20)
                if moment == "listening":  # else its pauses grow
                    await fleet.until(LISTENS, True)
                assert worker.alive, (state, severity)
    assert told(logs, "database_lost") == told(logs, "database_back")
    creates = fleet.simulator.state()["creates"]
    assert len({create["projectId"] for create in creates}) == len(states)


async def strike(wire: ScriptedServer, moment: str, planned: Strike) -> None:
    """Let it happen at that moment: at the next statement, or now."""
    if moment == "idle":
        wire.interrupt(planned)
        return
    if moment == "listening":
        wire.plan(planned)
        wire.interrupt(Strike("57P01", "FATAL"))
        await asyncio.wait_for(planned.struck.wait(), 20)
        return
    wire.plan(planned)
