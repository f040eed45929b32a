"""The status page in a real browser: live, readable for everybody, and asking nobody else for anything."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.requests import Query
from tests.support import eventually
from tests.support.browser import PROGRAM, Tab, browsing
from tests.support.situations import browsable, situations
from tests.support.status_port import Answers, a_progress, a_status, a_troubled_status, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="there is no chromium on the PATH"),
    pytest.mark.xdist_group("browser"),  # a browser takes four seconds to start
]

SUCCEEDED = "document.querySelector('dl.counts dd').textContent"
# The contrast of every text with what is behind it, the worst first.
CONTRASTS = """
(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).slice(0, 3).map((c) => c / 255).map(
      (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest('.unseen, noscript, script')) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found.sort((one, other) => one[0] - other[0]);
})()
"""
# What cannot be reached by scrolling down: parts of the page that stick out at the side.
STICKING_OUT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


# Points in time that are broken over two lines.
BROKEN_TIMES = "[...document.querySelectorAll('time')].filter((time) => time.getClientRects().length > 1).length"


# What the page asks for by itself, the icon and the events, finds no server when the test has ended it; how the browser
# words that is its own affair. An answer that says no is none of this.
LEFT_ALONE = re.compile(r"net::ERR_.*/(assets/icon\.svg|events)\b").search


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """A tab of a fresh browser, which must not have complained in the end."""
    async with browsing() as tab:
        yield tab
        assert [complaint for complaint in tab.complaints if not LEFT_ALONE(complaint)] == []


async def test_progress_appears_by_itself(tab: Tab) -> None:
    """What changes in the database shows on the open page, in its title too, without a reload."""
    answers = Answers()
    async with served(answers) as url:
        await tab.open(f"{url}/")
        assert await tab.evaluate(SUCCEEDED) == "4"
        assert await tab.evaluate("document.title") == "40 % · provisioner"
        await tab.until("document.getElementById('link').textContent === 'Live'")
        await tab.evaluate("window.mark = document.querySelector('dl.counts dd')")
        answers.status = a_status(progress=a_progress(succeeded=7, ready=1))
        await tab.until(f"{SUCCEEDED} === '7'")
        assert await tab.evaluate("document.title") == "70 % · provisioner"
        assert await tab.shows("window.mark.isConnected"), "the page was replaced instead of brought up to date"
        assert {requested.removeprefix(url) for requested in tab.requested} >= {"/", "/events", "/assets/page.css"}
        assert all(requested.startswith(f"{url}/") for requested in tab.requested), "another host was asked"


async def test_updates_can_be_held_from_the_keyboard(tab: Tab) -> None:
    """The button is reached and pressed by keys; while it holds nothing moves, and afterwards the page catches up."""
    answers = Answers()
    async with served(answers) as url:
        await tab.open(f"{url}/")
        await tab.until("document.getElementById('link').textContent === 'Live'")
        await tab.evaluate("document.getElementById('hold').focus()")
        await tab.press(" ", " ")
        assert await tab.shows("hold.getAttribute('aria-pressed') === 'true'")
        answers.status = a_status(progress=a_progress(succeeded=7, ready=1))
        before = answers.looks
        await eventually(lambda: answers.looks >= before + 2)
        assert await tab.evaluate(SUCCEEDED) == "4"
        await tab.press(" ", " ")
        await tab.until(f"{SUCCEEDED} === '7'")
        assert await tab.shows("document.activeElement.id === 'hold'"), "the focus was lost"


async def test_keys_reach_everything_in_the_order_of_reading(tab: Tab) -> None:
    """The first key press offers to skip to the progress; the tables, which may scroll, are reached as well."""
    answers = Answers(status=a_troubled_status())
    async with served(answers) as url:
        await tab.open(f"{url}/")
        reached = []
        for _ in range(40):
            await tab.press("Tab")
            reached.append(
                await tab.evaluate("document.activeElement.className || document.activeElement.textContent.trim()")
            )
        assert reached[:7] == ["skip", "provisioner", "Overview", "Requests", "Errors", "", "Search"]
        assert reached[7] == "Pause updates"
        assert reached.count("scroll") == 4
        assert reached.index("scroll") < reached.index("gave_up") < reached.index("request 9")


async def test_a_lost_connection_is_told(tab: Tab) -> None:
    """When the daemon goes away the page says that it is old instead of pretending."""
    async with served(Answers()) as url:
        await tab.open(f"{url}/")
        await tab.until("document.getElementById('link').textContent === 'Live'")
    await tab.until("document.getElementById('link').textContent.startsWith('Not connected')")
    assert await tab.evaluate(SUCCEEDED) == "4"


async def test_trouble_is_told_with_what_to_do(tab: Tab) -> None:
    """Failures, pauses, refusals and lost workers are on the page in words; what comes from outside stays text."""
    async with served(Answers(status=a_troubled_status())) as url:
        await tab.open(f"{url}/")
        text = await tab.evaluate("document.body.innerText")
        assert await tab.evaluate("document.title") == "70 % · provisioner"
    assert "Something needs your attention" in text
    assert "3 requests have failed: fix the cause, then run provisioner retry --error gave_up" in text
    assert "target eu is paused and 2 requests wait for it: provisioner resume eu resumes it" in text
    assert "no worker serves target eu" in text
    assert "target default is over its rate limit" in text
    assert "1 worker was lost" in text
    assert "<script>document.title = 'broken'</script>" in text
    assert "… and 4 more batches" in text


async def test_an_absent_database_is_told_and_old_numbers_stay(tab: Tab) -> None:
    """While the database is away the page says so, and keeps what was seen last."""
    answers = Answers()
    async with served(answers) as url:
        await tab.open(f"{url}/")
        answers.error = DatabaseUnavailable("connection refused")
        await tab.until("document.body.innerText.includes('The database is unavailable')")
        assert await tab.evaluate(SUCCEEDED) == "4"
        answers.error = None
        await tab.until("!document.body.innerText.includes('The database is unavailable')")


async def test_it_works_without_script(tab: Tab) -> None:
    """Where scripts are off everything is there all the same, and the page fetches itself anew."""
    async with served(Answers(status=a_troubled_status())) as url:
        await tab.command("Emulation.setScriptExecutionDisabled", value=True)
        await tab.command("Page.navigate", url=f"{url}/")
        await tab.until("document.querySelector('footer') !== null")
        assert "Something needs your attention" in await tab.evaluate("document.body.innerText")
        assert await tab.shows("document.querySelector('noscript meta[http-equiv=refresh]') !== null")
        assert await tab.shows("document.getElementById('live').hidden"), "there is a button that does nothing"


async def test_every_text_can_be_read(tab: Tab) -> None:
    """In light and in dark every text stands out from what is behind it by at least 4.5 to 1."""
    async with served(Answers(status=a_troubled_status())) as url:
        for dark in (False, True):
            await tab.look(width=1280, dark=dark)
            await tab.open(f"{url}/")
            contrasts = await tab.evaluate(CONTRASTS)
            ground = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert len(contrasts) > 50
            assert contrasts[0][0] >= 4.5, (dark, contrasts[0])
            assert ground == ("rgb(16, 19, 23)" if dark else "rgb(246, 247, 249)")


@pytest.mark.parametrize("troubled", [False, True])
async def test_it_fits_every_width(tab: Tab, troubled: bool) -> None:
    """From a phone's width to a wide screen nothing sticks out at the side."""
    async with served(Answers(status=a_troubled_status() if troubled else a_status())) as url:
        for width in (320, 700, 1600):
            await tab.look(width=width)
            await tab.open(f"{url}/")
            assert await tab.evaluate(STICKING_OUT) == 0, width
            assert await tab.evaluate(BROKEN_TIMES) == 0, width


@pytest.mark.parametrize("width", [320, 1280])
async def test_a_screen_reader_finds_its_way(tab: Tab, width: int) -> None:
    """Pictures, tables, regions and the button have names, and narrow tables are still tables."""
    async with served(Answers(status=a_troubled_status())) as url:
        await tab.look(width=width)
        await tab.open(f"{url}/")
        nodes = (await tab.command("Accessibility.getFullAXTree"))["nodes"]
    named = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and "role" in node and "name" in node
    ]
    roles = [role for role, _ in named]
    assert ("main", "") in named
    assert ("button", "Pause updates") in named
    assert roles.count("table") == 4
    assert roles.count("rowheader") == 8
    assert {("navigation", "Pages"), ("searchbox", "Project, name or id")} <= set(named)
    assert {"Batches", "Targets", "Failed, by cause", "Workers"} <= {name for role, name in named if role == "region"}
    pictures = [name for role, name in named if role in {"image", "img"}]
    assert len(pictures) >= 3
    assert all(pictures)


async def test_trouble_is_announced_and_progress_is_not(tab: Tab) -> None:
    """A screen reader hears at once that something needs a person; mere numbers do not interrupt it every second."""
    answers = Answers()
    news = "document.getElementById('news').textContent"
    async with served(answers) as url:
        await tab.open(f"{url}/")
        await tab.until(f"{news} === 'Working. 40 % finished: 4 of 10'")
        answers.status = a_status(progress=a_progress(succeeded=5, ready=3))
        await tab.until(f"{SUCCEEDED} === '5'")
        assert await tab.shows(f"{news} === 'Working. 40 % finished: 4 of 10'")
        answers.status = replace(answers.status, progress=a_progress(succeeded=5, failed=1, ready=2))
        await tab.until(f"{news}.startsWith('Something needs your attention')")


PAGES = ("/requests?q=Team&state=failed", "/requests/140", "/requests/139", "/errors")


async def test_the_other_pages_fit_every_width(tab: Tab) -> None:
    """No page scrolls sideways, and no time is broken over two lines."""
    async with served(browsable(Answers(status=a_troubled_status()))) as url:
        for page in PAGES:
            for width in (320, 400, 1280):
                await tab.look(width=width)
                await tab.open(f"{url}{page}")
                assert await tab.evaluate(STICKING_OUT) == 0, (page, width)
                assert await tab.evaluate(BROKEN_TIMES) == 0, (page, width)


async def test_one_clicks_from_a_cause_to_a_request(tab: Tab) -> None:
    """The cause of a failure opens its requests, one of them its story, and its code what is said about it."""
    answers = browsable(situations()["failing"])
    async with served(answers) as url:
        await tab.open(f"{url}/")
        await tab.evaluate("document.querySelector('#failures + .scroll td.number a').click()")
        await tab.until("location.pathname === '/requests' && document.readyState === 'complete'")
        assert answers.queries[-1] == Query(state="failed", error="name_conflict")
        assert await tab.evaluate("document.getElementById('state').value") == "failed"
        await tab.evaluate("[...document.querySelectorAll('tbody th a')].find((a) => a.textContent === '140').click()")
        await tab.until("location.pathname === '/requests/140' && document.readyState === 'complete'")
        assert "provisioner retry 140" in await tab.evaluate("document.body.innerText")
        await tab.evaluate("document.querySelector('.facts a[href$=name_conflict]').click()")
        await tab.until("location.hash === '#name_conflict' && document.readyState === 'complete'")
        assert await tab.evaluate("document.querySelector(':target').textContent") == "name_conflict"


async def test_what_the_reader_opened_stays_open(tab: Tab) -> None:
    """Finished batches are folded; opened, they stay open when the page brings itself up to date."""
    answers = situations()["busy"]
    async with served(answers) as url:
        await tab.open(f"{url}/")
        assert await tab.shows("!document.getElementById('finished').open")
        await tab.evaluate("document.querySelector('summary').click()")
        progress = answers.status.progress
        assert progress is not None
        answers.status = replace(answers.status, progress=replace(progress, succeeded=930, ready=661))
        await tab.until(f"{SUCCEEDED} === '930'")
        assert await tab.shows("document.getElementById('finished').open")


async def test_every_text_of_the_other_pages_can_be_read(tab: Tab) -> None:
    """Each has a contrast of at least 4.5 to 1 to its ground, in both schemes."""
    async with served(browsable(Answers())) as url:
        for page in PAGES:
            for dark in (False, True):
                await tab.look(width=1280, dark=dark)
                await tab.open(f"{url}{page}")
                contrasts = await tab.evaluate(CONTRASTS)
                assert contrasts[0][0] >= 4.5, (page, dark, contrasts[0])


async def test_every_situation_has_its_picture(tab: Tab) -> None:
    """Each of the situations that pictures are made of is shown without a complaint of the browser."""
    for name, answers in situations().items():
        async with served(answers) as url:
            await tab.open(f"{url}/")
            assert await tab.shows("document.querySelector('.headline') !== null"), name
