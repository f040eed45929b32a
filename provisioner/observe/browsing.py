"""The pages of requests: a list of search results, and the history of one request. Pure, like `page`.

Of a credential, only its name or the id of its sealing key is ever read.
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

LONGEST: Final = 200  # characters of a search text
LARGEST_ID: Final = 2**63 - 1
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # as the database writes it: on one line
STATES: Final = ("pending", *State)
_KINDS: Final = {"succeeded": "good", "failed": "bad", "quarantined": "bad"}
_STUCK: Final = frozenset({"failed", "cancelled", "retrying", "quarantined"})  # a retry continues these
_WORDS: Final = Formatters(moment, duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListView:
    """The search, its results, and why there are none if the search failed."""

    query: Query
    found: Found | None
    trouble: str = ""

    @property
    def is_filtered(self) -> bool:
        """Whether the search is restricted at all."""
        return self.query != Query()

    @property
    def caption(self) -> str:
        """The table's caption."""
        return "Found, the newest first" if self.is_filtered else "All requests, the newest first"

    @property
    def newer(self) -> str:
        """The link to newer requests; empty if there are none."""
        if self.found is None or not self.found.newer or not self.found.requests:
            return ""
        return address(replace(self.query, before=None, after=self.found.requests[0].id))

    @property
    def further(self) -> str:
        """The link that continues the search if it ran out of time; empty if it did not."""
        if self.found is None or self.found.searched_to is None:
            return ""
        edge = self.found.searched_to
        if self.query.after is not None:
            return address(replace(self.query, after=edge))
        return address(replace(self.query, before=edge))

    @property
    def older(self) -> str:
        """The link to older requests; empty if there are none."""
        if self.found is None or not self.found.older or not self.found.requests:
            return ""
        return address(replace(self.query, after=None, before=self.found.requests[-1].id))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """One request, and why nothing is known about it if it could not be read."""

    request: int
    story: RequestHistory | None
    trouble: str = ""

    @property
    def next(self) -> list[str]:
        """What happened, and what happens next."""
        return explain(self.story.detail, _WORDS) if self.story else []

    @property
    def command(self) -> str:
        """The command that a person can run; empty if there is nothing to do."""
        return _command(self.story.detail) if self.story else ""

    @property
    def facts(self) -> list[tuple[str, str | datetime]]:
        """The known facts, leaving out empty ones."""
        return list(_facts(self.story)) if self.story else []


def _command(detail: Detail) -> str:
    if detail.waits_for is not None or detail.error_code == "connection_failed":
        # A rotation follows its connection, so the connection's request is the one to retry.
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
    """Parse a search from an address; invalid ids are ignored, and texts are cut to the longest name."""
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
    """Remove characters that the database cannot store: lone surrogates and zero bytes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "").lstrip()


def parse_id(text: str) -> int | None:
    """Parse an id; None if the text is not one."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    return number if 1 <= (number := int(text)) <= LARGEST_ID else None


def address(query: Query) -> str:
    """Return the address of a search."""
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
    """Return the page with a list."""
    template = _environment().get_template("requests.html")
    return template.render(
        view=view, version=__version__, root="", states=STATES, errors=tuple(ADVICE), sought=masked(view.query.text)
    )


def render_story(view: RequestView) -> str:
    """Return the page of one request."""
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
