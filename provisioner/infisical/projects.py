"""Interpret what Infisical says about projects: the list of the identity's projects, or a single one.

Pure. One list covers all projects, so it is also the cheapest test of membership (`infisical-api.md` §11).
"""

from typing import Any

from provisioner.core.model import Observation, Result
from provisioner.core.projects import LONGEST_NAME, SeenProject
from provisioner.infisical.answers import described, listed
from provisioner.infisical.parts import Reply, Unreadable, clean, is_uuid, read_envelope, text_of
from provisioner.infisical.refusals import read_refusal


def read_projects(reply: Reply) -> tuple[Observation, tuple[SeenProject, ...]]:
    """Return `FOUND` with the projects, or what prevented it."""
    return listed(reply, "projects", _project)


def read_project(reply: Reply) -> Observation:
    """Return `FOUND` if the project exists, `PROJECT_MISSING` if Infisical says that this very id does not exist."""
    asked_for = reply.asked.project_id or ""
    if not reply.is_success:
        seen, said = read_refusal(reply), read_envelope(reply.body, secret="")
        if seen.result is Result.PROJECT_MISSING and not (said and asked_for in said.message.lower()):
            return reply.shows(Result.UNKNOWN, "the answer is about another project")
        return seen

    def found(data: Any) -> Observation:
        if _project(data).id != asked_for:
            return reply.shows(Result.UNKNOWN, "the answer is about another project")
        return reply.shows(Result.FOUND)

    return described(reply, "project", found)


def _project(data: Any) -> SeenProject:
    """Read a listed project. Raises `Unreadable` without an id: an incomplete list would make projects look deleted."""
    id_ = data.get("id") if isinstance(data, dict) else None
    if not isinstance(id_, str) or not is_uuid(id_):
        raise Unreadable("a project in it has no id")
    name, slug, kind = (clean(text_of(data.get(field)))[:LONGEST_NAME] for field in ("name", "slug", "type"))
    return SeenProject(id_.lower(), name, slug, kind)
