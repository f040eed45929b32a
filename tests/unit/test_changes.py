"""Decisions about recorded connections, and about connections that are not wanted."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from provisioner.core.changes import first_step, recorded, recorded_twice
from provisioner.core.doubt import LATE_COMMIT, REPLICA_LAG
from provisioner.core.model import (
    Action,
    Cancel,
    Claim,
    Decision,
    Do,
    Edits,
    ErrorCode,
    Fail,
    Remove,
    Result,
    Retry,
    Succeed,
)
from provisioner.core.policy import Rules, decide
from tests.support.builders import a_claim, a_connection, a_moment, a_request, a_sent_create, an_observation, at

if TYPE_CHECKING:
    from provisioner.core.model import Observation

RECORDED = a_connection().id
LATE = at(3600)


def claimed(*, doubted: bool = False, cancelled: bool = False, **request: Any) -> Claim:
    """A claim of a request that has these columns."""
    asked = a_request(**request)
    return replace(a_claim(asked, doubt=(a_sent_create(asked),) if doubted else ()), cancelled=cancelled)


def decided(claim: Claim, action: Action, seen: Result | Observation) -> Decision:
    """Decide an hour after everything was sent."""
    shown = an_observation(seen) if isinstance(seen, Result) else seen
    if action is Action.DELETE and shown.connection is None:
        shown = replace(shown, connection=recorded(claim))
    return decide(claim, action, shown, rules=Rules(), context=a_moment(now=LATE))


@pytest.mark.parametrize("combination", list(product((False, True), repeat=7)))
def test_the_first_step_follows_the_wish(combination: tuple[bool, ...]) -> None:
    """Recorded ones are updated, deleted or let go; doubted ones are looked up; only unknown ones are created."""
    wanted, adopted, meant, edited, has, doubted, cancelled = combination
    claim = claimed(
        doubted=doubted,
        cancelled=cancelled,
        absent=not wanted,
        recorded_id=RECORDED if has else None,
        adopted=adopted and has,
        edits=Edits(description=edited, adopted=meant),
    )
    step = first_step(claim, LATE)
    action = step.action if isinstance(step, Do) else None
    if has and cancelled:
        assert step == Cancel()
    elif has and not wanted:
        assert step == (Remove() if adopted and not meant else Do(action=Action.DELETE, connection=recorded(claim)))
    elif has:
        assert step == Do(action=Action.UPDATE if edited else Action.CONFIRM, connection=recorded(claim))
    elif doubted:
        assert action is Action.LOOK_UP
    elif not wanted:
        assert step == Remove()
    else:
        assert step == (Cancel() if cancelled else Do(action=Action.CREATE))


def test_what_may_still_be_made_is_waited_for() -> None:
    """A lost create may be carried out late, so an unwanted connection is looked for after that."""
    claim = claimed(doubted=True, absent=True)
    soon = first_step(claim, claim.doubt[0].ended_at)
    assert isinstance(soon, Retry)
    assert soon.delay == pytest.approx(LATE_COMMIT + REPLICA_LAG)
    assert not soon.counted
    assert first_step(claim, LATE) == Do(action=Action.LOOK_UP)


@pytest.mark.parametrize("action", [Action.UPDATE, Action.CONFIRM])
@pytest.mark.parametrize("adopted", [True, False])
def test_what_was_changed_is_recorded(action: Action, adopted: bool) -> None:
    """The record keeps whether somebody else made the connection."""
    claim = claimed(recorded_id=RECORDED, adopted=adopted)
    seen = an_observation(Result.UPDATED if action is Action.UPDATE else Result.FOUND)
    assert decided(claim, action, seen) == Succeed(connection=a_connection(), adopted=adopted)


@pytest.mark.parametrize("action", [Action.UPDATE, Action.CONFIRM])
def test_what_somebody_deleted_is_made_anew(action: Action) -> None:
    """A missing connection is gone; one that may have been made since is looked up first."""
    assert decided(claimed(recorded_id=RECORDED), action, Result.ABSENT) == Do(action=Action.CREATE)
    doubted = claimed(recorded_id=RECORDED, doubted=True)
    assert decided(doubted, action, Result.ABSENT) == Do(action=Action.LOOK_UP)


def test_a_name_that_is_taken_leaves_the_connection_as_it_is() -> None:
    """A connection cannot get the name of another one; a person has to choose."""
    claim = claimed(recorded_id=RECORDED, edits=Edits(name=True))
    decision = decided(claim, Action.UPDATE, Result.NAME_TAKEN)
    assert isinstance(decision, Fail)
    assert decision.code is ErrorCode.NAME_CONFLICT


def test_what_was_recorded_is_never_taken_for_somebody_elses() -> None:
    """If the name turns out to be that of the recorded connection, it is that, whatever `on_conflict` says."""
    for conflict in ("fail", "adopt", "replace"):
        claim = claimed(recorded_id=RECORDED, on_conflict=conflict)
        assert decided(claim, Action.IDENTIFY, Result.FOUND) == Succeed(connection=a_connection())


@pytest.mark.parametrize("seen", [Result.REMOVED, Result.ABSENT, Result.PROJECT_MISSING])
def test_what_is_gone_is_removed(seen: Result) -> None:
    """In each case nothing of ours exists any more."""
    assert decided(claimed(recorded_id=RECORDED, absent=True), Action.DELETE, seen) == Remove()


def test_a_create_in_doubt_is_looked_for_after_a_deletion() -> None:
    """The recorded connection is gone, and one that a later create may have made has to go too."""
    claim = claimed(recorded_id=RECORDED, absent=True, doubted=True)
    assert decided(claim, Action.DELETE, Result.REMOVED) == Do(action=Action.LOOK_UP)


def test_what_is_in_use_needs_a_person() -> None:
    """Infisical keeps what something uses, and says so."""
    decision = decided(claimed(recorded_id=RECORDED, absent=True), Action.DELETE, Result.IN_USE)
    assert isinstance(decision, Fail)
    assert decision.code is ErrorCode.IN_USE


@pytest.mark.parametrize("action", [Action.UPDATE, Action.DELETE])
@pytest.mark.parametrize("seen", [Result.UNKNOWN, Result.NOT_SENT, Result.THROTTLED, Result.TOKEN_TROUBLE])
def test_a_lost_answer_is_tried_again(action: Action, seen: Result) -> None:
    """Both may be repeated, because an id never gets another owner."""
    claim = claimed(recorded_id=RECORDED, absent=action is Action.DELETE, edits=Edits(description=True))
    assert isinstance(decided(claim, action, seen), Retry)


@given(seen=st.sampled_from([Result.FOUND, Result.ABSENT, Result.OTHER_APP]), ours=st.booleans())
def test_only_what_is_ours_is_deleted(seen: Result, ours: bool) -> None:
    """An unwanted connection is deleted if one of our creates can have made it; any other stays."""
    claim = claimed(absent=True, doubted=True)
    connection = a_connection(created_at=claim.doubt[0].sent_at if ours else at(-9000))
    shown = an_observation(seen)
    if shown.connection is not None:
        shown = replace(shown, connection=connection)
    decision = decided(claim, Action.LOOK_UP, shown)
    if seen is Result.FOUND and ours:
        assert decision == Do(action=Action.DELETE, connection=connection)
    else:
        assert decision == Remove()


def test_what_was_looked_for_and_deleted_is_removed() -> None:
    """It does not begin anew."""
    claim = claimed(absent=True, doubted=True)
    seen = replace(an_observation(Result.REMOVED), connection=a_connection())
    assert decided(claim, Action.DELETE, seen) == Remove()


def test_what_another_target_has_recorded_is_a_conflict_unless_it_is_called_off() -> None:
    """One connection is never recorded twice; a cancelled request ends as cancelled all the same."""
    claim = claimed()
    failed = recorded_twice(claim, a_connection(), "eu")
    assert isinstance(failed, Fail)
    assert failed.code is ErrorCode.NAME_CONFLICT
    assert failed.message.startswith("eu has already recorded this connection")
    assert recorded_twice(replace(claim, cancelled=True), a_connection(), "eu") == Cancel()
