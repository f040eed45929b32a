"""Show the progress of requests: a live display on a terminal, otherwise lines."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provisioner.cli.terminal.output import console, say
from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.reports import Leftovers
from provisioner.core.text import duration, percent
from provisioner.postgres.onboarding import Tally, standing, tally
from provisioner.postgres.reports import TargetReport, Workers, read_outlook, seconds_left

if TYPE_CHECKING:
    from rich.console import Console, Group

    from provisioner.postgres.pool import Database

REFRESH: Final = 0.5  # seconds
PLAIN: Final = 10.0  # seconds between two lines without a terminal
LATELY: Final = 15.0  # seconds
BIG: Final = 20_000  # requests; above this, counting them justifies a longer pause
LOOK: Final = 1.0  # seconds between two checks by those who only wait
PATIENCE: Final = 30.0  # seconds without a worker: one that restarts is back by then
CAUSES: Final = 3  # error codes that fit


class Pace:
    """Successes per minute, as observed here; a worker's own figure comes late, with its heartbeat."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, now: float, succeeded: int) -> float:
        """Return the pace after one more observation."""
        self._seen.append((now, succeeded))
        while len(self._seen) > 2 and now - self._seen[0][0] > LATELY:
            self._seen.popleft()
        (before, had), passed = self._seen[0], now - self._seen[0][0]
        return (succeeded - had) / passed * 60 if passed > 0 and before < now else 0.0


def facts(done: Tally, targets: Sequence[TargetReport], pace: float) -> Iterator[str]:
    """Yield what there is to say as short texts, beginning with the counts. `pace` is per minute."""
    yield f"{done.ended:,} of {done.requests:,} done"
    yield f"{done.succeeded:,} succeeded"
    causes = ", ".join(f"{count:,} {code}" for code, count in list(done.failed.items())[:CAUSES])
    yield f"{done.failures:,} failed" + (f" ({causes})" if causes else "")
    if done.retried:
        yield f"{done.retried:,} retried"
    limits = [each.allowed * 60 for each in targets if each.pending and each.allowed]
    yield f"{pace:,.0f} of {sum(limits):,.0f} creates/min" if limits else f"{pace:,.0f} creates/min"
    seconds = seconds_left(targets, Workers(living=1, lost=0, pace=pace / 60))
    if seconds and not trouble(targets):
        yield f"about {duration(seconds)} left"


def trouble(targets: Sequence[TargetReport]) -> str:
    """Return why nothing moves at present, if so."""
    for target in targets:
        if target.pending and target.trouble:
            return f"target {target.target}: {target.trouble}; it recovers automatically"
        if target.pending and target.paused_at:
            return f"target {target.target} is paused; `provisioner resume {target.target}` resumes it"
        if target.pending and target.stalled_at:
            return f"target {target.target} has stalled: too many creates were in flight; it recovers automatically"
    return ""


async def watch(database: "Database", ids: Sequence[int], screen: "Console") -> None:
    """Show the progress until all requests have ended, or until cancelled."""
    if screen.is_terminal:
        await _live(database, ids, screen)
        return
    said, pace = "", Pace()
    sys.stdout.flush()  # earlier output, for a reader of the log
    with suppress(DatabaseUnavailable):
        pace(time.monotonic(), (await tally(database, ids)).succeeded)
    due = time.monotonic() + PLAIN
    while True:
        await asyncio.sleep(_pause(ids))
        with suppress(DatabaseUnavailable):
            done = await tally(database, ids)
            if not done.pending:
                return
            if time.monotonic() < due:
                continue
            due = time.monotonic() + PLAIN
            targets, _ = await read_outlook(database)
            told = facts(done, targets, pace(time.monotonic(), done.succeeded))
            line = "; ".join(filter(None, (*told, trouble(targets))))
            if line != said:
                said = line
                say(line)
                sys.stdout.flush()


async def _live(database: "Database", ids: Sequence[int], screen: "Console") -> None:
    from rich.live import Live

    began, pace = time.monotonic(), Pace()
    texts: Sequence[str] = ("starting",)
    done, note = Tally(), ""
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            try:
                done = await tally(database, ids)
                targets, _ = await read_outlook(database)
            except DatabaseUnavailable as error:
                note = f"the database cannot be reached, trying again: {error}"
            else:
                note = trouble(targets)
                texts = list(facts(done, targets, pace(time.monotonic(), done.succeeded)))
            took = duration(time.monotonic() - began)
            live.update(_view(done, texts, note, took, screen.width), refresh=True)
            if done.requests and not done.pending:
                return
            await asyncio.sleep(_pause(ids))


def _pause(ids: Sequence[int]) -> float:
    """Return the seconds between two observations, longer for many requests."""
    return REFRESH * (1 + len(ids) / BIG)


def _view(done: Tally, texts: Sequence[str], note: str, took: str, width: int) -> "Group":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    first, *rest = texts
    grid = Table.grid(padding=(0, 1))
    share = percent(done.ended, done.requests)
    taken = len(f"{share} {first} {took}") + 6
    bar = ProgressBar(total=max(1, done.requests), completed=done.ended, width=max(8, min(40, width - taken)))
    grid.add_row(Text("  "), bar, Text(share), Text(first), Text(took))
    lines = [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in folded(rest, width - 2)]
    if note:
        lines.append(Text(f"  {note}", style="yellow", no_wrap=True, overflow="ellipsis"))
    return Group(grid, *lines)


def folded(parts: Sequence[str], width: int) -> Iterator[str]:
    """Place the parts side by side, on as many lines as needed; only a part wider than a line is cut."""
    line = ""
    for part in parts:
        joined = f"{line}   {part}" if line else part
        if line and len(joined) > width:
            yield line
            line = part
        else:
            line = joined
    if line:
        yield line


async def wait(database: "Database", ids: Sequence[int], *, sees_all: bool, quiet: bool) -> Leftovers:
    """Show the progress, and return what is left at the end; without `sees_all`, wait until every request has ended."""
    showing = None
    if sees_all and not quiet:
        showing = asyncio.create_task(watch(database, ids, console(stderr=True)), name="progress")
    try:
        return await _ended(database, ids, sees_all=sees_all)
    finally:
        if showing is not None:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing


async def _ended(database: "Database", ids: Sequence[int], *, sees_all: bool) -> Leftovers:
    served = time.monotonic()
    while True:
        with suppress(DatabaseUnavailable):
            if not sees_all:
                done = await tally(database, ids, own=True)
                if not done.pending:
                    return Leftovers(succeeded=done.succeeded, failed=dict(done.failed))
            else:
                left = await standing(database, ids)
                if not left.unserved:
                    served = time.monotonic()
                if not left.unfinished and (not left.unserved or time.monotonic() - served > PATIENCE):
                    return left
        await asyncio.sleep(LOOK)
