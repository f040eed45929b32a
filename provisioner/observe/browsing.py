"""The pages of requests: a list of those that somebody looks for, and the story of one. Pure, as `page` is.

Of a credential only its name or the id of its sealing key is ever read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from shlex import quote
from typing import TYPE_CHECKING, Final

from provisioner import __version__
from provisioner.core.alerts import ADVICE
from provisioner.core.explain import Formatters, explain
from provisioner.core.requests import Detail, Found, Query, RequestHistory, State
from provisioner.core.text import duration
from provisioner.observe.words import environment, link, masked, moment

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST: Final = 200  # characters that somebody may look for
LARGEST_ID: Final = 2**63 - 1
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # as the database writes it: on one line
STATES: Final = ("pending", *State)
_KINDS: Final = {"succeeded": "good", "failed": "bad", "quarantined": "bad"}
_STUCK: Final = frozenset({"failed", "cancelled", "retrying", "quarantined"})  # a retry goes on with these
_WORDS: Final = Formatters(moment, duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListView:
    """What is looked for, what was found, and why nothing was, if nobody could look."""

    query: Query
    found: Found | None
    trouble: str = ""

    @property
    def is_filtered(self) -> bool:
        """Whether not all requests are meant."""
        return self.query != Query()

    @property
    def caption(self) -> str:
        """What the table is called."""
        return "Found, the newest first" if self.is_filtered else "All requests, the newest first"

    @property
    def newer(self) -> str:
        """The way to newer requests; empty if there are none."""
        if self.found is None or not self.found.newer or not self.found.requests:
            return ""
        return address(replace(self.query, before=None, after=self.found.requests[0].id))

    @property
    def further(self) -> str:
        """The way on, where there was no time to look through all; empty if there was."""
        if self.found is None or self.found.searched_to is None:
            return ""
        edge = self.found.searched_to
        if self.query.after is not None:
            return address(replace(self.query, after=edge))
        return address(replace(self.query, before=edge))

    @property
    def older(self) -> str:
        """The way to older requests; empty if there are none."""
        if self.found is None or not self.found.older or not self.found.requests:
            return ""
        return address(replace(self.query, after=None, before=self.found.requests[-1].id))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """One request, and why nothing is known of it, if nobody could look."""

    request: int
    story: RequestHistory | None
    trouble: str = ""

    @property
    def next(self) -> list[str]:
        """What happened, and what happens next."""
        return explain(self.story.detail, _WORDS) if self.story else []

    @property
    def command(self) -> str:
        """What a person can do about it, to be copied; empty if there is nothing to do."""
        return _command(self.story.detail) if self.story else ""

    @property
    def facts(self) -> list[tuple[str, str | datetime]]:
        """What is known of it, without what is not there."""
        return list(_facts(self.story)) if self.story else []


def _command(detail: Detail) -> str:
    if detail.waits_for is not None or detail.error_code == "connection_failed":
        # A rotation goes the way of its connection, so that is where something can be done.
        if detail.awaited_id is None:
            return f"provisioner list --project {detail.project_id}"
        return f"provisioner {'show' if detail.waits_for else 'retry'} {detail.awaited_id}"
    if detail.paused_at is not None and detail.finished_at is None:
        return f"provisioner resume {quote(masked(detail.target))}"
    if detail.state in _STUCK:
        return f"provisioner retry {detail.id}"
    if detail.left_behind:
        return f"provisioner rotations {detail.id} --deleted"
    return f"provisioner {'verify' if detail.state == 'succeeded' else 'show'} {detail.id}"


def parse_query(given: Mapping[str, str]) -> Query:
    """What an address asks for; what is no id is no id, and nothing is longer than any name."""
    texts = {
        name: _storable(given.get(name, ""))[:LONGEST].strip() for name in ("q", "state", "error", "batch", "target")
    }
    return Query(
        text=texts["q"],
        state=texts["state"],
        error=texts["error"],
        batch=texts["batch"],
        target=texts["target"],
        before=parse_id(given.get("before", "")),
        after=parse_id(given.get("after", "")),
    )


def _storable(text: str) -> str:
    """The text as the database can be asked for it: without half characters and zero bytes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "").lstrip()


def parse_id(text: str) -> int | None:
    """The id that a text names, if it names one."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    return number if 1 <= (number := int(text)) <= LARGEST_ID else None


def address(query: Query) -> str:
    """The address that asks for this."""
    return link(
        "requests",
        q=query.text,
        state=query.state,
        error=query.error,
        batch=query.batch,
        target=query.target,
        before=query.before,
        after=query.after,
    )


def render_list(view: ListView) -> str:
    """The page with a list."""
    template = _environment().get_template("requests.html")
    return template.render(
        view=view, version=__version__, root="", states=STATES, errors=tuple(ADVICE), sought=masked(view.query.text)
    )


def render_story(view: RequestView) -> str:
    """The page of one request."""
    return _environment().get_template("request.html").render(view=view, version=__version__, root="../")


@cache
def _environment() -> "Environment":
    made = environment()
    made.filters["kind"] = lambda state: _KINDS.get(state, "")
    made.filters["is_id"] = lambda value: isinstance(value, str) and _ID.fullmatch(value) is not None
    return made


def _facts(story: RequestHistory) -> Iterator[tuple[str, str | datetime]]:
    detail = story.detail
    facts: dict[str, object] = {
        "project": detail.project_id,
        "project name": detail.project_name,
        "name": detail.name,
        "uses connection": detail.connection,
        "secret": detail.secret,
        "description": detail.description,
        "target": detail.target,
        "credential": detail.credential,
        "on conflict": detail.on_conflict,
        "priority": detail.priority or None,
        "batch": detail.batch,
        "requested by": detail.requested_by,
        "created": detail.created_at,
        "not before": detail.not_before,
        "finished": detail.finished_at,
        "creates sent": detail.attempts,
        "rotation": detail.rotation_id,
        "key at OpenRouter": detail.key_issued,
        "connection": detail.connection_id,
        "organization": detail.org_id,
        "compared with Infisical": story.verified_at,
        "not as recorded": story.drift,
        "error": detail.error_code,
        "message": detail.error_message,
        "left behind": detail.left_behind,
    }
    for name, value in facts.items():
        if value is not None and value != "":
            yield name, value if isinstance(value, datetime) else str(value)
