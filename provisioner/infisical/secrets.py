"""Read one secret of an Infisical project: an API key that is kept there.

The routes come from Infisical's public server source: `GET /api/v4/secrets/{name}` with `projectId`, `environment` and
`secretPath`; on servers without it the older `GET /api/v3/secrets/raw/{name}` with `workspaceId` instead of
`projectId`. Both answer `{"secret": {"secretValue": "…", "secretValueHidden": false}}`. References are expanded and
imports followed on request, as Infisical's own clients do. A missing folder, secret or project is a 404 and a missing
permission a 403; their messages name what is missing and never the value. The server limits these reads separately;
here they count with the other reads, which is stricter.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from provisioner.core.errors import (
    CredentialUnavailable,
    CredentialUnreadable,
    DatabaseUnavailable,
    DatabaseUnusable,
    IdentityRefused,
    LoginUnavailable,
)
from provisioner.core.key_text import NoKey, key_in
from provisioner.core.model import Action, Observation, Result
from provisioner.core.ports import Permits
from provisioner.core.secret import Secret, SecretLocation
from provisioner.infisical.identity import Identity
from provisioner.infisical.parts import Expected, Reply, Unreadable, read_envelope, read_json, read_rate
from provisioner.infisical.refusals import is_used_up, quoting, read_refusal
from provisioner.infisical.transport import Answer, AnswerLost, NotSent, Transport
from provisioner.infisical.wire import Routes

PATIENCE: Final = (
    10.0  # seconds for one read with its permits and logins: requests with other credentials wait behind it
)

_ASKED: Final = Expected(Action.LOOK_UP, None, "", None, "")
# What a person has to fix, in the order in which to check it.
_LASTING: Final = {
    Result.ABSENT: "there is no such secret: check project, environment, path and secret",
    Result.PROJECT_MISSING: "there is no such project: check project and the target",
    Result.FORBIDDEN: "the machine identity may not read it: give it a role there that allows to read the value",
    Result.NOT_IN_PROJECT: "the machine identity is not in its project: add it there",
    Result.FOREIGN_PROJECT: "its project belongs to another organization: use the target of that organization",
    Result.INVALID: "Infisical refuses to look for it: check project, environment, path and secret",
}


class InfisicalSecrets:
    """`core.ports.SecretStore` for one target. Its reads use the target's read budget."""

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        routes: Routes,
        permits: Permits,
        *,
        now: Callable[[], float] = time.time,
        patience: float = PATIENCE,
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._routes = routes
        self._permits = permits
        self._now = now
        self._patience = patience
        self._old = False

    async def read(self, place: SecretLocation) -> Secret:
        """Return the secret's value, trimmed. Raises `CredentialUnreadable` or `CredentialUnavailable`."""
        try:
            async with asyncio.timeout(self._patience):
                return await self._read(place)
        except TimeoutError:
            raise CredentialUnavailable(f"Infisical did not answer within {self._patience:g} s") from None
        except (NotSent, AnswerLost, IdentityRefused, LoginUnavailable) as error:
            raise CredentialUnavailable(str(error)) from error

    async def _read(self, place: SecretLocation) -> Secret:
        answer = await self._authorised(place)
        if answer.status == 404 and not self._old and self._seen(answer).result is Result.MISCONFIGURED:
            self._old = True  # the server is older than that route
            answer = await self._authorised(place)
            self._old = self._seen(answer).result is not Result.MISCONFIGURED
        if answer.status == 200:
            return value_in(answer, place.name)
        raise self._refusal(answer)

    async def _authorised(self, place: SecretLocation) -> Answer:
        """Send the request, and repeat it once with a new token if the token was refused."""
        answer = await self._once(place)
        return await self._once(place) if self._is_about_token(answer) else answer

    async def _once(self, place: SecretLocation) -> Answer:
        await self._permit()
        answer: Answer | None = None
        try:
            token = await self._identity.token()
            answer = await self._transport.send("GET", self._routes.secret(place, old=self._old), token.bare)
        finally:
            self._learn(answer)
        if self._is_about_token(answer):
            self._identity.invalidate(token, used_up=is_used_up(self._seen(answer).message))
        elif answer.status < 500:
            token.worked = True
        return answer

    async def _permit(self) -> None:
        while True:
            try:
                granted = await self._permits.acquire(1)
            except (DatabaseUnavailable, DatabaseUnusable) as error:
                raise CredentialUnavailable("the read budget is not known yet", retry_after=1.0) from error
            if granted.permits:
                return
            if granted.wait > self._patience / 4:
                raise CredentialUnavailable("the read budget is used up", retry_after=granted.wait)
            await asyncio.sleep(max(granted.wait, 0.05))

    def _learn(self, answer: Answer | None) -> None:
        seen = None if answer is None or answer.status == 200 else self._seen(answer)
        self._permits.learn(
            read_rate(answer.headers) if answer is not None else None,
            metered=answer is not None and (seen is None or seen.metered),
            throttled_for=seen.retry_after if seen is not None else None,
        )

    def _is_about_token(self, answer: Answer) -> bool:
        return answer.status != 200 and self._seen(answer).result is Result.TOKEN_TROUBLE

    def _seen(self, answer: Answer) -> Observation:
        return read_refusal(Reply(_ASKED, *answer, self._now()))

    def _refusal(self, answer: Answer) -> CredentialUnavailable | CredentialUnreadable:
        seen = self._seen(answer)
        advice = _LASTING.get(seen.result)
        if advice is None:
            return CredentialUnavailable(seen.message, retry_after=seen.retry_after or 0.0)
        envelope = read_envelope(answer.body, secret="")
        return CredentialUnreadable(quoting(advice, envelope.message if envelope else ""))


def value_in(answer: Answer, name: str) -> Secret:
    """Return the value in an answer about the secret of that name; no error shows a part of it."""
    try:
        data = read_json(answer.body)
    except Unreadable:
        data = None
    secret: Any = data.get("secret") if isinstance(data, dict) else None
    if not isinstance(secret, dict):
        raise CredentialUnavailable("the server answered 200 but not as Infisical does: check the target's url")
    if str(secret.get("secretKey", name)).lower() != name.lower():
        raise CredentialUnavailable("the answer is about another secret: check what stands in front of Infisical")
    value = secret.get("secretValue")
    if not isinstance(value, str):
        raise CredentialUnreadable("Infisical's answer holds no value")
    if secret.get("secretValueHidden") is True:
        raise CredentialUnreadable("Infisical hides the value: give the machine identity the permission to read it")
    if not value.strip():
        raise CredentialUnreadable("the secret is empty")
    try:
        return key_in(value)
    except NoKey as flaw:
        raise CredentialUnreadable(f"the secret {flaw}: set its value to only the API key") from None
