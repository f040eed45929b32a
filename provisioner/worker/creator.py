"""Carry one claim to its end: call, observe, decide, until there is something to settle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from provisioner.core.errors import CredentialUnknown, CredentialUnreadable, DatabaseUnavailable
from provisioner.core.health import Breaker
from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Connection,
    Do,
    Observation,
    Outcome,
    Request,
    Retry,
    Seen,
    Settlement,
    Trace,
)
from provisioner.core.policy import Moment, Rules, decide, first_action
from provisioner.core.ports import Clock, Connections, Permits, Vault
from provisioner.worker.membership import Membership

log = structlog.stdlib.get_logger()

# What certainly left nothing behind, because it never left.
_UNSENT: Final = frozenset({Seen.NOT_SENT, Seen.CREDENTIAL_UNKNOWN, Seen.CREDENTIAL_UNREADABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One Infisical and the ways to it."""

    name: str
    connections: Connections
    vault: Vault
    writes: Permits
    reads: Permits
    rules: Rules
    breaker: Breaker


class Creator:
    """Makes the connections of one target, one claim at a time; many run side by side."""

    def __init__(self, target: Target, *, membership: Membership, clock: Clock, random: Callable[[], float]) -> None:
        self._target = target
        self._membership = membership
        self._clock = clock
        self._random = random
        self._skew = 0.0

    async def carry(self, claim: Claim) -> Settlement:
        """Carry one claim to its end. A defect of ours costs the row an attempt, not the process its life."""
        try:
            return await self._carry(claim)
        except Exception as error:  # the row must not be lost, and the others must go on
            log.exception("creator_failed", request=claim.request.id)
            outcome = decide(
                claim,
                Action.CREATE,
                Observation(seen=Seen.UNKNOWN, message=f"an error of the provisioner's own: {type(error).__name__}"),
                rules=self._target.rules,
                moment=replace(self._moment(), target_works=True),
            )
            if isinstance(outcome, Do):
                raise
            return Settlement(claim=claim, outcome=outcome, sent=claim.sent + 1)

    async def _carry(self, claim: Claim) -> Settlement:
        """Make calls for one claim until its outcome is certain enough to be written down."""
        action, subject, sent = first_action(claim), None, claim.sent
        trace: list[Trace] = []
        if claim.cancelled and action is Action.CREATE:
            return Settlement(claim=claim, outcome=Cancel(), sent=sent)
        while True:
            if action is not Action.CREATE and (wait := await self._read_permit(action)):
                outcome: Outcome = Retry(delay=wait, message="the read budget is used up", unknown=claim.unknown)
                break
            started_at = self._clock.now()
            seen = await self._call(action, claim, subject)
            self._learn(action, seen)
            if action is Action.CREATE and seen.seen not in _UNSENT:
                sent += 1
            trace.append(_trace(action, started_at, seen))
            decision = decide(claim, action, seen, rules=self._target.rules, moment=self._moment())
            if not isinstance(decision, Do):
                outcome = decision
                break
            action, subject = decision.action, decision.connection
        if sent == claim.sent:
            self._target.writes.give_back(1)
        return Settlement(claim=claim, outcome=outcome, sent=sent, trace=tuple(trace))

    async def _call(self, action: Action, claim: Claim, subject: Connection | None) -> Observation:
        try:
            return await self._send(action, claim.request, subject)
        except CredentialUnknown as error:
            return Observation(seen=Seen.CREDENTIAL_UNKNOWN, message=str(error))
        except CredentialUnreadable as error:
            return Observation(seen=Seen.CREDENTIAL_UNREADABLE, message=str(error))

    async def _send(self, action: Action, request: Request, subject: Connection | None) -> Observation:
        connections = self._target.connections
        if action is Action.CREATE:
            key = await self._target.vault.open(request)
            if not self._membership.holds():
                return Observation(seen=Seen.NOT_SENT, message="the lease ran out before the create was sent")
            return await connections.create(request, key)
        if action is Action.REPLACE and subject is not None:
            return await connections.replace(request, subject, await self._target.vault.open(request))
        if action is Action.REMOVE and subject is not None:
            return await connections.remove(subject)
        return await connections.look_up(request)

    async def _read_permit(self, action: Action) -> float:
        """Ask for a permit for a look-up; returns the seconds to come back in when there is none."""
        if action not in {Action.LOOK_UP, Action.IDENTIFY}:
            return 0.0
        try:
            granted = await self._target.reads.acquire(1)
        except DatabaseUnavailable:
            return 1.0
        return 0.0 if granted.permits else max(granted.wait, 0.1)

    def _learn(self, action: Action, seen: Observation) -> None:
        if seen.skew is not None:
            self._skew = seen.skew
        if action is Action.CREATE:
            self._target.writes.learn(seen.rate, metered=seen.metered, throttled_for=seen.retry_after)
        elif action in {Action.LOOK_UP, Action.IDENTIFY}:
            self._target.reads.learn(seen.rate, metered=seen.metered, throttled_for=seen.retry_after)
        breaker = self._target.breaker
        if breaker.observe(seen.seen, seen.message, self._clock.monotonic()):
            if breaker.is_open:
                log.warning("target_held", target=self._target.name, reason=breaker.reason)
            else:
                log.info("target_works", target=self._target.name)

    def _moment(self) -> Moment:
        works = self._target.breaker.works(self._clock.monotonic())
        return Moment(now=self._clock.now(), jitter=self._random(), skew=self._skew, target_works=works)


def _trace(action: Action, started_at: datetime, seen: Observation) -> Trace:
    return Trace(
        action=action,
        started_at=started_at,
        elapsed=seen.elapsed,
        status=seen.status,
        req_id=seen.req_id,
        seen=seen.seen,
        message=seen.message,
    )
