"""A model of doubt: one request, an Infisical in memory, whatever can happen to a create, strangers, and edits.

The model knows the truth: what was made, by whom, and what was deleted. However much of it is hidden from the
decisions, nothing is lost, nothing is made twice, nothing of others is taken, and nothing is deleted without a look.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from typing import Final
from uuid import UUID

from hypothesis import event, given, settings, strategies as st

from provisioner.core.doubt import LATE_COMMIT, is_evidence, latest, left_in_doubt, possible_create, with_doubt
from provisioner.core.model import (
    Action,
    Claim,
    Connection,
    Do,
    ErrorCode,
    Fail,
    Observation,
    Outcome,
    Proof,
    Request,
    Result,
    Retry,
    SentCreate,
    Succeed,
)
from provisioner.core.policy import (
    DecisionContext,
    Rules,
    decide,
    sent_description,
)
from provisioner.core.skew import CLOCK_SLACK, CLOCK_TOLERANCE, Bounds, Reading
from tests.support.builders import NOON, a_connection, a_request, an_observation, at, first_action, project

RULES: Final = Rules(max_attempts=4)
KIND_AFTER: Final = 8  # attempts, after which the world has no more surprises
# Possible answers of a gateway, whether or not the create went through.
FOREIGN: Final = (
    Result.UNKNOWN,
    Result.MISCONFIGURED,
    Result.THROTTLED,
    Result.TOKEN_TROUBLE,
    Result.INVALID,
    Result.FORBIDDEN,
    Result.NOT_IN_PROJECT,
    Result.PROJECT_MISSING,
    Result.KEY_REFUSED,
    Result.NAME_TAKEN,
)
REFUSALS: Final = (Result.THROTTLED, Result.TOKEN_TROUBLE, Result.FORBIDDEN, Result.PROJECT_MISSING, Result.KEY_REFUSED)
FATES: Final = ("answered", "refused", "not sent", "lost", "repeated by a gateway", "no project named", "nobody heard")


@dataclass(slots=True)
class Infisical:
    """Connections of one name: at most one in the project, and at most one outside of it."""

    skew: float
    now: float = 0.0
    inside: Connection | None = None
    outside: Connection | None = None
    made: set[str] = field(default_factory=set)
    deleted: list[str] = field(default_factory=list)
    due: list[tuple[float, str]] = field(default_factory=list)  # late commits: when, and with which description
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def insert(self, description: str, *, ours: bool, inside: bool = True) -> Connection | None:
        """Make a connection unless the name is taken."""
        if (self.inside if inside else self.outside) is not None:
            return None
        made = a_connection(
            id=str(UUID(int=next(self.numbers))),
            project_id=project(1) if inside else None,
            description=description or None,
            created_at=at(self.now + self.skew),
        )
        if inside:
            self.inside = made
        else:
            self.outside = made
        if ours:
            self.made.add(made.id)
        return made

    def pass_time(self, seconds: float) -> None:
        """Let time go by, and with it late commits happen."""
        until = self.now + seconds
        for when, description in sorted(self.due):
            if when <= until:
                self.now = max(self.now, when)
                self.insert(description, ours=True)
        self.due = [one for one in self.due if one[0] > until]
        self.now = until

    def find(self) -> Observation:
        """The result of a look-up by name."""
        if self.inside is None:
            return an_observation(Result.ABSENT)
        return an_observation(Result.FOUND, connection=self.inside)


class Row:
    """One row and its worker, with the truth beside it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.skew = data.draw(st.floats(-300, 300), label="skew")
        self.infisical = Infisical(self.skew)
        off = data.draw(st.floats(-4, 4), label="how far Date is from createdAt")
        told = data.draw(st.sampled_from(["measured", "dated"]))
        self.clock = (
            Reading(Bounds(self.skew - 0.05, self.skew + 0.05))
            if told == "measured"
            else Reading(None, Bounds(self.skew + off - 0.5, self.skew + off + 0.5))
        )
        self.tolerance = CLOCK_SLACK + 0.1 if told == "measured" else CLOCK_TOLERANCE + 5
        self.request = a_request(description=data.draw(st.sampled_from([None, "ours"])))
        self.claim = Claim(request=self.request, attempt=1, claimed_at=NOON)
        self.stranger: Connection | None = None
        self.windows: list[SentCreate] = []  # of every create that left, proven or not
        self.allowed_to_delete: set[str] = set()

    def time(self) -> datetime:
        """The present on the database's clock."""
        return at(self.infisical.now)

    def kind(self) -> bool:
        """Whether the world has no more surprises."""
        return self.claim.attempt > KIND_AFTER

    def run(self) -> Outcome:
        """Try until it has ended for good: a failure is tried again by a person, weeks later perhaps."""
        self._between(self.draw([0.1, 120.0]))
        self.claim = replace(self.claim, claimed_at=self.time())
        while True:
            outcome = self._attempt()
            left = () if isinstance(outcome, Succeed) else left_in_doubt(self.claim, outcome)
            if isinstance(outcome, Succeed) or (isinstance(outcome, Fail) and self.kind() and not left):
                return outcome
            if isinstance(outcome, Fail) and (self.kind() or outcome.code is ErrorCode.NAME_CONFLICT):
                return outcome
            pause = outcome.delay if isinstance(outcome, Retry) else 0.0
            # Nothing may happen for a while, or nothing can be read; a person comes back after weeks.
            self._between(pause + self.draw([1.0, 1.0, 150.0, 2e6]))
            failures = self.claim.failures + outcome.counted if isinstance(outcome, Retry) else 0
            self.claim = replace(
                self.claim,
                request=self._edited(left),
                attempt=self.claim.attempt + 1,
                claimed_at=self.time(),
                since=self.claim.first_tried_at,
                failures=failures,
                doubt=left,
            )

    def draw(self, choices: list[float]) -> float:
        """One of these, or the first once the world is kind."""
        return choices[0] if self.kind() else self.data.draw(st.sampled_from(choices))

    def _edited(self, left: tuple[SentCreate, ...]) -> Request:
        """Somebody edits the description, which the table refuses while there is a doubt."""
        if left or self.kind() or not self.data.draw(st.booleans()):
            return self.claim.request
        return replace(self.claim.request, description=self.data.draw(st.sampled_from([None, "ours", "edited"])))

    def _between(self, seconds: float) -> None:
        """Time goes by, and somebody else may take the name."""
        stranger = not self.kind() and self.data.draw(st.integers(0, 2 if seconds > 100 else 6)) == 0
        self.infisical.pass_time(seconds / 2)
        if stranger:
            description = self.data.draw(st.sampled_from([self.claim.request.description or "", "theirs"]))
            self.stranger = self.infisical.insert(description, ours=False) or self.stranger
        self.infisical.pass_time(seconds / 2)

    def _attempt(self) -> Outcome:
        """Carry out one claim."""
        action, subject = first_action(self.claim), None
        while True:
            self._between(0.2)
            seen = self._call(action, subject)
            if seen is None:  # the worker died, or was told to stop: its claim is the evidence
                self.claim = with_doubt(self.claim, possible_create(self.claim, self.time()))
                return Retry(delay=self.draw([1.0, 30.0]), message="nobody heard")
            context = DecisionContext(
                now=self.time(), jitter=0.5, clock=self.clock, target_works=self.data.draw(st.booleans())
            )
            decision = decide(self.claim, action, seen, rules=RULES, context=context)
            if not isinstance(decision, Do):
                return decision
            action, subject = decision.action, decision.connection
            if action is Action.REMOVE and subject is not None:
                self._check_removal(subject)
            self.infisical.pass_time(decision.delay)

    def _call(self, action: Action, subject: Connection | None) -> Observation | None:
        match action:
            case Action.CREATE:
                return self._create()
            case Action.LOOK_UP | Action.IDENTIFY:
                fate = "answered" if self.kind() else self.data.draw(st.sampled_from(["answered", "answered", "lost"]))
                return self.infisical.find() if fate == "answered" else an_observation(Result.UNKNOWN)
            case Action.INSPECT:
                assert subject is not None
                there = [one for one in (self.infisical.inside, self.infisical.outside) if one and one.id == subject.id]
                if there:
                    self.allowed_to_delete.add(there[0].id)
                    return an_observation(Result.FOUND, connection=there[0])
                return an_observation(Result.ABSENT, connection=subject)
            case _:
                assert action is Action.REMOVE
                assert subject is not None
                self.infisical.deleted.append(subject.id)
                self.infisical.outside = None
                return an_observation(Result.REMOVED, connection=subject)

    def _create(self) -> Observation | None:
        """Send a create: it may be committed or not, soon or late, and be answered by anybody with anything."""
        left_at = self.time()
        # Before the clock was measured, a gateway's repetition cannot be distinguished from somebody a moment before
        # us.
        fates = [fate for fate in FATES if self.clock.made is not None or fate != "repeated by a gateway"]
        fate = "answered" if self.kind() else self.data.draw(st.sampled_from(fates), label="fate")
        event(fate)
        description = sent_description(self.claim, RULES)
        self.infisical.pass_time(self.draw([0.1, 5.0, 60.0]))
        seen = self._fate(fate, description)
        self.infisical.pass_time(0.1)
        sent = replace(
            possible_create(self.claim, self.time()),
            description=description,
            exact=True,
            sent_at=left_at,
            proof=Proof.TAKEN if seen is not None and seen.proof is Proof.TAKEN else Proof.NONE,
        )
        if fate != "not sent":
            self.windows.append(sent if seen is not None else replace(sent, sent_at=self.claim.claimed_at))
        if seen is not None and is_evidence(seen):
            self.claim = with_doubt(self.claim, sent)
        return seen

    def _fate(self, fate: str, description: str) -> Observation | None:
        infisical, answer = self.infisical, None
        match fate:
            case "refused":
                answer = an_observation(self.data.draw(st.sampled_from(REFUSALS)))
            case "not sent":
                answer = an_observation(Result.NOT_SENT)
            case "lost":
                self._perhaps(description)
                answer = an_observation(self.data.draw(st.sampled_from(FOREIGN)), proof=Proof.NONE)
            case "nobody heard":
                self._perhaps(description)
            case "repeated by a gateway":
                infisical.insert(description, ours=True)
                answer = an_observation(Result.NAME_TAKEN)
            case "no project named":
                # An old server, one that leaves the field out, or a proxy's answer to somebody else's create.
                made = infisical.insert(description, ours=True, inside=self.data.draw(st.booleans()))
                named = made or self.data.draw(st.sampled_from([infisical.inside, infisical.outside])) or a_connection()
                answer = an_observation(Result.WRONG_SCOPE, connection=replace(named, project_id=None))
            case _:
                made = infisical.insert(description, ours=True)
                taken = an_observation(Result.NAME_TAKEN)
                answer = taken if made is None else an_observation(Result.CREATED, connection=made)
        return answer

    def _perhaps(self, description: str) -> None:
        """It is committed now, or later, or never."""
        when = self.data.draw(st.sampled_from(["never", "now", "later"]))
        if when == "now":
            self.infisical.insert(description, ours=True)
        elif when == "later":
            late = self.data.draw(st.floats(0.1, LATE_COMMIT - 1))
            self.infisical.due.append((self.infisical.now + late, description))

    def _check_removal(self, subject: Connection) -> None:
        """Nothing is deleted without a look, or unless it is certainly ours and in the wrong place."""
        assert subject.id in self.allowed_to_delete
        assert subject.project_id is None
        assert subject.id in self.infisical.made or self.may_be_mistaken(subject)

    def may_be_mistaken(self, theirs: Connection) -> bool:
        """Whether a stranger's connection is like ours in everything, made while one of our creates was out."""
        made = (theirs.created_at - at(0)).total_seconds() - self.skew if theirs.created_at else 0.0
        return any(
            (theirs.description or "") == sent.description
            and (sent.sent_at - at(0)).total_seconds() - self.tolerance
            <= made
            <= (latest(sent) - at(0)).total_seconds() + self.tolerance
            for sent in self.windows
        )


@settings(max_examples=300)
@given(data=st.data())
def test_nothing_is_lost_and_nothing_of_others_is_taken(data: st.DataObject) -> None:
    """Whatever happens, the row ends with its own connection, or says truly why it has none."""
    row = Row(data)
    outcome = row.run()
    infisical = row.infisical
    infisical.pass_time(2 * LATE_COMMIT)
    there = infisical.inside
    match outcome:
        case Succeed(connection=recorded):
            assert there is not None
            assert recorded.id == there.id
            assert there.id in infisical.made or row.may_be_mistaken(there)
        case Fail(code=ErrorCode.NAME_CONFLICT):
            assert there is not None
            assert there.id not in infisical.made
        case Fail(code=code):
            # Our own connection may only be left where a person is told to look.
            assert there is None or code in {ErrorCode.WRONG_SCOPE, ErrorCode.OUTCOME_UNKNOWN, ErrorCode.GAVE_UP}
        case _:
            raise AssertionError(outcome)
    assert infisical.outside is None or infisical.outside.id not in infisical.deleted
