"""Compare what is asked for or was recorded with the connections that Infisical has. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from provisioner.core.description import is_description_of
from provisioner.core.model import Connection, OnConflict


class Difference(StrEnum):
    """What is no longer as it was recorded."""

    GONE = "gone"
    RENAMED = "renamed"
    REWRITTEN = "rewritten"
    DESCRIBED = "described otherwise"


class Prospect(StrEnum):
    """What would come of a request for a connection."""

    EXISTS = "exists"
    CREATE = "create"
    ADOPT = "adopt"
    REPLACE = "replace"
    CONFLICT = "conflict"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A succeeded request, as far as Infisical's side can be compared with it."""

    id: int
    target: str
    project_id: str
    name: str
    description: str | None
    on_conflict: str
    adopted: bool
    connection_id: str
    credentials_hash: str | None
    project_name: str | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """All connections of a project, to be found by id and by name."""

    by_id: Mapping[str, Connection]
    by_name: Mapping[str, Connection]

    @classmethod
    def of(cls, connections: Iterable[Connection]) -> "Project":
        """The project with these connections."""
        listed = list(connections)
        return cls({each.id.lower(): each for each in listed}, {each.name: each for each in listed})


def differences(recorded: Recorded, project: Project) -> Mapping[Difference, str]:
    """What differs, each with a sentence that says how; empty when all is as it was recorded."""
    found = project.by_id.get(recorded.connection_id.lower())
    if found is None:
        other = project.by_name.get(recorded.name)
        said = f"; another connection now has its name: {other.id}" if other else ""
        return {Difference.GONE: f"the project has no connection {recorded.connection_id}{said}"}
    return dict(_changes(recorded, found))


def _changes(recorded: Recorded, found: Connection) -> Iterator[tuple[Difference, str]]:
    if found.name != recorded.name:
        yield Difference.RENAMED, f"it is now called {found.name}"
    if recorded.credentials_hash and found.credentials_hash != recorded.credentials_hash:
        yield Difference.REWRITTEN, "its credentials have been rewritten since they were recorded"
    if _has_our_description(recorded) and not is_description_of(
        recorded.id, recorded.description, found.description or ""
    ):
        yield Difference.DESCRIBED, "its description differs from the requested one"


def _has_our_description(recorded: Recorded) -> bool:
    """Whether we wrote its description for certain: what was somebody else's first keeps theirs."""
    return not recorded.adopted


def prospect(name: str, on_conflict: str, project: Project, *, recorded_id: str | None) -> Prospect:
    """What would come of asking for a connection; `recorded_id` is the one that a request for it has made already."""
    found = project.by_name.get(name)
    if recorded_id is not None:
        return Prospect.EXISTS if recorded_id.lower() in project.by_id else Prospect.GONE
    if found is None:
        return Prospect.CREATE
    return {OnConflict.ADOPT: Prospect.ADOPT, OnConflict.REPLACE: Prospect.REPLACE}.get(
        OnConflict(on_conflict), Prospect.CONFLICT
    )
