"""The policy decides what happens next to a request, after whatever a call can show."""

from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from provisioner.core.doubt import LATE_COMMIT, REPLICA_LAG, is_evidence, left_in_doubt, with_doubt
from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Connection,
    Decision,
    Do,
    Edits,
    ErrorCode,
    Fail,
    Observation,
    OnConflict,
    Proof,
    Remove,
    Result,
    Retry,
    Succeed,
)
from provisioner.core.policy import (
    DOUBT_PAUSE,
    REMOVE_FOR,
    TROUBLE_CAP,
    DecisionContext,
    Rules,
    backoff,
    decide,
    no_fault_pause,
)
from provisioner.core.skew import Bounds, Reading
from tests.support.builders import (
    a_claim,
    a_connection,
    a_doubted_claim,
    a_moment,
    a_request,
    a_sent_create,
    an_observation,
    at,
    first_action,
    project,
)

RULES = Rules()

# Results that any call can have.
ON_THE_WAY: Final = {Result.THROTTLED, Result.TOKEN_TROUBLE, Result.MISCONFIGURED, Result.UNKNOWN, Result.NOT_SENT}
REFUSALS: Final = {
    *(Result.FORBIDDEN, Result.NOT_IN_PROJECT, Result.FOREIGN_PROJECT),
    *(Result.PROJECT_MISSING, Result.INVALID),
}
NO_KEY: Final = {Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY}
POSSIBLE: Final[dict[Action, set[Result]]] = {
    Action.CREATE: {Result.CREATED, Result.WRONG_SCOPE, Result.NAME_TAKEN, Result.KEY_REFUSED}
    | REFUSALS
    | NO_KEY
    | ON_THE_WAY,
    Action.LOOK_UP: {Result.FOUND, Result.ABSENT, Result.OTHER_APP} | REFUSALS | ON_THE_WAY,
    Action.IDENTIFY: {Result.FOUND, Result.ABSENT, Result.OTHER_APP} | REFUSALS | ON_THE_WAY,
    Action.REPLACE: {Result.UPDATED, Result.ABSENT, Result.KEY_REFUSED} | REFUSALS | NO_KEY | ON_THE_WAY,
    Action.REMOVE: {Result.REMOVED, Result.ABSENT} | REFUSALS | ON_THE_WAY,
    Action.INSPECT: {Result.FOUND, Result.ABSENT, Result.OTHER_APP} | REFUSALS | ON_THE_WAY,
    Action.UPDATE: {Result.UPDATED, Result.ABSENT, Result.NAME_TAKEN, Result.KEY_REFUSED}
    | REFUSALS
    | NO_KEY
    | ON_THE_WAY,
    Action.CONFIRM: {Result.FOUND, Result.ABSENT, Result.OTHER_APP} | REFUSALS | ON_THE_WAY,
    Action.DELETE: {Result.REMOVED, Result.ABSENT, Result.IN_USE} | REFUSALS | ON_THE_WAY,
}
ABOUT: Final = {Action.REMOVE, Action.INSPECT, Action.DELETE}
CHANGING: Final = {Action.UPDATE, Action.CONFIRM, Action.DELETE}
NOBODYS_FAULT: Final = (Result.THROTTLED, Result.NOT_SENT, Result.TOKEN_TROUBLE, Result.MISCONFIGURED, Result.UNKNOWN)
SITUATIONS: Final = [
    (action, seen)
    for action, possible in POSSIBLE.items()
    if action not in CHANGING
    for seen in sorted(possible, key=str)
]

claims = st.builds(
    Claim,
    request=st.builds(
        a_request,
        on_conflict=st.sampled_from(OnConflict),
        description=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=255),
    ),
    attempt=st.integers(1, 10_000),
    claimed_at=st.just(at(0)),
    sent=st.integers(0, 50),
    failures=st.integers(0, 20),
    since=st.none() | st.integers(-100_000, 0).map(at),
    doubt=st.sampled_from([(), (a_sent_create(),)]),
    cancelled=st.booleans(),
)
recorded_requests = st.builds(
    a_request,
    on_conflict=st.sampled_from(OnConflict),
    recorded_id=st.just(a_connection().id),
    adopted=st.booleans(),
    absent=st.booleans(),
    edits=st.builds(Edits, name=st.booleans(), description=st.booleans(), credential=st.booleans()),
)
bounds = st.builds(lambda low, width: Bounds(low, low + width), st.floats(-600, 600), st.floats(0, 5))
moments = st.builds(
    DecisionContext,
    now=st.integers(0, 120).map(at),
    jitter=st.floats(0, 1, exclude_max=True),
    clock=st.builds(Reading, st.none() | bounds, st.none() | bounds),
    target_works=st.booleans(),
)
rules = st.builds(
    Rules,
    max_attempts=st.integers(1, 12),
    base=st.floats(0.1, 10),
    cap=st.floats(1, 600),
    marker=st.sampled_from(["", "here"]),
)
found = st.builds(
    a_connection,
    app=st.sampled_from(["open-router", "openrouter", "github"]),
    description=st.none() | st.just("another"),
    created_at=st.none() | st.integers(-700, 700).map(at),
)


def observations(action: Action) -> st.SearchStrategy[Observation]:
    """Whatever a call can show."""
    shown = st.sampled_from(sorted(POSSIBLE[action], key=str)).flatmap(
        lambda seen: found.map(lambda connection: _seen(seen, connection))
    )
    return shown.map(_about) if action in ABOUT else shown


def _about(seen: Observation) -> Observation:
    """The subject of a removal or an inspection is reported with its result."""
    return seen if seen.connection else replace(seen, connection=a_connection())


def _seen(seen: Result, connection: Connection) -> Observation:
    usual = an_observation(seen)
    return replace(usual, connection=connection) if usual.connection else usual


def decided(
    claim: Claim, action: Action, seen: Result | Observation, context: DecisionContext | None = None
) -> Decision:
    """Decide under the usual rules; the observation of a removal names its subject."""
    shown = an_observation(seen) if isinstance(seen, Result) else seen
    if action in ABOUT:
        shown = _about(shown)
    return decide(claim, action, shown, rules=RULES, context=context or a_moment())


class TestAnything:
    """Whatever a call shows."""

    @given(data=st.data(), claim=claims, context=moments, ruled=rules)
    @pytest.mark.parametrize("action", Action)
    def test_there_is_an_answer(
        self, data: st.DataObject, action: Action, claim: Claim, context: DecisionContext, ruled: Rules
    ) -> None:
        """Each possible observation leads to a decision with a finite pause and a reason."""
        seen = data.draw(observations(action))
        if action in CHANGING:
            claim = replace(
                claim, request=replace(data.draw(recorded_requests), absent=action is Action.DELETE), cancelled=False
            )
        match decide(claim, action, seen, rules=ruled, context=context):
            case Retry(delay=delay):
                assert 0 <= delay <= max(45.0, ruled.cap)
            case Remove():  # or it was found gone: then the record is cleared, and it is looked up first
                assert claim.request.absent or claim.request.looks_up_first
            case Fail(message=message):
                assert message
            case Do(action=following, connection=connection):
                assert (connection is not None) is (following in {Action.REPLACE, *ABOUT})
            case Succeed(connection=connection):
                assert connection == seen.connection
            case Cancel():
                assert claim.cancelled

    @given(data=st.data(), claim=claims, ruled=rules)
    def test_the_calls_for_one_claim_come_to_an_end(self, data: st.DataObject, claim: Claim, ruled: Rules) -> None:
        """No sequence of observations leads to more than five calls or to the same call twice."""
        action, calls = first_action(claim), list[Action]()
        while True:
            calls.append(action)
            assert len(calls) <= 5
            assert len(set(calls)) == len(calls)
            seen, context = data.draw(observations(action)), data.draw(moments)
            if action in ABOUT:  # these alone may be repeated, and not for ever
                context = replace(context, now=at(REMOVE_FOR))
            decision = decide(claim, action, seen, rules=ruled, context=context)
            if not isinstance(decision, Do):
                break
            action = decision.action

    @pytest.mark.parametrize(("action", "seen"), SITUATIONS)
    @pytest.mark.parametrize("works", [True, False])
    def test_a_doubt_is_never_forgotten(self, action: Action, seen: Result, works: bool) -> None:
        """A request keeps its doubt through retries and failures, whatever the later attempt's result."""
        claim = a_doubted_claim()
        decision = decided(claim, action, seen, a_moment(target_works=works))
        if isinstance(decision, Retry | Fail):
            assert left_in_doubt(claim, decision) == claim.doubt

    def test_a_success_without_its_connection_is_a_defect(self) -> None:
        """An observation that forgot its connection is refused instead of recorded."""
        with pytest.raises(ValueError, match="has to carry its connection"):
            decided(a_claim(), Action.CREATE, replace(an_observation(Result.CREATED), connection=None))


class TestUnknown:
    """A create whose outcome is unknown."""

    @given(claim=claims, context=moments, ruled=rules)
    def test_is_never_called_a_failure_or_repeated_blindly(
        self, claim: Claim, context: DecisionContext, ruled: Rules
    ) -> None:
        """The following steps keep the doubt, so the next attempt begins with a look-up."""
        seen = an_observation(Result.UNKNOWN)
        assert is_evidence(seen)
        claim = with_doubt(claim, a_sent_create(claim.request))
        decision = decide(claim, Action.CREATE, seen, rules=ruled, context=context)
        assert isinstance(decision, Retry | Fail)
        if isinstance(decision, Retry):
            assert decision.delay >= DOUBT_PAUSE / 2
        assert first_action(replace(claim, doubt=left_in_doubt(claim, decision))) is Action.LOOK_UP

    @given(claim=claims, context=moments, ruled=rules)
    @pytest.mark.parametrize(
        "seen", sorted(POSSIBLE[Action.CREATE] - {Result.CREATED, *NO_KEY, Result.NOT_SENT}, key=str)
    )
    def test_what_infisical_did_not_say_ends_nothing(
        self, seen: Result, claim: Claim, context: DecisionContext, ruled: Rules
    ) -> None:
        """Whatever an answer means, it fails no request for its own fault unless Infisical itself has given it."""
        shown = an_observation(seen, proof=Proof.NONE)
        assert is_evidence(shown)
        decision = decide(claim, Action.CREATE, shown, rules=ruled, context=context)
        assert not isinstance(decision, Fail) or decision.code is ErrorCode.OUTCOME_UNKNOWN

    def test_a_late_commit_is_waited_for(self) -> None:
        """At least half a second passes before the look-up, because a create that was cut off may still be running."""
        for attempt, works in product((1, 2, 9), (True, False)):
            decision = decided(
                a_claim(attempt=attempt), Action.CREATE, Result.UNKNOWN, a_moment(jitter=0, target_works=works)
            )
            assert isinstance(decision, Retry)
            assert decision.delay >= 0.5

    def test_counts_only_where_others_get_through(self) -> None:
        """A row that the server cannot handle fails in the end; an outage fails nobody."""
        tired = a_claim(failures=RULES.max_attempts - 1)
        own = decided(tired, Action.CREATE, Result.UNKNOWN, a_moment(target_works=True))
        outage = decided(tired, Action.CREATE, Result.UNKNOWN, a_moment(target_works=False))
        assert own == Fail(code=ErrorCode.OUTCOME_UNKNOWN, message=Result.UNKNOWN.value)
        assert isinstance(outage, Retry)
        assert not outage.counted

    def test_nothing_found_means_that_it_is_made_again(self) -> None:
        """If the look-up finds nothing, the same name is created again."""
        assert decided(a_doubted_claim(), Action.LOOK_UP, Result.ABSENT) == Do(action=Action.CREATE)

    def test_who_has_no_doubt_is_not_looked_up(self) -> None:
        """A fresh request costs no read."""
        assert first_action(a_claim()) is Action.CREATE
        assert first_action(a_doubted_claim()) is Action.LOOK_UP


class TestNobodysFault:
    """Trouble that is not the row's fault."""

    @given(claim=claims, context=moments, ruled=rules)
    @pytest.mark.parametrize("seen", NOBODYS_FAULT)
    @pytest.mark.parametrize("action", [Action.CREATE, Action.LOOK_UP, Action.IDENTIFY, Action.REPLACE])
    def test_costs_no_attempt(
        self, action: Action, seen: Result, claim: Claim, context: DecisionContext, ruled: Rules
    ) -> None:
        """However often it happened and however long it lasts, it is tried again and not counted."""
        decision = decide(
            claim, action, an_observation(seen), rules=ruled, context=replace(context, target_works=False)
        )
        assert isinstance(decision, Retry)
        assert not decision.counted
        assert decision.delay <= TROUBLE_CAP

    @pytest.mark.parametrize("seen", NOBODYS_FAULT)
    def test_an_hour_of_it_leaves_the_row_as_it_was(self, seen: Result) -> None:
        """A thousand attempts in a row that met it have spent nothing."""
        claim = a_claim()
        for attempt in range(1, 1000):
            decision = decided(replace(claim, attempt=attempt), Action.CREATE, seen)
            assert isinstance(decision, Retry)
            claim = replace(claim, failures=claim.failures + decision.counted)
        assert claim.failures == 0

    def test_who_was_throttled_goes_back_in_line_at_once(self) -> None:
        """A 429 blocks the budget for everybody; the row itself has nothing to wait for."""
        assert decided(a_claim(attempt=9), Action.CREATE, Result.THROTTLED) == Retry(
            delay=0.0, message=Result.THROTTLED.value
        )

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
    def test_the_pause_is_short_and_never_nothing(self, attempt: int, jitter: float) -> None:
        """Trouble is tried again between half a second and ten seconds later."""
        assert DOUBT_PAUSE / 2 <= no_fault_pause(attempt, jitter=jitter) <= TROUBLE_CAP


class TestOwnFault:
    """Trouble of the row itself."""

    @pytest.mark.parametrize("seen", [Result.KEY_REFUSED, Result.FORBIDDEN, Result.PROJECT_MISSING])
    @given(context=moments, ruled=rules, pace=st.floats(0, 3600))
    def test_ends_after_the_attempts_that_the_settings_allow(
        self, seen: Result, context: DecisionContext, ruled: Rules, pace: float
    ) -> None:
        """Counted failures end in a failure after `max_attempts` at the latest, and not before a second attempt."""
        claim, times = a_claim(), 0
        while True:
            times += 1
            now = at(times * pace)
            decision = decide(
                claim, Action.CREATE, an_observation(seen), rules=ruled, context=replace(context, now=now)
            )
            if isinstance(decision, Fail):
                break
            assert isinstance(decision, Retry)
            assert decision.counted
            claim = replace(claim, attempt=claim.attempt + 1, failures=claim.failures + 1, since=at(0))
        assert min(2, ruled.max_attempts) <= times <= ruled.max_attempts

    @pytest.mark.parametrize(
        ("seen", "code"),
        [
            (Result.KEY_REFUSED, ErrorCode.CREDENTIAL_REFUSED),
            (Result.FORBIDDEN, ErrorCode.PERMISSION_DENIED),
            (Result.NOT_IN_PROJECT, ErrorCode.PERMISSION_DENIED),
            (Result.FOREIGN_PROJECT, ErrorCode.PERMISSION_DENIED),
            (Result.PROJECT_MISSING, ErrorCode.PROJECT_NOT_FOUND),
        ],
    )
    def test_is_named(self, seen: Result, code: ErrorCode) -> None:
        """The code and Infisical's words reach the row, while it is tried again and when it fails."""
        retried = decided(a_claim(), Action.CREATE, seen)
        assert (retried.code, retried.message) == (code, seen.value) if isinstance(retried, Retry) else False
        assert decided(a_claim(failures=7, since=at(-600)), Action.CREATE, seen) == Fail(code=code, message=seen.value)

    def test_a_fresh_grant_is_waited_for(self) -> None:
        """A missing permission is not final before a new grant has had fifteen seconds to show."""
        claim = a_claim(failures=5, streak=5, streak_of=ErrorCode.PERMISSION_DENIED)
        early = decided(claim, Action.CREATE, Result.FORBIDDEN, a_moment(now=at(14)))
        late = decided(claim, Action.CREATE, Result.FORBIDDEN, a_moment(now=at(15)))
        assert isinstance(early, Retry)
        assert isinstance(late, Fail)

    def test_each_kind_of_trouble_has_its_own_patience(self) -> None:
        """A key's first refusal is not final just because a permission was missing before."""
        claim = a_claim(failures=2, streak=2, streak_of=ErrorCode.PERMISSION_DENIED, since=at(-60))
        assert isinstance(decided(claim, Action.CREATE, Result.KEY_REFUSED), Retry)
        again = a_claim(failures=4, streak=2, streak_of=ErrorCode.CREDENTIAL_REFUSED, since=at(-60))
        assert isinstance(decided(again, Action.CREATE, Result.KEY_REFUSED), Fail)

    @pytest.mark.parametrize(
        ("seen", "code"),
        [
            (Result.INVALID, ErrorCode.INVALID_REQUEST),
            (Result.CREDENTIAL_UNKNOWN, ErrorCode.CREDENTIAL_UNKNOWN),
            (Result.CREDENTIAL_UNREADABLE, ErrorCode.CREDENTIAL_UNREADABLE),
        ],
    )
    def test_what_no_attempt_can_mend_fails_at_once(self, seen: Result, code: ErrorCode) -> None:
        """Nothing is spent on what needs a person."""
        assert decided(a_claim(), Action.CREATE, seen) == Fail(code=code, message=seen.value)

    @pytest.mark.parametrize("asked", [None, 0.0, 42.0])
    def test_a_key_that_cannot_be_fetched_costs_no_attempt(self, asked: float | None) -> None:
        """However often it was tried the request waits, at least as long as the store asks for, and counts nothing."""
        claim = a_doubted_claim(attempt=50, failures=7)
        seen = an_observation(Result.CREDENTIAL_AWAY, retry_after=asked)
        decision = decide(claim, Action.CREATE, seen, rules=Rules(), context=a_moment(target_works=True))
        assert isinstance(decision, Retry)
        assert (decision.counted, decision.code, decision.quarantine) == (False, None, None)
        assert decision.delay == max(asked or 0.0, 7.5)

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), rules)
    def test_pauses_are_random_up_to_an_exponential_bound(self, failures: int, jitter: float, ruled: Rules) -> None:
        """Full jitter: anything from nothing to base times two to the failures, and never over the cap."""
        pause = backoff(failures, rules=ruled, jitter=jitter)
        bound = min(ruled.cap, ruled.base * 2.0 ** min(failures - 1, 60))
        assert pause == pytest.approx(jitter * bound)

    def test_pauses_double_until_the_cap(self) -> None:
        """With the usual settings 2, 4, 8 … and at most 300 seconds."""
        assert [backoff(n, rules=RULES, jitter=1.0) for n in (1, 2, 3, 9, 5000)] == [2.0, 4.0, 8.0, 300.0, 300.0]

    @given(moments)
    def test_even_the_luckiest_jitter_pauses(self, context: DecisionContext) -> None:
        """A counted retry waits half a second at the least, so that no row spins."""
        decision = decided(a_claim(), Action.CREATE, Result.KEY_REFUSED, replace(context, jitter=0.0))
        assert isinstance(decision, Retry)
        assert decision.delay == DOUBT_PAUSE / 2


class TestEditedKey:
    """The credential was edited while an earlier create was in doubt, and that one is found to have made it."""

    CLAIM = a_doubted_claim(a_request(edits=Edits(credential=True)))

    @pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
    def test_what_is_ours_gets_it(self, action: Action) -> None:
        """It was made with the key from before; unless it is to be cancelled, or is recorded, it is updated."""
        made = a_connection()
        found = replace(an_observation(Result.FOUND), connection=made)
        assert decided(self.CLAIM, action, found) == Do(action=Action.UPDATE, connection=made)
        plain = replace(self.CLAIM, request=a_request())
        for other in (plain, replace(self.CLAIM, cancelled=True)):
            assert decided(other, action, found) == Succeed(connection=made, adopted=False)

    def test_the_update_makes_it_no_stranger(self) -> None:
        """What was updated for such a request is its own: a removal may delete it."""
        made = a_connection()
        updated = replace(an_observation(Result.UPDATED), connection=made)
        assert decided(self.CLAIM, Action.UPDATE, updated) == Succeed(connection=made, adopted=False)
        assert decided(self.CLAIM, Action.REPLACE, updated) == Succeed(connection=made, adopted=True)


class TestConflict:
    """The name is taken by somebody else."""

    def test_a_name_that_is_taken_is_looked_at_first(self) -> None:
        """It may be ours, so it is identified before anything is decided."""
        assert decided(a_claim(), Action.CREATE, Result.NAME_TAKEN) == Do(action=Action.IDENTIFY)

    @pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
    @pytest.mark.parametrize("choice", OnConflict)
    def test_the_row_says_what_to_do(self, action: Action, choice: OnConflict) -> None:
        """Fail names the connection, adopt records it, replace sets its key."""
        stranger = a_connection(created_at=at(-3600))
        claim = a_doubted_claim(a_request(on_conflict=choice))
        decision = decided(claim, action, replace(an_observation(Result.FOUND), connection=stranger))
        match choice:
            case OnConflict.FAIL:
                assert isinstance(decision, Fail)
                assert decision.code is ErrorCode.NAME_CONFLICT
                assert stranger.id in decision.message
            case OnConflict.ADOPT:
                assert decision == Succeed(connection=stranger, adopted=True)
            case OnConflict.REPLACE:
                assert decision == Do(action=Action.REPLACE, connection=stranger)

    def test_what_is_ours_is_recorded_whatever_the_row_says(self) -> None:
        """A connection of this request's own making is no conflict."""
        for choice in OnConflict:
            claim = a_doubted_claim(a_request(on_conflict=choice))
            assert decided(claim, Action.IDENTIFY, Result.FOUND) == Succeed(connection=a_connection())

    @pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
    def test_what_the_row_has_recorded_is_no_conflict(self, action: Action) -> None:
        """A request that was set to pending by hand after its success is in conflict with anything but itself."""
        known = a_connection(created_at=at(-3600))
        seen = replace(an_observation(Result.FOUND), connection=known)
        claim = a_claim(a_request(recorded_id=known.id))
        assert decided(claim, action, seen) == Succeed(connection=known)
        other = a_claim(a_request(recorded_id="another"))
        assert isinstance(decided(other, action, seen), Fail)

    def test_a_replaced_key_ends_it(self) -> None:
        """The connection is recorded as the update's answer describes it."""
        made = decided(a_claim(a_request(on_conflict=OnConflict.REPLACE)), Action.REPLACE, Result.UPDATED)
        assert isinstance(made, Succeed)
        assert made.connection == a_connection()

    @pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
    @pytest.mark.parametrize("choice", OnConflict)
    def test_another_apps_connection_is_never_touched(self, action: Action, choice: OnConflict) -> None:
        """It can be neither adopted nor replaced: a person has to rename one of them."""
        for claim in (a_claim(a_request(on_conflict=choice)), a_doubted_claim(a_request(on_conflict=choice))):
            decision = decided(claim, action, Result.OTHER_APP)
            assert isinstance(decision, Fail)
            assert decision.code is ErrorCode.NAME_CONFLICT

    def test_a_taken_name_that_cannot_be_seen_is_tried_again(self) -> None:
        """Reads may come from a replica that lags behind; in the end it is given up."""
        early = decided(a_claim(), Action.IDENTIFY, Result.ABSENT)
        late = decided(a_claim(failures=7), Action.IDENTIFY, Result.ABSENT)
        assert isinstance(early, Retry)
        assert isinstance(late, Fail)
        assert late.code is ErrorCode.GAVE_UP


class TestWrongScope:
    """The server made the connection outside the project."""

    def test_it_is_looked_at_first(self) -> None:
        """An answer without a project proves nothing yet: the connection it names is looked up by id."""
        assert decided(a_claim(), Action.CREATE, Result.WRONG_SCOPE) == Do(
            action=Action.INSPECT, connection=a_connection()
        )

    def test_it_is_deleted_again(self) -> None:
        """A connection that we certainly made in the wrong place is removed."""
        wrong = a_connection(project_id=None)
        seen = an_observation(Result.FOUND, connection=wrong)
        assert decided(a_doubted_claim(), Action.INSPECT, seen) == Do(action=Action.REMOVE, connection=wrong)

    def test_it_is_recorded_where_it_is_in_the_project_after_all(self) -> None:
        """An old server may leave the project out of its answer."""
        assert decided(a_doubted_claim(), Action.INSPECT, Result.FOUND) == Succeed(connection=a_connection())

    @pytest.mark.parametrize(
        "changes",
        [
            {"description": "theirs"},
            {"created_at": at(-60)},
            {"created_at": at(60)},
            {"created_at": None},
            {"name": "another"},
            {"app": "github"},
            {"project_id": project(2)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("scope", [None, project(1)])
    def test_what_it_cannot_have_made_is_left_alone(self, scope: str | None, changes: dict[str, Any]) -> None:
        """Nothing is deleted or recorded that only a mixed-up answer named."""
        seen = an_observation(Result.FOUND, connection=a_connection(**({"project_id": scope} | changes)))
        assert isinstance(decided(a_doubted_claim(), Action.INSPECT, seen), Retry)

    @pytest.mark.parametrize(
        "seen", [Result.THROTTLED, Result.NOT_SENT, Result.UNKNOWN, Result.TOKEN_TROUBLE, Result.ABSENT]
    )
    def test_what_stands_in_the_way_of_the_look_is_waited_out(self, seen: Result) -> None:
        """Only this claim knows of the connection; a replica may not know it yet."""
        decision = decided(a_doubted_claim(), Action.INSPECT, seen)
        assert isinstance(decision, Do)
        assert decision.action is Action.INSPECT
        assert isinstance(decided(a_doubted_claim(), Action.INSPECT, seen, a_moment(now=at(REMOVE_FOR))), Retry)

    def test_what_cannot_be_looked_at_needs_a_person(self) -> None:
        """Without the permission to read it, its place is unknown."""
        decision = decided(a_doubted_claim(), Action.INSPECT, Result.FORBIDDEN)
        assert isinstance(decision, Fail)
        assert decision.code is ErrorCode.WRONG_SCOPE

    @pytest.mark.parametrize("seen", sorted(POSSIBLE[Action.REMOVE], key=str))
    def test_then_it_fails_loudly(self, seen: Result) -> None:
        """The failure says whether the connection is gone or has to be deleted by hand."""
        decision = decided(a_claim(), Action.REMOVE, seen, a_moment(now=at(REMOVE_FOR)))
        assert isinstance(decision, Fail)
        assert decision.code is ErrorCode.WRONG_SCOPE
        assert ("by hand" in decision.message) is (seen not in {Result.REMOVED, Result.ABSENT})

    @pytest.mark.parametrize("seen", [Result.THROTTLED, Result.NOT_SENT, Result.UNKNOWN, Result.TOKEN_TROUBLE])
    def test_what_passes_is_waited_out(self, seen: Result) -> None:
        """Only this claim knows of the connection, so it is deleted once that is possible, in the limiter's time."""
        decision = decided(a_claim(), Action.REMOVE, an_observation(seen, retry_after=7.0))
        assert decision == Do(action=Action.REMOVE, connection=a_connection(), delay=7.0)
        assert isinstance(soon := decided(a_claim(), Action.REMOVE, seen), Do)
        assert 0.5 <= soon.delay <= 2


class TestCancelled:
    """The request was cancelled while an attempt was in doubt."""

    cancelled: Final = a_doubted_claim(cancelled=True)

    def test_a_connection_that_it_made_is_recorded(self) -> None:
        """A cancelled request keeps the connection that it made."""
        assert decided(self.cancelled, Action.LOOK_UP, Result.FOUND) == Succeed(connection=a_connection())

    @pytest.mark.parametrize("choice", OnConflict)
    def test_a_strangers_connection_is_left_alone(self, choice: OnConflict) -> None:
        """Nothing is adopted or replaced any more."""
        claim = replace(self.cancelled, request=a_request(on_conflict=choice))
        stranger = replace(an_observation(Result.FOUND), connection=a_connection(created_at=at(-3600)))
        assert decided(claim, Action.LOOK_UP, stranger) == Cancel()

    @given(moments)
    def test_it_is_never_made_any_more(self, context: DecisionContext) -> None:
        """Whatever the look-up shows, no create follows."""
        for seen in POSSIBLE[Action.LOOK_UP]:
            assert not isinstance(decided(self.cancelled, Action.LOOK_UP, seen, context), Do)

    def test_another_apps_connection_ends_it(self) -> None:
        """A name that another app has proves that the request made nothing, so it is cancelled instead of failed."""
        assert decided(self.cancelled, Action.LOOK_UP, Result.OTHER_APP) == Cancel()

    def test_nothing_found_ends_it(self) -> None:
        """Once a late commit would be visible, a missing connection was never made."""
        assert decided(self.cancelled, Action.LOOK_UP, Result.ABSENT, a_moment(now=at(3600))) == Cancel()

    @given(st.integers(0, 100))
    def test_it_is_looked_up_again_while_something_may_still_come(self, seconds: int) -> None:
        """Nothing looks after a cancellation, so that is recorded only when no create in doubt can still succeed."""
        (sent,) = self.cancelled.doubt
        now = sent.ended_at + timedelta(seconds=seconds)
        decision = decided(self.cancelled, Action.LOOK_UP, Result.ABSENT, a_moment(now=now))
        if seconds >= LATE_COMMIT + REPLICA_LAG:
            assert decision == Cancel()
        else:
            assert isinstance(decision, Retry)
            assert decision.delay == pytest.approx(LATE_COMMIT + REPLICA_LAG - seconds)
            assert not decision.counted
