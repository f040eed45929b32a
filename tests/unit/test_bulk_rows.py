"""Every line of a bulk file is held against the rules of the table."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from provisioner.intake.errors import Problem
from provisioner.intake.rows import Row, check, unknown_column

PROJECT = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
KEY = "sk-or-v1-planted4711"
BOX = "sealed:k1:" + "A" * 100


def only_problem(**values: object) -> Problem:
    """Return the one thing that is wrong with these values."""
    problems = check(7, {"project_id": PROJECT, **values})
    assert not isinstance(problems, Row)
    assert len(problems) == 1
    return problems[0]


def test_what_is_left_out_has_the_tables_defaults() -> None:
    """A project alone is a whole request."""
    assert check(1, {"project_id": PROJECT}) == Row(
        target="default",
        project_id=UUID(PROJECT),
        name="openrouter",
        description=None,
        credential="default",
        on_conflict="fail",
        priority=0,
        batch=None,
        not_before=None,
    )


@pytest.mark.parametrize("written", [PROJECT.upper(), f"{{{PROJECT}}}", PROJECT.replace("-", "")])
def test_a_project_may_be_written_in_the_usual_ways(written: str) -> None:
    """Upper case, braces and missing hyphens mean the same project."""
    row = check(1, {"project_id": written})
    assert isinstance(row, Row)
    assert str(row.project_id) == PROJECT


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2030-01-31T08:00:00+01:00", datetime(2030, 1, 31, 7, tzinfo=UTC)),
        ("2030-01-31T08:00:00Z", datetime(2030, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_a_point_in_time_is_read_with_its_offset(written: str, meant: datetime) -> None:
    """`not_before` is an exact moment, wherever it was written."""
    row = check(1, {"project_id": PROJECT, "not_before": written})
    assert isinstance(row, Row)
    assert row.not_before == meant


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("project_id", "42", "must be the UUID of the Infisical project (given: '42')"),
        ("name", "My App", "must be 1 to 64 lower-case letters, digits and single hyphens between them"),
        ("name", "a" * 65, "must be 1 to 64"),
        ("name", "a--b", "single hyphens"),
        ("name", 5, "(given: 5)"),
        ("target", "EU", "must be the name of a configured target"),
        (
            "description",
            "x" * 256,
            "must be text of at most 255 characters, an emoji counted as two (given: 256 characters)",
        ),
        ("description", "\N{KEY}" * 128, "(given: 256 characters)"),
        ("description", "a\0b", "(given: text with a NUL)"),
        ("on_conflict", "overwrite", "must be fail, adopt or replace (given: 'overwrite')"),
        ("priority", "high", "must be a whole number from -32767 to 32767"),
        ("priority", "-32768", "must be a whole number from -32767 to 32767"),
        ("batch", "b" * 201, "must be 1 to 200 characters"),
        ("not_before", "2030-01-31T08:00:00", "must be a point in time with its offset"),
        ("not_before", "tomorrow", "must be a point in time"),
        ("not_before", 1900000000, "must be a point in time"),
        ("not_before", "0001-01-01T00:00:00+05:00", "must be a point in time"),
        ("credential", "no spaces", "must be the name of a configured credential"),
        ("credential", "sealed:k1:short", "must be the name of a configured credential"),
        ("name", "caf\udce9", "is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_broken_rule_names_line_column_and_remedy(column: str, value: object, said: str) -> None:
    """The message says where the problem is and what to write."""
    problem = only_problem(**{column: value})
    assert (problem.line, problem.column) == (7, column)
    assert said in problem.problem
    assert str(problem).startswith(f"line 7, {column}: ")


def test_everything_wrong_with_a_line_is_told_at_once() -> None:
    """All problems of a line are reported at once."""
    problems = check(3, {"name": "NO", "priority": "x"})
    assert not isinstance(problems, Row)
    assert [problem.column for problem in problems] == ["project_id", "name", "priority"]
    assert problems[0].problem == "is required: the UUID of the Infisical project"


@pytest.mark.parametrize("value", ["default", "team_a", "Team-A", BOX])
def test_named_and_sealed_credentials_are_taken(value: str) -> None:
    """A credential is the name of one, or a sealed box."""
    assert isinstance(check(1, {"project_id": PROJECT, "credential": value}), Row)


@pytest.mark.parametrize("column", ["credential", "project_id", "on_conflict", "priority", "not_before"])
@pytest.mark.parametrize("key", [KEY, KEY.upper(), f"{KEY}\n"])
def test_what_looks_like_a_key_is_never_shown(column: str, key: str) -> None:
    """A key in the wrong column is refused without being repeated."""
    problem = only_problem(**{column: key})
    assert problem.column == column
    assert "4711" not in str(problem)


@given(st.text(min_size=1))
def test_a_refused_credential_is_never_repeated(text: str) -> None:
    """Whatever is in `credential`, the message is the same."""
    found = check(1, {"project_id": PROJECT, "credential": f"!{text}"})
    assert not isinstance(found, Row)
    assert found[0].problem in {
        only_problem(credential="!").problem,
        "is not UTF-8 text; save the file as UTF-8",
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("projet_id", "did you mean project_id?"),
        ("Description", "did you mean description?"),
        ("status", "'status' is filled in by provisioner; leave it out"),
        ("zzz", "there are target, project_id, name,"),
        (KEY, "what looks like an API key is no column"),
    ],
)
def test_an_unknown_column_is_told_with_the_nearest(name: str, said: str) -> None:
    """The message for a misspelt column suggests the right one."""
    assert said in unknown_column(name)
    assert KEY not in unknown_column(name)
