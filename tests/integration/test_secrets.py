"""Keys that are fetched: from where, how often, and what is reported if that fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from provisioner.core.errors import CredentialUnavailable, CredentialUnreadable
from provisioner.core.model import RateHeaders, Request
from provisioner.core.pacing import Grant
from provisioner.core.secret import Secret, SecretLocation
from provisioner.credentials.fetched import PAUSE, RECHECK, FetchedSecret
from provisioner.credentials.vault import FromInfisical, NamedVault
from provisioner.infisical.auth import UniversalAuth
from provisioner.infisical.identity import Identity
from provisioner.infisical.secrets import InfisicalSecrets
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.sandbox.simulator import Options, Simulator

KEY = "sk-or-v1-fetched"
PLACE = SecretLocation(project="p", environment="prod", path="/", name="KEY")


@dataclass(slots=True)
class Budget:
    """Permits that count; `wait` is given instead of a permit."""

    wait: float = 0.0
    asked: int = 0
    learned: list[tuple[RateHeaders | None, float | None]] = field(default_factory=list)

    async def acquire(self, wanted: int, *, spare: bool = False) -> Grant:  # noqa: ARG002  # there is no limit
        """Grant a permit, or say how long to wait."""
        self.asked += 1
        return Grant(permits=0, wait=self.wait) if self.wait else Grant(permits=wanted)

    async def share(self) -> None:
        """Share nothing."""

    def give_back(self, permits: int) -> None:
        """Nothing to do."""

    def learn(
        self, rate: RateHeaders | None, *, metered: bool, throttled_for: float | None, elapsed: float = 0.0
    ) -> None:
        """Record what was learned."""
        assert (metered, elapsed) in {(True, 0.0), (False, 0.0)}
        self.learned.append((rate, throttled_for))


@dataclass(slots=True)
class Store:
    """A store in memory: returns its contents, or raises them."""

    holds: Secret | Exception
    reads: int = 0

    async def read(self, _place: SecretLocation) -> Secret:
        """Give it after a turn of the loop."""
        self.reads += 1
        await asyncio.sleep(0)
        if isinstance(self.holds, Exception):
            raise self.holds
        return self.holds


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.time


def kept(store: Store, clock: Clock) -> FetchedSecret:
    """A credential that is kept for 300 seconds."""
    return FetchedSecret("team", PLACE, store, cache=300.0, monotonic=clock)


async def test_it_is_read_once_for_all_and_again_when_it_is_due() -> None:
    """A thousand that ask at once cost one read, and so does each end of the time that it is kept."""
    store, clock = Store(Secret(KEY)), Clock()
    fetched = kept(store, clock)
    found = await asyncio.gather(*(fetched.get() for _ in range(1000)))
    assert ({id(secret) for secret in found}, store.reads) == ({id(found[0])}, 1)
    clock.time += 299
    await fetched.get()
    assert store.reads == 1
    clock.time += 1
    assert await fetched.get() is found[0]
    assert store.reads == 2


async def test_a_refused_key_is_read_again_at_once_and_then_seldom() -> None:
    """The first refusal reads again however fresh the key is; while it stays the same the next ones do so seldom."""
    store, clock = Store(Secret(KEY)), Clock()
    fetched = kept(store, clock)
    await fetched.get()
    await asyncio.gather(*(fetched.again() for _ in range(50)))
    assert store.reads == 2
    clock.time += RECHECK
    store.holds = Secret("sk-or-v1-another")
    assert await fetched.again() == await fetched.get() == store.holds
    assert store.reads == 3
    await fetched.again()
    assert store.reads == 3


@pytest.mark.parametrize("kind", [CredentialUnavailable, CredentialUnreadable])
async def test_what_failed_is_not_asked_again_at_once(kind: type[Exception]) -> None:
    """Concurrent callers get the same error, with the secret's place; later callers cause a new read."""
    store, clock = Store(kind("away")), Clock()
    fetched = kept(store, clock)
    for asking in [await asyncio.gather(*(fetched.get() for _ in range(20)), return_exceptions=True)]:
        assert {type(error) for error in asking} == {kind}
        assert {str(error) for error in asking} == {
            "credential team (secret KEY in project p, environment prod, path /): away"
        }
    assert store.reads == 1
    clock.time += PAUSE
    store.holds = Secret(KEY)
    assert await fetched.get() == store.holds


async def test_a_store_that_asks_for_patience_gets_it() -> None:
    """If the store says when to come back, nothing is read before, and all callers learn the time."""
    store, clock = Store(CredentialUnavailable("over the limit", retry_after=42.0)), Clock()
    fetched = kept(store, clock)
    with pytest.raises(CredentialUnavailable):
        await fetched.get()
    clock.time += 41
    with pytest.raises(CredentialUnavailable) as caught:
        await fetched.get()
    assert (store.reads, caught.value.retry_after) == (1, 1.0)


async def test_a_key_that_was_taken_away_is_used_no_more() -> None:
    """A refused key whose secret is gone is not given out again."""
    store, clock = Store(Secret(KEY)), Clock()
    fetched = kept(store, clock)
    await fetched.get()
    store.holds = CredentialUnreadable("gone")
    with pytest.raises(CredentialUnreadable):
        await fetched.again()
    with pytest.raises(CredentialUnreadable):
        await fetched.get()


async def test_each_target_has_its_own_and_a_named_one_serves_all() -> None:
    """A credential is fetched through the request's target, or through the one that its settings name."""
    stores = {"us": Store(Secret("sk-or-v1-us")), "eu": Store(Secret("sk-or-v1-eu"))}
    vault = NamedVault({"own": FromInfisical(place=PLACE), "named": FromInfisical(place=PLACE, target="us")})
    views = {name: vault.at(name, store) for name, store in stores.items()}

    async def found(target: str, credential: str) -> str:
        request = Request(id=1, project_id="p", name="n", description=None, credential=credential)
        return (await views[target].open(request)).reveal()

    assert [await found("us", "own"), await found("eu", "own")] == ["sk-or-v1-us", "sk-or-v1-eu"]
    assert [await found("us", "named"), await found("eu", "NAMED")] == ["sk-or-v1-us", "sk-or-v1-us"]
    assert (stores["us"].reads, stores["eu"].reads) == (2, 1)


@asynccontextmanager
async def reader(
    budget: Budget, patience: float = 5.0
) -> AsyncIterator[tuple[Simulator, InfisicalSecrets, SecretLocation]]:
    """A simulator with one secret, and a reader."""
    async with Simulator(Options(projects=1)) as simulator:
        place = SecretLocation(project=simulator.projects[0], environment="prod", path="/", name="a/b KEY")
        there = {"name": place.name, "projectId": place.project, "environment": "prod", "value": f" {KEY}\n"}
        simulator.configure(secrets=[there])
        auth = UniversalAuth(client_id=simulator.client_id, client_secret=Secret(simulator.client_secret))
        async with Transport(TransportOptions(base_url=simulator.url)) as transport:
            routes = Routes(simulator.url)
            identity = Identity(auth, transport, routes)
            yield simulator, InfisicalSecrets(transport, identity, routes, budget, patience=patience), place


async def test_a_value_is_trimmed_and_costs_one_permit() -> None:
    """One permit for one read, whose answer teaches the budget; names are escaped and values trimmed."""
    budget = Budget()
    async with reader(budget) as (_, secrets, place):
        assert (await secrets.read(place)).reveal() == KEY
        assert budget.asked == 1
        assert budget.learned[0][0] is not None


async def test_a_refused_token_is_replaced() -> None:
    """A revoked token costs one more login, and the secret is read."""
    async with reader(Budget()) as (simulator, secrets, place):
        await secrets.read(place)
        simulator.configure(revoke_tokens=True)
        assert (await secrets.read(place)).reveal() == KEY
        assert simulator.state()["logins"]["ok"] == 2


async def test_a_budget_that_is_used_up_is_waited_for_elsewhere() -> None:
    """Without a permit nothing is sent, and it is said when to come back."""
    async with reader(Budget(wait=30.0)) as (simulator, secrets, place):
        with pytest.raises(CredentialUnavailable, match="read budget") as caught:
            await secrets.read(place)
        assert caught.value.retry_after == 30.0
        assert simulator.state()["requests"] == {}


@pytest.mark.parametrize("outage", ["refuse", "reset", "hang"])
async def test_outages_and_throttles_pass(outage: str) -> None:
    """Whatever kind of outage it is, and over the limit, the secret is unavailable and not unreadable."""
    budget = Budget()
    async with reader(budget, patience=0.3) as (simulator, secrets, place):
        await secrets.read(place)
        simulator.configure(outage=outage)
        with pytest.raises(CredentialUnavailable):
            await secrets.read(place)
        simulator.configure(outage="none", secret_limit=1)
        with pytest.raises(CredentialUnavailable) as caught:
            await secrets.read(place)
        assert caught.value.retry_after > 1
        assert budget.learned[-1][1] == caught.value.retry_after


async def test_a_wrong_address_is_no_fault_of_the_secret() -> None:
    """Where neither route is known the secret is unavailable, and both are tried again later."""
    async with reader(Budget()) as (simulator, secrets, place):
        secrets._routes = Routes(f"{simulator.url}/elsewhere")
        with pytest.raises(CredentialUnavailable, match="does not know this route"):
            await secrets.read(place)
        secrets._routes = Routes(simulator.url)
        assert (await secrets.read(place)).reveal() == KEY
