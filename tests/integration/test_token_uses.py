"""Tokens that end early, by use, by revocation or by their lifetime, cost little."""

import asyncio
import json
from asyncio import StreamWriter
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from provisioner.core.model import Request, Result
from provisioner.core.secret import Secret
from provisioner.infisical.auth import UniversalAuth
from provisioner.infisical.connections import InfisicalConnections
from provisioner.infisical.identity import Identity, Patience
from provisioner.infisical.transport import Transport, TransportOptions
from provisioner.infisical.wire import Routes
from tests.support.scripted import Received, serving
from tests.unit.test_tokens import DEAD

KEY = Secret("sk-or-v1-of-the-token-test")
PROJECT = "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d"


class Server:
    """Issues tokens and answers creates; `accepts` decides whether a token may be used once more."""

    def __init__(self, accepts: Callable[["Server", str], bool], *, message: str, pause: float = 0.0) -> None:
        self.accepts = accepts
        self.message = message
        self.pause = pause
        self.uses: Counter[str] = Counter()
        self.logins = 0
        self.creates = 0
        self.refused = 0

    async def __call__(self, head: bytes, writer: StreamWriter) -> None:
        """Answer one request."""
        if b"/login " in head:
            self.logins += 1
            granted = {"accessToken": f"token-{self.logins}", "expiresIn": 7_776_000, "accessTokenMaxTTL": 0}
            return self._answer(writer, 200, granted)
        token = head.lower().partition(b"bearer ")[2].partition(b"\r\n")[0].decode()
        if b"/revoke" not in head:
            self.uses[token] += 1
            if not self.accepts(self, token):
                self.refused += 1
                refusal = {"reqId": "req-Ab3dE6gH9jK2mN", "statusCode": 401, "error": "UnauthorizedError"}
                return self._answer(writer, 401, {**refusal, "message": self.message})
            self.creates += 1
            await asyncio.sleep(self.pause)
        made = {"id": PROJECT, "projectId": PROJECT, "credentialsHash": "x", "name": "openrouter", "app": "open-router"}
        return self._answer(writer, 200, {"appConnection": made})

    @staticmethod
    def _answer(writer: StreamWriter, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + text)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[tuple[InfisicalConnections, Received, Identity]]:
    """Connections that log in to the server with Universal Auth."""
    auth = UniversalAuth(client_id="c", client_secret=Secret("a-client-secret"))
    async with serving(server) as (url, received):
        routes = Routes(str(url.origin()))
        async with Transport(TransportOptions(base_url=str(url))) as transport:
            identity = Identity(auth, transport, routes, patience=Patience(first_pause=0.001))
            yield InfisicalConnections(transport, identity, routes), received, identity


def asking(number: int = 7) -> Request:
    """A request."""
    return Request(id=number, project_id=PROJECT, name="openrouter", description=None, credential="default")


def reads(received: Received) -> int:
    """How many requests were sent that a token's death does not call for."""
    return sum(head.startswith(b"GET ") for head in received.heads)


@pytest.mark.parametrize("message", DEAD)
async def test_a_dead_token_costs_one_login_and_no_other_call(message: str) -> None:
    """However a server reports a dead token, only the create is sent again, once, with a new token."""
    server = Server(lambda _, token: token != "token-1", message=message)
    async with connected(server) as (connections, received, _):
        assert (await connections.create(asking(), KEY)).result is Result.CREATED
    assert (server.logins, server.creates, server.refused, reads(received)) == (2, 1, 1, 0)


@pytest.mark.parametrize("uses", [1, 2, 3, 10])
async def test_tokens_with_few_uses_are_replaced_as_they_are_used_up(uses: int) -> None:
    """Side by side or not, every create succeeds, with as many logins as necessary, and nothing is blamed."""
    message = "Failed to authorize: token usage limit reached"
    server = Server(lambda server, token: server.uses[token] <= uses, message=message, pause=0.01)
    async with connected(server) as (connections, received, _):
        left = iter(range(60))

        async def work() -> set[Result]:
            return {(await connections.create(asking(number), KEY)).result for number in left}

        with capture_logs() as logs:
            seen = set().union(*await asyncio.gather(*(work() for _ in range(8))))
    assert seen == {Result.CREATED}
    assert server.creates == 60
    assert reads(received) == 0
    assert server.logins <= 60 / uses + 8
    # Once it is known how often a token can be used, none is used too often.
    assert server.refused <= 30
    assert not [entry for entry in logs if entry["event"] != "logged_in"]


async def test_tokens_that_never_work_cause_no_storm() -> None:
    """Tokens that are used up before their first use slow logins down, like others that are refused at once."""
    server = Server(lambda *_: False, message="Failed to authorize: token usage limit reached")
    async with connected(server) as (connections, received, _):
        for number in range(50):
            assert (await connections.create(asking(number), KEY)).result is Result.TOKEN_TROUBLE
    assert server.logins <= 3
    assert reads(received) == 0


async def test_a_token_without_an_end_is_used_for_ninety_days_and_ended() -> None:
    """A TTL of 0 gives 7 776 000 s and no longest life: one login, no renewal, and a harmless end."""
    server = Server(lambda *_: True, message="")
    async with connected(server) as (connections, received, identity):
        for number in range(3):
            assert (await connections.create(asking(number), KEY)).result is Result.CREATED
        token = await identity.token()
        assert token.ends - token.renew_at == 7_776_000 / 5
        await identity.revoke()
        await identity.revoke()
    paths = Counter(head.split(b" ")[1].rpartition(b"/")[2] for head in received.heads)
    assert paths == {b"login": 1, b"open-router": 3, b"revoke": 1}
