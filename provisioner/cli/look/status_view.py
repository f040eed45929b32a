"""Render a status: tables on a terminal, the same without colour elsewhere, a JSON document for programs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from provisioner.cli.terminal.output import one_line as one_line_text
from provisioner.cli.terminal.tables import plain_table
from provisioner.core.alerts import advice_for, alert_messages
from provisioner.core.reports import STATES, Retries
from provisioner.core.text import duration, percent, printable_json, several
from provisioner.postgres.reports import Failures, Progress, Status, TargetReport

BAR: Final = 12  # columns
ROOMY: Final = 120  # columns: wide enough for the start time
WIDEST: Final = 10_000  # columns; no line is wider
ALWAYS: Final = ("succeeded", "failed")


def view(status: Status, screen: Console) -> RenderableType:
    """Return the whole status, for a person at this console."""
    if status.progress is None or not status.progress.requests:
        return Text("no requests yet; create some with `provisioner submit FILE` or an INSERT")
    return Group(*_parts(status, screen))


def one_line(status: Status) -> str:
    """Return the progress, as one line for a log."""
    progress = status.progress
    if progress is None:
        return ""
    parts = [f"{progress.finished:,} of {progress.requests:,} finished"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.ends_at is not None:
        parts.append(f"ends {_ahead(progress.ends_at, status.now)}")
    elif progress.ends_why is not None:
        parts.append(progress.ends_why)
    return ", ".join(parts)


def changes(before: Status, after: Status) -> str:
    """Return the changes of each state's count since an earlier status; empty if nothing has changed."""
    if before.progress is None or after.progress is None:
        return ""
    numbers = {state: getattr(after.progress, state) - getattr(before.progress, state) for state in STATES}
    said = [f"{number:+,} {state.replace('_', ' ')}" for state, number in numbers.items() if number]
    return f"since {before.now.astimezone():%H:%M:%S}: {', '.join(said)}" if said else ""


def as_document(status: Status, *, one_line: bool, old_keys: int | None = None) -> str:
    """Return the whole status, for a program."""
    document: dict[str, Any] = asdict(status)
    document["concerns"] = alert_messages(status)
    document["old_keys"] = old_keys
    return printable_json(orjson.dumps(document, option=0 if one_line else orjson.OPT_INDENT_2).decode())


def _parts(status: Status, screen: Console) -> Iterator[RenderableType]:
    # On a terminal each table brings its own blank lines.
    gap = [] if screen.is_terminal else [Text("")]
    rows = [each for each in (status.progress, *status.batches) if each is not None]
    progress = (_progress_lines(each, status.now) for each in dict.fromkeys(rows))
    yield _fitted(screen, _progress_table(status, screen), progress)
    if status.more_batches:
        yield Text(f"… and {several(status.more_batches, 'more batch', 'more batches')}")
    yield from gap
    yield _fitted(screen, _target_table(status, screen), (_target_lines(each, status.now) for each in status.targets))
    yield Text(_workers(status))
    if status.retries:
        yield from gap
        lines = (_retry_lines(each, status.now) for each in status.retries)
        yield _fitted(screen, _retry_table(status, screen), lines)
    if status.failures:
        yield from gap
        lines = (_failure_lines(each) for each in status.failures)
        yield _fitted(screen, _failure_table(status.failures, screen), lines)
    if found := alert_messages(status):
        yield from gap
        for concern in found:
            yield Text(f"! {concern}", style="bold red")


def _fitted(screen: Console, table: Table, blocks: Iterable[Sequence[Text]]) -> RenderableType:
    """Return the table if its lines fit on this screen; otherwise a heading and indented lines for each row."""
    unbounded = screen.options.update(max_width=WIDEST)
    if not screen.is_terminal or screen.measure(table, options=unbounded).maximum <= screen.width:
        return table
    return Group(Text(""), *(_block(screen, lines) for lines in blocks), Text(""))


def _block(screen: Console, lines: Sequence[Text]) -> RenderableType:
    heading, *others = lines
    heading.truncate(screen.width, overflow="ellipsis")  # a name of two hundred letters is still one line
    heading.stylize("bold")
    return Group(heading, *(Padding(line, (0, 0, 0, 2)) for line in others if line.plain))


def _progress_lines(row: Progress, now: datetime) -> Sequence[Text]:
    name = "everything" if row.total else row.batch or "(no batch)"
    count = several(row.requests, "request")
    states = [f"{getattr(row, state):,} {state.replace('_', ' ')}" for state in STATES if getattr(row, state)]
    ended = "ended" if row.ended_at is not None else "ends" if row.ends_at is not None else "end not known:"
    end = f"{ended} {_end(row, now)}" if row.ends_why or row.ended_at or row.ends_at else "end not known yet"
    # The percentage precedes the name, which may be cut.
    return (
        Text(f"{percent(row.finished, row.requests):>5} {one_line_text(name)}"),
        Text(f"{count}: {', '.join(states) or 'none'}"),
        Text(end),
    )


def _target_lines(target: TargetReport, now: datetime) -> Sequence[Text]:
    condition = _condition(target, now)
    workers = several(target.workers, "worker")
    return (
        Text(f"target {target.target}"),
        Text(f"{target.pending:,} pending, {workers}, limit: {_limit(target)}{target.at_once}"),
        Text(condition, style="" if condition == "working" else "yellow"),
    )


def _retry_lines(each: Retries, now: datetime) -> Sequence[Text]:
    count = several(each.requests, "request")
    since = f", since {_clock(each.since)}" if each.since else ""
    return (
        Text(f"{each.state}: {each.error_code or 'no code'}"),
        Text(f"{count} at target {each.target}{since}; next attempt {_next(each, now)}"),
        Text(f"for example {_example_of(each)}"),
    )


def _retry_table(status: Status, screen: Console) -> Table:
    headings = ("state", "because of", "requests", "target", "since", "next attempt", "for example")
    table = plain_table(screen, *headings, right=("requests",), wrap=True)
    for each in status.retries:
        since = _clock(each.since) if each.since else "—"
        cells = each.state, each.error_code or "(no code)", f"{each.requests:,}", each.target, since
        table.add_row(*map(Text, (*cells, _next(each, status.now), _example_of(each))))
    return table


def _example_of(each: Retries) -> str:
    return f"request {each.example_id}: {one_line_text(each.example) or 'it was never tried'}"


def _next(each: Retries, now: datetime) -> str:
    ahead = (each.next_at - now).total_seconds()
    return f"in {duration(ahead)}" if ahead > 0 else "now"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _failure_lines(each: Failures) -> Sequence[Text]:
    count = several(each.requests, "request")
    example = f", for example request {each.example_id}: {one_line_text(each.example)}" if each.example_id else ""
    return (
        Text(f"failed with {each.error_code or '(no code)'}"),
        Text(f"{count}{example}"),
        Text(f"to do: {advice_for(each.error_code)}"),
    )


def _progress_table(status: Status, screen: Console) -> Table:
    rows = [status.progress] if status.progress else []
    rows += [batch for batch in status.batches if batch is not status.progress]
    # A screen has no room for columns of zeros; a program that reads columns gets all of them.
    states = [
        state
        for state in STATES
        if not screen.is_terminal or state in ALWAYS or any(getattr(row, state) for row in rows)
    ]
    roomy = screen.width >= ROOMY
    headings = ["requests", *(state.replace("_", " ") for state in states)]
    started = ["started"] if roomy else []
    table = plain_table(screen, "batch", "done", *headings, *started, "ends", right=headings, wrap=True)
    for row in rows:
        name = "everything" if row.total else row.batch or "(no batch)"
        cells = [_number(row.requests), *(_number(getattr(row, state), state) for state in states)]
        times = [_started(row)] if roomy else []
        table.add_row(Text(name), _share(row, screen), *cells, *map(Text, times), Text(_end(row, status.now)))
    return table


def _number(count: int, state: str = "") -> Text:
    return Text(f"{count:,}", style="red" if count and state == "failed" else "")


def _share(row: Progress, screen: Console) -> RenderableType:
    total = max(1, row.requests)
    share = Text(percent(row.finished, row.requests))
    if not screen.is_terminal:
        return share
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=total, completed=row.finished, width=BAR), share)
    return grid


def _started(row: Progress) -> str:
    return f"{row.started_at.astimezone():%Y-%m-%d %H:%M}" if row.started_at else ""


def _end(row: Progress, now: datetime) -> str:
    if row.ended_at is not None:
        took = f", took {duration((row.ended_at - row.started_at).total_seconds())}" if row.started_at else ""
        return f"{row.ended_at.astimezone():%Y-%m-%d %H:%M}{took}"
    return _ahead(row.ends_at, now) if row.ends_at is not None else row.ends_why or "not known yet"


def _ahead(moment: datetime, now: datetime) -> str:
    there = moment.astimezone()
    same_day = moment - now < timedelta(hours=12)
    return (
        f"in {duration((moment - now).total_seconds())} ({there.strftime('%H:%M' if same_day else '%Y-%m-%d %H:%M')})"
    )


def _target_table(status: Status, screen: Console) -> Table:
    numbers = ("pending", "workers")
    table = plain_table(screen, "target", *numbers, "limit", "condition", right=numbers, wrap=True)
    for target in status.targets:
        condition = _condition(target, status.now)
        style = "" if condition == "working" else "yellow"
        cells = target.target, f"{target.pending:,}", f"{target.workers:,}", _limit(target) + target.at_once
        table.add_row(*map(Text, cells), Text(condition, style=style))
    return table


def _limit(target: TargetReport) -> str:
    if target.metered is None:
        return "not known yet"
    if not target.metered or not target.permits or not target.period:
        return "none"
    period = "min" if target.period == 60 else f"{target.period:g} s"
    others = round(target.others * target.period)
    known = " (configured)" if target.configured and target.allowed_writes is None else ""
    return f"{target.permits:,} creates/{period}{known}{f', others use {others:,}' if others else ''}"


def _condition(target: TargetReport, now: datetime) -> str:
    found = []
    if target.paused_at is not None:
        by = f" by {target.paused_by}" if target.paused_by else ""
        found.append(f"paused{by} since {target.paused_at.astimezone():%Y-%m-%d %H:%M}")
    if target.trouble:
        since = f" since {target.trouble_since.astimezone():%H:%M}" if target.trouble_since else ""
        found.append(f"in trouble{target.partly}{since}: {target.trouble}")
    if target.stalled_at is not None:
        found.append(f"stalled since {target.stalled_at.astimezone():%H:%M}: too many creates were in flight")
    if target.blocked_until is not None:
        found.append(f"rate limited for another {duration((target.blocked_until - now).total_seconds())}")
    if not found:
        found.append("working" if target.workers and target.pending else "idle" if target.workers else "no worker")
    if target.limited_at is not None:
        found.append(f"{target.operator_limit} since {target.limited_at.astimezone():%Y-%m-%d %H:%M}")
    return "; ".join(found)


def _workers(status: Status) -> str:
    workers = status.workers
    living = several(workers.living, "worker is running", "workers are running")
    lost = f", {workers.lost:,} lost" if workers.lost else ""
    return f"{living}{lost}; {workers.pace:.1f} creates/s recently"


def _failure_table(failures: Sequence[Failures], screen: Console) -> Table:
    table = plain_table(screen, "failed with", "requests", "for example", "what to do", right=("requests",), wrap=True)
    for each in failures:
        known = each.example_id is not None
        example = f"request {each.example_id}: {' '.join((each.example or '').split())}" if known else "—"
        cells = each.error_code or "(no code)", f"{each.requests:,}", example, advice_for(each.error_code)
        table.add_row(*map(Text, cells))
    return table
