"""Ten situations in which the forecast of one minute after the start is compared with what then really happened.

Everything is real but the time: real workers, PostgreSQL and HTTP, and a simulated Infisical whose rate limiter has
windows of `MINUTE` seconds instead of sixty, with as many permits as a window of a minute would have.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from provisioner.core import policy
from provisioner.core.forecast import NoForecast
from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.fleet import Fleet, Stranger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MINUTE: Final = 6.0  # seconds
SCALE: Final = MINUTE / 60
LIMIT: Final = 200  # creates a minute
TOLERANCE: Final = 0.15
SETTINGS: Final = {
    "PROVISIONER_CREDENTIALS__WRONG__VALUE": "sk-or-v1-wrong-mode-401",
    "PROVISIONER_RETRY__BASE": f"{2 * SCALE}",
    "PROVISIONER_RETRY__CAP": f"{300 * SCALE}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was foreseen of one batch, in minutes from the look, and what came true; `why` instead of a forecast."""

    batch: str
    foreseen: float | None
    why: str | None
    truth: float | None

    @property
    def error(self) -> float | None:
        """By which share of the truth the forecast was off; None if there was none."""
        if self.foreseen is None or self.truth is None:
            return None
        return self.foreseen / self.truth - 1

    @property
    def good(self) -> bool:
        """Whether it was near enough, or said why it was not there."""
        return self.why is not None if self.error is None else abs(self.error) <= TOLERANCE


class World:
    """A fleet at work, and what people ask it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def ask(self, batch: str, requests: int, *, one: bool = False, **columns: object) -> None:
        """Ask for connections in as many projects, or for as many names in one."""
        names = "".join(f", {name}" for name in columns)
        values = "".join(f", ${number}" for number in range(4, 4 + len(columns)))
        await self.fleet.session.execute(
            f"INSERT INTO provisioner.connection_requests (project_id, name, batch{names})"
            f" SELECT CASE WHEN $3 THEN o.id ELSE gen_random_uuid() END, 'n-' || n, $1{values}"
            " FROM (SELECT gen_random_uuid() AS id) AS o, generate_series(1, $2::int) AS n",
            batch,
            requests,
            one,
            *columns.values(),
        )

    async def execute(self, statement: str) -> None:
        """Do something in the database."""
        await self.fleet.session.execute(statement)

    async def begin(self, minutes: float = 1.0) -> None:
        """Let so much time pass since the first create."""
        made = self.fleet.created()
        await eventually(lambda: self.fleet.created() > made)
        await self.passed(minutes)

    async def passed(self, minutes: float) -> None:
        """Wait: what is measured is what time does."""
        await asyncio.sleep(minutes * MINUTE)

    async def compare(self, *batches: str) -> list[Outcome]:
        """Look, wait until those batches have ended that have a forecast, and compare."""
        session = self.fleet.session
        told = await session.fetch(
            "SELECT batch, ends_why, extract(epoch FROM ends_at - clock_timestamp())::float AS ends,"
            " clock_timestamp() AS at"
            " FROM provisioner.batch_progress WHERE batch = ANY ($1) ORDER BY array_position($1, batch)",
            list(batches),
        )
        outcomes = []
        for row in told:
            truth = None
            if row["ends_why"] is None:
                await self.fleet.done(f"batch = '{row['batch']}'", within=30 * MINUTE)
                ended = await session.fetchval(
                    "SELECT max(finished_at) FROM provisioner.connection_requests WHERE batch = $1", row["batch"]
                )
                truth = (ended - row["at"]).total_seconds() / MINUTE
            foreseen = None if row["ends"] is None else row["ends"] / MINUTE
            outcomes.append(Outcome(batch=row["batch"], foreseen=foreseen, why=row["ends_why"], truth=truth))
        return outcomes


async def three_batches(world: World) -> list[Outcome]:
    """Each was asked for after the other, by as many projects."""
    for batch in ("first", "second", "third"):
        await world.ask(batch, 400)
    await world.begin()
    return await world.compare("first", "second", "third")


async def priority(world: World) -> list[Outcome]:
    """What is urgent comes later and goes first."""
    await world.ask("usual", 600)
    await world.begin(0.5)
    await world.ask("urgent", 400, priority=5)
    await world.passed(0.5)
    return await world.compare("urgent", "usual")


async def whale(world: World) -> list[Outcome]:
    """One project wants 600 connections, and 400 others one each."""
    await world.ask("whale", 600, one=True)
    await world.ask("others", 400)
    await world.begin()
    return await world.compare("others", "whale")


async def changed_limit(world: World) -> list[Outcome]:
    """After half a minute Infisical allows half as much."""
    await world.ask("all", 800)
    await world.begin(0.5)
    world.fleet.simulator.configure(write_limit=LIMIT // 2)
    await world.passed(0.5)
    return await world.compare("all")


async def outage(world: World) -> list[Outcome]:
    """After half a minute Infisical is gone."""
    await world.ask("all", 700)
    await world.begin(0.5)
    world.fleet.simulator.configure(outage="refuse")
    await eventually(
        lambda: any(each.held for worker in world.fleet.workers for each in worker.vitals().targets), within=60
    )
    await world.passed(0.5)
    return await world.compare("all")


async def pause(world: World) -> list[Outcome]:
    """After half a minute somebody pauses the target; half a minute later it goes on, for a minute."""
    await world.ask("all", 800)
    await world.begin(0.5)
    await world.execute("SELECT provisioner.pause('default')")
    await world.passed(0.5)
    paused = await world.compare("all")
    await world.execute("SELECT provisioner.resume('default')")
    await world.passed(1.0)
    return [*paused, *await world.compare("all")]


async def wrong_key(world: World) -> list[Outcome]:
    """OpenRouter refuses the key of one of two batches."""
    await world.ask("bad", 100, credential="wrong")
    await world.ask("good", 900)
    await world.begin()
    return await world.compare("bad", "good")


async def retries(world: World) -> list[Outcome]:
    """Every fifth create comes to nothing."""
    world.fleet.simulator.configure(faults={"error-before-commit": 0.2})
    await world.ask("first", 400)
    await world.ask("second", 400)
    await world.begin()
    return await world.compare("first", "second")


async def second_client(world: World) -> list[Outcome]:
    """Somebody else behind the same address uses a third of the limit."""
    await world.ask("all", 700)
    async with Stranger(world.fleet.simulator, pace=LIMIT / MINUTE / 3):
        await world.begin()
        return await world.compare("all")


async def removals(world: World) -> list[Outcome]:
    """While 600 connections are made, 300 that were made before are removed, and 100 have another description."""
    await world.ask("old", 400)
    await world.begin(0.0)
    await world.fleet.done(within=60)
    await world.passed(1.0)
    await world.ask("new", 600)
    await world.execute(
        "UPDATE provisioner.connection_requests SET wanted = 'absent'"
        " WHERE batch = 'old' AND substr(name, 3)::int <= 300"
    )
    await world.execute(
        "UPDATE provisioner.connection_requests SET description = 'edited'"
        " WHERE batch = 'old' AND substr(name, 3)::int > 300"
    )
    await world.passed(1.0)
    return await world.compare("old", "new")


SCENARIOS: Final[dict[str, Callable[[World], Awaitable[list[Outcome]]]]] = {
    "three batches at once": three_batches,
    "a priority": priority,
    "a whale project": whale,
    "a limit that changes": changed_limit,
    "an outage": outage,
    "a pause": pause,
    "a wrong key": wrong_key,
    "retries": retries,
    "a second client on the address": second_client,
    "removals and edits among creates": removals,
}
REASONS: Final = {
    ("an outage", "all"): NoForecast.TROUBLE,
    ("a pause", "all"): NoForecast.PAUSED,
    ("a wrong key", "bad"): NoForecast.KEY,
}


async def play(url: str, name: str) -> list[Outcome]:
    """Play one scenario in a database of its own."""
    options = Options(any_project=True, write_limit=LIMIT, window=MINUTE, latency=0.02, upstream_pace=0.01, pool=0)
    # Pauses between attempts are as much shorter as the minute.
    with patch.multiple(policy, DOUBT_PAUSE=policy.DOUBT_PAUSE * SCALE, TROUBLE_CAP=policy.TROUBLE_CAP * SCALE):
        async with Fleet(url, options, workers=2, settings=SETTINGS) as fleet:
            # Until an answer has told, workers take a window for one of sixty seconds: here for one of ours.
            await fleet.session.execute(
                "INSERT INTO provisioner.permits (target, kind, period, address)"
                " SELECT 'default', kind, $1, $2 FROM unnest(ARRAY['write', 'change', 'removal', 'read']) AS kind",
                MINUTE,
                fleet.simulator.url,
            )
            world = World(fleet)
            # How long workers take to start does not get shorter with the minute, so they are at work already.
            await fleet.start()
            await world.ask("before", 5)
            await fleet.done(within=60)
            await world.passed(1.0)
            return await SCENARIOS[name](world)
