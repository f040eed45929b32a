"""The meaning of SQLSTATEs: waiting is the rule, and a person is called only if waiting cannot help."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from provisioner.core.sqlstates import Blame, blame

STATES = st.text(string.ascii_uppercase + string.digits, min_size=5, max_size=5)


@given(state=st.one_of(STATES, st.text(), st.none()))
def test_a_session_that_ended_is_no_matter_of_a_statement(state: str | None) -> None:
    """Whatever the code, an error that ends the session costs no row and no statement."""
    assert blame(state, fatal=True) not in {Blame.VALUE, Blame.DEFECT}


@given(state=STATES.filter(lambda state: state[:2] not in {"0L", "0P", "28", "3D", "3F", "42", "0A", "22"}))
def test_few_ends_of_sessions_call_a_person(state: str) -> None:
    """All else passes: unknown codes too."""
    assert blame(state, fatal=True) in {Blame.PASSING, Blame.READ_ONLY, Blame.LOST_STATEMENT}


@pytest.mark.parametrize(
    ("state", "fatal", "meaning"),
    [
        ("28P01", True, Blame.ACCESS),
        ("28000", True, Blame.ACCESS),
        ("3D000", True, Blame.ACCESS),
        ("42501", True, Blame.RIGHTS),
        ("42501", False, Blame.RIGHTS),
        ("42P01", False, Blame.SCHEMA),
        ("42601", True, Blame.SESSION),  # options=endpoint=x, which the server reads as its own
        ("42601", False, Blame.DEFECT),
        ("0A000", False, Blame.DEFECT),
        ("22P02", False, Blame.VALUE),
        ("23505", False, Blame.VALUE),
        ("P0001", False, Blame.VALUE),
        ("54000", False, Blame.VALUE),  # an index on a text that is too long for it
        ("54000", True, Blame.PASSING),
        ("25006", False, Blame.READ_ONLY),
        ("26000", False, Blame.LOST_STATEMENT),
        ("08P01", True, Blame.PASSING),
        ("40001", False, Blame.PASSING),
        ("53300", True, Blame.PASSING),
        ("55000", False, Blame.PASSING),
        ("57014", False, Blame.PASSING),
        ("57P01", True, Blame.PASSING),
        ("58000", False, Blame.PASSING),
        ("XX000", True, Blame.PASSING),
        ("", False, Blame.PASSING),
        (None, False, Blame.PASSING),
    ],
)
def test_meanings(state: str | None, fatal: bool, meaning: Blame) -> None:
    """The codes that people meet."""
    assert blame(state, fatal=fatal) is meaning
