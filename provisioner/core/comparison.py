"""Compare requests, or what was recorded for them, with what Infisical has. Pure."""

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
    """The ways in which a connection or rotation can differ from what was recorded."""

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
"""What has to be sent again, in the words of `provisioner.repair`."""


class PlannedOutcome(StrEnum):
    """What a request for a connection would lead to."""

    EXISTS = "exists"
    CREATE = "create"
    ADOPT = "adopt"
    REPLACE = "replace"
    CONFLICT = "conflict"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A succeeded request, with the fields that can be compared with Infisical.

    `credential` is the canonical name. `key_fingerprint` is that of the last key that Infisical accepted.
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
        """The noun for what was made."""
        return "connection"

    @property
    def made(self) -> str:
        """The id of what was made."""
        return self.connection_id

    @property
    def place(self) -> str:
        """Where it is in its project; comparisons go in this order."""
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
    """All connections, or all rotations, of a project, indexed by id and by name."""

    by_id: Mapping[str, Connection]
    by_name: Mapping[str, Connection]

    @classmethod
    def of(cls, connections: Iterable[Connection]) -> "Project":
        """Index these connections."""
        listed = list(connections)
        return cls({each.id.lower(): each for each in listed}, {each.name: each for each in listed})


def differences(
    recorded: AnyRecorded, project: Project, fingerprints: Mapping[str, str] = NO_FINGERPRINTS
) -> Mapping[Difference, str]:
    """Return the differences, each with a sentence that describes it; empty if nothing has changed.

    `fingerprints` are those of the credentials' present keys, as far as this process knows them.
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
    """Compare a rotation. An adopted one keeps what its creator chose."""
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
    """Whether the connection is known to have another key than its credential has now."""
    present = fingerprints.get(recorded.credential)
    return None not in {present, recorded.key_fingerprint} and present != recorded.key_fingerprint


def _has_our_description(recorded: Recorded) -> bool:
    """Whether the description has to match the request. An adopted connection keeps its creator's description.

    A replaced connection gets our description if the request has one.
    """
    if recorded.adopted and recorded.on_conflict == OnConflict.REPLACE:
        return recorded.description is not None
    return not recorded.adopted


def planned_outcome(name: str, on_conflict: str, project: Project, *, recorded_id: str | None) -> PlannedOutcome:
    """Predict the result of a request; `recorded_id` is the connection that an earlier request for it recorded."""
    found = project.by_name.get(name)
    if recorded_id is not None:
        return PlannedOutcome.EXISTS if recorded_id.lower() in project.by_id else PlannedOutcome.GONE
    if found is None:
        return PlannedOutcome.CREATE
    return {OnConflict.ADOPT: PlannedOutcome.ADOPT, OnConflict.REPLACE: PlannedOutcome.REPLACE}.get(
        OnConflict(on_conflict), PlannedOutcome.CONFLICT
    )
