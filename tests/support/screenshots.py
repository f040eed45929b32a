"""Pictures of the pages in twelve situations and of those behind them: `python -m tests.support.screenshots FOLDER`.

Without a folder only the picture in the README is made anew. Needs Chromium.
"""

import asyncio
import sys
from pathlib import Path

from tests.support.browser import Tab, browsing
from tests.support.situations import browsable, situations
from tests.support.status_port import Answers, served

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "status-page.png"
WIDTH = 1180
NARROW = 400
# Pages, by their names: where they are, how wide the window is, whether it is dark, and in which situation.
OTHERS = {
    "400-px": ("/", NARROW, False, "failing"),
    "dark": ("/", WIDTH, True, "failing"),
    "requests": ("/requests", WIDTH, False, "failing"),
    "requests-400-px": ("/requests", NARROW, False, "failing"),
    "request": ("/requests/140", WIDTH, False, "failing"),
    "request-dark-400-px": ("/requests/139", NARROW, True, "failing"),
    "errors": ("/errors", WIDTH, False, "failing"),
}


async def _take(tab: Tab, answers: Answers, path: str, file: Path, *, width: int, dark: bool) -> None:
    async with served(answers) as url:
        await tab.look(width=width, dark=dark)
        await tab.open(f"{url}{path}")
        if path == "/":
            await tab.until("document.getElementById('link').textContent === 'Live'")
        file.write_bytes(await tab.picture())  # noqa: ASYNC240 - nobody else is to run


async def _make(folder: Path) -> None:
    async with browsing() as tab:
        for name, answers in situations().items():
            await _take(tab, answers, "/", folder / f"{name}.png", width=WIDTH, dark=False)
        for name, (path, width, dark, situation) in OTHERS.items():
            answers = browsable(situations()[situation])
            await _take(tab, answers, path, folder / f"{name}.png", width=width, dark=dark)


async def _renew() -> None:
    async with browsing() as tab:
        await _take(tab, situations()["readme"], "/", PICTURE, width=WIDTH, dark=False)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        chosen = Path(sys.argv[1])
        chosen.mkdir(parents=True, exist_ok=True)
        asyncio.run(_make(chosen))
    else:
        asyncio.run(_renew())
