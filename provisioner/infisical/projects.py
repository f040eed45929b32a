"""Interpret what Infisical says about projects: the list of the identity's projects, or a single one.

Pure. One list covers all projects, so it is also the cheapest test of membership (`infisical-api.md` §11).
"""

from collections.abc import Mapping
from typing import Any

from provisioner.core.model import Observation, Result
from provisioner.core.projects import LONGEST_NAME, SeenProject
from provisioner.infisical.answers import not_understood
from provisioner.infisical.parts import Expected, Reply, Unreadable, clean, is_uuid, read_envelope, read_json, text_of
from provisioner.infisical.refusals import read_refusal


def read_projects(
    asked: Expected,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    elapsed: float = 0.0,
) -> tuple[Observation, tuple[SeenProject, ...]]:
    """Return `FOUND` with the projects, or what prevented it."""
    reply = Reply(asked, status, headers, body, now, None, elapsed)
    if not 200 <= status < 300:
        return read_refusal(reply), ()
    try:
        projects = _projects(read_json(body))
    except Unreadable as exc:
        return not_understood(reply, exc), ()
    return reply.shows(Result.FOUND), projects


def read_project(
    asked: Expected,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    began: float | None = None,
    elapsed: float = 0.0,
) -> Observation:
    """Return `FOUND` if the project exists, `PROJECT_MISSING` if Infisical says that this very id does not exist."""
    reply = Reply(asked, status, headers, body, now, began, elapsed)
    if not 200 <= status < 300:
        seen, said = read_refusal(reply), read_envelope(body, secret="")
        if seen.result is Result.PROJECT_MISSING and not (said and (asked.project_id or "") in said.message.lower()):
            return reply.shows(Result.UNKNOWN, "the answer is about another project")
        return seen
    try:
        data = read_json(body)
        found = _project(data.get("project") if isinstance(data, dict) else None)
    except Unreadable as exc:
        return not_understood(reply, exc)
    if found.id != asked.project_id:
        return reply.shows(Result.UNKNOWN, "the answer is about another project")
    return reply.shows(Result.FOUND)


def _projects(data: Any) -> tuple[SeenProject, ...]:
    listed = data.get("projects") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("it holds no list of projects")
    return tuple(map(_project, listed))


def _project(data: Any) -> SeenProject:
    """Read a listed project. Raises `Unreadable` without an id: an incomplete list would make projects look deleted."""
    id_ = data.get("id") if isinstance(data, dict) else None
    if not isinstance(id_, str) or not is_uuid(id_):
        raise Unreadable("a project in it has no id")
    name, slug, kind = (clean(text_of(data.get(field)))[:LONGEST_NAME] for field in ("name", "slug", "type"))
    return SeenProject(id_.lower(), name, slug, kind)
