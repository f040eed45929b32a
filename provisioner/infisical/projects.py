"""Interpret what Infisical says about projects: the list of the identity's projects, or a single one.

Pure. One list covers all projects, so it is also the cheapest test of membership (`infisical-api.md` §11).
"""

from typing import Any

from provisioner.core.model import Observation, Result
from provisioner.core.projects import LONGEST_NAME, SeenProject
from provisioner.infisical.answers import listed, not_understood
from provisioner.infisical.parts import Reply, Unreadable, clean, is_uuid, read_envelope, read_json, text_of
from provisioner.infisical.refusals import read_refusal


def read_projects(reply: Reply) -> tuple[Observation, tuple[SeenProject, ...]]:
    """Return `FOUND` with the projects, or what prevented it."""
    return listed(reply, _projects)


def read_project(reply: Reply) -> Observation:
    """Return `FOUND` if the project exists, `PROJECT_MISSING` if Infisical says that this very id does not exist."""
    asked_for = reply.asked.project_id or ""
    if not reply.is_success:
        seen, said = read_refusal(reply), read_envelope(reply.body, secret="")
        if seen.result is Result.PROJECT_MISSING and not (said and asked_for in said.message.lower()):
            return reply.shows(Result.UNKNOWN, "the answer is about another project")
        return seen
    try:
        data = read_json(reply.body)
        found = _project(data.get("project") if isinstance(data, dict) else None)
    except Unreadable as exc:
        return not_understood(reply, exc)
    if found.id != asked_for:
        return reply.shows(Result.UNKNOWN, "the answer is about another project")
    return reply.shows(Result.FOUND)


def _projects(data: Any) -> tuple[SeenProject, ...]:
    found = data.get("projects") if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise Unreadable("it holds no list of projects")
    return tuple(map(_project, found))


def _project(data: Any) -> SeenProject:
    """Read a listed project. Raises `Unreadable` without an id: an incomplete list would make projects look deleted."""
    id_ = data.get("id") if isinstance(data, dict) else None
    if not isinstance(id_, str) or not is_uuid(id_):
        raise Unreadable("a project in it has no id")
    name, slug, kind = (clean(text_of(data.get(field)))[:LONGEST_NAME] for field in ("name", "slug", "type"))
    return SeenProject(id_.lower(), name, slug, kind)
