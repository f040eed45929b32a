"""Every event that the code logs is in `docs/logs.md`, with its level and its fields."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import provisioner

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(provisioner.__file__).parent
DOCUMENT = PACKAGE.parent / "docs" / "logs.md"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Event:
    """One possible line of the log."""

    name: str
    level: str
    fields: frozenset[str]
    place: str


def words(node: ast.expr) -> list[str]:
    """The names that an event may have: one, or one of two that a condition chooses."""
    if isinstance(node, ast.IfExp):
        return [*words(node.body), *words(node.orelse)]
    return [str(node.value)] if isinstance(node, ast.Constant) else []


def logged(path: Path) -> Iterator[Event]:
    """The events of one module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        logger = ast.unparse(node.func.value)
        if node.func.attr not in LEVELS or logger not in {"log", "self._log"}:
            continue
        level = "error" if node.func.attr == "exception" else node.func.attr
        fields = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
        for name in words(node.args[0]):
            yield Event(name, level, fields, f"{path.name}:{node.lineno}")


@cache
def events() -> list[Event]:
    """The events of all modules."""
    return [event for path in sorted(PACKAGE.rglob("*.py")) if "sandbox" not in path.parts for event in logged(path)]


DOCUMENTED = {
    name: (level, set(re.findall(r"`(\w+)`", fields)))
    for name, level, fields, _ in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
}


def test_the_search_finds_events() -> None:
    """The search for events sees conditional names, bound loggers and exceptions."""
    names = {event.name for event in events()}
    assert {"target_paused", "target_resumed", "logged_in", "creator_failed"} <= names


def test_every_event_is_documented() -> None:
    """Every event for operators is documented, with its level."""
    missing = [
        f"{event.name} at {event.level}: {event.place}"
        for event in events()
        if DOCUMENTED.get(event.name, ("",))[0] != event.level
    ]
    assert missing == []


def test_every_field_is_documented() -> None:
    """No event carries a field that its row does not name."""
    unnamed = {
        event.name: sorted(event.fields - DOCUMENTED[event.name][1]) for event in events() if event.name in DOCUMENTED
    }
    assert {name: fields for name, fields in unnamed.items() if fields} == {}


def test_a_project_is_logged_with_its_name() -> None:
    """An event about a project names it, so that nobody has to look up an id."""
    nameless = [event.place for event in events() if "project" in event.fields and "project_name" not in event.fields]
    assert nameless == []


def test_nothing_is_documented_that_is_never_logged() -> None:
    """No documented event is obsolete."""
    assert sorted(DOCUMENTED.keys() - {event.name for event in events()}) == []


def test_events_are_past_tense_words() -> None:
    """An event's name is a constant of small letters, so that it can be searched for."""
    assert [event for event in events() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event.name)] == []
