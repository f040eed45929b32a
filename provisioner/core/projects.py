"""Select among the projects that a machine identity can see.

Pure. A project is identified by its id; its name is for people and may change at any time.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

LONGEST_NAME: Final = 200  # characters; the limit of the table's column


class ProjectType(StrEnum):
    """What a project is for; OpenRouter connections are used by secret managers."""

    SECRET_MANAGER = "secret-manager"  # noqa: S105  # a word of Infisical's
    CERT_MANAGER = "cert-manager"
    KMS = "kms"
    SSH = "ssh"
    SECRET_SCANNING = "secret-scanning"  # noqa: S105  # the same
    PAM = "pam"
    AI = "ai"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class SeenProject:
    """A project that the identity is a member of."""

    id: str
    name: str
    slug: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFilter:
    """A selection of projects: by type, and by globs over name and slug that ignore case.

    Without `names`, all projects of the types are selected; `exclude` takes precedence.
    """

    types: tuple[str, ...] = (ProjectType.SECRET_MANAGER,)
    names: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def matches(self, project: SeenProject) -> bool:
        """Whether this project is selected. A project of unknown type matches every type."""
        if ProjectType.ALL not in self.types and project.type not in {"", *self.types}:
            return False
        if _any(self.exclude, project):
            return False
        return not self.names or _any(self.names, project)


def _any(globs: Collection[str], project: SeenProject) -> bool:
    called = {project.name.casefold(), project.slug.casefold()} - {""}
    return any(fnmatchcase(name, glob.casefold()) for glob in globs for name in called)


def chosen(projects: Iterable[SeenProject], wanted: ProjectFilter) -> list[SeenProject]:
    """Return the selected projects without duplicates, ordered by name and then by id."""
    found = {project.id: project for project in projects if wanted.matches(project)}
    return sorted(found.values(), key=lambda project: (project.name.casefold(), project.id))
