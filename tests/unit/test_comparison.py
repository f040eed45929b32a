"""What differs from what was recorded, and what would come of a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provisioner.core.comparison import Difference, Project, Prospect, Recorded, differences, prospect
from provisioner.core.description import describe
from tests.support.builders import a_connection, project

MADE = a_connection(description="for the chat")
ALIKE = Recorded(
    id=7,
    target="default",
    project_id=project(1),
    name=MADE.name,
    description=" for the chat ",
    on_conflict="fail",
    adopted=False,
    connection_id=MADE.id.upper(),
    credentials_hash=MADE.credentials_hash,
)


@pytest.mark.parametrize("marker", ["here", ""])
def test_what_is_as_recorded_does_not_differ(marker: str) -> None:
    """Case of ids, trimmed descriptions and marks make no difference."""
    made = replace(MADE, description=describe(ALIKE.id, ALIKE.description, marker=marker))
    assert differences(ALIKE, Project.of([made])) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "other"}, {Difference.RENAMED}),
        ({"credentials_hash": "cd" * 32}, {Difference.REWRITTEN}),
        ({"description": None}, {Difference.DESCRIBED}),
        ({"description": "for the chat [provisioner:here:8]"}, {Difference.DESCRIBED}),
        ({"name": "other", "credentials_hash": "cd" * 32}, {Difference.RENAMED, Difference.REWRITTEN}),
    ],
)
def test_each_change_is_told(change: dict[str, Any], expected: set[Difference]) -> None:
    """Each thing that was changed since is told, and nothing else."""
    assert differences(ALIKE, Project.of([replace(MADE, **change)])).keys() == expected


def test_a_connection_that_is_gone_is_told_alone() -> None:
    """What is not there cannot differ otherwise; who has its name now is named."""
    other = replace(MADE, id=project(9))
    found = differences(ALIKE, Project.of([other]))
    assert found.keys() == {Difference.GONE}
    assert other.id in found[Difference.GONE]


@pytest.mark.parametrize(
    ("on_conflict", "adopted", "expected"),
    [
        ("fail", False, {Difference.DESCRIBED}),
        ("adopt", True, set()),
        ("adopt", False, {Difference.DESCRIBED}),
        ("replace", True, {Difference.DESCRIBED}),
        ("replace", False, {Difference.DESCRIBED}),
    ],
)
def test_only_a_description_of_ours_is_compared(on_conflict: str, adopted: bool, expected: set[Difference]) -> None:
    """What was adopted keeps their description, and what was replaced does if the request has none."""
    recorded = replace(ALIKE, on_conflict=on_conflict, adopted=adopted, description="another")
    assert differences(recorded, Project.of([MADE])).keys() == expected


def test_what_was_replaced_keeps_its_description_unless_there_is_another() -> None:
    """A request without a description does not take somebody else's away."""
    recorded = replace(ALIKE, on_conflict="replace", adopted=True, description=None)
    assert differences(recorded, Project.of([MADE])) == {}


@pytest.mark.parametrize(
    ("recorded", "prints", "expected"),
    [
        ("old", {"default": "new"}, {Difference.OLD_KEY}),
        ("new", {"default": "new"}, set()),
        (None, {"default": "new"}, set()),
        ("old", {"other": "new"}, set()),
    ],
)
def test_an_old_key_is_told_where_both_are_known(
    recorded: str | None, prints: dict[str, str], expected: set[Difference]
) -> None:
    """A key that this host does not have, or of which nothing was recorded, is not compared."""
    known = replace(ALIKE, credential="default", key_fingerprint=recorded)
    assert differences(known, Project.of([MADE]), prints).keys() == expected


def test_an_unknown_hash_is_not_compared() -> None:
    """A row that was recorded without a hash says nothing about it."""
    assert differences(replace(ALIKE, credentials_hash=None), Project.of([MADE])) == {}


@pytest.mark.parametrize(
    ("name", "on_conflict", "recorded", "expected"),
    [
        ("new", "fail", None, Prospect.CREATE),
        (MADE.name, "fail", None, Prospect.CONFLICT),
        (MADE.name, "adopt", None, Prospect.ADOPT),
        (MADE.name, "replace", None, Prospect.REPLACE),
        (MADE.name, "fail", MADE.id.upper(), Prospect.EXISTS),
        ("renamed-since", "fail", MADE.id, Prospect.EXISTS),
        (MADE.name, "fail", project(9), Prospect.GONE),
    ],
)
def test_every_prospect_is_told(name: str, on_conflict: str, recorded: str | None, expected: Prospect) -> None:
    """Who has the name, and what is to be done then, decides."""
    assert prospect(name, on_conflict, Project.of([MADE]), recorded_id=recorded) is expected
