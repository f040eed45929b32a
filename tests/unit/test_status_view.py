"""`status` on screens of any width: whole words, no overlong lines, and what has changed."""

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from provisioner.cli.look.status_view import changes, view
from provisioner.core.reports import Failures, Retries, Status, TargetReport
from tests.support.builders import NOON, at
from tests.support.status_port import a_progress, a_status

WIDE = "東京の計画" * 9
LONG = "onboarding-of-everything-that-was-ever-asked-for-" * 3
REASON = "Infisical answered 403: the machine identity may not create app connections in this project"


def a_rich_status() -> Status:
    """Much of everything: names that are long and wide, every state, causes, and a target in trouble."""
    states = {"waiting": 1, "ready": 1200, "in_flight": 8, "failed": 3, "retrying": 20, "quarantined": 17}
    total = a_progress(requests=1253, succeeded=4, **states, ends_why="the target is in trouble", ends_at=None)
    names = ("new", LONG, WIDE)
    return a_status(
        progress=total,
        batches=tuple(replace(total, total=False, batch=name, ends_why=None, ends_at=at(900)) for name in names),
        targets=(
            TargetReport(target="default", pending=1246, workers=2, metered=True, permits=200, period=60.0),
            TargetReport(target="eu", pending=3, trouble="it cannot be reached: no answer", trouble_since=NOON),
        ),
        failures=(Failures(error_code="project_not_found", requests=3, example_id=204, example=REASON),),
        retries=tuple(
            Retries(
                target="default",
                error_code=code,
                quarantine=quarantine,
                requests=requests,
                since=at(-90),
                next_at=at(95),
                example_id=318,
                example=REASON,
            )
            for code, quarantine, requests in (
                ("permission_denied", None, 20),
                ("credential_refused", "credential:team-a", 17),
            )
        ),
    )


def shown(status: Status, width: int) -> list[str]:
    """Render on a terminal of this width."""
    said = io.StringIO()
    screen = Console(file=said, width=width, force_terminal=True, color_system=None, highlight=False, emoji=False)
    screen.print(view(status, screen))
    return said.getvalue().splitlines()


# The place of values without a column of their own.
OF_BLOCKS = {
    "requests",
    "workers",
    "pending",
    "limit",
    "to",
    "do",
    "with",
    "at",
    "ends",
    "end",
    "not",
    "known",
    "since",
    "next",
    "attempt",
}


def words(lines: list[str]) -> set[str]:
    """All words, without the signs around them."""
    return {word.strip("(),:;") for line in lines for word in line.split()}


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40])
def test_no_word_is_broken(width: int) -> None:
    """However narrow the screen: each line fits, and each word is one that a screen without an end shows."""
    status = a_rich_status()
    known = {*OF_BLOCKS, *words(shown(status, 2000))}
    lines = shown(status, width)
    assert all(cell_len(line) <= width for line in lines)
    # An overlong name is visibly cut.
    assert {word for word in words(lines) - known if not (word.endswith("…") or WIDE.startswith(word))} == set()


@pytest.mark.parametrize("width", [2000, 80, 40])
def test_what_is_retried_and_quarantined_is_told(width: int) -> None:
    """By cause, since when, and when the next attempt is due, on any screen."""
    said = " ".join(" ".join(shown(a_rich_status(), width)).split())
    for each in ("retrying", "quarantined", "permission_denied", "credential_refused", "in 95 s", "request 318"):
        assert each in said
    assert f"{at(-90).astimezone():%Y-%m-%d %H:%M}" in said


def test_what_has_changed_is_told_by_state() -> None:
    """Differences from the earlier status; empty if nothing has changed."""
    before = a_status(progress=a_progress(ready=5, succeeded=3))
    after = a_status(progress=a_progress(ready=2, succeeded=5, failed=1), now=at(60))
    assert changes(before, before) == ""
    assert changes(before, after) == f"since {NOON.astimezone():%H:%M:%S}: +2 succeeded, +1 failed, -3 ready"
