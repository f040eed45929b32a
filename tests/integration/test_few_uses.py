"""Workers with tokens for three uses do all the work, and nothing is blamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.sandbox.simulator import Options
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from tests.support.postgres import Database


@pytest.mark.parametrize("uses", [1, 3])
async def test_tokens_with_few_uses_hold_up_no_request(database: Database, uses: int) -> None:
    """Each request succeeds with one create and no look-up, and every login's uses are used up."""
    options = Options(mode="self-hosted", latency=0.005, projects=60)
    async with Fleet(database.url, options, settings={"PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": "8"}) as fleet:
        fleet.simulator.configure(tokenUses=uses)
        await fleet.insert(60)
        await fleet.start()
        await fleet.done()
        assert await fleet.states() == {"succeeded": 60}
        requests = fleet.simulator.state()["requests"]
        logins = requests["POST /api/v1/auth/universal-auth/login"]
        assert set(logins) == {"200"}
        assert logins["200"] <= 60 / uses + 12
        assert not [route for route in requests if route.startswith("GET")]
        most = "SELECT max(attempts) FROM provisioner.connection_requests"
        assert await fleet.session.fetchval(most) == 1
