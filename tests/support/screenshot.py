"""The picture of the status page in the README; `python -m tests.support.screenshot` makes it anew, with Chromium."""

import asyncio
from dataclasses import replace
from pathlib import Path

from provisioner.core.reports import Failures, Status, TargetReport, Workers
from tests.support.browser import browsing
from tests.support.builders import NOON, at
from tests.support.status_port import Answers, a_progress, a_status, a_worker, served

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "status-page.png"
WIDTH = 1180


def onboarding() -> Status:
    """Two batches of a company under way: most is done, and a name is taken."""
    done = a_progress(
        batch="platform teams", total=False, requests=420, succeeded=418, failed=2, in_flight=0, ready=0, waiting=0
    )
    rest = a_progress(
        batch="product teams", total=False, requests=1180, succeeded=509, in_flight=4, ready=662, waiting=5
    )
    everything = a_progress(requests=1600, succeeded=927, failed=2, in_flight=4, ready=662, waiting=5, ends_at=at(212))
    taken = Failures(
        error_code="name_conflict",
        requests=2,
        example_id=118,
        example="the project already has a connection named openrouter, and this request did not make it",
        newest_at=NOON,
    )
    target = TargetReport(target="default", waiting=5, ready=662, in_flight=4, workers=2)
    return a_status(
        progress=everything,
        batches=(replace(rest, ends_at=at(212)), replace(done, ended_at=at(-240), ends_at=None, started_at=at(-400))),
        targets=(replace(target, metered=True, permits=200, period=60.0),),
        workers=Workers(living=2, lost=0, pace=3.2),
        failures=(taken,),
        crew=(
            a_worker(name="onboarding-a:1", created=511, pace=1.6, in_flight=2),
            a_worker(id=8, name="onboarding-b:1", created=416, pace=1.6, in_flight=2),
        ),
    )


async def _make() -> None:
    async with served(Answers(status=onboarding())) as url, browsing() as tab:
        await tab.look(width=WIDTH)
        await tab.open(f"{url}/")
        await tab.until("document.getElementById('link').textContent === 'Live'")
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_bytes(await tab.picture())


if __name__ == "__main__":
    asyncio.run(_make())
