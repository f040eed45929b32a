"""Differences from what was recorded, and predictions for requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provisioner.core.comparison import (
    WRONG,
    Difference,
    PlannedOutcome,
    Project,
    Recorded,
    differences,
    planned_outcome,
)
from provisioner.core.description import describe
from provisioner.core.rotations import RecordedRotation, Rotation
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
    """Each later change is reported, and nothing else."""
    assert differences(ALIKE, Project.of([replace(MADE, **change)])).keys() == expected


def test_a_connection_that_is_gone_is_told_alone() -> None:
    """A missing connection has no other differences; the present owner of its name is named."""
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
    """An adopted connection keeps its description, and a replaced one does if the request has none."""
    recorded = replace(ALIKE, on_conflict=on_conflict, adopted=adopted, description="another")
    assert differences(recorded, Project.of([MADE])).keys() == expected


def test_what_was_replaced_keeps_its_description_unless_there_is_another() -> None:
    """A request without a description does not take somebody else's away."""
    recorded = replace(ALIKE, on_conflict="replace", adopted=True, description=None)
    assert differences(recorded, Project.of([MADE])) == {}


@pytest.mark.parametrize(
    ("recorded", "fingerprints", "expected"),
    [
        ("old", {"default": "new"}, {Difference.OLD_KEY}),
        ("new", {"default": "new"}, set()),
        (None, {"default": "new"}, set()),
        ("old", {"other": "new"}, set()),
    ],
)
def test_an_old_key_is_told_where_both_are_known(
    recorded: str | None, fingerprints: dict[str, str], expected: set[Difference]
) -> None:
    """Without this host's key or a recorded fingerprint there is no comparison."""
    known = replace(ALIKE, credential="default", key_fingerprint=recorded)
    assert differences(known, Project.of([MADE]), fingerprints).keys() == expected


def test_an_unknown_hash_is_not_compared() -> None:
    """A row without a recorded hash is not compared by hash."""
    assert differences(replace(ALIKE, credentials_hash=None), Project.of([MADE])) == {}


@pytest.mark.parametrize(
    ("name", "on_conflict", "recorded", "expected"),
    [
        ("new", "fail", None, PlannedOutcome.CREATE),
        (MADE.name, "fail", None, PlannedOutcome.CONFLICT),
        (MADE.name, "adopt", None, PlannedOutcome.ADOPT),
        (MADE.name, "replace", None, PlannedOutcome.REPLACE),
        (MADE.name, "fail", MADE.id.upper(), PlannedOutcome.EXISTS),
        ("renamed-since", "fail", MADE.id, PlannedOutcome.EXISTS),
        (MADE.name, "fail", project(9), PlannedOutcome.GONE),
    ],
)
def test_every_prospect_is_told(name: str, on_conflict: str, recorded: str | None, expected: PlannedOutcome) -> None:
    """The owner of the name and `on_conflict` decide."""
    assert planned_outcome(name, on_conflict, Project.of([MADE]), recorded_id=recorded) is expected


ROTATION = Rotation(
    id=project(5),
    project_id=project(1),
    org_id=None,
    credentials_hash="",
    name="openrouter",
    app="open-router",
    method="rotation",
    description=None,
    created_at=None,
    connection_id=project(6),
    key_name="Billing prod #7.1-0000ff",
    environment="prod",
    secret_path="/",
    secret_name="KEY",
    interval_days=30,
    rotate_at=(0, 0),
    spend_limit=5.0,
)
AS_ASKED = RecordedRotation(
    id=7,
    target="default",
    project_id=project(1),
    project_name=None,
    name="openrouter",
    description=None,
    adopted=False,
    rotation_id=ROTATION.id.upper(),
    environment="prod",
    secret_path="/",
    secret_name="KEY",
    interval_days=30,
    rotate_at=(0, 0),
    spend_limit=5.0,
    limit_reset=None,
    include_byok=None,
)


@pytest.mark.parametrize(
    ("change", "expected", "also_adopted"),
    [
        ({}, None, False),
        ({"include_byok": False}, None, False),
        ({"name": "other"}, Difference.RENAMED, True),
        ({"description": "x"}, Difference.DESCRIBED, False),
        ({"interval_days": 7}, Difference.RESCHEDULED, False),
        ({"rotate_at": (1, 0)}, Difference.RESCHEDULED, False),
        ({"spend_limit": None}, Difference.OTHER_SPENDING, False),
        ({"limit_reset": "daily"}, Difference.OTHER_SPENDING, False),
        ({"include_byok": True}, Difference.OTHER_SPENDING, False),
        ({"secret_name": "OTHER"}, Difference.OTHER_SECRET, False),
        ({"automatic": False}, Difference.SWITCHED_OFF, False),
        ({"failure": "no credit"}, Difference.FAILING, True),
    ],
)
def test_what_differs_of_a_rotation(change: dict[str, Any], expected: Difference | None, also_adopted: bool) -> None:
    """Each change is one difference, which names what to send; an adopted one keeps its creator's choices."""
    there = Project.of([replace(ROTATION, **change)])
    assert set(differences(AS_ASKED, there)) == ({expected} if expected else set())
    adopted = differences(replace(AS_ASKED, adopted=True), there)
    assert set(adopted) == ({expected} if expected and also_adopted else set())
    assert expected is None or WRONG[expected]


def test_a_rotation_that_is_gone() -> None:
    """A missing rotation is reported without other differences."""
    assert set(differences(AS_ASKED, Project.of([]))) == {Difference.GONE}
