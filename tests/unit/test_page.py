"""The status page's markup, without a browser: whatever comes from outside stays text."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, strategies as st

from provisioner.core.reports import Failures, Status
from provisioner.core.text import duration
from provisioner.core.vitals import TargetVitals, Vitals
from provisioner.observe.page import View, render_main, render_page
from tests.support.builders import NOON
from tests.support.status_port import a_progress, a_status, a_troubled_status

VITALS = Vitals(worker=7, moves=1, lease_good=True, database_away=False, stopping=False, targets=())


class Tags(HTMLParser):
    """Collects the elements and their attributes' names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.result: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        """Note an element."""
        self.result.append((tag, tuple(name for name, _ in attrs)))


def planted(foreign: str) -> View:
    """Return a page with this text in the place of every foreign text."""
    usual = a_troubled_status()
    status = replace(
        usual,
        batches=(a_progress(batch=foreign, total=False),),
        targets=tuple(replace(each, target=foreign, trouble=foreign, paused_by=foreign) for each in usual.targets),
        failures=(Failures(error_code=foreign, requests=3, example_id=9, example=foreign, newest_at=NOON),),
        crew=tuple(replace(worker, name=foreign, version=foreign) for worker in usual.crew),
    )
    held = replace(VITALS, targets=(TargetVitals(target=foreign, held=foreign),))
    return View(status=status, trouble=foreign, absence=foreign, vitals=held)


@given(st.text(st.sampled_from("<>&\"'=/ script`a{}%#\n"), min_size=1))
def test_foreign_text_makes_no_markup(foreign: str) -> None:
    """Whatever a requester, a target or Infisical is called or says, the page has the same elements and attributes."""
    spoken = [tag for tag in Tags(render_page(planted(foreign))).result if tag[0] != "code"]
    assert spoken == [tag for tag in Tags(render_page(planted("x"))).result if tag[0] != "code"]


def test_secrets_are_masked() -> None:
    """A key in any text from outside is not shown."""
    key = "sk-or-v1-0123456789abcdef"
    assert key not in render_page(planted(f"refused {key}"))


@pytest.mark.parametrize("status", [None, a_status(progress=None), a_status(progress=a_progress(requests=0))])
def test_there_is_always_a_page(status: Status | None) -> None:
    """Without a status, for an unknown batch and before the first request the page says so, and nothing fails."""
    assert '<h2 class="headline"' in render_main(View(status=status, trouble="", absence="", vitals=VITALS))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min"), (172800, "2 d")],
)
def test_a_duration_has_one_or_two_units(seconds: float, words: str) -> None:
    """Times are given as coarsely as people speak of them."""
    assert duration(seconds) == duration(timedelta(seconds=seconds)) == words
