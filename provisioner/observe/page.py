"""The status page: one status as HTML that works without scripts, colour or a wide screen.

The markup is in `templates/`, where Jinja2 escapes everything; the wording is here. Pure: the same view always gives
the same text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from provisioner import __version__
from provisioner.core.alerts import alert_messages, incidents
from provisioner.core.history import History, total
from provisioner.core.reports import STATES, Failures, Progress, RefusedKey, Retries, Status, TargetReport, WorkerReport
from provisioner.core.text import duration, percent
from provisioner.core.vitals import Vitals
from provisioner.observe.charts import chart
from provisioner.observe.words import environment, link

if TYPE_CHECKING:
    from jinja2 import Environment

ALWAYS: Final = frozenset({"succeeded", "failed", "in_flight", "ready", "waiting"})  # shown even if zero
MADE: Final = (("succeeded", "good"), ("failed", "bad"))
AGAIN: Final = (("retried", "off"),)


_NAMES: Final = {"states": STATES, "always": ALWAYS, "made": MADE, "again": AGAIN}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the page shows: the latest status, why there is no newer one, and the state of the worker that serves it.

    `absence` is why this worker takes on no requests at present; empty if it does.
    """

    status: Status | None
    trouble: str
    absence: str
    vitals: Vitals
    history: History | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a bar: what it represents, and its start and width in per cent of the bar."""

    kind: str
    at: str
    width: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The pace of creates, in words and as a bar with a mark at the limit; no bar if no limit is known."""

    words: str
    parts: tuple[Part, ...] = ()
    mark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The values for the templates: the state in words, what needs a person, and the numbers behind it."""

    status: Status | None
    worker: int | None
    title: str
    kind: str
    sign: str
    headline: str
    news: str
    trouble: str
    needed: tuple[str, ...]
    passing: tuple[str, ...]
    pace: Pace | None
    history: History | None

    @property
    def unfinished(self) -> tuple[Progress, ...]:
        """Batches with work left."""
        return tuple(each for each in self.status.batches if each.pending) if self.status else ()

    @property
    def finished(self) -> tuple[Progress, ...]:
        """Batches with nothing left to do."""
        return tuple(each for each in self.status.batches if not each.pending) if self.status else ()


def render_page(view: View) -> str:
    """Return the whole document."""
    template = _environment().get_template("page.html")
    return template.render(page=_page(view), version=__version__, root="", **_NAMES)


def render_main(view: View) -> str:
    """Return the part of the document that changes."""
    return _environment().get_template("main.html").render(page=_page(view), **_NAMES)


@cache
def _environment() -> "Environment":
    made = environment()
    made.filters |= {
        "chart": chart,
        "condition": _conditions,
        "example": _example,
        "limit": _limit,
        "parts": _parts,
        "percent": _percent,
        "summary": _summary,
        "sum_up": total,
        "why": _why,
        "why_refused": _why_refused,
        "of_batch": lambda batch: link("requests", batch=batch.batch),
        "worker_state": _worker_state,
    }
    return made


def _page(view: View) -> Page:
    status = view.status
    progress = status.progress if status else None
    needed = alert_messages(status) if status else ()
    passing = [*(incidents(status) if status else ()), *_own_incidents(view)]
    kind, sign, headline = _verdict(view, needed, passing)
    return Page(
        status=status,
        worker=view.vitals.worker,
        title=f"{_percent(progress)} · provisioner" if progress and progress.requests else "provisioner",
        kind=kind,
        sign=sign,
        headline=headline,
        news=f"{headline}. {_summary(progress) if progress else ''}",
        trouble=_without_database(view),
        needed=needed,
        passing=tuple(passing),
        pace=_pace(status) if status else None,
        history=view.history if view.history and any(not slot.is_empty for slot in view.history.hours) else None,
    )


def _verdict(view: View, needed: Sequence[str], passing: Sequence[str]) -> tuple[str, str, str]:
    """Return the kind of state, its sign, and its words."""
    if view.trouble:
        words = "The database cannot be reached" if view.status is None else "The database is unavailable"
        return "bad", "✕", words
    progress = view.status.progress if view.status else None
    if needed:
        return "bad", "!", "Something needs your attention"
    if progress is None or not progress.requests:
        return "off", "○", "No requests yet"
    if not progress.pending:
        return "good", "✓", "Everything is done"
    if passing:
        return "off", "↻", "Working, with temporary difficulties"
    return "busy", "▶", "Working"


def _without_database(view: View) -> str:
    """Return why there is no newer status, and what that means; empty if there is one."""
    if not view.trouble:
        return ""
    reason = view.trouble.removeprefix("the database cannot be reached: ")
    old = "; the figures below are old" if view.status else ""
    return f"{reason}{old}. Nothing is lost: workers continue when it is back. `provisioner doctor` says more"


def _own_incidents(view: View) -> Iterator[str]:
    known = {target.target for target in view.status.targets if target.trouble} if view.status else set()
    for target in view.vitals.targets:
        if target.held is not None and target.target not in known:
            reason = f": {target.held}" if target.held else ""
            yield f"this worker sends only single probes to target {target.target} until it works again{reason}"
    if view.absence:
        yield f"the worker that serves this page is not taking new requests: {view.absence}"


def _percent(progress: Progress) -> str:
    return percent(progress.finished, progress.requests)


def _summary(progress: Progress) -> str:
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    return f"{_percent(progress)} finished: {progress.finished:,} of {progress.requests:,}{failed}"


def _parts(progress: Progress) -> tuple[Part, ...]:
    sizes = {
        "good": progress.succeeded,
        "bad": progress.failed,
        "off": progress.cancelled,
        "busy": progress.in_flight,
    }
    return tuple(_bar(sizes, progress.requests))


def _bar(sizes: Mapping[str, float], whole: float) -> Iterator[Part]:
    at = 0.0
    for kind, size in sizes.items():
        width = 100.0 * size / whole if whole else 0.0
        if width:
            yield Part(kind=kind, at=f"{at:.2f}%", width=f"{width:.2f}%")
        at += width


def _pace(status: Status) -> Pace:
    busy = [target for target in status.targets if target.pending and target.paused_at is None]
    pace = status.workers.pace
    words = f"{pace:.1f} creates a second"
    limits = [target.allowed for target in busy]
    if not busy or None in limits:
        known = "; the limit is not known yet" if any(target.metered is None for target in busy) else ""
        return Pace(words=f"{words}{known}")
    allowed = sum(limit for limit in limits if limit is not None)
    scale = max(allowed, pace)
    return Pace(
        words=f"{words}, out of {allowed:.1f} that the limits allow"
        if pace <= allowed
        else f"{words} lately; {allowed:.1f} are allowed now",
        parts=tuple(_bar({"busy": pace}, scale)),
        mark=f"{100 * allowed / scale:.2f}%",
    )


def _limit(target: TargetReport) -> str:
    if target.metered is None:
        known = "not known yet"
    elif not target.metered or not target.permits or not target.period:
        known = "none"
    else:
        origin = " (configured)" if target.configured and target.allowed_writes is None else ""
        known = f"{target.permits:,} creates in {duration(target.period)}{origin}"
    if not (target.allowed_writes and target.allowed_period):
        return known
    by = f" by {target.limited_by}" if target.limited_by else ""
    ruling = f"{target.allowed_writes:,} creates in {duration(target.allowed_period)}, set{by}"
    return f"{ruling}; otherwise {known}" if target.metered is not None else ruling


def _conditions(target: TargetReport, now: datetime) -> list[tuple[str, datetime | None]]:
    """Return a target's conditions, each with since when, if known."""
    found: list[tuple[str, datetime | None]] = []
    if target.paused_at is not None:
        found.append((f"paused{f' by {target.paused_by}' if target.paused_by else ''}", target.paused_at))
    if target.trouble:
        found.append((target.troubles, target.trouble_since))
    if target.stalled_at is not None:
        found.append(("stalled: too many creates were in flight", target.stalled_at))
    if target.blocked_until is not None and target.blocked_until > now:
        found.append((f"rate limited for another {duration(target.blocked_until - now)}", None))
    if not found:
        words = "working" if target.workers and target.pending else "idle" if target.workers else "no worker"
        found.append((words, None))
    if target.limited_at is not None:
        found.append((target.operator_limit, target.limited_at))
    return found


def _why(retries: Retries) -> str:
    """Say why requests are retried or quarantined, distinguishing a key from OpenRouter itself."""
    what, _, credential = (retries.quarantine or "").partition(":")
    if what == "credential":
        return f"quarantined until the key of credential {credential} is accepted or replaced"
    if what == "project":
        return "quarantined until the machine identity may create in their projects"
    return retries.example or retries.error_code or "the last attempt did not succeed"


def _why_refused(key: RefusedKey) -> str:
    return f"OpenRouter refuses this key, and is not in trouble itself: {key.reason or 'no reason was given'}"


def _example(failure: Failures) -> str:
    return "—" if failure.example_id is None else f"request {failure.example_id}: {failure.example or ''}"


def _worker_state(worker: WorkerReport) -> str:
    if not worker.alive:
        return "lost"
    if worker.stopping:
        return "stopping"
    return "working" if worker.in_flight else "idle"
