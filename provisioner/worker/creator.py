"""Carry out one claim: call, observe, decide, and repeat until there is something to settle."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from provisioner.core.changes import first_step, recorded_twice
from provisioner.core.doubt import is_evidence, left_in_doubt, possible_create, with_doubt
from provisioner.core.endings import database_silent, with_leftovers, without_budget
from provisioner.core.errors import (
    CredentialUnavailable,
    CredentialUnknown,
    CredentialUnreadable,
    DatabaseUnavailable,
)
from provisioner.core.model import (
    Action,
    AttemptRecord,
    Claim,
    Connection,
    Decision,
    Do,
    Observation,
    Outcome,
    Proof,
    Result,
    Retry,
    SentCreate,
    Settlement,
    Succeed,
)
from provisioner.core.policy import (
    DecisionContext,
    decide,
    plain_success,
    sent_description,
)
from provisioner.core.ports import Clock, Permits
from provisioner.core.secret import Secret
from provisioner.core.skew import dated
from provisioner.worker.fault_attribution import FaultAttribution
from provisioner.worker.key_gate import Postponed
from provisioner.worker.lease_state import LeaseState
from provisioner.worker.reads import learn_from
from provisioner.worker.records import lost_attempt, record_of, was_sent
from provisioner.worker.target import Target

log = structlog.stdlib.get_logger()

PERMIT_PATIENCE: Final = 12.0  # seconds: slightly longer than another worker may take to find out the read limit
SHORT_PERMIT_PATIENCE: Final = 2.0  # seconds; short, because a create could use the slot meanwhile
CLOCK_SAMPLE_INTERVAL: Final = 0.1  # seconds between two creates that are compared with the clock: each tells the same
_LOOKING: Final = frozenset({Action.LOOK_UP, Action.IDENTIFY, Action.INSPECT, Action.CONFIRM})
_DELETING: Final = frozenset({Action.REMOVE, Action.DELETE})
_WITH_KEY: Final = frozenset({Action.CREATE, Action.REPLACE})
_FIRST_CHANGES: Final = frozenset({Action.UPDATE, Action.DELETE})
_BROUGHT_TO_ITS_END: Final = frozenset({Action.REPLACE, Action.REMOVE})


class Creator:
    """Creates the connections of one target; each task carries out one claim."""

    def __init__(self, target: Target, *, lease_state: LeaseState, clock: Clock, random: Callable[[], float]) -> None:
        self._target = target
        self._lease_state = lease_state
        self._clock = clock
        self._random = random
        self._compared_at = float("-inf")
        self._attribution = FaultAttribution()

    async def carry(self, claim: Claim) -> Settlement:
        """Carry out one claim. A bug of ours costs the request an attempt, but does not end the process."""
        projects = self._target.projects
        try:
            return await self._carry(claim)
        except Exception as error:  # the request must not be lost, and the others must go on
            log.exception("creator_failed", request=claim.request.id)
            message = f"an internal error of the provisioner: {type(error).__name__}"
            claim = with_doubt(claim, possible_create(claim, self._clock.now()))
            outcome = decide(
                claim,
                Action.CREATE,
                Observation(result=Result.UNKNOWN, message=message),
                rules=self._target.rules,
                context=DecisionContext(now=self._clock.now(), jitter=self._random(), target_works=True),
            )
            if isinstance(outcome, Do):
                raise
            records = (lost_attempt(claim, self._clock.now(), message),)
            return Settlement(claim=claim, outcome=outcome, sent=claim.sent + 1, records=records)
        finally:
            if projects is not None:
                projects.leave(claim)

    async def _carry(self, claim: Claim) -> Settlement:
        """Make calls for one claim until its outcome is certain enough to be recorded."""
        step = first_step(claim, self._clock.now())
        if isinstance(step, Do):
            return await self._call_until_certain(claim, step.action, step.connection)
        return self._settlement(claim, step, claim.sent, ())

    async def _call_until_certain(self, claim: Claim, action: Action, subject: Connection | None) -> Settlement:
        records, sent, key = list[AttemptRecord](), claim.sent, None
        while True:
            if action is not Action.CREATE and (wait := await self._permit(action, created=sent > claim.sent)):
                outcome: Outcome = without_budget(wait, jitter=self._random())
                break
            began = self._clock.monotonic()
            try:
                observation, key = await self._call(action, claim, subject)
            except Postponed as postponed:
                outcome = postponed.outcome
                break
            # The call may have waited for a token or a slot before it was sent.
            left_at = self._clock.at(began if observation.began is None else observation.began)
            records.append(record_of(action, left_at, observation))
            now = self._clock.monotonic()
            excused = self._target.gate.excuses(observation, began)
            self._learn(action, observation, now, excused=excused)
            if action is Action.CREATE:
                sent += was_sent(observation)
                self._attribution.note(claim.request.id, observation.result, began=began)
                if is_evidence(observation) and was_sent(observation):
                    claim = with_doubt(claim, await self._evidence(claim, observation, left_at, key))
            back = None if key is None else await self._judged(claim, action, observation, key)
            if back is not None:
                outcome = back
                break
            decision = (
                plain_success(observation)
                or await self._recorded_twice(claim, action, observation)
                or decide(
                    claim,
                    action,
                    observation,
                    rules=self._target.rules,
                    context=self._context(claim, observation, now, excused=excused),
                )
            )
            if not isinstance(decision, Do):
                outcome = decision
                break
            action, subject = decision.action, decision.connection
            if decision.delay:
                with self._target.gate.without_slot():
                    await asyncio.sleep(decision.delay)
        fingerprint = await self._accepted(claim, outcome, key)
        return self._settlement(claim, outcome, sent, records, fingerprint)

    async def _accepted(self, claim: Claim, outcome: Outcome, key: Secret | None) -> str | None:
        """Return the fingerprint of a connection's present key; None if the key is unchanged or unknown.

        `key` is the one that was sent last.
        """
        keys = self._target.keys
        if keys is None or not isinstance(outcome, Succeed):
            return None
        if key is not None:
            return keys.known_fingerprint(claim.request, key) or await keys.fingerprint(key)
        known = {sent.key_fingerprint for sent in claim.doubt}
        return known.pop() if len(known) == 1 and claim.request.recorded_id is None and not outcome.adopted else None

    def _settlement(
        self,
        claim: Claim,
        outcome: Outcome,
        sent: int,
        records: Sequence[AttemptRecord],
        key_fingerprint: str | None = None,
    ) -> Settlement:
        changed = self._target.shared_budget and any(record.action in _FIRST_CHANGES for record in records)
        if sent == claim.sent and not changed:
            self._target.writes.give_back(1)
        outcome = with_leftovers(claim, outcome)
        if claim.doubt and (left := left_in_doubt(claim, outcome)) != claim.doubt:
            claim = replace(claim, doubt=left)
        return Settlement(
            claim=claim, outcome=outcome, sent=sent, records=tuple(records), key_fingerprint=key_fingerprint
        )

    async def _evidence(
        self, claim: Claim, observation: Observation, left_at: datetime, key: Secret | None
    ) -> SentCreate:
        """Return the evidence of a create whose outcome is not proven."""
        request, keys = claim.request, self._target.keys
        ended_at = (
            self._clock.now() if observation.began is None else self._clock.at(observation.began + observation.elapsed)
        )
        return SentCreate(
            target=request.target,
            project_id=request.project_id,
            name=request.name,
            description=sent_description(claim, self._target.rules),
            sent_at=left_at,
            ended_at=max(ended_at, left_at),
            proof=Proof.TAKEN if observation.proof is Proof.TAKEN else Proof.NONE,
            key_fingerprint=request.mark
            or (await keys.fingerprint(key) if keys is not None and key is not None else None),
        )

    async def _recorded_twice(self, claim: Claim, action: Action, observation: Observation) -> Decision | None:
        """Decide for a connection that another target of the same Infisical has already recorded."""
        recorded = self._target.recorded
        if (
            observation.result is not Result.FOUND
            or observation.connection is None
            or action not in _LOOKING
            or recorded is None
        ):
            return None
        try:
            other = await recorded(claim.request, observation.connection)
        except DatabaseUnavailable as error:
            return database_silent(str(error))
        return recorded_twice(claim, observation.connection, other) if other else None

    async def _call(
        self, action: Action, claim: Claim, subject: Connection | None
    ) -> tuple[Observation, Secret | None]:
        """Make one call; returns its observation, and the key that was sent."""
        if action not in _WITH_KEY and not (action is Action.UPDATE and claim.request.edits.credential):
            with self._target.gate.without_slot():
                return await self._call_without_key(action, claim, subject), None
        target, request, keys = self._target, claim.request, self._target.keys
        if target.projects is not None and action is Action.CREATE and target.projects.is_wary(claim):
            await target.projects.admit(claim)
        try:
            key = await target.vault.open(request)
        except (CredentialUnknown, CredentialUnreadable, CredentialUnavailable) as error:
            return _keyless(error), None
        if keys is not None and action is not Action.REPLACE and not keys.is_fine(request, key):
            await keys.admit(claim, key)
        return await target.gate.send(partial(self._send, action, claim, key, subject)), key

    def _send(self, action: Action, claim: Claim, key: Secret, subject: Connection | None) -> Awaitable[Observation]:
        """Send a key, to a new connection or to `subject`."""
        if not self._lease_state.holds(claim):
            return _left_unsent()
        if subject is None:
            return self._target.connections.create(claim.request, key)
        if action is Action.UPDATE:
            return self._target.connections.update(claim.request, subject, key)
        return self._target.connections.replace(claim.request, subject, key)

    async def _call_without_key(self, action: Action, claim: Claim, subject: Connection | None) -> Observation:
        if not self._lease_state.holds(claim):
            return await _left_unsent()
        if action is Action.UPDATE and subject is not None:
            return await self._target.connections.update(claim.request, subject, None)
        if action in _DELETING and subject is not None:
            return replace(await self._target.connections.remove(subject), connection=subject)
        if action in {Action.INSPECT, Action.CONFIRM} and subject is not None:
            observation = await self._target.connections.get(subject.id)
            return observation if observation.result is Result.FOUND else replace(observation, connection=subject)
        return await self._target.connections.look_up(claim.request)

    async def _judged(self, claim: Claim, action: Action, observation: Observation, key: Secret) -> Retry | None:
        """Learn about the request's key and project; returns a retry if a refusal is not the request's own fault."""
        keys, projects, back = self._target.keys, self._target.projects, None
        if keys is not None and action is not Action.REPLACE and not keys.accepts(claim, observation):
            back = await keys.judge(claim, observation, key)
        if projects is not None and action is Action.CREATE:
            back = await projects.judge(claim, observation) or back
        return back

    async def _permit(self, action: Action, *, created: bool) -> float:
        """Take a permit for a call that is not a create; returns the seconds to wait if there is none.

        Putting a request back costs another claim, and another create if one was `created`, so the call waits a little
        instead.
        """
        patience = PERMIT_PATIENCE if created else SHORT_PERMIT_PATIENCE
        if action in _BROUGHT_TO_ITS_END:  # work on a connection is finished once begun
            patience = float("inf")
        elif self._target.shared_budget and action not in _LOOKING:
            return 0.0  # the claim came with its permit
        budget = self._budget(action)
        with self._target.gate.without_slot():
            while (wait := await _permit_of(budget)) and wait <= patience:
                patience -= wait
                await asyncio.sleep(wait)
        return wait

    def _budget(self, action: Action) -> Permits:
        """Return the budget from which a call takes its permit."""
        target = self._target
        if action in _LOOKING:
            return target.reads
        if action is Action.CREATE or target.shared_budget:
            return target.writes
        return target.removals if action in _DELETING else target.changes

    def _learn(self, action: Action, observation: Observation, now: float, *, excused: bool) -> None:
        target, create = self._target, action is Action.CREATE
        if create and target.projects is not None:
            target.projects.note(observation)
        target.observer.called(target.name, action, observation)
        if observation.skew is not None:
            target.clock.headers.note(dated(observation.skew, observation.elapsed))
        if create and observation.result is Result.CREATED and now - self._compared_at >= CLOCK_SAMPLE_INTERVAL:
            self._compared_at = now
            self._compare(observation)
        if was_sent(observation):
            learn_from(self._budget(action), observation)
        # A read that finds nothing proves that Infisical can read, not that it can write: in maintenance it only reads.
        if (
            not excused
            and observation.result is not Result.ABSENT
            and target.breaker.observe(observation.result, observation.message, now)
        ):
            if target.breaker.is_open:
                log.warning("breaker_opened", target=target.name, reason=target.breaker.reason)
            else:
                log.info("breaker_closed", target=target.name)

    def _compare(self, observation: Observation) -> None:
        """Use a create with a plain answer to measure Infisical's clock: its connection was made during the call."""
        if (
            observation.began is not None
            and observation.connection is not None
            and observation.connection.created_at is not None
        ):
            sent = self._clock.at(observation.began).timestamp()
            created = observation.connection.created_at.timestamp()
            self._target.clock.note_made(created, sent=sent, received=sent + observation.elapsed)

    def _context(self, claim: Claim, observation: Observation, now: float, *, excused: bool) -> DecisionContext:
        """Return the circumstances of a decision at monotonic time `now`."""
        works = self._target.breaker.works(now) and not excused
        if observation.result is Result.UNKNOWN and not self._attribution.blames_request(claim.request.id, now):
            works = False
        return DecisionContext(
            now=self._clock.now(),
            jitter=self._random(),
            clock=self._target.clock.reading(),
            target_works=works,
        )


async def _permit_of(budget: Permits) -> float:
    """Take a permit; returns 0, or the seconds after which to ask again."""
    try:
        granted = await budget.acquire(1)
    except DatabaseUnavailable:
        return 1.0
    return 0.0 if granted.permits else max(granted.wait, 0.1)


async def _left_unsent() -> Observation:
    return Observation(result=Result.NOT_SENT, message="the lease ran out before this was sent")


def _keyless(error: CredentialUnknown | CredentialUnreadable | CredentialUnavailable) -> Observation:
    """Return the observation for a request whose key is not available."""
    match error:
        case CredentialUnavailable(retry_after=retry_after):
            return Observation(result=Result.CREDENTIAL_AWAY, message=str(error), retry_after=retry_after)
        case CredentialUnreadable():
            return Observation(result=Result.CREDENTIAL_UNREADABLE, message=str(error))
        case CredentialUnknown():
            return Observation(result=Result.CREDENTIAL_UNKNOWN, message=str(error))
