"""Keep one access token for all calls of a target.

When the token is missing, one call logs in and the others wait for it. A refused login is not repeated automatically,
because three failures lock the client id for every worker that uses it. A token is renewed by logging in again:
Infisical's own renewal fails with its default settings, and deletes the live token.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
import structlog
from multidict import CIMultiDict
from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_attempt, wait_exponential, wait_random

from provisioner.core.errors import IdentityRefused, LoginUnavailable
from provisioner.core.secret import Secret
from provisioner.infisical.auth import (
    Auth,
    Granted,
    Limited,
    Login,
    Refused,
    StaticToken,
    TokenExchange,
    Trouble,
    UniversalAuth,
    read_login,
)
from provisioner.infisical.refusals import elsewhere
from provisioner.infisical.transport import AnswerLost, NotSent, Transport
from provisioner.infisical.wire import Routes

LONGEST_PAUSE: Final = 60.0  # seconds between logins that are refused, or whose tokens are refused at once
USES_FORGOTTEN_AFTER: Final = 600.0  # seconds after which a token is assumed to have unlimited uses again

log = structlog.stdlib.get_logger()


@dataclass(slots=True, eq=False)
class Token:
    """An access token in use.

    `bare` and `json` are the headers that carry it, without and with a body. It is renewed at `renew_at` and expires at
    `ends`, on the monotonic clock. Each call that sees it accepted sets `worked`. `uses` counts the calls that took it,
    and `refused` those for which Infisical said that its uses were exhausted.
    """

    secret: Secret
    renew_at: float
    ends: float
    bare: Mapping[str, str] = field(repr=False)
    json: Mapping[str, str] = field(repr=False)
    worked: bool = False
    uses: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When to log in again, in seconds.

    `lockout`: after a refusal that counts towards the lockout of Universal Auth; slightly more than the server's 300 s.
    `refused`: after another refusal, doubled each time. `tries` and `first_pause`: within one login during an outage.
    `outage`: after a login that failed despite these tries. `farewell`: for revoking the token, because a clean stop
    does not wait for a courtesy.
    """

    lockout: float = 305.0
    refused: float = 2.0
    tries: int = 3
    first_pause: float = 0.5
    outage: float = 5.0
    farewell: float = 5.0


@dataclass(frozen=True, slots=True)
class _LoginPause:
    """No login until this time, unless the refused secret has been replaced."""

    error: type[IdentityRefused | LoginUnavailable]
    message: str
    until: float
    secret: Secret | None = None


class Identity:
    """The machine identity of one target. `heard` is called with the outcome of each login."""

    def __init__(
        self,
        auth: Auth,
        transport: Transport,
        routes: Routes,
        *,
        target: str = "default",
        patience: Patience | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        heard: Callable[[str], None] | None = None,
    ) -> None:
        self._auth = auth
        self._heard = heard
        self._transport = transport
        self._routes = routes
        self._patience = patience or Patience()
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._hold: _LoginPause | None = None
        self._elsewhere = elsewhere(routes.revoke.host or "")
        self._stillborn = 0
        self._refusals = 0
        self._most_uses = math.inf
        self._uses_told = -math.inf
        self._log = log.bind(target=target)

    def current(self) -> Token | None:
        """Return the token for one call; None if there is none, or it must be renewed or is used up."""
        token, now = self._token, self._monotonic()
        return token if token is not None and now < token.renew_at and self._take(token, now) else None

    async def token(self) -> Token:
        """Return a token that should work for one call. Raises `IdentityRefused` or `LoginUnavailable`."""
        if (token := self.current()) is not None:
            return token
        token, now = self._token, self._monotonic()
        if token is not None and now < token.ends and self._lock.locked() and self._take(token, now):
            return token  # another call renews it early; this one need not wait
        async with self._lock:
            return await self._renewed()

    def invalidate(self, token: Token, *, used_up: bool = False) -> bool:
        """Note that Infisical refuses this token; ignored if it has been replaced meanwhile.

        `used_up`: its number of uses is exhausted. The number is remembered, so that later tokens are replaced in time.
        A server may say so once and then no longer know the token; returns whether that was the reason.
        """
        now = self._monotonic()
        used_up = used_up or token.refused > 0
        if used_up:
            token.refused += 1
            self._most_uses = max(1, min(self._most_uses, token.uses - token.refused))
            self._uses_told = now
        if token is not self._token:
            return used_up
        self._token = None
        if isinstance(self._auth, StaticToken):
            if token.worked:
                self._refusals = 0
            message = (
                f"Infisical refuses the access token from the settings: replace it with a valid one{self._elsewhere}"
            )
            self._hold = _LoginPause(IdentityRefused, message, now + self._next_pause(), token.secret)
            self._log.error("login_refused", reason=message)
            return used_up
        # A token that is used up has worked, even if the answers to its calls are still outstanding.
        worked = token.worked or (used_up and token.refused < token.uses)
        self._stillborn = 0 if worked else self._stillborn + 1
        if self._stillborn > 1:
            # Logging in does not help, and at the pace of the calls it would be a storm.
            pause = min(LONGEST_PAUSE, 2.0 ** min(self._stillborn - 2, 10))
            message = "Infisical refuses access tokens that it has just issued"
            self._hold = _LoginPause(LoginUnavailable, message, now + pause)
        return used_up

    async def revoke(self) -> None:
        """Revoke the token, as a courtesy at a clean stop: one attempt, whose failure does not matter."""
        token, self._token = self._token, None
        if token is None or isinstance(self._auth, StaticToken):
            return
        body = orjson.dumps({"accessToken": token.secret.reveal()})
        try:
            async with asyncio.timeout(self._patience.farewell):
                await self._transport.send("POST", self._routes.revoke, token.json, body)
        except (NotSent, AnswerLost, TimeoutError) as exc:
            self._log.debug("token_not_revoked", reason=str(exc))

    async def _renewed(self) -> Token:
        """Return the token of the task that logged in while we waited for the lock, or a new one."""
        if (current := self.current()) is not None:
            return current
        token, now = self._token, self._monotonic()
        try:
            self._token = await self._log_in()
        except (IdentityRefused, LoginUnavailable):
            if token is not None and now < token.ends and self._take(token, now):
                return token
            raise
        self._token.uses += 1
        return self._token

    def _take(self, token: Token, now: float) -> bool:
        """Count a use of the token, unless it is used up according to earlier tokens."""
        if now - self._uses_told > USES_FORGOTTEN_AFTER:
            self._most_uses = math.inf
        if token.uses >= self._most_uses:
            return False
        token.uses += 1
        return True

    def _next_pause(self) -> float:
        """Return the seconds until the next login, where only our own patience limits it."""
        pause = min(LONGEST_PAUSE, self._patience.refused * 2.0 ** min(self._refusals, 10))
        self._refusals += 1
        return pause

    async def _log_in(self) -> Token:
        self._check_hold(None)
        try:
            secret = self._auth.secret()
        except (OSError, ValueError) as exc:
            raise self._held(
                LoginUnavailable, f"the identity's secret cannot be read: {exc}", self._patience.outage
            ) from exc
        self._check_hold(secret)
        begins = self._monotonic()
        if isinstance(self._auth, StaticToken):
            return _token(Granted(token=secret, lifetime=math.inf), begins)
        login = await self._try(self._auth, secret)
        if self._heard is not None:
            self._heard(type(login).__name__.lower())
        match login:
            case Granted() as granted:
                self._refusals = 0
                self._log.info("logged_in", lifetime=granted.lifetime if granted.lifetime < math.inf else None)
                return _token(granted, begins)
            case Refused(message=message, counted=counted, locked=locked):
                pause = self._patience.lockout if counted else self._next_pause()
                raise self._held(IdentityRefused, message, pause, None if locked else secret)
            case Limited(pause=pause):
                message = f"over the rate limit of logins; the next one in {pause:g} s"
                raise self._held(LoginUnavailable, message, pause)
            case Trouble(message=message):
                raise self._held(LoginUnavailable, message, self._patience.outage)

    def _check_hold(self, secret: Secret | None) -> None:
        hold = self._hold
        if hold is not None and hold.secret == secret and self._monotonic() < hold.until:
            raise hold.error(hold.message)

    def _held(
        self, error: type[IdentityRefused | LoginUnavailable], message: str, pause: float, secret: Secret | None = None
    ) -> IdentityRefused | LoginUnavailable:
        self._hold = _LoginPause(error, message, self._monotonic() + pause, secret)
        if error is IdentityRefused:
            self._log.error("login_refused", reason=message)
        else:
            self._log.warning("login_unavailable", reason=message)
        return error(message)

    async def _try(self, auth: UniversalAuth | TokenExchange, secret: Secret) -> Login:
        """Log in, and retry only if the way to Infisical was in trouble."""
        pause = self._patience.first_pause
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._patience.tries),
            wait=wait_exponential(multiplier=pause, max=5.0) + wait_random(0, pause),
            retry=retry_if_result(lambda login: isinstance(login, Trouble)),
            sleep=asyncio.sleep,
        )
        try:
            return await retrying(self._ask, auth, secret)
        except RetryError as given_up:
            login: Login = given_up.last_attempt.result()
            return login

    async def _ask(self, auth: UniversalAuth | TokenExchange, secret: Secret) -> Login:
        try:
            body = auth.body(secret)
        except TypeError:
            return Refused(message="the identity's secret is no text that JSON can hold")
        url = self._routes.login(auth.method)
        try:
            answer = await self._transport.send("POST", url, _JSON, body)
        except (NotSent, AnswerLost) as exc:
            return Trouble(message=str(exc))
        status, headers, content = answer
        return read_login(status, headers, content, secret=secret, method=auth.method, host=url.host or "")


_JSON: Final[Mapping[str, str]] = CIMultiDict({"Content-Type": "application/json"})


def _token(granted: Granted, begins: float) -> Token:
    lifetime = granted.lifetime
    # A token is renewed when a fifth of its life is left, but at least a minute early if it lives long enough.
    ahead = max(lifetime / 5, min(60.0, lifetime / 2)) if lifetime < math.inf else 0.0
    bearer = {"Authorization": f"Bearer {granted.token.reveal()}"}
    return Token(
        secret=granted.token,
        renew_at=begins + lifetime - ahead,
        ends=begins + lifetime,
        bare=CIMultiDict(bearer),
        json=CIMultiDict({**bearer, "Content-Type": "application/json"}),
    )
