"""The journey of requests as a machine: the real queue and the real decisions, a small server, and a cruel scheduler.

Every step of every worker is a rule of its own, so that anything may come between two of them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from provisioner.core.doubt import is_evidence, left_in_doubt, possible_create, with_doubt
from provisioner.core.errors import LeaseLost, StatementRefused
from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Connection,
    Do,
    Observation,
    Outcome,
    Proof,
    Result,
    Settlement,
)
from provisioner.core.policy import DecisionContext, Rules, decide
from provisioner.core.queue_values import FRONT, Heartbeat
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from tests.support.builders import first_action

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    import asyncpg

WORKERS: Final = 2
MOST_ROWS: Final = 6
LEASE: Final = 600.0
RULES: Final = Rules(max_attempts=3)
PLACES: Final = """
SELECT q.id, q.status, q.connection_id::text, q.error_code, q.on_conflict, q.project_id::text, q.adopted,
    (SELECT count(*) FROM provisioner.ready AS r WHERE r.id = q.id)
    + (SELECT count(*) FROM provisioner.waiting AS w WHERE w.id = q.id)
    + (SELECT count(*) FROM provisioner.in_flight AS f WHERE f.id = q.id) AS places,
    coalesce((SELECT s.cancelled FROM provisioner.attempt_state AS s WHERE s.id = q.id), false) AS called_off
FROM provisioner.connection_requests AS q ORDER BY q.id
"""
TAKEN: Final = Observation(result=Result.NAME_TAKEN, proof=Proof.TAKEN)
CLEAR: Final = "TRUNCATE provisioner.connection_requests, provisioner.workers, provisioner.attempts RESTART IDENTITY"


@dataclass(slots=True, eq=False)
class Flight:
    """One worker's work on one claim: its next step, what it waits for, or its decision."""

    worker: int
    claim: Claim
    action: Action
    subject: Connection | None = None
    call: Call | None = None
    outcome: Outcome | None = None
    stale: bool = False
    sent: int = 0
    left_at: datetime | None = None

    @property
    def untouched(self) -> bool:
        """Whether nothing has been done for it yet."""
        return self.action is first_action(self.claim) and self.subject is None


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way to the server; `answer` is its result."""

    flight: Flight
    action: Action
    answer: Observation | None = None


class Server:
    """Connections by project, each name once."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}
        self.ours: set[str] = set()
        self._made = 0

    def make(self, project: str, *, description: str | None, ours: bool) -> Connection | None:
        """Make a connection, unless the name is taken."""
        if project in self.connections:
            return None
        self._made += 1
        made = Connection(
            id=str(UUID(int=self._made)),
            project_id=project,
            org_id=None,
            credentials_hash=f"{self._made:064x}",
            name="openrouter",
            app="open-router",
            method="api-key",
            description=description,
            created_at=datetime.now(UTC),
        )
        self.connections[project] = made
        if ours:
            self.ours.add(made.id)
        return made

    def carry_out(self, call: Call) -> Observation:
        """The effect of a call, and its answer."""
        request = call.flight.claim.request
        there = self.connections.get(request.project_id)
        match call.action:
            case Action.CREATE:
                made = self.make(request.project_id, description=request.description, ours=True)
                return Observation(result=Result.CREATED, connection=made) if made else TAKEN
            case Action.REPLACE if there is not None:
                self._made += 1
                there = self.connections[request.project_id] = replace(there, credentials_hash=f"{self._made:064x}")
                return Observation(result=Result.UPDATED, connection=there)
            case _:
                return (
                    Observation(result=Result.FOUND, connection=there) if there else Observation(result=Result.ABSENT)
                )


class Journey(RuleBasedStateMachine):
    """Two workers, a handful of requests, one server, and whatever order of events is worst."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database = Database(self.url, size=1)
        self.queue = PostgresQueue(self.database)
        self.server = Server()
        self.flights: list[Flight] = []
        self.wire: list[Call] = []
        self.rows = 0
        self._do(self.database.execute(CLEAR))
        self.workers = [self._register() for _ in range(WORKERS)]

    def teardown(self) -> None:
        """Let everything finish, and compare it with the server."""
        try:
            self._finish()
            self._audit()
        finally:
            self._do(self.database.close())
            self.loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = self._do(self.database.fetch(statement, *arguments))
        return rows

    def _register(self) -> int:
        return int(self._do(self.queue.register(name="one", targets=["default"], lease=LEASE)))

    # A worker's steps: three rules, so that most of what happens is work.

    @rule(who=st.integers(0, WORKERS - 1), data=st.data(), limit=st.integers(1, 3))
    def claim(self, who: int, data: st.DataObject, limit: int) -> None:
        """A worker claims requests in line; waiting ones are due or not."""
        self._pass_time(data)
        worker = self.workers[who]
        brought = self._do(self.queue.claim(worker, target="default", start=FRONT, limit=limit))
        self.flights += [Flight(worker, claim, first_action(claim), sent=claim.sent) for claim in brought.claims]

    @precondition(lambda self: self._steps())
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        """One of all the steps that could come next."""
        step, subject = data.draw(st.sampled_from(self._steps()))
        step(subject, data)

    @precondition(lambda self: self._steps())
    @rule(data=st.data())
    def advance_twice(self, data: st.DataObject) -> None:
        """Two of them."""
        self.advance(data)
        if self._steps():
            self.advance(data)

    def _steps(self) -> list[tuple[Callable[[Any, st.DataObject], None], Any]]:
        idle = [(self._send, one) for one in self.flights if one.call is None and one.outcome is None]
        waiting = [(self._hear, one) for one in self.flights if one.call is not None]
        decided = [(self._settle, one) for one in self.flights if one.outcome is not None]
        return [*idle, *waiting, *decided, *[(self._arrive, call) for call in self.wire]]

    def _send(self, flight: Flight, _data: st.DataObject) -> None:
        """A worker sends its next call; a stale one may have checked its lease before it expired."""
        if flight.claim.cancelled and flight.action is Action.CREATE:
            flight.outcome = Cancel()
        elif flight.stale and flight.action is Action.REPLACE:
            self._see(flight, Observation(result=Result.NOT_SENT), works=False)
        else:
            flight.call = Call(flight, flight.action)
            flight.sent += flight.action is Action.CREATE
            flight.left_at = datetime.now(UTC)
            self.wire.append(flight.call)

    def _arrive(self, call: Call, data: st.DataObject) -> None:
        """A call is carried out, whether or not anybody still waits for it; or it never arrives."""
        self.wire.remove(call)
        arrives = data.draw(st.booleans())
        call.answer = self.server.carry_out(call) if arrives else Observation(result=Result.UNKNOWN)

    def _hear(self, flight: Flight, data: st.DataObject) -> None:
        """A worker gets the answer, or gives up waiting for it."""
        answer = flight.call.answer if flight.call and data.draw(st.booleans()) else None
        flight.call = None
        self._see(flight, answer or Observation(result=Result.UNKNOWN), works=data.draw(st.booleans()))

    def _settle(self, flight: Flight, data: st.DataObject) -> None:
        """A worker records all that it has decided; it may not hear that it was done, and do it again."""
        chosen = [one for one in self.flights if one.worker == flight.worker and one.outcome is not None]
        self.flights = [one for one in self.flights if one not in chosen]
        settlements = [
            Settlement(claim=one.claim, outcome=one.outcome, sent=one.sent) for one in chosen if one.outcome is not None
        ]
        for _ in range(data.draw(st.integers(1, 2))):
            self._do(self.queue.settle(flight.worker, settlements))

    def _pass_time(self, data: st.DataObject) -> None:
        """Waiting requests are due now."""
        for row in self._fetch(PLACES):
            if data.draw(st.booleans()):
                self._fetch("UPDATE provisioner.waiting SET run_at = now() WHERE id = $1", row["id"])
        self._do(self.queue.promote(100))

    # Actions of users, operators and others.

    @initialize(choices=st.lists(st.sampled_from(["fail", "fail", "adopt", "replace"]), min_size=1, max_size=MOST_ROWS))
    def insert(self, choices: list[str]) -> None:
        """Somebody wants connections, each in a project of its own."""
        self.rows = len(choices)
        self._fetch(
            "INSERT INTO provisioner.connection_requests (project_id, on_conflict)"
            " SELECT p::uuid, c FROM unnest($1::text[], $2::text[]) AS x (p, c)",
            [str(UUID(int=0xF000 + number)) for number in range(1, self.rows + 1)],
            choices,
        )

    @rule(what=st.sampled_from(["cancel", "retry", "edit", "describe", "plant"]), data=st.data())
    def operate(self, what: str, data: st.DataObject) -> None:
        """Somebody calls a request off, tries it again, gives it another priority or description, or takes its name."""
        request = data.draw(st.integers(1, self.rows))
        match what:
            case "cancel" | "retry":
                self._fetch(f"SELECT * FROM provisioner.{what}($1)", [request])
            case "edit":
                statement = "UPDATE provisioner.connection_requests SET priority = 1 - priority WHERE id = $1"
                with suppress(StatementRefused):  # while it is in flight that is refused
                    self._fetch(statement, request)
            case "describe":
                statement = "UPDATE provisioner.connection_requests SET description = 'another' WHERE id = $1"
                with suppress(StatementRefused):  # while a create is in flight or in doubt that is refused
                    self._fetch(statement, request)
            case _:
                self.server.make(str(UUID(int=0xF000 + request)), description="theirs", ours=False)

    # Faults.

    @rule(what=st.sampled_from(["expire", "rescue", "renew", "kill", "release"]), who=st.integers(0, WORKERS - 1))
    def disturb(self, what: str, who: int) -> None:
        """A worker stalls for longer than its lease, dies, or stops; somebody takes over; it learns of that."""
        worker = self.workers[who]
        match what:
            case "expire":
                self._expire(worker)
            case "rescue":
                self._do(self.queue.rescue(pause=0.0))
            case "renew":
                self._renew(who)
            case "kill":
                self.flights = [flight for flight in self.flights if flight.worker != worker]
                self._expire(worker)
                self.workers[who] = self._register()
            case _:
                unsent = [one for one in self.flights if one.worker == worker and one.sent == one.claim.sent]
                unsent = [one for one in unsent if one.call is None and one.outcome is None and one.untouched]
                self.flights = [one for one in self.flights if one not in unsent]
                self._do(self.queue.release(worker, [one.claim for one in unsent]))

    def _expire(self, worker: int) -> None:
        self._fetch("UPDATE provisioner.workers SET lease_until = now() - interval '1 second' WHERE id = $1", worker)

    def _renew(self, who: int) -> None:
        worker = self.workers[who]
        try:
            self._do(self.queue.renew(worker, lease=LEASE, heartbeat=Heartbeat()))
        except LeaseLost:
            self.workers[who] = self._register()
            for flight in self.flights:
                flight.stale = flight.stale or flight.worker == worker

    # Invariants.

    @invariant()
    def holds(self) -> None:
        """Pending requests have one place, ended ones none; records match the server, others' only if allowed."""
        for row in self._fetch(PLACES):
            there = self.server.connections.get(row["project_id"])
            assert row["places"] == (row["status"] == "pending"), dict(row)
            if row["status"] == "succeeded":
                assert there is not None
                assert row["connection_id"] == there.id
                assert there.id in self.server.ours or row["on_conflict"] != "fail", dict(row)
            if row["error_code"] == "name_conflict":
                assert there is not None
                assert there.id not in self.server.ours, dict(row)

    def _create_under_way(self, request: int) -> bool:
        return any(call.action is Action.CREATE and call.flight.claim.request.id == request for call in self.wire)

    def _see(self, flight: Flight, seen: Observation, *, works: bool) -> None:
        now = datetime.now(UTC)
        if flight.action is Action.CREATE and is_evidence(seen):
            sent = replace(possible_create(flight.claim, now), sent_at=flight.left_at or now)
            proof = Proof.TAKEN if seen.proof is Proof.TAKEN else Proof.NONE
            flight.claim = with_doubt(flight.claim, replace(sent, proof=proof))
        # A late commit is possible while a create is running, and afterwards it is long ago.
        later = now if self._create_under_way(flight.claim.request.id) else now + timedelta(hours=1)
        context = DecisionContext(now=later, jitter=0.5, target_works=works)
        decision = decide(flight.claim, flight.action, seen, rules=RULES, context=context)
        if isinstance(decision, Do):
            flight.action, flight.subject = decision.action, decision.connection
        else:
            flight.outcome = decision
            flight.claim = replace(flight.claim, doubt=left_in_doubt(flight.claim, decision))

    def _finish(self) -> None:
        """Without further trouble, calls in flight arrive, the workers die, and a correct one does the rest."""
        for call in self.wire:
            self.server.carry_out(call)
        self.wire.clear()
        self.flights.clear()
        self._fetch("UPDATE provisioner.workers SET lease_until = now() - interval '1 second'")
        worker = self._register()
        self._fetch("SELECT * FROM provisioner.retry($1)", list(range(1, self.rows + 1)))
        for _ in range(20):
            self._do(self.queue.rescue(pause=0.0))
            self._fetch("UPDATE provisioner.waiting SET run_at = now()")
            self._do(self.queue.promote(100))
            brought = self._do(self.queue.claim(worker, target="default", start=FRONT, limit=100))
            if not brought.claims:
                break
            self._do(self.queue.settle(worker, [self._carried(claim) for claim in brought.claims]))

    def _carried(self, claim: Claim) -> Settlement:
        flight = Flight(0, claim, first_action(claim), sent=claim.sent)
        if claim.cancelled and flight.action is Action.CREATE:
            flight.outcome = Cancel()
        while flight.outcome is None:
            flight.sent += flight.action is Action.CREATE
            flight.left_at = datetime.now(UTC)
            self._see(flight, self.server.carry_out(Call(flight, flight.action)), works=True)
        return Settlement(claim=flight.claim, outcome=flight.outcome, sent=flight.sent)

    def _audit(self) -> None:
        self.holds()
        rows: Sequence[asyncpg.Record] = self._fetch(PLACES)
        recorded = {row["connection_id"] for row in rows if row["status"] == "succeeded"}
        assert self.server.ours <= recorded, [dict(row) for row in rows]
        assert all(row["status"] != "pending" for row in rows), [dict(row) for row in rows]
