"""The status page: what one look showed, as HTML that works without script, colour or wide screen.

Pure: the same view gives the same text. Whatever comes from outside is escaped here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from string import Template
from typing import Final

from provisioner import __version__
from provisioner.core.concerns import concerns, remedy, setbacks
from provisioner.core.reports import Failures, Progress, Status, TargetReport, WorkerReport
from provisioner.core.vitals import Vitals
from provisioner.observe.logs import redact_text
from provisioner.observe.markup import Cell, ago, ahead, bar, duration, escape, graph, number, table, text, when

STATES: Final = ("succeeded", "failed", "cancelled", "in_flight", "ready", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the page shows: the last look, why there is no newer one, and how the worker is that serves the page.

    `absence` is why this worker takes on nothing just now; empty if it does.
    """

    status: Status | None
    trouble: str
    absence: str
    vitals: Vitals


@cache
def asset(name: str) -> str:
    """The text of a file of `assets/`."""
    return (files("provisioner.observe") / "assets" / name).read_text(encoding="utf-8")


def render_page(view: View) -> str:
    """The whole document."""
    title, main = _title(view), render_main(view)
    page = Template(asset("page.html"))
    return page.substitute(title=escape(title), main=main, version=escape(f"provisioner {__version__}"))


def render_main(view: View) -> str:
    """The part of the document that changes."""
    return "\n".join(part for part in _parts(view) if part)


def _parts(view: View) -> Iterator[str]:
    status = view.status
    yield _headline(view)
    if status is None or status.progress is None:
        return
    if status.progress.requests:
        yield _progress(status, status.progress)
        yield _batches(status)
    yield _targets(status)
    yield _failures(status)
    yield _workers(status, view)


def _title(view: View) -> str:
    progress = view.status.progress if view.status else None
    share = f"{_percent(progress)} · " if progress and progress.requests else ""
    return f"{share}provisioner"


def _percent(progress: Progress) -> str:
    # Rounded down: everything is finished only when it is.
    return f"{100 * progress.finished // max(1, progress.requests)} %"


def _headline(view: View) -> str:
    status = view.status
    needed = concerns(status) if status else ()
    passing = [*(setbacks(status) if status else ()), *_own_setbacks(view)]
    if view.trouble:
        passing.insert(0, f"{view.trouble}; what follows may be old")
    kind, sign, words = _verdict(view, needed, passing)
    news = f"{words}. {_said(status.progress) if status and status.progress else ''}"
    summary = f'data-title="{escape(_title(view))}" data-news="{escape(news)}" data-urgent="{escape(words)}"'
    seen = f'<p class="soft">As of {when(status.now, clock=True)}</p>' if status else ""
    return (
        f'<section class="{kind}" aria-labelledby="state" {summary}>'
        f'<div class="row"><h2 class="headline" id="state"><span class="sign" aria-hidden="true">{sign}</span>'
        f"{escape(words)}</h2>{seen}</div>"
        f"{_advice('What to do', needed)}{_advice('Dealt with without you', passing)}</section>"
    )


def _verdict(view: View, needed: Sequence[str], passing: Sequence[str]) -> tuple[str, str, str]:
    """The kind of state, its sign, and the words for it."""
    if view.trouble:
        return "bad", "✕", "The database cannot be asked" if view.status is None else "The database is away"
    progress = view.status.progress if view.status else None
    if needed:
        return "bad", "!", "Something needs you"
    if progress is None or not progress.requests:
        return "off", "○", "No requests yet"
    if not progress.pending:
        return "good", "✓", "Everything is done"
    if passing:
        return "off", "↻", "Working, with difficulties that will pass"
    return "busy", "▶", "Working"


def _own_setbacks(view: View) -> Iterator[str]:
    known = {target.target for target in view.status.targets if target.trouble} if view.status else set()
    for target in view.vitals.targets:
        if target.held is not None and target.target not in known:
            reason = f": {target.held}" if target.held else ""
            yield f"this worker holds target {target.target} back{reason}; single probes go out until it works again"
    if view.absence:
        yield f"the worker that serves this page takes on nothing just now: {view.absence}"


def _advice(heading: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{text(redact_text(sentence))}</li>" for sentence in sentences)
    return f'<p><strong>{heading}</strong></p><ul class="advice">{items}</ul>'


def _said(progress: Progress) -> str:
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    return f"{_percent(progress)} finished: {progress.finished:,} of {progress.requests:,}{failed}"


def _progress(status: Status, progress: Progress) -> str:
    counts = "".join(
        f"<div><dt>{state.replace('_', ' ')}</dt><dd>{getattr(progress, state):,}</dd></div>" for state in STATES
    )
    return (
        f'<section aria-labelledby="progress"><div class="row"><h2 id="progress">{_said(progress)}</h2>'
        f"<p>{_end(progress, status.now)}</p></div>{_bar(progress)}"
        f'<dl class="counts">{counts}</dl>{_pace(status)}</section>'
    )


def _end(progress: Progress, now: datetime) -> str:
    if progress.ended_at is not None:
        took = (progress.ended_at - progress.started_at).total_seconds() if progress.started_at else None
        return f"ended {when(progress.ended_at)}" + (f", took {duration(took)}" if took is not None else "")
    return f"ends {ahead(progress.ends_at, now)}" if progress.ends_at else "end not known yet"


def _bar(progress: Progress) -> str:
    parts = [
        (progress.succeeded, "good"),
        (progress.failed, "bad"),
        (progress.cancelled, "off"),
        (progress.in_flight, "busy"),
    ]
    return bar(parts, progress.requests, label=_said(progress))


def _pace(status: Status) -> str:
    busy = [target for target in status.targets if target.pending and target.paused_at is None]
    pace = status.workers.pace
    words = f"{pace:.1f} creates a second lately"
    limits = [target.allowed for target in busy]
    if not busy or None in limits:
        known = "; the limit is not known yet" if any(target.metered is None for target in busy) else ""
        return f'<p class="soft">Pace: {words}{known}</p>'
    allowed = sum(limit for limit in limits if limit is not None)
    words += f", of {allowed:.1f} that the limits allow"
    scale = max(allowed, pace)
    meter = bar([(pace, "busy")], scale, label=words, mark=allowed / scale)
    return f'<p class="soft">Pace: {words}</p><div class="pace">{meter}</div>'


def _batches(status: Status) -> str:
    rows = [
        [
            Cell(escape(batch.batch or "(no batch)")),
            graph(_bar(batch)),
            number(_percent(batch)),
            number(f"{batch.requests:,}"),
            number(f"{batch.succeeded:,}"),
            number(f"{batch.failed:,}"),
            number(f"{batch.pending:,}"),
            Cell(when(batch.started_at) if batch.started_at else ""),
            Cell(_end(batch, status.now)),
        ]
        for batch in status.batches
    ]
    headings = ("batch", "progress", "done", "requests", "succeeded", "failed", "left", "began", "end")
    more = f'<p class="soft">… and {status.more_batches:,} more batches</p>' if status.more_batches else ""
    return table("Batches", headings, rows, more=more)


def _targets(status: Status) -> str:
    rows = [
        [
            Cell(escape(target.target)),
            number(f"{target.pending:,}"),
            number(f"{target.workers:,}"),
            Cell(_limit(target) + target.at_once),
            Cell(text(redact_text(_condition(target, status.now))), long=True),
        ]
        for target in status.targets
    ]
    return table("Targets", ("target", "left", "workers", "limit", "condition"), rows)


def _limit(target: TargetReport) -> str:
    if target.metered is None:
        return "not known yet"
    if not target.metered or not target.permits or not target.period:
        return "none"
    return f"{target.permits:,} creates in {duration(target.period)}"


def _condition(target: TargetReport, now: datetime) -> str:
    found = []
    if target.paused_at is not None:
        found.append(f"paused{f' by {target.paused_by}' if target.paused_by else ''}")
    if target.trouble:
        found.append(f"in trouble{target.partly}: {target.trouble}")
    if target.stalled_at is not None:
        found.append("stalled: too many creates were in flight")
    if target.blocked_until is not None and target.blocked_until > now:
        found.append(f"over the limit for {duration((target.blocked_until - now).total_seconds())}")
    if not found:
        found.append("working" if target.workers and target.pending else "idle" if target.workers else "nobody at work")
    return "; ".join(found)


def _failures(status: Status) -> str:
    rows = [
        [
            Cell(escape(failure.error_code or "(no code)")),
            number(f"{failure.requests:,}"),
            Cell(when(failure.newest_at) if failure.newest_at else ""),
            Cell(_example(failure), long=True),
            Cell(escape(remedy(failure.error_code)), long=True),
        ]
        for failure in status.failures
    ]
    return table("Failures, by cause", ("cause", "requests", "newest", "for example", "what to do"), rows)


def _example(failure: Failures) -> str:
    if failure.example_id is None:
        return "—"
    return f"request {failure.example_id}: {text(redact_text(failure.example or ''))}"


def _workers(status: Status, view: View) -> str:
    rows = [
        [
            Cell(escape(worker.name) + (" (serves this page)" if worker.id == view.vitals.worker else ""), long=True),
            Cell(_worker_state(worker)),
            number(f"{worker.in_flight:,}"),
            number(f"{worker.created:,}"),
            number(f"{worker.pace:.1f}/s"),
            Cell(when(worker.started_at)),
            Cell(ago(worker.seen_at, status.now)),
            Cell(escape(worker.version)),
        ]
        for worker in status.crew
    ]
    headings = ("worker", "state", "in flight", "created", "pace", "began", "last word", "version")
    return table("Workers", headings, rows)


def _worker_state(worker: WorkerReport) -> str:
    if not worker.alive:
        return "lost"
    return "stopping" if worker.stopping else "at work"
