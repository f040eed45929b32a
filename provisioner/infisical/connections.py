"""Make the app-connection calls of one target: authorise each, and interpret its answer as an observation.

A create or a replacement is sent once. Only if Infisical itself refused the token, and so certainly changed nothing, is
the same request sent once more with a new token. Reads are repeated a few times if no answer comes back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_attempt, wait_random_exponential
from yarl import URL

from provisioner.core.errors import IdentityRefused, LoginUnavailable
from provisioner.core.model import Action, Connection, Observation, Proof, Request, Result
from provisioner.core.projects import SeenProject
from provisioner.core.rotations import Rotation
from provisioner.core.secret import Secret
from provisioner.infisical.answers import is_unexplained, read_answer, read_list
from provisioner.infisical.identity import Identity, Token
from provisioner.infisical.parts import Expected, Reply
from provisioner.infisical.projects import read_project, read_projects
from provisioner.infisical.refusals import is_used_up, key_refused
from provisioner.infisical.rotation_answers import read_rotations
from provisioner.infisical.transport import LONGEST_ANSWER, AnswerLost, NotSent, Transport
from provisioner.infisical.wire import Routes, create_body, replace_body, update_body

READ_TRIES: Final = 3
USED_UP_TRIES: Final = 4  # further tokens to try while other calls of ours keep using them up
NAMED: Final = 5  # how many rotations to name that use a connection which cannot be deleted
LONGEST_LIST: Final = 64 * 2**20  # bytes; a connection is about 1 KiB, and the list has no pages
_NO_ANSWER: Final = frozenset({Result.NOT_SENT, Result.UNKNOWN})


class Call(NamedTuple):
    """One request, what its answer has to match, and the function that interprets it."""

    asked: Expected
    method: str
    url: URL
    body: bytes | None = None
    listing: "Callable[[Reply], tuple[Observation, tuple[Any, ...]]] | None" = None
    read: Callable[[Reply], Observation] = read_answer


Found = tuple[Observation, tuple[Connection, ...]]
_Read = tuple[Observation, tuple[Any, ...]]


class InfisicalConnections:
    """The calls about app connections of one target.

    `marker` is this installation's id if descriptions carry a marker. `read_pause` is the longest first pause between
    tries of a read, in seconds. `now` returns seconds since 1970; `monotonic` times the calls.
    """

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        routes: Routes,
        *,
        marker: str = "",
        read_pause: float = 0.25,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._routes = routes
        self._marker = marker
        self._read_pause = read_pause
        self._now = now
        self._monotonic = monotonic

    async def create(self, request: Request, key: Secret) -> Observation:
        """Create the connection. At most one create passes Infisical's token check; after that it is never repeated."""
        try:
            body = create_body(request, key, marker=self._marker)
        except TypeError:
            return _UNWRITABLE
        asked = Expected(Action.CREATE, request.project_id, request.name, None, key.reveal())
        call = Call(asked, "POST", self._routes.connections, body)
        return (await self._authorised(call))[0]

    async def look_up(self, request: Request) -> Observation:
        """Find the connection with the request's name in its project."""
        return (await self._patiently(self._by_name(request.name, request.project_id)))[0]

    async def get(self, connection_id: str) -> Observation:
        """Find a connection by its id: `FOUND`, `ABSENT`, or what prevented the answer."""
        call = Call(Expected(Action.CONFIRM, connection_id=connection_id), "GET", self._routes.by_id(connection_id))
        return (await self._patiently(call))[0]

    async def list(self, project_id: str | None) -> Found:
        """Return all OpenRouter connections of a project, or (None) of the organization if the identity may read those.

        The observation is `FOUND`, or what prevented it.
        """
        url = self._routes.listing(project_id)
        return await self._patiently(Call(Expected(Action.LOOK_UP, project_id), "GET", url, listing=read_list))

    async def projects(self, kind: str | None = None) -> tuple[Observation, tuple[SeenProject, ...]]:
        """Return all projects of a type, or of any, that the machine identity is a member of, in one read.

        The list has no pages. The observation is `FOUND`, or what prevented it.
        """
        call = Call(Expected(Action.LOOK_UP), "GET", self._routes.projects(kind), listing=read_projects)
        return await self._patiently(call)

    async def project(self, project_id: str) -> Observation:
        """Look up one project: `FOUND`, `PROJECT_MISSING` if it does not exist, or what prevented the answer."""
        asked = Expected(Action.LOOK_UP, project_id.lower())
        call = Call(asked, "GET", self._routes.project(project_id.lower()), read=read_project)
        return (await self._patiently(call))[0]

    async def replace(self, request: Request, connection: Connection, key: Secret) -> Observation:
        """Set the key of an existing connection, and its description if one is requested. Never repeated."""
        try:
            body = replace_body(request, key)
        except TypeError:
            return _UNWRITABLE
        asked = Expected(Action.REPLACE, request.project_id, request.name, connection.id, key.reveal())
        call = Call(asked, "PATCH", self._routes.by_id(connection.id), body)
        return (await self._authorised(call))[0]

    async def update(self, request: Request, connection: Connection, key: Secret | None) -> Observation:
        """Send what was edited of a request; with `key` if its credential was. Never repeated."""
        try:
            body = update_body(request, key, marker=self._marker)
        except TypeError:
            return _UNWRITABLE
        asked = Expected(Action.UPDATE, request.project_id, request.name, connection.id, key.reveal() if key else "")
        call = Call(asked, "PATCH", self._routes.by_id(connection.id), body)
        return (await self._authorised(call))[0]

    async def remove(self, connection: Connection) -> Observation:
        """Delete a connection. If rotations use it, the observation names them, because Infisical itself does not."""
        asked = Expected(Action.REMOVE, connection.project_id, connection_id=connection.id)
        call = Call(asked, "DELETE", self._routes.by_id(connection.id))
        seen = (await self._authorised(call))[0]
        if seen.result is not Result.IN_USE or connection.project_id is None:
            return seen
        _, rotations = await self._rotations(connection.project_id)
        users = [one.described for one in rotations if one.connection_id.lower() == connection.id.lower()]
        named = ", ".join(users[:NAMED]) + (f" and {len(users) - NAMED} more" if len(users) > NAMED else "")
        return replace(seen, message=f"{seen.message.rstrip('.')}: {named}") if users else seen

    async def _rotations(self, project_id: str) -> tuple[Observation, tuple[Rotation, ...]]:
        """Return all secret rotations of a project."""
        url = self._routes.rotations.with_query({"projectId": project_id})
        return await self._patiently(Call(Expected(Action.LOOK_UP, project_id), "GET", url, listing=read_rotations))

    def _by_name(self, name: str, project_id: str) -> Call:
        return Call(Expected(Action.LOOK_UP, project_id, name), "GET", self._routes.by_name(name, project_id))

    async def _patiently(self, call: Call) -> _Read:
        """Read, and retry if no answer came back."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(READ_TRIES),
            wait=wait_random_exponential(multiplier=self._read_pause, max=2.0),
            retry=retry_if_result(lambda found: found[0].result in _NO_ANSWER),
            sleep=asyncio.sleep,
        )
        send: Callable[[Call], Awaitable[_Read]] = self._authorised
        try:
            return await retrying(send, call)
        except RetryError as given_up:
            found: _Read = given_up.last_attempt.result()
            return found

    async def _authorised(self, call: Call) -> _Read:
        """Send a request, and once more with a new token if the token was refused.

        Several calls may compete for the last use of a token; a call that comes too late takes the next token. A
        request that carries a key is repeated only if the refusal is certainly Infisical's own: otherwise it may have
        arrived.
        """
        found, used_up = await self._once(call)
        left = USED_UP_TRIES
        while self._may_repeat(call, found[0]) and left:
            left = left - 1 if used_up else 0
            found, used_up = await self._once(call)
        return found

    @staticmethod
    def _may_repeat(call: Call, observation: Observation) -> bool:
        """Whether the token was refused, and the call has certainly done nothing."""
        return observation.result is Result.TOKEN_TROUBLE and (call.body is None or observation.proof is not Proof.NONE)

    async def _once(self, call: Call) -> tuple[_Read, bool]:
        """Send a request with the present token; returns also whether the token turned out to be used up."""
        try:
            token = self._identity.current() or await self._identity.token()
        except (IdentityRefused, LoginUnavailable) as exc:
            return (Observation(result=Result.TOKEN_TROUBLE, proof=Proof.UNSENT, message=str(exc)), ()), False
        found, used_up = await self._send(call, token), False
        observation = found[0]
        if observation.result is Result.TOKEN_TROUBLE:
            if call.asked.key and is_unexplained(observation) and await self._accepts(call, token):
                if observation.proof is Proof.NONE:
                    return (replace(observation, result=Result.UNKNOWN), ()), False
                return (
                    replace(observation, result=Result.KEY_REFUSED, message=key_refused(observation.message)),
                    (),
                ), False
            used_up = self._identity.invalidate(token, used_up=is_used_up(observation.message))
        elif observation.metered:
            token.worked = True
        return found, used_up

    async def _accepts(self, call: Call, token: Token) -> bool:
        """Whether Infisical still accepts a token: any answer from behind the token check proves it."""
        token.uses += 1
        probe = self._by_name(call.asked.name, call.asked.project_id or "")
        return (await self._send(probe, token))[0].metered

    async def _send(self, call: Call, token: Token) -> _Read:
        headers = token.bare if call.body is None else token.json
        most = LONGEST_LIST if call.listing else LONGEST_ANSWER
        began = self._monotonic()
        try:
            answer = await self._transport.send(call.method, call.url, headers, call.body, most=most)
        except NotSent as exc:
            elapsed = self._monotonic() - began
            return Observation(result=Result.NOT_SENT, proof=Proof.UNSENT, message=str(exc), elapsed=elapsed), ()
        except AnswerLost as exc:
            elapsed = self._monotonic() - began
            return Observation(result=Result.UNKNOWN, message=str(exc), began=began, elapsed=elapsed), ()
        elapsed = self._monotonic() - began
        reply = Reply(call.asked, *answer, now=self._now(), began=began, elapsed=elapsed)
        return call.listing(reply) if call.listing else (call.read(reply), ())


_UNWRITABLE: Final = Observation(
    result=Result.CREDENTIAL_UNREADABLE,
    proof=Proof.UNSENT,
    message="the credential is no text that can be sent: it is not valid Unicode",
)
