"""Read the list of projects: those that the machine identity is a member of.

Pure. One answer tells all of them, so it is also the cheapest test of membership (`infisical-api.md` §11).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from provisioner.core.model import Observation, Result
from provisioner.infisical.answers import read_answer
from provisioner.infisical.parts import Asked, Reply, Unreadable, clean, read_json

LONGEST_NAME: Final = 200  # characters, as many as the table keeps


@dataclass(frozen=True, slots=True)
class ListedProject:
    """A project with what people call it, and its type, such as `secret-manager`."""

    id: str
    name: str
    kind: str


def read_projects(
    asked: Asked,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    elapsed: float = 0.0,
) -> tuple[Observation, tuple[ListedProject, ...]]:
    """`FOUND` with the projects, or what stood in the way."""
    if status != 200:
        return read_answer(asked, status, headers, body, now=now, elapsed=elapsed), ()
    reply = Reply(asked, status, headers, body, now, elapsed=elapsed)
    try:
        listed = read_json(body)["projects"]
        projects = tuple(_project(each) for each in listed)
    except (Unreadable, KeyError, TypeError, ValueError):
        return reply.shows(Result.UNKNOWN, "the answer holds no list of projects", metered=False), ()
    return reply.shows(Result.FOUND), projects


def _project(data: Any) -> ListedProject:
    name, kind = (clean(str(data.get(field) or ""))[:LONGEST_NAME] for field in ("name", "type"))
    return ListedProject(id=str(UUID(data["id"])), name=name, kind=kind)
