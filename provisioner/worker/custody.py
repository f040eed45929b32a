"""Spend no creates on API keys that OpenRouter refuses, and none on any key while OpenRouter is in trouble.

A key that nobody has seen accepted lately is tried by a few requests first, all workers counted together. When these
are refused the other requests with that key wait, until a probe is accepted or the key is another one.
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
from provisioner.core.health import Blame, Upstream
from provisioner.core.holds import HELD_FOR, Holds, fingerprint, hold_of
from provisioner.core.model import Claim, Observation, OnConflict, Request, Retry, Seen
from provisioner.core.ports import Clock, Vault
from provisioner.core.secret import Secret

log = structlog.stdlib.get_logger()

SEALED: Final = "sealed:"
_CLOSED: Final = (CredentialUnknown, CredentialUnreadable, CredentialUnavailable)
TROUBLE: Final = "OpenRouter is in trouble"
# What Infisical says only after OpenRouter has accepted the key.
ACCEPTED: Final = frozenset({Seen.CREATED, Seen.UPDATED, Seen.WRONG_SCOPE, Seen.NAME_TAKEN})
# Others are trying the same key: waited for so many seconds, and then as long again in the queue.
SOON: Final = 0.3
# While OpenRouter is in trouble: back in so many seconds.
LATER: Final = 1.0
# That a key works is told to the other workers every so many seconds.
RETELL: Final = 60.0
# Workers that do not know yet may still hold requests back for so many seconds after a release.
SETTLING: Final = 10.0


class HeldBack(Exception):
    """A request must not be sent now; `outcome` says when it comes back."""

    def __init__(self, outcome: Retry) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


@dataclass(slots=True)
class _Key:
    """A key in use.

    `good`: it was accepted lately. `held`: it was refused. `told_at`: when the others heard that it works. `known` is
    set while it is one or the other.
    """

    name: str
    secret: Secret
    fingerprint: str
    good: bool = False
    held: bool = False
    probing: bool = False
    told_at: float = float("-inf")
    known: asyncio.Event = field(default_factory=asyncio.Event)

    def learn(self, *, good: bool, held: bool) -> None:
        """Take over what is known, and tell whoever waits for it."""
        self.good, self.held = good, held
        if good or held:
            self.known.set()
        else:
            self.known.clear()


class Custody:
    """Watches over the API keys of one target in this worker."""

    def __init__(self, target: str, *, holds: Holds, vault: Vault, clock: Clock) -> None:
        self.upstream = Upstream()
        self._target = target
        self._holds = holds
        self._vault = vault
        self._clock = clock
        self._salt = ""
        self._keys: dict[str, _Key] = {}
        self._trying: dict[int, _Key] = {}
        self._released: dict[str, float] = {}
        self._shown: str | None = ""  # whatever a worker before us left there

    def is_fine(self, request: Request, secret: Secret) -> bool:
        """Whether the request may be sent without asking anybody: nearly always."""
        key = self._keys.get(request.credential)
        return key is not None and key.good and key.secret is secret and not self.upstream.is_open

    async def admit(self, claim: Claim, secret: Secret) -> None:
        """Let a request be sent, or raise `HeldBack`."""
        try:
            key = await self._key(claim.request, secret)
            if key is not None and not key.good:
                await self._ask(claim, key)
        except DatabaseUnavailable as error:
            raise HeldBack(_again(LATER, "whether the API key works is not known just now")) from error
        if not self.upstream.may_send(self._clock.monotonic()):
            await self._return(claim)
            raise HeldBack(_again(LATER, f"{TROUBLE}: {self.upstream.reason}"))

    def accepts(self, claim: Claim, seen: Observation) -> bool:
        """Note a create's end where that is all there is to do: the key was known to work, and does."""
        if seen.seen not in ACCEPTED or self.upstream.is_open or claim.request.id in self._trying:
            return False
        name = claim.request.credential
        key = self._keys.get(name)
        self.upstream.accepted("sealed" if key is None else key.name, seen.elapsed, self._clock.monotonic())
        return key is None or key.good

    async def judge(self, claim: Claim, seen: Observation, sent: Secret | None) -> Retry | None:
        """What a create's end says about the key that was sent: how the request goes on if it is not at fault."""
        try:
            if seen.seen in ACCEPTED:
                await self._accepted(claim, seen)
            elif seen.seen is Seen.KEY_REFUSED and sent is not None:
                return await self._replaced(claim, sent) or await self._refused(claim, seen, sent)
            else:
                await self._return(claim)
        except DatabaseUnavailable:
            log.debug("key_not_shared", target=self._target)
        return None

    async def fingerprint(self, secret: Secret) -> str | None:
        """The fingerprint of a key that was sent; None while the database cannot be asked for the salt."""
        try:
            self._salt = self._salt or await self._holds.salt()
        except DatabaseUnavailable:
            return None
        return fingerprint(secret, self._salt)

    async def look(self, trouble: str | None = None) -> None:
        """See what the other workers found out, and whether a held key has been replaced; about once a second.

        `trouble` is why nothing at all works at the target: it is shown, as is OpenRouter's.
        """
        now = self._clock.monotonic()
        await self._show(trouble or (f"{TROUBLE}: {self.upstream.reason}" if self.upstream.is_open else None))
        for key in tuple(self._keys.values()):
            if key.good and self._told_long_ago(key, now):
                await self._tell(key, now)
        ours = {key.fingerprint: key for key in self._keys.values()}
        held = {(one.credential, one.fingerprint): one for one in await self._holds.held(list(ours))}
        for key in ours.values():
            one = held.get((key.name, key.fingerprint))
            key.probing = one is not None and one.probing
            if key.held or one is not None:
                key.learn(good=False, held=one is not None)
        lately = {name for name, until in self._released.items() if until > now}
        for name in {credential for credential, _ in held} | lately:
            if not name.startswith(SEALED[:-1] + "-"):
                await self._compare(name, {print_ for credential, print_ in held if credential == name}, now)

    async def _show(self, trouble: str | None) -> None:
        # What is the same as before is told again: another worker, to which the target works, may have struck it out.
        if trouble is not None or self._shown is not None:
            await self._holds.trouble(trouble)
            self._shown = trouble

    async def _compare(self, name: str, refused: set[str], now: float) -> None:
        """Release what waits for a credential whose key is not among the refused ones any more."""
        request = Request(id=0, project_id="", name="", description=None, credential=name, on_conflict=OnConflict.FAIL)
        try:
            key = await self._key(request, await self._vault.reopen(request))
        except _CLOSED:
            return
        if key is None or key.fingerprint in refused:
            return
        if await self._holds.release(name, key.fingerprint):
            log.info("credential_released", target=self._target, credential=name, reason="the key is another one")
        self._released.setdefault(name, now + SETTLING)

    async def _key(self, request: Request, secret: Secret) -> _Key | None:
        """What is known of a request's key; None for a sealed one that nothing is held against."""
        key = self._keys.get(request.credential)
        if key is not None and (key.secret is secret or key.secret == secret):
            key.secret = secret
            return key
        if not self._salt:
            self._salt = await self._holds.salt()
        print_ = fingerprint(secret, self._salt)
        if request.credential.startswith(SEALED):
            return self._keys.get(f"sealed-{print_}")
        key = _Key(name=_canonical(request.credential), secret=secret, fingerprint=print_)
        self._keys[request.credential] = key
        return key

    async def _ask(self, claim: Claim, key: _Key) -> None:
        confirming = claim.failures > 0
        if key.held and not key.probing and not confirming:
            raise HeldBack(_held(key.name))
        leave = await self._holds.ask(key.name, key.fingerprint, confirming=confirming)
        if leave.granted:
            key.probing = False
            self._trying[claim.request.id] = key
            return
        if leave.accepted_ago is not None:
            key.told_at = self._clock.monotonic()
            self.upstream.remember(key.name, key.told_at - leave.accepted_ago)
        if leave.held or leave.accepted_ago is not None:
            key.learn(good=not leave.held, held=leave.held)
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON):
                await key.known.wait()
        if key.held:
            raise HeldBack(_held(key.name))
        if not key.good:
            raise HeldBack(_again(SOON, f"others are trying the API key of credential {key.name} first"))

    async def _accepted(self, claim: Claim, seen: Observation) -> None:
        now = self._clock.monotonic()
        key = self._trying.pop(claim.request.id, None) or self._keys.get(claim.request.credential)
        if self.upstream.accepted("sealed" if key is None else key.name, seen.elapsed, now):
            log.info("target_works", target=self._target)
        if key is not None and not key.good:
            key.learn(good=True, held=False)
            await self._tell(key, now)

    async def _tell(self, key: _Key, now: float) -> None:
        key.told_at = now
        if await self._holds.accepted(key.name, key.fingerprint):
            log.info("credential_released", target=self._target, credential=key.name, reason="the key is accepted")
            self._released[key.name] = now + SETTLING

    def _told_long_ago(self, key: _Key, now: float) -> bool:
        return now - key.told_at > RETELL and self.upstream.accepted_since(key.name, key.told_at)

    async def _replaced(self, claim: Claim, sent: Secret) -> Retry | None:
        """Whether another key has taken the place of the refused one meanwhile: then nobody is to blame."""
        try:
            if await self._vault.reopen(claim.request) == sent:
                return None
            message = "the API key was refused, and there is another one now: it is tried next"
        except _CLOSED as error:
            message = str(error)
        await self._return(claim)
        return _again(SOON, message)

    async def _refused(self, claim: Claim, seen: Observation, sent: Secret) -> Retry | None:
        tried = self._trying.get(claim.request.id)
        key = tried or await self._suspected(claim.request, sent)
        was_open, was_held = self.upstream.is_open, key.held
        now = self._clock.monotonic()
        blame = self.upstream.refused(key.name, claim.request.id, seen.elapsed, seen.message, now)
        if blame is not Blame.KEY:
            if blame is Blame.UPSTREAM and not was_open:
                log.warning("target_held", target=self._target, reason=f"{TROUBLE}: {seen.message}")
            await self._return(claim)
            return _again(LATER, seen.message)
        self._trying.pop(claim.request.id, None)
        if key.good:
            key.learn(good=False, held=False)
            await self._holds.suspect(key.name, key.fingerprint)
        held, newly = await self._holds.refused(key.name, key.fingerprint, seen.message)
        key.learn(good=False, held=held)
        if newly:
            waiting = 0 if key.name.startswith("sealed-") else await self._holds.hold_back(key.name)
            log.warning(
                "credential_held",
                target=self._target,
                credential=key.name,
                fingerprint=key.fingerprint,
                requests=waiting,
                reason=seen.message,
            )
        return _held(key.name) if was_held and not claim.failures else None

    async def _suspected(self, request: Request, secret: Secret) -> _Key:
        """The key of a request that was sent without leave."""
        key = await self._key(request, secret)
        if key is None:
            if not self._salt:
                self._salt = await self._holds.salt()
            print_ = fingerprint(secret, self._salt)
            key = self._keys[f"sealed-{print_}"] = _Key(name=f"sealed-{print_}", secret=secret, fingerprint=print_)
        return key

    async def _return(self, claim: Claim) -> None:
        """A try said nothing about the key: somebody else may try."""
        key = self._trying.pop(claim.request.id, None)
        if key is not None:
            await self._holds.undecided(key.name, key.fingerprint)


def _canonical(credential: str) -> str:
    return credential.lower().replace("_", "-")


def _again(delay: float, message: str) -> Retry:
    return Retry(delay=delay, message=message)


def _held(credential: str) -> Retry:
    message = f"the API key of credential {credential} is refused: correct it, and this request goes on"
    return Retry(delay=HELD_FOR, message=message, hold=hold_of(credential))
