"""The selection of projects, and the interpretation of lists."""

from __future__ import annotations

import pytest

from provisioner.core.model import Action, Result
from provisioner.core.projects import ProjectFilter, SeenProject, chosen
from provisioner.infisical.parts import Expected, Reply
from provisioner.infisical.projects import read_projects

A, B = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (ProjectFilter(), True),
        (ProjectFilter(types=("kms",)), False),
        (ProjectFilter(types=("kms", "all")), True),
        (ProjectFilter(names=("alpha*",)), False),
        (ProjectFilter(names=("*ALPHA",)), True),
        (ProjectFilter(names=("x", "team-alpha-*")), True),
        (ProjectFilter(exclude=("team*",)), False),
        (ProjectFilter(names=("team*",), exclude=("*-x1",)), False),
        (ProjectFilter(names=("",)), False),
    ],
)
def test_type_and_globs_choose(wanted: ProjectFilter, matches: bool) -> None:
    """The type has to be the same, one glob has to match the name or the slug, and no exclusion may."""
    assert wanted.matches(SeenProject(A, "Team Alpha", "team-alpha-x1", "secret-manager")) is matches


def test_an_untold_type_is_any() -> None:
    """An Infisical from before project types lists projects that can be used."""
    assert ProjectFilter().matches(SeenProject(A, "x"))


def test_each_project_is_chosen_once_and_by_name() -> None:
    """Duplicates count once, and the order is stable."""
    twice = [SeenProject(B, "b"), SeenProject(A, "C"), SeenProject(B, "b")]
    assert chosen(twice, ProjectFilter()) == [SeenProject(B, "b"), SeenProject(A, "C")]


def test_a_list_is_read_leniently() -> None:
    """Missing or odd fields become empty; control characters and long names do no harm."""
    body = (
        b'{"projects": [{"id": "'
        + A.upper().encode()
        + b'", "name": "a\\u001b[0m\\nb", "slug": 7, "x": 1}, {"id": "'
        + B.encode()
        + b'", "name": "'
        + b"n" * 300
        + b'", "type": "kms"}]}'
    )
    seen, projects = read_projects(Reply(Expected(Action.LOOK_UP), 200, JSON, body))
    assert seen.result is Result.FOUND
    assert projects == (SeenProject(A, "a [0m b"), SeenProject(B, "n" * 200, "", "kms"))


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (200, b"{}", Result.UNKNOWN),
        (200, b"[]", Result.UNKNOWN),
        (200, b'{"projects": [{"name": "no id"}]}', Result.UNKNOWN),
        (200, b'{"projects": [{"id": "7"}]}', Result.UNKNOWN),
        (200, b'{"projects": [null]}', Result.UNKNOWN),
        (404, b'{"message": "Route GET:/api/v1/projects not found", "error": "Not Found"}', Result.MISCONFIGURED),
        (503, b"", Result.UNKNOWN),
    ],
)
def test_half_a_list_is_none(status: int, body: bytes, result: Result) -> None:
    """A project missing in a list would count as deleted, so a list that is not fully understood is rejected."""
    seen, projects = read_projects(Reply(Expected(Action.LOOK_UP), status, JSON, body))
    assert (seen.result, projects) == (result, ())
