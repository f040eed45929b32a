"""The conclusions of standing verification: nothing is called gone after being missed only once."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, strategies as st

from provisioner.core.comparison import Project, Recorded
from provisioner.core.verifying import RECHECK_AFTER, judge
from tests.support.builders import NOON, a_connection

FOUND = a_connection()
RECORDED = Recorded(
    id=7,
    target="default",
    project_id=FOUND.project_id or "",
    name=FOUND.name,
    description=FOUND.description,
    on_conflict="fail",
    adopted=False,
    connection_id=FOUND.id,
    credentials_hash=FOUND.credentials_hash,
)
THERE, NOTHING = Project.of([FOUND]), Project.of([])


def test_what_is_as_recorded_is_fine() -> None:
    """A connection that was missed before may be fine: a replica had lagged."""
    assert judge(RECORDED, THERE, None, NOON).is_fine
    assert judge(RECORDED, THERE, NOON - timedelta(days=1), NOON).is_fine


def test_what_is_missed_once_is_not_gone() -> None:
    """It is gone when it is missed again, and not before a replica would have caught up."""
    first = judge(RECORDED, NOTHING, None, NOON)
    assert (first.drift, first.missed_at, first.is_fine) == (None, NOON, False)
    too_early = judge(RECORDED, NOTHING, NOON, NOON + RECHECK_AFTER - timedelta(seconds=1))
    assert (too_early.drift, too_early.missed_at) == (None, NOON)
    assert judge(RECORDED, NOTHING, NOON, NOON + RECHECK_AFTER).drift == "gone"


def test_what_differs_is_named() -> None:
    """Each difference by its name, in one order."""
    other = Project.of([a_connection(id=FOUND.id, name="other", credentials_hash="f" * 64)])
    verdict = judge(RECORDED, other, None, NOON)
    assert (verdict.drift, verdict.missed_at) == ("renamed, rewritten", None)
    keyed = replace(RECORDED, credential="team-a", key_fingerprint="old")
    assert judge(keyed, THERE, None, NOON, {"team-a": "new"}).drift == "another key"
    assert judge(keyed, THERE, None, NOON, {"team-a": "old", "team-b": "new"}).is_fine


@given(st.booleans(), st.booleans())
def test_what_cannot_be_read_is_neither(missed: bool, later: bool) -> None:
    """An unreadable project says nothing: earlier findings stay."""
    since = NOON - RECHECK_AFTER * later if missed else None
    verdict = judge(RECORDED, None, since, NOON)
    assert (verdict.drift, verdict.missed_at, verdict.unread, verdict.is_fine) == (None, since, True, False)
