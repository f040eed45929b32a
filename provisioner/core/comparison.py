"""Compare what is asked for or was recorded with what Infisical has. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from provisioner.core.description import is_description_of
from provisioner.core.model import Connection, OnConflict
from provisioner.core.rotations import AUTOMATIC, SPENDING, RecordedRotation, Rotation, differing

NO_FINGERPRINTS: Final[Mapping[str, str]] = MappingProxyType({})


class Difference(StrEnum):
    """What is no longer as it was recorded."""

    GONE = "gone"
    RENAMED = "renamed"
    REWRITTEN = "rewritten"
    DESCRIBED = "described otherwise"
    OLD_KEY = "another key"
    RESCHEDULED = "rescheduled"
    OTHER_SPENDING = "other spending"
    OTHER_SECRET = "another secret"  # noqa: S105 - a word, not a secret
    SWITCHED_OFF = "switched off"
    FAILING = "failing"


WRONG: Final[Mapping[Difference, frozenset[str]]] = {
    Difference.GONE: frozenset({"gone"}),
    Difference.RENAMED: frozenset({"name"}),
    Difference.REWRITTEN: frozenset({"credential"}),
    Difference.DESCRIBED: frozenset({"description"}),
    Difference.OLD_KEY: frozenset({"credential"}),
    Difference.RESCHEDULED: frozenset({"interval_days", "rotate_at"}),
    Difference.OTHER_SPENDING: SPENDING,
    Difference.OTHER_SECRET: frozenset({"secret_name"}),
    Difference.SWITCHED_OFF: frozenset({AUTOMATIC}),
    Difference.FAILING: frozenset({"failing"}),
}
"""What has to be sent again, as `provisioner.repair` names it."""


class PlannedOutcome(StrEnum):
    """What would come of a request for a connection."""

    EXISTS = "exists"
    CREATE = "create"
    ADOPT = "adopt"
    REPLACE = "replace"
    CONFLICT = "conflict"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A succeeded request, as far as Infisical's side can be compared with it.

    `credential` is its canonical name, and `key_fingerprint` of the key that Infisical accepted last.
    """

    id: int
    target: str
    project_id: str
    name: str
    description: str | None
    on_conflict: str
    adopted: bool
    connection_id: str
    credentials_hash: str | None
    credential: str = ""
    key_fingerprint: str | None = None
    project_name: str | None = None

    @property
    def thing(self) -> str:
        """What was made, in a word."""
        return "connection"

    @property
    def made(self) -> str:
        """The id of what was made."""
        return self.connection_id

    @property
    def place(self) -> str:
        """Where it is in its project: in this order they are compared."""
        return self.name


AnyRecorded = Recorded | RecordedRotation


_OF_ROTATION: Final = {
    Difference.DESCRIBED: "its description differs from the requested one",
    Difference.RESCHEDULED: "its key is replaced on another schedule than requested",
    Difference.OTHER_SPENDING: "the spending limit of its keys is not the requested one",
    Difference.OTHER_SECRET: "its key is in another secret than requested",
    Difference.SWITCHED_OFF: "its key is no longer replaced automatically",
}


@dataclass(frozen=True, slots=True)
class Project:
    """All connections of a project, or all its rotations, to be found by id and by name."""

    by_id: Mapping[str, Connection]
    by_name: Mapping[str, Connection]

    @classmethod
    def of(cls, connections: Iterable[Connection]) -> "Project":
        """The project with these connections."""
        listed = list(connections)
        return cls({each.id.lower(): each for each in listed}, {each.name: each for each in listed})


def differences(
    recorded: AnyRecorded, project: Project, fingerprints: Mapping[str, str] = NO_FINGERPRINTS
) -> Mapping[Difference, str]:
    """What differs, each with a sentence that says how; empty when all is as it was recorded.

    `fingerprints` are the fingerprints of the keys that credentials have now, as far as they are known here.
    """
    if isinstance(recorded, RecordedRotation):
        return dict(_changes_of_rotation(recorded, project))
    found = project.by_id.get(recorded.connection_id.lower())
    if found is None:
        other = project.by_name.get(recorded.name)
        said = f"; another connection now has its name: {other.id}" if other else ""
        return {Difference.GONE: f"the project has no connection {recorded.connection_id}{said}"}
    return dict(_changes(recorded, found, fingerprints))


def _changes_of_rotation(recorded: RecordedRotation, project: Project) -> Iterator[tuple[Difference, str]]:
    """As of a connection; what was adopted keeps what somebody else chose."""
    found = project.by_id.get(recorded.rotation_id.lower())
    if not isinstance(found, Rotation):
        yield Difference.GONE, f"the project has no rotation {recorded.rotation_id}"
        return
    columns = differing(recorded, found)
    if "name" in columns:
        yield Difference.RENAMED, f"it is now called {found.name}"
    for difference, said in _OF_ROTATION.items():
        if WRONG[difference] & columns and not recorded.adopted:
            yield difference, said
    if found.failure:
        yield Difference.FAILING, f"Infisical could not replace its key: {found.failure}"


def _changes(
    recorded: Recorded, found: Connection, fingerprints: Mapping[str, str]
) -> Iterator[tuple[Difference, str]]:
    if found.name != recorded.name:
        yield Difference.RENAMED, f"it is now called {found.name}"
    if recorded.credentials_hash and found.credentials_hash != recorded.credentials_hash:
        yield Difference.REWRITTEN, "its credentials have been rewritten since they were recorded"
    if _has_our_description(recorded) and not is_description_of(
        recorded.id, recorded.description, found.description or ""
    ):
        yield Difference.DESCRIBED, "its description differs from the requested one"
    if has_old_key(recorded, fingerprints):
        yield Difference.OLD_KEY, f"its key is not the current one of credential {recorded.credential!r}"


def has_old_key(recorded: Recorded, fingerprints: Mapping[str, str]) -> bool:
    """Whether its key is another one than its credential has now, for all that is known."""
    present = fingerprints.get(recorded.credential)
    return None not in {present, recorded.key_fingerprint} and present != recorded.key_fingerprint


def _has_our_description(recorded: Recorded) -> bool:
    """Whether it has to be described as its request says: what was adopted keeps what somebody else wrote.

    What was replaced has our description if the request gives one.
    """
    if recorded.adopted and recorded.on_conflict == OnConflict.REPLACE:
        return recorded.description is not None
    return not recorded.adopted


def planned_outcome(name: str, on_conflict: str, project: Project, *, recorded_id: str | None) -> PlannedOutcome:
    """What would come of asking for a connection; `recorded_id` is the one that a request for it has made already."""
    found = project.by_name.get(name)
    if recorded_id is not None:
        return PlannedOutcome.EXISTS if recorded_id.lower() in project.by_id else PlannedOutcome.GONE
    if found is None:
        return PlannedOutcome.CREATE
    return {OnConflict.ADOPT: PlannedOutcome.ADOPT, OnConflict.REPLACE: PlannedOutcome.REPLACE}.get(
        OnConflict(on_conflict), PlannedOutcome.CONFLICT
    )
