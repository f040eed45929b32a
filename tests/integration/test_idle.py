"""An idle worker costs the database next to nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queries import statements
from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.fleet import Fleet
from tests.support.ways import in_loop

if TYPE_CHECKING:
    from tests.support.postgres import Database

LOOK = statements("maintenance")["poll"]
LEASE = statements("maintenance")["renew"]
IN_A_ROW = 40  # polls in two seconds: any query that runs every second would be among them


class Counted(Pool):
    """A pool that records its queries in order."""

    asked: list[str]

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked = []
        POOLS.append(self)

    async def fetch(self, query: str, *arguments: object) -> Any:
        """Note it, and ask."""
        self.asked.append(query)
        return await super().fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: object) -> Any:
        """Note it, and ask."""
        self.asked.append(query)
        return await super().fetchrow(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> None:
        """Note it, and ask."""
        self.asked.append(query)
        await super().execute(query, *arguments)


POOLS: list[Counted] = []


async def test_a_worker_with_nothing_to_do_looks_and_asks_nothing_else(database: Database) -> None:
    """When idle it sends one statement per poll, besides its lease: the poll says what else is needed."""
    POOLS.clear()
    counting, often = partial(in_loop, pool=Counted), {"PROVISIONER_WORKER__POLL": "0.05"}
    async with Fleet(database.url, Options(mode="self-hosted", projects=3), way=counting, settings=often) as fleet:
        await fleet.start()
        await fleet.insert(3)
        await fleet.done()
        (pool,) = POOLS

        def rests() -> bool:
            lately = [each for each in pool.asked if each != LEASE][-IN_A_ROW:]
            return len(lately) == IN_A_ROW and set(lately) == {LOOK}

        await eventually(rests, within=30.0)
        await fleet.insert(3, name="another")  # and is as fast as ever when there is work
        await fleet.done(within=5.0)


async def test_a_limit_that_is_set_while_all_rest_is_heard_of(database: Database) -> None:
    """Each worker says which limit it obeys, and that it was lifted."""
    with capture_logs() as logs:
        async with Fleet(database.url, Options(mode="self-hosted", projects=3), workers=2) as fleet:
            await fleet.start()

            def said(event: str) -> list[Any]:
                return [each for each in logs if each["event"] == event]

            await fleet.session.execute("SELECT provisioner.set_limit('default', writes => 30, in_flight => 2)")
            await eventually(lambda: len(said("limit_applied")) == 2)
            assert {
                (each["target"], each["writes"], each["period"], each["in_flight"]) for each in said("limit_applied")
            } == {("default", 30, 60.0, 2)}
            assert said("limit_applied")[0]["by"]
            await fleet.session.execute("SELECT provisioner.set_limit('default')")
            await eventually(lambda: len(said("limit_lifted")) == 2)
