"""Faults of the simulator: which creates they strike, and their consequences."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import given, strategies as st

from provisioner.sandbox.simulator import Options, Simulator
from provisioner.sandbox.simulator.chance import FAULTS, Faults, parse_faults
from tests.support import eventually

NOW = 1_800_000_000.0


class Client:
    """A client with a token that never expires."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session
        self.token = sim.token()

    async def create(self, name: str, key: str = "k") -> tuple[int | None, Any]:
        """Create a connection; return status and body, or None and the error."""
        body = {"name": name, "method": "api-key", "credentials": {"apiKey": key}, "projectId": self.sim.projects[0]}
        url = f"{self.sim.url}/api/v1/app-connections/open-router"
        try:
            async with self.session.post(url, json=body, headers={"Authorization": f"Bearer {self.token}"}) as answer:
                json = answer.content_type == "application/json"
                return answer.status, await answer.json() if json else await answer.text()
        except aiohttp.ClientConnectionError as error:
            return None, error

    def names(self) -> list[str]:
        """Return the names of all connections."""
        return [connection["name"] for connection in self.sim.state()["connections"]]


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Client]:
    """Serve a simulator with a fast OpenRouter and a stopped clock."""
    chosen = Options(**{"mode": "self-hosted", "upstream_pace": 0.01, "late_by": 0.05, **options})
    async with Simulator(chosen, clock=lambda: NOW) as sim, aiohttp.ClientSession() as session:
        yield Client(sim, session)


@pytest.mark.parametrize(
    ("fault", "status", "said", "committed"),
    [
        ("cut-before-commit", None, "", False),
        ("cut-after-commit", None, "", True),
        ("error-before-commit", 500, "'error': 'Create'", False),
        ("error-after-commit", 500, "'error': 'InternalServerError'", True),
        ("html-502", 502, "502 Bad Gateway", False),
        ("html-503", 503, "503 Service Unavailable", False),
        ("slow", 200, "'appConnection'", True),
        ("token-expired", 403, "Your token has expired. Please re-authenticate.", False),
        ("openrouter-429", 401, "Unable to validate connection: ", False),
        ("openrouter-down", 401, "Unable to validate connection: ", False),
    ],
)
async def test_a_fault_answers_and_commits_as_described(
    fault: str, status: int | None, said: str, committed: bool
) -> None:
    """Each fault gives its answer, inserts its row or does not, and is counted in the state."""
    async with serving(faults={fault: 1.0}) as client:
        seen, body = await client.create("one")
        state = client.sim.state()
    assert seen == status
    assert said in str(body)
    assert [connection["name"] for connection in state["connections"]] == (["one"] if committed else [])
    create = state["creates"][0]
    assert (create["fault"], create["committed"], create["status"]) == (fault, committed, status)
    assert state["faults"] == {fault: 1}


async def test_a_late_commit_comes_after_the_cut() -> None:
    """The client gets no answer, and the row that was missing at the cut is inserted soon after."""
    async with serving(faults={"late-commit": 1.0}) as client:
        assert (await client.create("one"))[0] is None
        assert client.names() == []
        await eventually(lambda: client.names() == ["one"])
        assert client.sim.state()["creates"][0]["committed"]


async def test_a_late_commit_does_not_come_when_the_name_was_taken_meanwhile() -> None:
    """Somebody who took the name between the cut and the late commit keeps it, and there is one row."""
    async with serving(faults={"late-commit": 1.0}) as client:
        await client.create("one")
        client.sim.configure(faults={}, plant=[{"name": "one", "projectId": client.sim.projects[0]}])
        await eventually(lambda: not client.sim.world.waits)
        assert client.names() == ["one"]
        assert not client.sim.state()["creates"][0]["committed"]


async def test_every_fault_is_known_to_the_server() -> None:
    """No fault is only a name: each one strikes when its share is all."""
    for fault in FAULTS:
        async with serving(faults={fault: 1.0}) as client:
            await client.create("one")
            assert client.sim.state()["faults"] == {fault: 1}


async def test_an_expired_token_stays_dead_and_others_live() -> None:
    """The token that was struck is refused for ever; a new one is not."""
    async with serving(faults={"token-expired": 1.0}) as client:
        assert (await client.create("one"))[0] == 403
        client.sim.configure(faults={})
        assert (await client.create("one"))[0] == 403
        client.token = client.sim.token()
        assert (await client.create("one"))[0] == 200


async def test_a_create_that_is_turned_away_leaves_its_fault_to_the_next() -> None:
    """A request without a valid token uses up no draw, so the sequence does not depend on it."""
    async with serving(faults={"error-before-commit": 1.0}) as client:
        good, client.token = client.token, "garbage"
        assert (await client.create("one"))[0] == 403
        client.token = good
        assert (await client.create("one"))[0] == 500
        assert [create["fault"] for create in client.sim.state()["creates"]] == [None, "error-before-commit"]


async def test_the_same_seed_gives_the_same_run() -> None:
    """Ids, secrets, tokens, hashes and faults are the same for one seed, and others for another."""

    async def run(seed: int) -> tuple[Any, ...]:
        shares = {"cut-after-commit": 0.2, "error-before-commit": 0.2, "html-502": 0.2}
        async with serving(seed=seed, faults=shares) as client:
            for number in range(40):
                await client.create(f"name-{number}")
            announced = client.sim.announcement() | {"url": None}
            return client.token, client.sim.identity_id, announced, client.sim.state()

    first, second, other = await run(7), await run(7), await run(8)
    assert first == second
    assert len({create["fault"] for create in first[3]["creates"]}) == 4
    faults = [[create["fault"] for create in seen[3]["creates"]] for seen in (first, other)]
    assert faults[0] != faults[1]
    assert first[2]["projects"] != other[2]["projects"]
    assert first[0] != other[0]


async def test_a_new_seed_begins_the_sequence_again() -> None:
    """Setting the seed while running repeats the faults of that seed from the first."""
    async with serving(seed=3, faults={"error-before-commit": 0.5}) as client:
        for _ in range(2):
            for number in range(20):
                await client.create(f"name-{number}")
            client.sim.configure(seed=3)
        faults = [create["fault"] for create in client.sim.state()["creates"]]
    struck = [fault is not None for fault in faults]
    assert struck[:20] == struck[20:]
    assert any(struck)


@given(st.integers(), st.sampled_from(sorted(FAULTS)), st.floats(0.2, 0.8))
def test_shares_are_met(seed: int, name: str, share: float) -> None:
    """Over many creates, a fault strikes about as often as its share says."""
    faults = Faults(seed, {name: share})
    struck = 0
    for _ in range(1000):
        struck += faults.peek() == name
        faults.advance()
    assert abs(struck / 1000 - share) < 0.1


def test_shares_are_read_from_text() -> None:
    """NAME=SHARE pairs are read with or without blanks; nothing means no faults."""
    assert parse_faults(" html-502=0.25, slow=1e-2 ,") == {"html-502": 0.25, "slow": 0.01}
    assert parse_faults("") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("html-504=0.1", "unknown fault 'html-504'; known are cut-before-commit, "),
        ("slow", "'slow' is not NAME=SHARE"),
        ("slow=much", "the share of slow must be a number from 0 to 1, not 'much'"),
        ("slow=1.5", "the share of slow must be a number from 0 to 1"),
        ("slow=nan", "the share of slow must be a number from 0 to 1"),
        ("slow=0.6,html-502=0.6", "the shares add up to 1.2"),
    ],
)
def test_bad_shares_are_explained(text: str, complaint: str) -> None:
    """Whatever is wrong with the shares, the message names it."""
    with pytest.raises(ValueError, match=complaint.replace(".", r"\.")):
        parse_faults(text)
