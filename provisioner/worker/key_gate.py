"""Spend no creates on API keys that OpenRouter refuses, and none on any key while OpenRouter is in trouble.

A key that was not accepted recently is tried by a few requests first, counted over all workers. If these are refused,
the other requests with that key wait until a probe is accepted or the credential has another key. `core.key_health`
decides about keys and `core.target_health` about blame; this module asks, waits and remembers.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from provisioner.core.errors import (
    CredentialUnavailable,
    CredentialUnknown,
    CredentialUnreadable,
    DatabaseUnavailable,
)
from provisioner.core.key_check import REASONS, KeyKind
from provisioner.core.key_health import SEALED, canonical, fingerprint, waiting_for_key
from provisioner.core.model import Claim, Observation, OnConflict, Request, Result, Retry
from provisioner.core.ports import Clock, CredentialHealth, Vault
from provisioner.core.secret import Secret
from provisioner.core.target_health import Blame, Upstream
from provisioner.worker.key_checks import KeyChecks

log = structlog.stdlib.get_logger()

_CLOSED: Final = (CredentialUnknown, CredentialUnreadable, CredentialUnavailable)
TROUBLE: Final = "OpenRouter is in trouble"
# Results that Infisical only returns after OpenRouter has accepted the key.
ACCEPTED: Final = frozenset({Result.CREATED, Result.UPDATED, Result.WRONG_SCOPE, Result.NAME_TAKEN})
# Seconds to wait for other requests that try the same key: here, and then once more in the queue.
TRIAL_WAIT: Final = 0.3
# Seconds until a request comes back while OpenRouter is in trouble.
OUTAGE_RETRY: Final = 1.0
# Seconds between two reports to the other workers that a key works.
REPORT_INTERVAL: Final = 60.0
# For this many seconds after a release, workers that do not know of it may still withhold requests.
RELEASE_GRACE: Final = 10.0
# Seconds between two rounds of forgetting unused keys.
FORGET_INTERVAL: Final = 60.0
# Sealed keys that one worker remembers; each may belong to a single request.
MOST_SEALED: Final = 1000


class Postponed(Exception):
    """A request must not be sent now; `outcome` says when it comes back."""

    def __init__(self, outcome: Retry) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


@dataclass(slots=True)
class _Key:
    """A key in use, under whatever names requests give its credential.

    `good`: it was accepted recently. `quarantined`: it was refused. `told_at`: when the other workers were told that it
    works. `known` is set as soon as it is good or quarantined.
    """

    name: str
    secret: Secret
    fingerprint: str
    good: bool = False
    quarantined: bool = False
    probing: bool = False
    told_at: float = float("-inf")
    known: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> tuple[str, str]:
        """Its identity for all workers."""
        return self.name, self.fingerprint

    def learn(self, *, good: bool, quarantined: bool) -> None:
        """Take over what is known, and wake all that wait for it."""
        self.good, self.quarantined = good, quarantined
        if good or quarantined:
            self.known.set()
        else:
            self.known.clear()


class KeyGate:
    """Lets the requests of one target pass whose API keys may be used."""

    def __init__(
        self,
        target: str,
        *,
        health: CredentialHealth,
        vault: Vault,
        clock: Clock,
        checks: KeyChecks | None = None,
    ) -> None:
        self.upstream = Upstream()
        self.refreshed = asyncio.Event()  # what earlier workers stored has been read
        self._target = target
        self._health = health
        self._vault = vault
        self._clock = clock
        self._checks = checks
        self._salt = ""
        self._keys: dict[tuple[str, str], _Key] = {}
        self._by_credential: dict[str, _Key] = {}  # by the word in the row: two words may mean one key
        self._trying: dict[int, _Key] = {}
        self._released: dict[str, float] = {}
        self._forget_at = clock.monotonic() + FORGET_INTERVAL

    @property
    def trouble(self) -> str | None:
        """Why creates are withheld whatever their key; None if they are not."""
        return f"{TROUBLE}: {self.upstream.reason}" if self.upstream.is_open else None

    def is_fine(self, request: Request, secret: Secret) -> bool:
        """Whether the request may be sent without asking; this is the usual case."""
        key = self._by_credential.get(request.credential)
        return key is not None and key.good and key.secret is secret and not self.upstream.is_open

    async def admit(self, claim: Claim, secret: Secret) -> None:
        """Return if a request may be sent, or raise `Postponed`."""
        try:
            key = await self._key(claim.request, secret)
            if key is not None and not key.good:
                await self._ask(claim, key)
        except DatabaseUnavailable as error:
            raise Postponed(
                Retry(delay=OUTAGE_RETRY, message="it is not known yet whether the API key works")
            ) from error
        if not self.upstream.may_send(self._clock.monotonic()):
            await self._undecided(claim)
            raise Postponed(Retry(delay=OUTAGE_RETRY, message=f"{TROUBLE}: {self.upstream.reason}"))

    def accepts(self, claim: Claim, observation: Observation) -> bool:
        """Note a create's result in the usual case: the key was known to work, and still does."""
        if observation.result not in ACCEPTED or self.upstream.is_open or claim.request.id in self._trying:
            return False
        key = self._by_credential.get(claim.request.credential)
        self.upstream.accepted("sealed" if key is None else key.name, observation.elapsed, self._clock.monotonic())
        return key is None or key.good

    async def judge(self, claim: Claim, observation: Observation, sent: Secret | None) -> Retry | None:
        """Learn from a create's result about the key; returns a retry if the request is not at fault."""
        try:
            if observation.result in ACCEPTED:
                await self._accepted(claim, observation)
            elif observation.result is Result.KEY_REFUSED and sent is not None:
                return await self._replaced(claim, sent) or await self._refused(claim, observation, sent)
            else:
                await self._undecided(claim)
        except DatabaseUnavailable:
            log.debug("key_not_shared", target=self._target)
        return None

    def known_fingerprint(self, request: Request, secret: Secret) -> str | None:
        """Return the fingerprint of a request's key if it is known already, which is the usual case."""
        key = self._by_credential.get(request.credential)
        return key.fingerprint if key is not None and key.secret is secret else None

    async def fingerprint(self, secret: Secret) -> str | None:
        """Return the fingerprint of a key that was sent; None while the database is unavailable for the salt."""
        try:
            return fingerprint(secret, await self._known_salt())
        except DatabaseUnavailable:
            return None

    async def refresh(self, *, troubled: bool = True) -> None:
        """Read what the other workers found out, and whether a quarantined key was replaced; about once a second.

        Does nothing if no named key is quarantined (`troubled`) and nothing here depends on one that was.
        """
        now = self._clock.monotonic()
        for key in tuple(self._keys.values()):
            if key.good and self._told_long_ago(key, now):
                await self._tell(key, now)
        concerned = troubled or any(name.startswith(SEALED) or not key.good for (name, _), key in self._keys.items())
        found = await self._health.quarantined(tuple(self._keys)) if concerned or not self.refreshed.is_set() else ()
        quarantined = {(one.credential, one.fingerprint): one for one in found}
        for key in self._keys.values():
            one = quarantined.get(key.id)
            key.probing = one is not None and one.probing
            if key.quarantined or one is not None:
                key.learn(good=False, quarantined=one is not None)
        lately = {name for name, until in self._released.items() if until > now}
        for name in {credential for credential, _ in quarantined} | lately:
            if not name.startswith(SEALED):
                await self._compare(name, {print_ for credential, print_ in quarantined if credential == name}, now)
        if (concerned or self._keys) and now >= self._forget_at:
            self._forget_at = now + FORGET_INTERVAL
            await self._health.forget()
        self.refreshed.set()

    async def _compare(self, name: str, refused: set[str], now: float) -> None:
        """Release what waits for a credential whose present key is not among the refused ones."""
        request = Request(id=0, project_id="", name="", description=None, credential=name, on_conflict=OnConflict.FAIL)
        try:
            key = await self._key(request, await self._vault.reopen(request))
        except _CLOSED:
            return
        if key is None or key.fingerprint in refused:
            return
        if await self._health.replaced(name, key.fingerprint):
            log.info("credential_released", target=self._target, credential=name, reason="the key is another one")
        self._released.setdefault(name, now + RELEASE_GRACE)

    async def _key(self, request: Request, secret: Secret) -> _Key | None:
        """Return what is known about a request's key; None for a sealed key with nothing against it."""
        key = self._by_credential.get(request.credential)
        if key is not None and (key.secret is secret or key.secret == secret):
            key.secret = secret
            return key
        if request.credential.startswith("sealed:"):
            return self._keys.get(await self._sealed(secret))
        key = self._by_credential[request.credential] = await self._named(canonical(request.credential), secret)
        return key

    async def _named(self, name: str, secret: Secret) -> _Key:
        """Return the key of a named credential, forgetting its previous key."""
        print_ = fingerprint(secret, await self._known_salt())
        if (key := self._keys.get((name, print_))) is None:
            self._keys = {id_: known for id_, known in self._keys.items() if id_[0] != name}
            self._by_credential = {word: known for word, known in self._by_credential.items() if known.name != name}
            key = self._keys[name, print_] = _Key(name=name, secret=secret, fingerprint=print_)
        return key

    async def _sealed(self, secret: Secret) -> tuple[str, str]:
        print_ = fingerprint(secret, await self._known_salt())
        return f"{SEALED}{print_}", print_

    async def _known_salt(self) -> str:
        if not self._salt:
            self._salt = await self._health.salt()
        return self._salt

    async def _ask(self, claim: Claim, key: _Key) -> None:
        confirming = claim.failures > 0
        if key.quarantined and not key.probing and not confirming:
            raise Postponed(waiting_for_key(key.name))
        await self._prove(key)
        permit = await self._health.ask(*key.id, confirming=confirming)
        if permit.granted:
            key.probing = False
            self._trying[claim.request.id] = key
            return
        if permit.accepted_for is not None:
            key.told_at = self._clock.monotonic()
            self.upstream.remember(key.name, key.told_at - permit.accepted_for.total_seconds())
        if permit.quarantined or permit.accepted_for is not None:
            key.learn(good=not permit.quarantined, quarantined=permit.quarantined)
        with suppress(TimeoutError):
            async with asyncio.timeout(TRIAL_WAIT):
                await key.known.wait()
        if key.quarantined:
            raise Postponed(waiting_for_key(key.name))
        if not key.good:
            raise Postponed(
                Retry(delay=TRIAL_WAIT, message=f"others are trying the API key of credential {key.name} first")
            )

    async def _prove(self, key: _Key) -> None:
        """Spend no create on a key that OpenRouter itself calls invalid. Raises `Postponed`."""
        verdict = KeyKind.UNKNOWN if self._checks is None else await self._checks.check(key.secret, key.fingerprint)
        if verdict not in REASONS:
            return
        newly = await self._health.found_invalid(*key.id, REASONS[verdict])
        key.learn(good=False, quarantined=True)
        key.probing = False
        if newly:
            await self._tell_quarantined(key, REASONS[verdict])
        raise Postponed(waiting_for_key(key.name))

    async def _accepted(self, claim: Claim, observation: Observation) -> None:
        now = self._clock.monotonic()
        key = self._trying.pop(claim.request.id, None) or self._by_credential.get(claim.request.credential)
        if self.upstream.accepted("sealed" if key is None else key.name, observation.elapsed, now):
            log.info("breaker_closed", target=self._target)
        if key is not None and not key.good:
            key.learn(good=True, quarantined=False)
            await self._tell(key, now)

    async def _tell(self, key: _Key, now: float) -> None:
        key.told_at = now
        if await self._health.accepted(*key.id):
            log.info("credential_released", target=self._target, credential=key.name, reason="the key is accepted")
            self._released[key.name] = now + RELEASE_GRACE

    def _told_long_ago(self, key: _Key, now: float) -> bool:
        return now - key.told_at > REPORT_INTERVAL and self.upstream.accepted_since(key.name, key.told_at)

    async def _replaced(self, claim: Claim, sent: Secret) -> Retry | None:
        """Return a retry if another key has replaced the refused one meanwhile: then nobody is to blame."""
        try:
            if await self._vault.reopen(claim.request) == sent:
                return None
            message = "the API key was refused, and there is another one now: it is tried next"
        except _CLOSED as error:
            message = str(error)
        await self._undecided(claim)
        return Retry(delay=TRIAL_WAIT, message=message)

    async def _refused(self, claim: Claim, observation: Observation, sent: Secret) -> Retry | None:
        key = self._trying.get(claim.request.id) or await self._suspect(claim.request, sent)
        was_open, was_quarantined = self.upstream.is_open, key.quarantined
        now = self._clock.monotonic()
        blame = self.upstream.refused(key.name, claim.request.id, observation.elapsed, observation.message, now)
        if blame is not Blame.KEY:
            if blame is Blame.UPSTREAM and not was_open:
                log.warning("breaker_opened", target=self._target, reason=f"{TROUBLE}: {observation.message}")
            await self._undecided(claim)
            return Retry(delay=OUTAGE_RETRY, message=observation.message)
        self._trying.pop(claim.request.id, None)
        if key.good:
            key.learn(good=False, quarantined=False)
            await self._health.suspected(*key.id)
        quarantined, newly = await self._health.refused(*key.id, observation.message)
        key.learn(good=False, quarantined=quarantined)
        if newly:
            await self._tell_quarantined(key, observation.message)
        return waiting_for_key(key.name) if was_quarantined and not claim.failures else None

    async def _tell_quarantined(self, key: _Key, reason: str) -> None:
        waiting = 0 if key.name.startswith(SEALED) else await self._health.hold_back(key.name)
        log.warning(
            "credential_quarantined",
            target=self._target,
            credential=key.name,
            fingerprint=key.fingerprint,
            requests=waiting,
            reason=reason,
        )

    async def _suspect(self, request: Request, secret: Secret) -> _Key:
        """Return the key of a request that was sent without a trial permit."""
        key = await self._key(request, secret)
        if key is None:
            name, print_ = id_ = await self._sealed(secret)
            sealed = [known for known in self._keys if known[0].startswith(SEALED)]
            for oldest in sealed[: len(sealed) + 1 - MOST_SEALED]:
                del self._keys[oldest]
            key = self._keys[id_] = _Key(name=name, secret=secret, fingerprint=print_)
        return key

    async def _undecided(self, claim: Claim) -> None:
        """Note that a trial showed nothing about the key, so another request may try."""
        key = self._trying.pop(claim.request.id, None)
        if key is not None:
            await self._health.undecided(*key.id)
