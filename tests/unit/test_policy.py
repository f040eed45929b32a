"""The policy decides what happens next to a request, after whatever a call can show."""

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Connection,
    Decision,
    Do,
    ErrorCode,
    Fail,
    Observation,
    OnConflict,
    Retry,
    Seen,
    Succeed,
)
from provisioner.core.policy import (
    DOUBT_PAUSE,
    REMOVE_FOR,
    TROUBLE_CAP,
    Moment,
    Rules,
    backoff,
    breather,
    decide,
    first_action,
    is_ours,
)
from tests.support.builders import a_claim, a_connection, a_moment, a_request, an_observation, at

RULES = Rules()

# What any call can meet on its way.
ON_THE_WAY: Final = {Seen.THROTTLED, Seen.TOKEN_TROUBLE, Seen.MISCONFIGURED, Seen.UNKNOWN, Seen.NOT_SENT}
REFUSALS: Final = {Seen.FORBIDDEN, Seen.PROJECT_MISSING, Seen.INVALID}
NO_KEY: Final = {Seen.CREDENTIAL_UNKNOWN, Seen.CREDENTIAL_UNREADABLE, Seen.CREDENTIAL_AWAY}
POSSIBLE: Final[dict[Action, set[Seen]]] = {
    Action.CREATE: {Seen.CREATED, Seen.WRONG_SCOPE, Seen.NAME_TAKEN, Seen.KEY_REFUSED} | REFUSALS | NO_KEY | ON_THE_WAY,
    Action.LOOK_UP: {Seen.FOUND, Seen.ABSENT, Seen.OTHER_APP} | REFUSALS | ON_THE_WAY,
    Action.IDENTIFY: {Seen.FOUND, Seen.ABSENT, Seen.OTHER_APP} | REFUSALS | ON_THE_WAY,
    Action.REPLACE: {Seen.UPDATED, Seen.ABSENT, Seen.KEY_REFUSED} | REFUSALS | NO_KEY | ON_THE_WAY,
    Action.REMOVE: {Seen.REMOVED, Seen.ABSENT} | REFUSALS | ON_THE_WAY,
}
NOBODYS_FAULT: Final = (Seen.THROTTLED, Seen.NOT_SENT, Seen.TOKEN_TROUBLE, Seen.MISCONFIGURED, Seen.UNKNOWN)
SITUATIONS: Final = [(action, seen) for action, possible in POSSIBLE.items() for seen in sorted(possible, key=str)]

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
    unknown=st.booleans(),
    cancelled=st.booleans(),
)
moments = st.builds(
    Moment,
    now=st.integers(0, 120).map(at),
    jitter=st.floats(0, 1, exclude_max=True),
    skew=st.floats(-600, 600),
    target_works=st.booleans(),
)
rules = st.builds(
    Rules,
    max_attempts=st.integers(1, 12),
    base=st.floats(0.1, 10),
    cap=st.floats(1, 600),
    marker=st.booleans(),
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
    return shown.map(lambda seen: replace(seen, connection=a_connection())) if action is Action.REMOVE else shown


def _seen(seen: Seen, connection: Connection) -> Observation:
    usual = an_observation(seen)
    return replace(usual, connection=connection) if usual.connection else usual


def decided(claim: Claim, action: Action, seen: Seen | Observation, moment: Moment | None = None) -> Decision:
    """What the policy says under the usual rules; a removal's observation carries what was to be removed."""
    shown = an_observation(seen) if isinstance(seen, Seen) else seen
    if action is Action.REMOVE:
        shown = replace(shown, connection=a_connection())
    return decide(claim, action, shown, rules=RULES, moment=moment or a_moment())


class TestAnything:
    """Whatever a call shows."""

    @given(data=st.data(), claim=claims, moment=moments, ruled=rules)
    @pytest.mark.parametrize("action", Action)
    def test_there_is_an_answer(
        self, data: st.DataObject, action: Action, claim: Claim, moment: Moment, ruled: Rules
    ) -> None:
        """Each observation that a call can make is decided, with a pause that is finite and a reason that is told."""
        seen = data.draw(observations(action))
        match decide(claim, action, seen, rules=ruled, moment=moment):
            case Retry(delay=delay):
                assert 0 <= delay <= max(45.0, ruled.cap)
            case Fail(message=message):
                assert message
            case Do(action=following, connection=connection):
                assert (connection is not None) is (following in {Action.REPLACE, Action.REMOVE})
            case Succeed(connection=connection):
                assert connection == seen.connection
            case Cancel():
                assert claim.cancelled

    @given(data=st.data(), claim=claims, ruled=rules)
    def test_the_calls_for_one_claim_come_to_an_end(self, data: st.DataObject, claim: Claim, ruled: Rules) -> None:
        """No sequence of observations leads to more than four calls or to the same call twice."""
        action, calls = first_action(claim), list[Action]()
        while True:
            calls.append(action)
            assert len(calls) <= 4
            assert len(set(calls)) == len(calls)
            seen, moment = data.draw(observations(action)), data.draw(moments)
            if action is Action.REMOVE:  # it alone may be repeated, and not for ever
                moment = replace(moment, now=at(REMOVE_FOR))
            decision = decide(claim, action, seen, rules=ruled, moment=moment)
            if not isinstance(decision, Do):
                break
            action = decision.action

    @pytest.mark.parametrize(("action", "seen"), SITUATIONS)
    @pytest.mark.parametrize("works", [True, False])
    def test_a_doubt_is_never_forgotten(self, action: Action, seen: Seen, works: bool) -> None:
        """Whoever is tried again after an unknown outcome still has it, whatever the later attempt met."""
        decision = decided(a_claim(unknown=True), action, seen, a_moment(target_works=works))
        if isinstance(decision, Retry):
            assert decision.unknown

    def test_a_success_without_its_connection_is_a_defect(self) -> None:
        """An observation that forgot its connection is refused instead of recorded."""
        with pytest.raises(ValueError, match="has to carry its connection"):
            decided(a_claim(), Action.CREATE, replace(an_observation(Seen.CREATED), connection=None))


class TestUnknown:
    """A create whose outcome is unknown."""

    @given(claim=claims, moment=moments, ruled=rules)
    def test_is_never_called_a_failure_or_repeated_blindly(self, claim: Claim, moment: Moment, ruled: Rules) -> None:
        """What follows remembers the doubt, so that the next attempt begins with a look-up."""
        decision = decide(claim, Action.CREATE, an_observation(Seen.UNKNOWN), rules=ruled, moment=moment)
        assert isinstance(decision, Retry | Fail)
        assert decision.unknown
        if isinstance(decision, Retry):
            assert decision.delay >= DOUBT_PAUSE / 2
        assert first_action(replace(claim, unknown=decision.unknown)) is Action.LOOK_UP

    def test_a_late_commit_is_waited_for(self) -> None:
        """Half a second passes at the least before it is looked up: a create that was cut off may still be at work."""
        for attempt, works in product((1, 2, 9), (True, False)):
            decision = decided(
                a_claim(attempt=attempt), Action.CREATE, Seen.UNKNOWN, a_moment(jitter=0, target_works=works)
            )
            assert isinstance(decision, Retry)
            assert decision.delay >= 0.5

    def test_a_look_up_that_failed_raises_no_doubt(self) -> None:
        """A lost answer to a read leaves nothing behind in Infisical."""
        decision = decided(a_claim(), Action.IDENTIFY, Seen.UNKNOWN)
        assert isinstance(decision, Retry)
        assert not decision.unknown

    def test_counts_only_where_others_get_through(self) -> None:
        """A row that the server cannot digest fails in the end; an outage fails nobody."""
        tired = a_claim(failures=RULES.max_attempts - 1)
        own = decided(tired, Action.CREATE, Seen.UNKNOWN, a_moment(target_works=True))
        outage = decided(tired, Action.CREATE, Seen.UNKNOWN, a_moment(target_works=False))
        assert own == Fail(code=ErrorCode.OUTCOME_UNKNOWN, message=Seen.UNKNOWN.value, unknown=True)
        assert isinstance(outage, Retry)
        assert not outage.counted

    def test_nothing_found_means_that_it_is_made_again(self) -> None:
        """After the look-up found nothing the same name is created again."""
        assert decided(a_claim(unknown=True), Action.LOOK_UP, Seen.ABSENT) == Do(action=Action.CREATE)

    def test_who_has_no_doubt_is_not_looked_up(self) -> None:
        """A fresh request costs no read."""
        assert first_action(a_claim()) is Action.CREATE
        assert first_action(a_claim(unknown=True)) is Action.LOOK_UP


class TestNobodysFault:
    """What is no fault of the row."""

    @given(claim=claims, moment=moments, ruled=rules)
    @pytest.mark.parametrize("seen", NOBODYS_FAULT)
    @pytest.mark.parametrize("action", [Action.CREATE, Action.LOOK_UP, Action.IDENTIFY, Action.REPLACE])
    def test_costs_no_attempt(self, action: Action, seen: Seen, claim: Claim, moment: Moment, ruled: Rules) -> None:
        """However often it happened and however long it lasts, it is tried again and not counted."""
        decision = decide(claim, action, an_observation(seen), rules=ruled, moment=replace(moment, target_works=False))
        assert isinstance(decision, Retry)
        assert not decision.counted
        assert decision.delay <= TROUBLE_CAP

    @pytest.mark.parametrize("seen", NOBODYS_FAULT)
    def test_an_hour_of_it_leaves_the_row_as_it_was(self, seen: Seen) -> None:
        """A thousand attempts in a row that met it have spent nothing."""
        claim = a_claim()
        for attempt in range(1, 1000):
            decision = decided(replace(claim, attempt=attempt), Action.CREATE, seen)
            assert isinstance(decision, Retry)
            claim = replace(claim, failures=claim.failures + decision.counted)
        assert claim.failures == 0

    def test_who_was_throttled_goes_back_in_line_at_once(self) -> None:
        """A 429 blocks the budget for everybody; the row itself has nothing to wait for."""
        assert decided(a_claim(attempt=9), Action.CREATE, Seen.THROTTLED) == Retry(
            delay=0.0, message=Seen.THROTTLED.value
        )

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
    def test_the_pause_is_short_and_never_nothing(self, attempt: int, jitter: float) -> None:
        """Trouble is tried again between half a second and ten seconds later."""
        assert DOUBT_PAUSE / 2 <= breather(attempt, jitter=jitter) <= TROUBLE_CAP


class TestOwnFault:
    """What is the row's own trouble."""

    @pytest.mark.parametrize("seen", [Seen.KEY_REFUSED, Seen.FORBIDDEN, Seen.PROJECT_MISSING])
    @given(moment=moments, ruled=rules, pace=st.floats(0, 3600))
    def test_ends_after_the_attempts_that_the_settings_allow(
        self, seen: Seen, moment: Moment, ruled: Rules, pace: float
    ) -> None:
        """Counted failures end in a failure after `max_attempts` at the latest, and not before a second look."""
        claim, times = a_claim(), 0
        while True:
            times += 1
            now = at(times * pace)
            decision = decide(claim, Action.CREATE, an_observation(seen), rules=ruled, moment=replace(moment, now=now))
            if isinstance(decision, Fail):
                break
            assert isinstance(decision, Retry)
            assert decision.counted
            claim = replace(claim, attempt=claim.attempt + 1, failures=claim.failures + 1, since=at(0))
        assert min(2, ruled.max_attempts) <= times <= ruled.max_attempts

    @pytest.mark.parametrize(
        ("seen", "code"),
        [
            (Seen.KEY_REFUSED, ErrorCode.CREDENTIAL_REFUSED),
            (Seen.FORBIDDEN, ErrorCode.PERMISSION_DENIED),
            (Seen.PROJECT_MISSING, ErrorCode.PROJECT_NOT_FOUND),
        ],
    )
    def test_is_named(self, seen: Seen, code: ErrorCode) -> None:
        """The code and Infisical's words reach the row, while it is tried again and when it fails."""
        retried = decided(a_claim(), Action.CREATE, seen)
        assert (retried.code, retried.message) == (code, seen.value) if isinstance(retried, Retry) else False
        assert decided(a_claim(failures=7, since=at(-600)), Action.CREATE, seen) == Fail(code=code, message=seen.value)

    def test_a_fresh_grant_is_waited_for(self) -> None:
        """A missing permission is not final before a grant has had fifteen seconds to show."""
        claim = a_claim(failures=5, streak=5, streak_of=ErrorCode.PERMISSION_DENIED)
        early = decided(claim, Action.CREATE, Seen.FORBIDDEN, a_moment(now=at(14)))
        late = decided(claim, Action.CREATE, Seen.FORBIDDEN, a_moment(now=at(15)))
        assert isinstance(early, Retry)
        assert isinstance(late, Fail)

    def test_each_kind_of_trouble_has_its_own_patience(self) -> None:
        """A key that is refused for the first time is not final because a permission was missing before."""
        claim = a_claim(failures=2, streak=2, streak_of=ErrorCode.PERMISSION_DENIED, since=at(-60))
        assert isinstance(decided(claim, Action.CREATE, Seen.KEY_REFUSED), Retry)
        again = a_claim(failures=4, streak=2, streak_of=ErrorCode.CREDENTIAL_REFUSED, since=at(-60))
        assert isinstance(decided(again, Action.CREATE, Seen.KEY_REFUSED), Fail)

    @pytest.mark.parametrize(
        ("seen", "code"),
        [
            (Seen.INVALID, ErrorCode.INVALID_REQUEST),
            (Seen.CREDENTIAL_UNKNOWN, ErrorCode.CREDENTIAL_UNKNOWN),
            (Seen.CREDENTIAL_UNREADABLE, ErrorCode.CREDENTIAL_UNREADABLE),
        ],
    )
    def test_what_no_attempt_can_mend_fails_at_once(self, seen: Seen, code: ErrorCode) -> None:
        """Nothing is spent on what needs a person."""
        assert decided(a_claim(), Action.CREATE, seen) == Fail(code=code, message=seen.value)

    @pytest.mark.parametrize("asked", [None, 0.0, 42.0])
    def test_a_key_that_cannot_be_fetched_costs_no_attempt(self, asked: float | None) -> None:
        """However often it was tried the request waits, at least as long as the store asks for, and counts nothing."""
        claim = a_claim(attempt=50, failures=7, unknown=True)
        seen = an_observation(Seen.CREDENTIAL_AWAY, retry_after=asked)
        decision = decide(claim, Action.CREATE, seen, rules=Rules(), moment=a_moment(target_works=True))
        assert isinstance(decision, Retry)
        assert (decision.counted, decision.unknown, decision.code, decision.hold) == (False, True, None, None)
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
    def test_even_the_luckiest_jitter_pauses(self, moment: Moment) -> None:
        """A counted retry waits half a second at the least, so that no row spins."""
        decision = decided(a_claim(), Action.CREATE, Seen.KEY_REFUSED, replace(moment, jitter=0.0))
        assert isinstance(decision, Retry)
        assert decision.delay == DOUBT_PAUSE / 2


class TestOurs:
    """Whether a connection that was found is of the request's own making."""

    claim: Final = a_claim(a_request(description=" made by us "), unknown=True)
    connection: Final = a_connection(description="made by us")

    def ours(self, *, claim: Claim = claim, moment: Moment | None = None, ruled: Rules = RULES, **changes: Any) -> bool:
        """Whether the connection is ours once it is changed so."""
        connection = replace(self.connection, **changes)
        return is_ours(claim, connection, rules=ruled, moment=moment or a_moment())

    def test_it_is_when_everything_fits(self) -> None:
        """App, method, description and time are those of the attempt whose outcome is unknown."""
        assert self.ours()
        assert self.ours(app="openrouter")

    @pytest.mark.parametrize(
        "changes",
        [
            {"app": "github"},
            {"method": "oauth"},
            {"description": "made by them"},
            {"description": None},
            {"description": "made by us "},
            {"created_at": None},
            {"created_at": at(-2.1)},
            {"created_at": at(7.1)},
        ],
        ids=str,
    )
    def test_each_difference_makes_it_somebody_elses(self, changes: dict[str, Any]) -> None:
        """One thing that does not fit is enough."""
        assert not self.ours(**changes)

    def test_only_an_unknown_outcome_can_have_made_it(self) -> None:
        """Who never lost an answer has made nothing that it does not know."""
        assert not self.ours(claim=replace(self.claim, unknown=False))

    def test_the_window_begins_with_the_first_attempt(self) -> None:
        """Any of the earlier attempts may have made it, but nothing before the first."""
        late = replace(self.claim, attempt=7, claimed_at=at(600), since=at(0))
        moment = a_moment(now=at(610))
        assert self.ours(claim=late, moment=moment, created_at=at(1))
        assert not self.ours(claim=replace(late, since=at(300)), moment=moment, created_at=at(1))

    @given(st.floats(-3600, 3600))
    def test_the_clocks_difference_is_allowed_for(self, skew: float) -> None:
        """A clock that is minutes or an hour off neither steals nor disowns a connection."""
        moment = a_moment(skew=skew)
        wrong = timedelta(seconds=skew)
        assert self.ours(moment=moment, created_at=at(1) + wrong)
        assert not self.ours(moment=moment, created_at=at(-3) + wrong)
        assert not self.ours(moment=moment, created_at=at(8) + wrong)

    @given(st.floats(0.5, 2))
    def test_the_better_the_clocks_are_known_the_closer_it_is_looked_at(self, tolerance: float) -> None:
        """What others made a moment before our first attempt is told from ours as well as the clocks allow."""
        moment = a_moment(tolerance=tolerance)
        assert self.ours(moment=moment, created_at=at(-tolerance + 0.01))
        assert not self.ours(moment=moment, created_at=at(-tolerance - 0.01))

    def test_no_description_and_an_empty_one_are_the_same(self) -> None:
        """Infisical may give back either."""
        claim = a_claim(unknown=True)
        assert self.ours(claim=claim, description=None)
        assert self.ours(claim=claim, description="")

    def test_a_marker_makes_it_certain(self) -> None:
        """With the marker switched on, only a description that carries this request's own is ours."""
        marked = Rules(marker=True)
        assert self.ours(ruled=marked, description="made by us [provisioner:1]")
        assert not self.ours(ruled=marked, description="made by us [provisioner:2]")
        assert not self.ours(ruled=marked, description="made by us")

    def test_a_marker_needs_neither_doubt_nor_clock(self) -> None:
        """Nobody else writes it: what carries it is ours whenever it was made, and whatever we know of."""
        description, certain = "made by us [provisioner:1]", replace(self.claim, unknown=False)
        assert self.ours(ruled=Rules(marker=True), description=description, claim=certain, created_at=at(-9000))
        assert self.ours(ruled=Rules(marker=True), description=description, created_at=None)
        assert not self.ours(ruled=Rules(marker=True), description=description, app="github")

    @pytest.mark.parametrize("created", [-1.9, 6.9])
    def test_clocks_may_be_two_seconds_apart(self, created: float) -> None:
        """Their difference is known to about two seconds, and what is ours is not disowned for that."""
        assert self.ours(created_at=at(created))

    @pytest.mark.parametrize("space", ["\ufeff", "\u2003", "\u00a0\n"])
    @pytest.mark.parametrize("kept", ["\x85", "\x1f", "\u200b", "\u180e"])
    def test_descriptions_are_compared_as_infisical_keeps_them(self, space: str, kept: str) -> None:
        """What JavaScript trims is gone when it comes back, and what only others would trim is still there."""
        claim = a_claim(a_request(description=f"{space}{kept}by us{kept}{space}"), unknown=True)
        assert self.ours(claim=claim, description=f"{kept}by us{kept}")
        assert not self.ours(claim=claim, description="by us")


class TestConflict:
    """The name is taken by somebody else."""

    def test_a_name_that_is_taken_is_looked_at_first(self) -> None:
        """It may be ours, so it is identified before anything is decided."""
        assert decided(a_claim(), Action.CREATE, Seen.NAME_TAKEN) == Do(action=Action.IDENTIFY)

    @pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
    @pytest.mark.parametrize("choice", OnConflict)
    def test_the_row_says_what_to_do(self, action: Action, choice: OnConflict) -> None:
        """Fail names the connection, adopt records it, replace sets its key."""
        stranger = a_connection(created_at=at(-3600))
        claim = a_claim(a_request(on_conflict=choice), unknown=True)
        decision = decided(claim, action, replace(an_observation(Seen.FOUND), connection=stranger))
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
            claim = a_claim(a_request(on_conflict=choice), unknown=True)
            assert decided(claim, Action.IDENTIFY, Seen.FOUND) == Succeed(connection=a_connection(), adopted=True)

    def test_a_replaced_key_ends_it(self) -> None:
        """The connection is recorded as the update's answer describes it."""
        made = decided(a_claim(a_request(on_conflict=OnConflict.REPLACE)), Action.REPLACE, Seen.UPDATED)
        assert isinstance(made, Succeed)
        assert made.connection == a_connection()

    @pytest.mark.parametrize("action", [Action.LOOK_UP, Action.IDENTIFY])
    @pytest.mark.parametrize("choice", OnConflict)
    def test_another_apps_connection_is_never_touched(self, action: Action, choice: OnConflict) -> None:
        """It can be neither adopted nor replaced: a person has to rename one of them."""
        for unknown in (True, False):
            claim = a_claim(a_request(on_conflict=choice), unknown=unknown)
            decision = decided(claim, action, Seen.OTHER_APP)
            assert isinstance(decision, Fail)
            assert decision.code is ErrorCode.NAME_CONFLICT

    def test_a_taken_name_that_cannot_be_seen_is_tried_again(self) -> None:
        """Reads may come from a replica that lags behind; in the end it is given up."""
        early = decided(a_claim(), Action.IDENTIFY, Seen.ABSENT)
        late = decided(a_claim(failures=7), Action.IDENTIFY, Seen.ABSENT)
        assert isinstance(early, Retry)
        assert isinstance(late, Fail)
        assert late.code is ErrorCode.GAVE_UP


class TestWrongScope:
    """The server made the connection outside the project."""

    def test_it_is_deleted_again(self) -> None:
        """What was made in the wrong place does not stay there."""
        assert decided(a_claim(), Action.CREATE, Seen.WRONG_SCOPE) == Do(
            action=Action.REMOVE, connection=a_connection()
        )

    @pytest.mark.parametrize("seen", sorted(POSSIBLE[Action.REMOVE], key=str))
    def test_then_it_fails_loudly(self, seen: Seen) -> None:
        """The failure says whether the connection is gone or has to be deleted by hand."""
        decision = decided(a_claim(), Action.REMOVE, seen, a_moment(now=at(REMOVE_FOR)))
        assert isinstance(decision, Fail)
        assert decision.code is ErrorCode.WRONG_SCOPE
        assert ("by hand" in decision.message) is (seen not in {Seen.REMOVED, Seen.ABSENT})

    @pytest.mark.parametrize("seen", [Seen.THROTTLED, Seen.NOT_SENT, Seen.UNKNOWN, Seen.TOKEN_TROUBLE])
    def test_what_passes_is_waited_out(self, seen: Seen) -> None:
        """Only this claim knows of the connection, so it is deleted once that is possible, in the limiter's time."""
        decision = decided(a_claim(), Action.REMOVE, an_observation(seen, retry_after=7.0))
        assert decision == Do(action=Action.REMOVE, connection=a_connection(), delay=7.0)
        assert isinstance(soon := decided(a_claim(), Action.REMOVE, seen), Do)
        assert 0.5 <= soon.delay <= 2


class TestCancelled:
    """The request was called off while an attempt was in doubt."""

    cancelled: Final = a_claim(unknown=True, cancelled=True)

    def test_a_connection_that_it_made_is_recorded(self) -> None:
        """A cancelled request keeps what it has made."""
        assert decided(self.cancelled, Action.LOOK_UP, Seen.FOUND) == Succeed(connection=a_connection(), adopted=True)

    @pytest.mark.parametrize("choice", OnConflict)
    def test_a_strangers_connection_is_left_alone(self, choice: OnConflict) -> None:
        """Nothing is adopted or replaced any more."""
        claim = replace(self.cancelled, request=a_request(on_conflict=choice))
        stranger = replace(an_observation(Seen.FOUND), connection=a_connection(created_at=at(-3600)))
        assert decided(claim, Action.LOOK_UP, stranger) == Cancel()

    @given(moments)
    def test_it_is_never_made_any_more(self, moment: Moment) -> None:
        """Whatever the look-up shows, no create follows."""
        for seen in POSSIBLE[Action.LOOK_UP]:
            assert not isinstance(decided(self.cancelled, Action.LOOK_UP, seen, moment), Do)

    def test_another_apps_connection_ends_it(self) -> None:
        """A name that another app has proves that the request made nothing, so it is cancelled, not failed."""
        assert decided(self.cancelled, Action.LOOK_UP, Seen.OTHER_APP) == Cancel()

    def test_nothing_found_ends_it(self) -> None:
        """It is looked up for the last time once a late commit would show, so what is not there was never made."""
        assert decided(self.cancelled, Action.LOOK_UP, Seen.ABSENT, a_moment(now=at(3600))) == Cancel()


@dataclass(slots=True)
class World:
    """An Infisical in which only one worker acts: what exists, and what may still be committed late."""

    skew: float
    now: float = 0.0
    exists: Connection | None = None
    pending: bool = False
    made: int = 0

    def commit(self) -> None:
        """Insert the row unless the name is taken; its time is on the server's clock."""
        if self.exists is None:
            self.made += 1
            self.exists = a_connection(created_at=at(self.now + self.skew))

    def create(self, fate: str) -> Observation:
        """Answer a create, or lose the answer."""
        if self.pending and fate != "still pending":
            self.pending = False
            self.commit()
        if fate == "throttled":
            return an_observation(Seen.THROTTLED)
        if fate in {"lost before the commit", "still pending"}:
            self.pending = self.pending or fate == "still pending"
            return an_observation(Seen.UNKNOWN)
        taken = self.exists is not None
        self.commit()
        if fate == "lost after the commit":
            return an_observation(Seen.UNKNOWN)
        return an_observation(Seen.NAME_TAKEN) if taken else _seen(Seen.CREATED, self.connection())

    def look_up(self, fate: str) -> Observation:
        """Answer a look-up; a late commit may happen just before or after it."""
        if self.pending and fate == "lost after the commit":
            self.pending = False
            self.commit()
        if fate == "throttled":
            return an_observation(Seen.THROTTLED)
        return an_observation(Seen.ABSENT) if self.exists is None else _seen(Seen.FOUND, self.connection())

    def connection(self) -> Connection:
        """What exists."""
        assert self.exists is not None
        return self.exists


FATES: Final = ("answered", "lost before the commit", "lost after the commit", "still pending", "throttled")


@given(data=st.data(), skew=st.floats(-300, 300), works=st.booleans())
def test_one_connection_whatever_is_lost_when(data: st.DataObject, skew: float, works: bool) -> None:
    """While only one request acts, it ends with the one connection that exists, never with a conflict with itself."""
    world, claim = World(skew=skew), a_claim()
    while True:
        outcome = _attempt(world, claim, data, works=works)
        if not isinstance(outcome, Retry):
            break
        claim = replace(
            claim,
            attempt=claim.attempt + 1,
            claimed_at=at(world.now),
            since=claim.first_tried_at,
            failures=claim.failures + outcome.counted,
            unknown=outcome.unknown,
        )
        world.now += outcome.delay
    assert world.made <= 1
    match outcome:
        case Succeed(connection=connection):
            assert connection == world.exists
        case Fail(code=code, unknown=unknown):
            assert code is ErrorCode.OUTCOME_UNKNOWN
            assert unknown
            assert works
        case Cancel():
            pytest.fail("nobody called it off")


def _attempt(world: World, claim: Claim, data: st.DataObject, *, works: bool) -> Decision:
    """Carry one claim to its end; after a dozen attempts the world is kind."""
    action = first_action(claim)
    while True:
        world.now += 1
        fate = data.draw(st.sampled_from(FATES)) if claim.attempt < 12 else "answered"
        seen = world.create(fate) if action is Action.CREATE else world.look_up(fate)
        moment = Moment(now=at(world.now), jitter=0.5, skew=world.skew, target_works=works)
        decision = decide(claim, action, seen, rules=RULES, moment=moment)
        if not isinstance(decision, Do):
            return decision
        action = decision.action
