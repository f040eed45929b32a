"""One access token for all calls: which call logs in, how often, and what happens when Infisical refuses."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from provisioner.core.errors import IdentityRefused, LoginUnavailable
from provisioner.core.secret import Secret
from provisioner.infisical.auth import Auth, SecretSource, StaticToken, TokenExchange, UniversalAuth
from provisioner.infisical.identity import Identity, Patience, Token
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from provisioner.observe.logs import REDACTED, configure_logging
from provisioner.sandbox.simulator import Options, Simulator
from tests.support import eventually
from tests.support.scripted import serving

WRONG = Secret("a-wrong-client-secret")
JWT = "eyJhbGciOiJub25lIn0.e30.c2ln"
LOGIN = "POST /api/v1/auth/universal-auth/login"
QUICK = Patience(lockout=305.0, tries=3, first_pause=0.001, outage=5.0, farewell=0.1)


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.time


@dataclass(slots=True, kw_only=True)
class Rig:
    """An identity before a simulator, with a clock of its own."""

    simulator: Simulator
    identity: Identity
    clock: Clock

    def logins(self) -> dict[str, int]:
        """How many logins the simulator granted, refused, and refused because of the lock."""
        counts: dict[str, int] = self.simulator.state()["logins"]
        return counts

    def sent(self) -> int:
        """How many logins arrived, whatever became of them."""
        return sum(self.simulator.state()["requests"].get(LOGIN, {}).values())


@asynccontextmanager
async def rig(
    auth: Callable[[Simulator], Auth] | None = None, *, secret: SecretSource | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """An identity that logs in to a fresh simulator with the right secret, unless the test has another."""
    async with Simulator(Options(**options)) as simulator:
        if auth is None:
            source = Secret(simulator.client_secret) if secret is None else secret
            made: Auth = UniversalAuth(client_id=simulator.client_id, client_secret=source)
        else:
            made = auth(simulator)
        clock = Clock()
        async with Transport(TransportOptions(base_url=simulator.url, timeout=5.0)) as transport:
            identity = Identity(made, transport, Routes(simulator.url), patience=QUICK, monotonic=clock)
            yield Rig(simulator=simulator, identity=identity, clock=clock)


async def test_one_login_for_all() -> None:
    """However many calls want a token at once, one login is sent and all get the same token."""
    async with rig(latency=0.02) as now:
        tokens = await asyncio.gather(*(now.identity.token() for _ in range(50)))
        assert len(set(tokens)) == 1
        assert now.sent() == 1


async def test_a_refused_token_is_replaced_once() -> None:
    """Many calls with a refused token cause one login; a report about an old token causes none."""
    async with rig(latency=0.02) as now:
        old = await now.identity.token()

        async def refused() -> Token:
            now.identity.invalidate(old)
            return await now.identity.token()

        tokens = await asyncio.gather(*(refused() for _ in range(50)))
        assert len(set(tokens)) == 1
        assert old not in tokens
        now.identity.invalidate(old)
        assert await now.identity.token() is tokens[0]
        assert now.sent() == 2


async def test_renewed_ahead_of_expiry() -> None:
    """A token is replaced by a new login well before it ends; without a time to live it is kept for many weeks."""
    async with rig(token_ttl=1000) as now:
        first = await now.identity.token()
        now.clock.time += 790
        assert await now.identity.token() is first
        now.clock.time += 20
        assert await now.identity.token() is not first
        assert now.sent() == 2
    async with rig(token_ttl=0) as now:
        first = await now.identity.token()
        now.clock.time += 6_000_000
        assert await now.identity.token() is first


async def test_renewal_keeps_nobody_waiting() -> None:
    """While one call renews the token early, the others use the present one."""
    async with rig(token_ttl=1000) as now:
        first = await now.identity.token()
        now.clock.time += 900
        now.simulator.configure(outage="hang")
        renewing = asyncio.ensure_future(now.identity.token())
        await eventually(now.identity._lock.locked)
        async with asyncio.timeout(2):
            assert await now.identity.token() is first
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def test_a_failed_renewal_is_no_trouble_yet() -> None:
    """When the login ahead of time fails, the old token serves until it ends; only then there is none."""
    async with rig(token_ttl=1000) as now:
        first = await now.identity.token()
        now.clock.time += 900
        now.simulator.configure(client_secret="another-now")
        assert await now.identity.token() is first
        assert await now.identity.token() is first
        assert now.logins() == {"ok": 1, "refused": 1, "locked": 0}
        now.clock.time += 101
        with pytest.raises(IdentityRefused):
            await now.identity.token()
        assert now.logins() == {"ok": 1, "refused": 1, "locked": 0}


async def test_a_refused_secret_is_sent_once() -> None:
    """A wrong secret is sent once, whatever is queued, and once more after the lockout."""
    async with rig(secret=WRONG, latency=0.02) as now:
        for _ in range(2):
            found = await asyncio.gather(*(now.identity.token() for _ in range(50)), return_exceptions=True)
            assert all(isinstance(each, IdentityRefused) for each in found)
            assert "check the client id and the client secret" in str(found[0])
        assert now.sent() == 1
        now.clock.time += QUICK.lockout
        with pytest.raises(IdentityRefused):
            await now.identity.token()
        assert now.sent() == 2


async def test_a_changed_secret_is_tried_at_once() -> None:
    """After a refusal, a secret that has been replaced where it is kept is used without waiting."""
    kept = [WRONG]
    async with rig(secret=lambda: kept[0]) as now:
        with pytest.raises(IdentityRefused):
            await now.identity.token()
        kept[0] = Secret(now.simulator.client_secret)
        await now.identity.token()
        assert now.logins() == {"ok": 1, "refused": 1, "locked": 0}


async def test_a_lock_is_waited_out() -> None:
    """While the identity is locked nothing is sent, not even the right secret, until the lock has passed."""
    kept = [Secret("wrong-1")]
    async with rig(secret=lambda: kept[0]) as now:
        for number in range(2, 5):
            with pytest.raises(IdentityRefused):
                await now.identity.token()
            kept[0] = Secret(f"wrong-{number}")
        with pytest.raises(IdentityRefused, match="locked"):
            await now.identity.token()
        assert now.logins() == {"ok": 0, "refused": 3, "locked": 1}
        kept[0] = Secret(now.simulator.client_secret)
        with pytest.raises(IdentityRefused, match="locked"):
            await now.identity.token()
        assert now.sent() == 4
        now.simulator.configure(unlock=True)
        now.clock.time += QUICK.lockout
        await now.identity.token()


async def test_login_limit() -> None:
    """Over the limit of logins none is sent until the answer's pause is over."""
    async with rig(login_limit=1) as now:
        now.identity.invalidate(await now.identity.token())
        for _ in range(2):
            with pytest.raises(LoginUnavailable, match="rate limit"):
                await now.identity.token()
        now.simulator.configure(login_limit=100)
        now.clock.time += 50
        with pytest.raises(LoginUnavailable):
            await now.identity.token()
        assert now.sent() == 2
        now.clock.time += 11
        await now.identity.token()


async def test_an_outage_is_tried_a_few_times() -> None:
    """A login during an outage is retried a few times, once for all calls; then there is none for a while."""
    async with rig() as now:
        now.simulator.configure(outage="refuse")
        found = await asyncio.gather(*(now.identity.token() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, LoginUnavailable) for each in found)
        assert now.sent() == QUICK.tries
        now.simulator.configure(outage="none")
        with pytest.raises(LoginUnavailable):
            await now.identity.token()
        now.clock.time += QUICK.outage
        await now.identity.token()


async def test_a_short_outage_is_not_noticed() -> None:
    """A login that fails on the way and then works yields a token."""
    async with rig() as now:
        now.simulator.configure(outage="reset")

        async def mend() -> None:
            await eventually(lambda: now.sent() >= 1)
            now.simulator.configure(outage="none")

        now.identity._patience = Patience(tries=50, first_pause=0.01)
        async with asyncio.TaskGroup() as group:
            group.create_task(mend())
            await now.identity.token()
        assert now.logins()["ok"] == 1


async def test_tokens_that_are_refused_at_once_cause_no_storm() -> None:
    """When Infisical refuses the tokens that it gives out, logins become rare instead of following every call."""
    async with rig() as now:
        sent = 0
        for _ in range(100):
            try:
                now.identity.invalidate(await now.identity.token())
            except LoginUnavailable:
                sent += 1
        assert now.sent() == 2
        assert sent == 98
        now.clock.time += 1.0
        now.identity.invalidate(await now.identity.token())
        now.clock.time += 1.0
        with pytest.raises(LoginUnavailable):
            await now.identity.token()
        assert now.sent() == 3


async def test_tokens_that_worked_may_follow_quickly() -> None:
    """Tokens with few uses are replaced as often as necessary, because they worked."""
    async with rig() as now:
        for _ in range(5):
            token = await now.identity.token()
            token.worked = True
            now.identity.invalidate(token)
        assert now.sent() == 5


async def test_static_token() -> None:
    """A token from the settings is used without a login; refused, it is not used again until it changes."""
    kept = [Secret("first-static-token")]
    async with rig(lambda _: StaticToken(token=lambda: kept[0])) as now:
        token = await now.identity.token()
        assert token.json["authorization"] == "Bearer first-static-token"
        now.identity.invalidate(token)
        with pytest.raises(IdentityRefused, match="replace it with a valid one"):
            await now.identity.token()
        kept[0] = Secret("second-static-token")
        assert (await now.identity.token()).bare["authorization"] == "Bearer second-static-token"
        await now.identity.revoke()
        assert now.simulator.state()["requests"] == {}


async def test_a_static_token_of_another_region_is_told() -> None:
    """A token is valid in its own region: a refused one leads to a hint about the other region."""
    url = "https://eu.infisical.com"
    async with Transport(TransportOptions(base_url=url)) as transport:
        identity = Identity(StaticToken(token=Secret("a-static-token")), transport, Routes(url))
        identity.invalidate(await identity.token())
        with pytest.raises(
            IdentityRefused, match=r"eu\.infisical\.com is the EU cloud; .* to https://us\.infisical\.com"
        ):
            await identity.token()


@pytest.mark.parametrize("text", ["", "two words", "a\r\nHost: elsewhere", "ü"])
async def test_unusable_static_token(text: str) -> None:
    """A token that no header can carry is refused before anything is sent, without showing it."""
    async with rig(lambda _: StaticToken(token=Secret(text))) as now:
        with pytest.raises(LoginUnavailable, match=r"the access token (is empty|contains)") as caught:
            await now.identity.token()
        assert not text or text not in str(caught.value)


async def test_token_exchange() -> None:
    """Another issuer's token is read anew at each login and exchanged for an access token."""
    kept = ["not-a-jwt"]

    def exchange(simulator: Simulator) -> Auth:
        return TokenExchange(method="kubernetes-auth", identity_id=simulator.identity_id, jwt=lambda: Secret(kept[0]))

    async with rig(exchange) as now:
        with pytest.raises(IdentityRefused):
            await now.identity.token()
        kept[0] = JWT
        assert (await now.identity.token()).bare["authorization"].startswith("Bearer ey")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Failed to reach the Kubernetes API for the token: connect ECONNREFUSED 10.0.0.1:6443"),
        (403, "You are not allowed to access this resource from the current IP address"),
        (404, "Kubernetes auth method not found for identity, did you configure Kubernetes auth?"),
        (401, "Access denied: invalid token"),
    ],
)
async def test_only_a_refusal_that_is_counted_makes_a_long_pause(status: int, message: str) -> None:
    """A refused Kubernetes login is repeated after seconds, in growing pauses; there is no lockout to be waited for."""
    grant = {"accessToken": "a-token", "expiresIn": 100, "accessTokenMaxTTL": 100}
    refusal = {"reqId": "req-1", "statusCode": status, "error": "BadRequest", "message": message}
    answers = [refusal, refusal, refusal, grant]

    async def handle(_: bytes, writer: asyncio.StreamWriter) -> None:
        answer = answers.pop(0)
        text = json.dumps(answer).encode()
        head = f"HTTP/1.1 {answer.get('statusCode', 200)} X\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)

    clock = Clock()
    log = io.StringIO()
    configure_logging("info", "json", log)
    async with serving(handle) as (url, received):
        routes = Routes(str(url.origin()))
        async with Transport(TransportOptions(base_url=str(url))) as transport:
            auth = TokenExchange(method="kubernetes-auth", identity_id=str(UUID(int=1)), jwt=Secret(JWT))
            identity = Identity(auth, transport, routes, monotonic=clock)
            for pause, sent in ((2.0, 1), (4.0, 2), (8.0, 3)):
                for _ in range(2):
                    with pytest.raises(IdentityRefused) as caught:
                        await identity.token()
                assert message in str(caught.value)
                assert len(received.heads) == sent
                clock.time += pause
            assert (await identity.token()).secret == Secret("a-token")
    # A reader of the log finds the cause, not a mask in its place.
    assert log.getvalue().count(message) == 3
    assert REDACTED not in log.getvalue()


async def test_a_secret_that_cannot_be_read() -> None:
    """A secret's file that is missing is named, nothing is sent, and it is read again later."""
    kept: list[Secret] = []

    def read() -> Secret:
        if not kept:
            raise FileNotFoundError(2, "No such file", "/run/secrets/client")
        return kept[0]

    async with rig(secret=read) as now:
        with pytest.raises(LoginUnavailable, match="/run/secrets/client"):
            await now.identity.token()
        assert now.sent() == 0
        kept.append(Secret(now.simulator.client_secret))
        now.clock.time += QUICK.outage
        await now.identity.token()


async def test_a_cancelled_login_is_taken_over() -> None:
    """When the call that logs in is cancelled, the next one that waits logs in instead."""
    async with rig() as now:
        now.simulator.configure(outage="hang")
        first = asyncio.ensure_future(now.identity.token())
        second = asyncio.ensure_future(now.identity.token())
        await eventually(now.identity._lock.locked)
        now.simulator.configure(outage="none")
        first.cancel()
        await second
        assert now.logins()["ok"] == 1


async def test_revoke() -> None:
    """A clean stop ends the token on the server; one that cannot be ended is no error."""
    async with rig() as now:
        token = await now.identity.token()
        await now.identity.revoke()
        counts = now.simulator.state()["requests"]["POST /api/v1/auth/token/revoke"]
        assert counts == {"200": 1}
        await now.identity.revoke()
        assert counts == now.simulator.state()["requests"]["POST /api/v1/auth/token/revoke"]
        assert await now.identity.token() is not token
        for outage in ("reset", "hang"):
            await now.identity.token()
            now.simulator.configure(outage=outage)
            async with asyncio.timeout(2):
                await now.identity.revoke()
            now.simulator.configure(outage="none")


async def test_logs_tell_and_keep_secrets() -> None:
    """Logins, refusals and outages are logged as events that name the target and hold no secret."""
    kept = [WRONG]
    with capture_logs() as logs:
        async with rig(secret=lambda: kept[0]) as now:
            with pytest.raises(IdentityRefused):
                await now.identity.token()
            kept[0] = Secret(now.simulator.client_secret)
            token = await now.identity.token()
            now.identity.invalidate(token)
            now.simulator.configure(outage="refuse")
            with pytest.raises(LoginUnavailable):
                await now.identity.token()
            secrets = [WRONG.reveal(), now.simulator.client_secret, token.secret.reveal()]
    events = [(entry["event"], entry["target"]) for entry in logs]
    assert events == [("login_refused", "default"), ("logged_in", "default"), ("login_unavailable", "default")]
    assert not any(secret in str(logs) or secret in repr(token) for secret in secrets)
