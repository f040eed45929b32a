"""Judge the findings of standing verification: nothing is called gone after being missed only once. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from provisioner.core.comparison import NO_FINGERPRINTS, AnyRecorded, Difference, Project, differences

# A lagging replica may lack a connection that exists; after this long it would have it.
RECHECK_AFTER: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one recorded connection: how it differs, since when it is missed, whether it could be read.

    `drift` names the certain differences, separated by commas; None if there are none.
    """

    id: int
    drift: str | None = None
    missed_at: datetime | None = None
    unread: bool = False

    @property
    def is_fine(self) -> bool:
        """Whether it is as it was recorded."""
        return self.drift is None and self.missed_at is None and not self.unread


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A worker's turn in a round over everything recorded at a target; it continues after `project_id` and `name`."""

    target: str
    holder: str
    started_at: datetime
    project_id: str | None = None
    name: str | None = None


def judge(
    recorded: AnyRecorded,
    project: Project | None,
    missed_at: datetime | None,
    now: datetime,
    fingerprints: Mapping[str, str] = NO_FINGERPRINTS,
) -> Verdict:
    """Judge one recorded connection; `project` is None if it could not be read. It has been missed since `missed_at`.

    `fingerprints` are those of the credentials' present keys, as far as this process knows them.
    """
    if project is None:
        return Verdict(id=recorded.id, missed_at=missed_at, unread=True)
    found = differences(recorded, project, fingerprints)
    if Difference.GONE not in found:
        return Verdict(id=recorded.id, drift=", ".join(sorted(each.value for each in found)) or None)
    missed_at = missed_at or now
    gone = Difference.GONE.value if now - missed_at >= RECHECK_AFTER else None
    return Verdict(id=recorded.id, drift=gone, missed_at=missed_at)
