"""Which projects are quarantined, when the list is read and projects are probed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from provisioner.core.project_health import (
    FIRST_PROBE,
    FIRST_READ,
    FRESH,
    LONGEST_PROBE,
    LONGEST_READ,
    PROBE_GAP,
    UNCONFIRMED,
    Cause,
    Checks,
    QuarantinedProject,
    due_probes,
    listed,
    probe_now,
    probed,
    read_now,
    refused,
)
from tests.support.builders import at

OUTSIDE, DENIED = Cause.NOT_IN_PROJECT, Cause.NO_PERMISSION
IDS = st.sets(st.sampled_from("abcdefgh"))


def a_project(cause: Cause = OUTSIDE, **changes: object) -> QuarantinedProject:
    """A project that has been quarantined since the beginning."""
    return QuarantinedProject(**{"cause": cause, "reason": "no", "since": at(0), **changes})  # type: ignore[arg-type]


def test_the_first_refusal_quarantines() -> None:
    """One refusal is enough; only a missing permission has a probe, because a list shows the rest."""
    assert refused(None, OUTSIDE, "no", at(3)) == a_project(since=at(3))
    assert refused(None, DENIED, "no", at(3)) == a_project(DENIED, since=at(3), probe_at=at(3) + FIRST_PROBE)


def test_a_further_refusal_confirms_and_keeps_the_pace() -> None:
    """It waits since it first waited, a probe that was refused is over, and another cause begins anew."""
    probing = probed(a_project(DENIED, probe_at=at(5), confirmed=False), at(5))
    again = refused(probing, DENIED, "still", at(6))
    assert again == replace(probing, reason="still", confirmed=True, probing=False)
    joined = refused(a_project(confirmed=False), DENIED, "role", at(9))
    assert joined == a_project(DENIED, reason="role", since=at(0), probe_at=at(9) + FIRST_PROBE)


def test_probes_become_rare() -> None:
    """The pause doubles with each probe, up to an hour."""
    project, pauses = a_project(DENIED, probe_at=at(0)), []
    for _ in range(12):
        after = probed(project, at(0))
        assert after.probing
        pauses.append((after.probe_at or at(0)) - at(0))
        project = after
    assert pauses[:3] == [FIRST_PROBE, 2 * FIRST_PROBE, 4 * FIRST_PROBE]
    assert pauses[-1] == LONGEST_PROBE


def test_those_due_for_longest_are_probed_first() -> None:
    """Only missing permissions are probed, up to the given number."""
    projects = {
        "late": a_project(DENIED, probe_at=at(3)),
        "early": a_project(DENIED, probe_at=at(1)),
        "future": a_project(DENIED, probe_at=at(99)),
        "outside": a_project(),
    }
    assert due_probes(projects, at(5), most=1) == ["early"]
    assert due_probes(projects, at(5), most=9) == ["early", "late"]


def test_only_what_nothing_confirms_is_tried_after_an_hour() -> None:
    """A list may be wrong, a refusal is not."""
    assert not a_project(confirmed=False).may_try(at(0) + UNCONFIRMED - timedelta(seconds=1))
    assert a_project(confirmed=False).may_try(at(0) + UNCONFIRMED)
    assert not a_project().may_try(at(0) + UNCONFIRMED)


def test_the_list_is_read_at_once_and_then_more_and_more_seldom() -> None:
    """A refusal reads it unless somebody has just done so; while projects wait the pause doubles up to five minutes."""
    first = read_now(Checks(), at(0), refused=True)
    assert first == Checks(read_at=at(0), read_pause=FIRST_READ)
    assert read_now(first, at(0) + FRESH / 2, refused=True) is None
    assert read_now(first, at(0) + FIRST_READ / 2, refused=False) is None
    second = read_now(first, at(0) + FIRST_READ, refused=False)
    assert second == Checks(read_at=at(0) + FIRST_READ, read_pause=2 * FIRST_READ)
    assert read_now(Checks(read_at=at(0), read_pause=LONGEST_READ), at(0) + LONGEST_READ, refused=False) == Checks(
        read_at=at(0) + LONGEST_READ, read_pause=LONGEST_READ
    )
    hurried = read_now(Checks(read_at=at(0), read_pause=timedelta(0)), at(0), refused=False)
    assert hurried == Checks(read_at=at(0), read_pause=FIRST_READ)


@pytest.mark.parametrize(("passed", "expected"), [(False, False), (True, True)])
def test_probes_of_a_target_keep_a_distance_until_one_passes(passed: bool, expected: bool) -> None:
    """Hundreds of projects may lack the same permission, and a probe is a create."""
    checks = Checks(probed_at=at(0))
    assert (probe_now(checks, at(0) + PROBE_GAP / 2, passed=passed) is not None) is expected
    assert probe_now(checks, at(0) + PROBE_GAP, passed=False) == Checks(probed_at=at(0) + PROBE_GAP)


@given(joined=IDS, wanted=IDS, accepted=IDS, outside=IDS, denied=IDS, unconfirmed=IDS)
def test_a_list_releases_who_joined_and_quarantines_who_did_not(
    joined: set[str], wanted: set[str], accepted: set[str], outside: set[str], denied: set[str], unconfirmed: set[str]
) -> None:
    """A joined or released project is never quarantined by a list, and an incomplete list quarantines nothing."""
    projects = {id_: a_project(DENIED) for id_ in denied} | {
        id_: a_project(confirmed=id_ not in unconfirmed) for id_ in outside - denied
    }
    found = listed(projects, joined=joined, wanted=wanted, accepted=accepted)
    assert not found.quarantine & joined
    assert not found.quarantine & set(projects)
    assert not found.release & denied
    assert found.release >= (outside - denied) & joined
    if accepted <= joined:
        assert found.quarantine == wanted - joined - set(projects)
        assert found.release <= joined
    else:
        assert not found.quarantine
        assert found.release == ((outside - denied) & joined) | ((outside - denied) & unconfirmed)
