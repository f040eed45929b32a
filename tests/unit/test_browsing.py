"""The pages of requests, without a browser: what comes from outside stays text, and no secret is shown."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, strategies as st

from provisioner.core.alerts import ADVICE
from provisioner.core.history import Slot
from provisioner.core.requests import Found, Listed, Query, RequestHistory
from provisioner.observe.browsing import (
    LARGEST_ID,
    ListView,
    RequestView,
    address,
    parse_id,
    parse_query,
    render_list,
    render_story,
)
from provisioner.observe.charts import HEIGHT, chart
from provisioner.observe.errors_page import render_errors
from tests.support.builders import NOON
from tests.support.situations import a_failed, a_history, a_listed, a_story, a_waiting

KEY = "sk-or-v1-0123456789abcdef"
FOREIGN = st.text(st.sampled_from("<>&\"'=/ script`a{}%#\n"), min_size=1)


class Tags(HTMLParser):
    """Collects the elements and their attributes' names, and the addresses of links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.result: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        """Note an element."""
        if tag != "code":  # a backtick in a text makes one
            self.result.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value for name, value in attrs if name == "href"]
        self.ids += [value for name, value in attrs if name == "id"]


def planted(foreign: str) -> Listed:
    """A request that shows this text wherever it shows one from outside."""
    texts = ("name", "description", "batch", "project_name", "requested_by", "error_message", "error_code", "target")
    changes: dict[str, Any] = dict.fromkeys(texts, foreign)
    return replace(a_failed(9), **changes)


def pages(foreign: str) -> list[str]:
    """Both pages with this text."""
    story = a_story(planted(foreign))
    calls = tuple(replace(each, req_id=foreign, outcome=foreign, error_message=foreign) for each in story.attempts)
    query = Query(text=foreign, batch=foreign, target=foreign, error=foreign)
    found = Found(requests=(planted(foreign),), newer=True, older=True)
    return [
        render_list(ListView(query=query, found=found, trouble=foreign)),
        render_story(RequestView(request=9, story=replace(story, attempts=calls))),
    ]


@given(FOREIGN)
def test_foreign_text_makes_no_markup(foreign: str) -> None:
    """Whatever a requester or Infisical writes, the pages have the same elements and attributes."""
    for page, plain in zip(pages(foreign), pages("x"), strict=True):
        assert Tags(page).result == Tags(plain).result


def test_secrets_are_masked() -> None:
    """A key in any text from outside is not shown, nor is it in an address."""
    assert all(KEY not in page for page in pages(f"refused {KEY}"))


@given(st.dictionaries(st.sampled_from(["q", "state", "error", "batch", "target", "before", "after"]), st.text()))
def test_any_address_is_a_query_that_comes_back(given_: dict[str, str]) -> None:
    """Every address is interpreted as some search that the database accepts, and that leads back to itself."""
    query = parse_query(given_)
    for text in (query.text, query.state, query.error, query.batch, query.target):
        assert "\0" not in text
        assert text == text.encode().decode()
    again = dict(parse_qsl(urlsplit(address(query)).query))
    assert parse_query(again) == query


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), (str(LARGEST_ID), LARGEST_ID), (str(LARGEST_ID + 1), None), ("0", None), ("-1", None), ("²", None)],
)
def test_an_id_is_a_whole_number(text: str, number: int | None) -> None:
    """Text that PostgreSQL does not accept as an id is not one."""
    assert parse_id(text) == number


def test_pages_follow_one_another() -> None:
    """Older requests are those before the last one, newer ones those after the first, with the same filter."""
    query = Query(state="failed", before=50)
    found = Found(requests=(a_listed(40), a_listed(30)), newer=True, older=True)
    view = ListView(query=query, found=found)
    assert (view.newer, view.older) == ("requests?state=failed&after=40", "requests?state=failed&before=30")
    last = ListView(query=query, found=replace(found, older=False, newer=False))
    assert (last.newer, last.older) == ("", "")
    empty = ListView(query=query, found=Found(requests=(), newer=True))
    assert (empty.newer, empty.older) == ("", "")
    assert "No request matches." in render_list(empty)


@pytest.mark.parametrize(
    ("listed", "changes", "command"),
    [
        (a_failed(9), {}, "provisioner retry 9"),
        (a_listed(9), {}, "provisioner verify 9"),
        (a_waiting(9), {}, "provisioner retry 9"),
        (a_waiting(9), {"quarantine": "credential:a"}, "provisioner retry 9"),
        (a_waiting(9), {"paused_at": NOON, "target": "a b"}, "provisioner resume 'a b'"),
    ],
)
def test_the_command_fits(listed: Listed, changes: dict[str, Any], command: str) -> None:
    """The command to copy is what a person would do next, safe in a shell."""
    story = a_story(listed)
    story = replace(story, detail=replace(story.detail, **changes))
    view = RequestView(request=9, story=story)
    assert view.command == command
    assert command in unescape(render_story(view))


def test_a_search_that_takes_long_says_how_far_it_came() -> None:
    """Requests that were not searched are not called missing, and one click continues in the same direction."""
    some, none = Found(requests=(a_failed(9_000),), searched_to=8_000), Found(requests=(), searched_to=8_000)
    newest = render_list(ListView(query=Query(text="ledger"), found=some))
    assert "requests?q=ledger&before=8000" in Tags(newest).links
    oldest = render_list(ListView(query=Query(text="ledger", after=7_000), found=none))
    assert "requests?q=ledger&after=8000" in Tags(oldest).links
    assert "No request matches" not in oldest
    assert "Look further" not in render_list(ListView(query=Query(text="ledger"), found=Found(requests=())))


def test_a_story_tells_every_call() -> None:
    """Each call has its time, its HTTP status, its reqId and what came of it; calls that are left out are counted."""
    page = unescape(render_story(RequestView(request=9, story=replace(a_story(a_failed(9)), earlier=3))))
    for part in ("req-4711", "req-4714", "0.40 s", "look up", "name taken", ">400<", "3 earlier calls are not shown"):
        assert part in page


def test_a_drift_is_told() -> None:
    """Findings of standing verification are shown with the other facts."""
    story = replace(a_story(a_listed(9)), drift="renamed, rewritten", verified_at=NOON)
    page = unescape(render_story(RequestView(request=9, story=story)))
    assert "renamed, rewritten" in page
    assert "compared with Infisical" in page
    assert "not as recorded" not in render_story(RequestView(request=9, story=a_story(a_listed(9))))


def test_nothing_known_is_told() -> None:
    """An unknown request, and one that could not be read, have a page that says so."""
    unknown = render_story(RequestView(request=9, story=None))
    assert "There is no request 9" in unknown
    assert "the database is away" in render_story(RequestView(request=9, story=None, trouble="the database is away"))
    untried: RequestHistory = replace(a_story(a_listed(9)), attempts=())
    assert "No calls are recorded" in render_story(RequestView(request=9, story=untried))


def test_every_error_code_leads_to_its_section() -> None:
    """The page about errors has a section for each code, and every link on it leads to one."""
    tags = Tags(render_errors())
    assert set(ADVICE) <= set(tags.ids)
    assert {link.removeprefix("#") for link in tags.links if link.startswith("#") and link != "#main"} <= set(tags.ids)
    listing = Tags(render_list(ListView(query=Query(), found=Found(requests=(a_failed(9),)))))
    assert "errors#name_conflict" in listing.links
    assert "../errors#name_conflict" in Tags(render_story(RequestView(request=9, story=a_story(a_failed(9))))).links


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=30))
def test_a_chart_shows_whatever_happened(numbers: list[tuple[int, int]]) -> None:
    """Each nonzero number has a visible bar, and no bar exceeds the chart."""
    slots = [Slot(at=NOON, succeeded=made, failed=failed) for made, failed in numbers]
    drawn = chart(slots, (("succeeded", "good"), ("failed", "bad")))
    assert len(drawn.bars) == sum((made > 0) + (failed > 0) for made, failed in numbers)
    assert all(bar.height >= 1.5 and bar.y >= 0 and bar.y + bar.height <= HEIGHT + 1.6 for bar in drawn.bars)
    assert drawn.most == max(made + failed for made, failed in numbers)


def test_history_has_no_gaps() -> None:
    """A week is a week, whatever happened in it."""
    history = a_history()
    assert (len(history.minutes), len(history.hours)) == (180, 168)
