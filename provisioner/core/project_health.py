"""Decide which projects are quarantined: the state machine that all workers of a target share.

A project is quarantined when Infisical refuses a create there because the machine identity is not a member, or may not
create. Its requests wait, and none of them fails for this reason. Whether the identity has *joined* can be read: one
list covers all projects, and releases those it has joined. Whether it *may create* shows only in a create, so single
creates probe it at growing intervals. A list that shows a refused project to be outside also quarantines the other
projects outside, before any create is sent there.

Pure. A project is identified by (target, id), and times are on the database's clock; PostgreSQL only stores the states.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from provisioner.core.model import ErrorCode, Retry

# The list is read at once after a refusal, but only once for creates that are refused at the same time.
FRESH: Final = timedelta(seconds=2)
# While projects wait for the identity the list is read again, soon at first, because somebody may be adding it now.
FIRST_READ: Final = timedelta(seconds=15)
LONGEST_READ: Final = timedelta(minutes=5)
# A new grant takes about 10 s to show.
FIRST_PROBE: Final = timedelta(seconds=5)
LONGEST_PROBE: Final = timedelta(hours=1)
# Between two probes of a target's projects: hundreds may lack the same permission, and each probe is a create.
PROBE_GAP: Final = timedelta(seconds=10)
# A project that only a list showed to be outside is tried after this long anyway, because a list may be incomplete.
UNCONFIRMED: Final = timedelta(hours=1)
# A request that waits for a quarantined project is tried again after this long in any case.
QUARANTINE_RECHECK: Final = timedelta(hours=1)


class Cause(StrEnum):
    """Why a project is quarantined."""

    NOT_IN_PROJECT = "not_in_project"
    NO_PERMISSION = "no_permission"


def quarantine_of(project_id: str) -> str:
    """Return the value of `waiting.quarantine` for requests that wait for this project."""
    return f"project:{project_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedProject:
    """A project whose requests wait.

    `confirmed`: a create was refused there; otherwise only a list showed the identity to be outside. `probing`: one
    request may create there now. `probe_at` is when the next probe for a missing permission is due.
    """

    cause: Cause
    reason: str
    since: datetime
    confirmed: bool = True
    probing: bool = False
    probe_at: datetime | None = None
    probe_pause: timedelta = FIRST_PROBE

    def may_try(self, now: datetime) -> bool:
        """Whether a create may be sent to confirm what only a list has shown."""
        return not self.confirmed and now - self.since >= UNCONFIRMED


def refused(before: QuarantinedProject | None, cause: Cause, reason: str, now: datetime) -> QuarantinedProject:
    """Return a project after a create in it was refused."""
    if before is None or before.cause is not cause:
        probe_at = now + FIRST_PROBE if cause is Cause.NO_PERMISSION else None
        since = now if before is None else before.since
        return QuarantinedProject(cause=cause, reason=reason, since=since, probe_at=probe_at)
    return replace(before, reason=reason, confirmed=True, probing=False)


def probed(project: QuarantinedProject, now: datetime) -> QuarantinedProject:
    """Return a project with a probe granted: one request may create there now."""
    pause = min(project.probe_pause * 2, LONGEST_PROBE)
    return replace(project, probing=True, probe_at=now + project.probe_pause, probe_pause=pause)


def due_probes(projects: Mapping[str, QuarantinedProject], now: datetime, *, most: int) -> list[str]:
    """Return the projects to probe now: those that have been due longest, at most `most` of them."""
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
    """Return the checks with a read of the list granted; None if it has to wait.

    `refused`: a create was refused just now. Otherwise the list is read because projects wait for the identity.
    """
    wait = FRESH if refused else checks.read_pause
    if checks.read_at is not None and now - checks.read_at < wait:
        return None
    pause = FIRST_READ if refused else max(FIRST_READ, min(checks.read_pause * 2, LONGEST_READ))
    return replace(checks, read_at=now, read_pause=pause)


def probe_now(checks: Checks, now: datetime, *, passed: bool) -> Checks | None:
    """Return the checks with probes granted; None if they have to wait. `passed`: the previous probes succeeded."""
    if not passed and checks.probed_at is not None and now - checks.probed_at < PROBE_GAP:
        return None
    return replace(checks, probed_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The changes that follow from a list of the identity's projects."""

    quarantine: frozenset[str] = frozenset()
    release: frozenset[str] = frozenset()


def listed(
    projects: Mapping[str, QuarantinedProject],
    *,
    joined: Collection[str],
    wanted: Collection[str],
    accepted: Collection[str],
) -> Listed:
    """Compare a list of the `joined` projects with those that requests want and those that accepted creates recently.

    A list that lacks an accepted project is incomplete, so it quarantines nothing.
    """
    inside = {id_ for id_, project in projects.items() if project.cause is Cause.NOT_IN_PROJECT and id_ in joined}
    if not set(accepted) <= set(joined):
        unconfirmed = {id_ for id_, project in projects.items() if not project.confirmed}
        return Listed(release=frozenset(inside | unconfirmed))
    return Listed(quarantine=frozenset(set(wanted) - set(joined) - set(projects)), release=frozenset(inside))


def waiting_for_permission(project: str, one: QuarantinedProject) -> Retry:
    """Return the outcome of a claim whose project is quarantined."""
    return Retry(
        delay=QUARANTINE_RECHECK.total_seconds(),
        message=one.reason,
        code=ErrorCode.PERMISSION_DENIED,
        quarantine=quarantine_of(project),
    )
