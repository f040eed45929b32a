"""Decide which projects are quarantined: the state machine that all workers of a target share.

A project is quarantined when Infisical refuses a create there because the machine identity is not in it, or may not
create. Its requests wait, and none of them fails for it. Whether the identity has *joined* is read: one list tells it
of all projects, and releases them. Whether it *may create* shows only a create: single ones probe it, at growing
intervals. The list that shows a refused project to be outside quarantines the others outside as well, before anything
is created there.

Pure. A project is known by (target, id), the time is the database's; PostgreSQL only stores the states.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from provisioner.core.model import ErrorCode, Retry

# The list is read at once on a refusal, yet not by all whose creates are refused at the same time.
FRESH: Final = timedelta(seconds=2)
# While projects wait for the identity the list is read again, soon at first: somebody may be adding it just now.
FIRST_READ: Final = timedelta(seconds=15)
LONGEST_READ: Final = timedelta(minutes=5)
# A fresh grant takes about 10 s to show.
FIRST_PROBE: Final = timedelta(seconds=5)
LONGEST_PROBE: Final = timedelta(hours=1)
# Between two probes of a target's projects: hundreds may lack the same permission, and a probe is a create.
PROBE_GAP: Final = timedelta(seconds=10)
# What only a list showed is tried after this long all the same: a list may leave out what can be used.
UNCONFIRMED: Final = timedelta(hours=1)
# A request that waits for a quarantined project looks again after this long, whatever else happened.
QUARANTINE_RECHECK: Final = timedelta(hours=1)


class Cause(StrEnum):
    """Why a project is quarantined."""

    NOT_IN_PROJECT = "not_in_project"
    NO_PERMISSION = "no_permission"


def quarantine_of(project_id: str) -> str:
    """What `waiting.quarantine` says of a request that waits for this project."""
    return f"project:{project_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedProject:
    """A project whose requests wait.

    `confirmed`: a create was refused there; else a list alone showed the identity to be outside. `probing`: one request
    may create there now. `probe_at` is when that is due next, for a permission that is missing.
    """

    cause: Cause
    reason: str
    since: datetime
    confirmed: bool = True
    probing: bool = False
    probe_at: datetime | None = None
    probe_pause: timedelta = FIRST_PROBE

    def may_try(self, now: datetime) -> bool:
        """Whether a create may go out to learn what only a list has shown."""
        return not self.confirmed and now - self.since >= UNCONFIRMED


def refused(before: QuarantinedProject | None, cause: Cause, reason: str, now: datetime) -> QuarantinedProject:
    """Return a project in which a create was refused, for the first time or again."""
    if before is None or before.cause is not cause:
        probe_at = now + FIRST_PROBE if cause is Cause.NO_PERMISSION else None
        since = now if before is None else before.since
        return QuarantinedProject(cause=cause, reason=reason, since=since, probe_at=probe_at)
    return replace(before, reason=reason, confirmed=True, probing=False)


def probed(project: QuarantinedProject, now: datetime) -> QuarantinedProject:
    """Return a project in which one request may create now."""
    pause = min(project.probe_pause * 2, LONGEST_PROBE)
    return replace(project, probing=True, probe_at=now + project.probe_pause, probe_pause=pause)


def due_probes(projects: Mapping[str, QuarantinedProject], now: datetime, *, most: int) -> list[str]:
    """Return the projects to probe now: those that have been due for longest, at most `most` of them."""
    due = [
        (project.probe_at, id_)
        for id_, project in projects.items()
        if project.cause is Cause.NO_PERMISSION and project.probe_at is not None and project.probe_at <= now
    ]
    return [id_ for _, id_ in sorted(due)[:most]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """When a target's projects were checked: the last read of the list, the pause until the next, the last probe."""

    read_at: datetime | None = None
    read_pause: timedelta = FIRST_READ
    probed_at: datetime | None = None


def read_now(checks: Checks, now: datetime, *, refused: bool) -> Checks | None:
    """Return the checks with a read of the list that may go out now; None if it has to wait.

    `refused`: a create was refused just now. Else the list is read because projects wait for the identity.
    """
    wait = FRESH if refused else checks.read_pause
    if checks.read_at is not None and now - checks.read_at < wait:
        return None
    pause = FIRST_READ if refused else max(FIRST_READ, min(checks.read_pause * 2, LONGEST_READ))
    return replace(checks, read_at=now, read_pause=pause)


def probe_now(checks: Checks, now: datetime, *, passed: bool) -> Checks | None:
    """Return the checks with probes that may go out now; None if they have to wait. `passed`: the last ones did."""
    if not passed and checks.probed_at is not None and now - checks.probed_at < PROBE_GAP:
        return None
    return replace(checks, probed_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a list of the identity's projects means for those that requests are for."""

    quarantine: frozenset[str] = frozenset()
    release: frozenset[str] = frozenset()


def listed(
    projects: Mapping[str, QuarantinedProject],
    *,
    joined: Collection[str],
    wanted: Collection[str],
    accepted: Collection[str],
) -> Listed:
    """Decide after a list of the `joined` projects: requests want `wanted`, and creates passed in `accepted` lately.

    A list that lacks an accepted project lacks others too, so it quarantines nothing, and nothing for its sake.
    """
    inside = {id_ for id_, project in projects.items() if project.cause is Cause.NOT_IN_PROJECT and id_ in joined}
    if not set(accepted) <= set(joined):
        unconfirmed = {id_ for id_, project in projects.items() if not project.confirmed}
        return Listed(release=frozenset(inside | unconfirmed))
    return Listed(quarantine=frozenset(set(wanted) - set(joined) - set(projects)), release=frozenset(inside))


def waiting_for_permission(project: str, one: QuarantinedProject) -> Retry:
    """How a claim ends whose project is quarantined."""
    return Retry(
        delay=QUARANTINE_RECHECK.total_seconds(),
        message=one.reason,
        code=ErrorCode.PERMISSION_DENIED,
        quarantine=quarantine_of(project),
    )
