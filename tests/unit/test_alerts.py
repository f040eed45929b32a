"""Alerts need a person; incidents pass by themselves."""

from dataclasses import replace
from datetime import timedelta

import pytest

from provisioner.core.alerts import RETRY_ALERT_AFTER, Kind, alert_messages, find_alerts, incidents
from provisioner.core.notices import Event, decide
from provisioner.core.reports import Retries, Status, TargetReport
from tests.support.builders import NOON, at
from tests.support.status_port import a_status


def retried(
    code: str, *, ago: float, quarantine: str | None = None, target: str = "default", requests: int = 3
) -> Status:
    """A status in which requests have been retried for this many seconds."""
    return a_status(
        retries=(
            Retries(
                target=target,
                error_code=code,
                quarantine=quarantine,
                requests=requests,
                since=at(-ago),
                next_at=at(9),
                example_id=1,
                example="no",
            ),
        )
    )


@pytest.mark.parametrize(
    ("code", "ago", "needed"),
    [
        ("permission_denied", RETRY_ALERT_AFTER.total_seconds(), True),
        ("permission_denied", RETRY_ALERT_AFTER.total_seconds() - 1, False),
        ("outcome_unknown", 9000, False),
        ("", 9000, False),
    ],
)
def test_what_is_retried_needs_a_person_once_it_lasts(code: str, ago: float, needed: bool) -> None:
    """Retries become an alert if a person can do something and a few attempts have failed; before, an incident."""
    status = retried(code, ago=ago)
    assert NOON - at(-ago) == timedelta(seconds=ago)
    assert [each.kind for each in find_alerts(status)] == [Kind.RETRYING] * needed
    assert bool(alert_messages(status)) is needed
    assert [said.startswith("3 requests are being retried") for said in incidents(status)] == [True] * (not needed)


def test_a_quarantine_is_told_by_what_it_is_about() -> None:
    """A quarantine is not reported again as a retry."""
    status = retried("credential_refused", ago=9000, quarantine="credential:team-a")
    assert (find_alerts(status), incidents(status)) == ((), ())


def test_one_cause_at_two_targets_is_one_concern() -> None:
    """Their requests are added up."""
    one, two = (retried("in_use", ago=9000, target=name, requests=n).retries for name, n in (("a", 1), ("b", 2)))
    (found,) = find_alerts(a_status(retries=one + two))
    assert (found.subject, found.requests) == ("in_use", 3)
    assert found.said.startswith("3 requests are being retried with in_use: remove what uses the connection")


@pytest.mark.parametrize(("rotations", "counted"), [(1, "1 rotation may"), (1200, "1,200 rotations may")])
def test_keys_that_may_be_left_behind_need_a_person(rotations: int, counted: str) -> None:
    """The sentence says how many rotations left some, which command names them, and how to say that they are gone."""
    (found,) = find_alerts(a_status(leaving=rotations))
    assert (found.kind, found.subject, found.requests) == (Kind.LEFT_BEHIND, "", rotations)
    assert found.said.startswith(counted)
    assert "`provisioner rotations --left-behind`" in found.said
    assert "`provisioner rotations ID… --deleted`" in found.said
    assert alert_messages(a_status(leaving=rotations)) == (found.said,)


@pytest.mark.parametrize("ago", [1, 9000])
def test_a_plan_without_rotations_needs_a_person_at_once_and_is_told_once(ago: float) -> None:
    """All waiting requests are counted once, with advice, and are not listed as an incident too."""
    line = TargetReport(
        target="default/rotations",
        pending=300,
        workers=1,
        trouble="Failed to create secret rotation due to plan restriction.",
    )
    retries = retried("plan_restricted", ago=ago, target=line.target, requests=2).retries
    status = a_status(targets=(line,), retries=retries)
    (found,) = find_alerts(status)
    assert (found.kind, found.subject, found.requests) == (Kind.HELD, "default/rotations", 300)
    assert found.said.startswith("300 rotations wait because the plan of Infisical at default/rotations has no")
    assert "change the plan, and the rotations continue automatically, or cancel them" in found.said
    assert incidents(status) == ()
    over = replace(status, targets=(replace(line, pending=0),), retries=())
    assert (find_alerts(over), incidents(over)) == ((), ())


@pytest.mark.parametrize(
    ("connections", "rotations", "counted"),
    [
        (1, 0, "1 connection is"),
        (3, 0, "3 connections are"),
        (0, 1, "1 rotation is"),
        (0, 1200, "1,200 rotations are"),
        (2, 1, "2 connections and 1 rotation are"),
    ],
)
def test_what_is_not_as_recorded_is_counted_by_kind(connections: int, rotations: int, counted: str) -> None:
    """If only rotations differ, connections are not mentioned; the notice says the same."""
    (found,) = find_alerts(a_status(drifted=connections + rotations, drifted_rotations=rotations))
    assert found.said.startswith(f"{counted} not as recorded in Infisical: `provisioner verify`")
    (notice,) = decide((), (found,), (), events=tuple(Event), now=NOON).notices
    assert notice.text == f"{counted} not as recorded in Infisical. `provisioner verify` shows the differences."
