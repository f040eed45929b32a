"""Requests as people see them: in lists, one by one, with their attempts."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RETRYING = "retrying"
    QUARANTINED = "quarantined"
    READY = "ready"
    IN_FLIGHT = "in_flight"
    UPDATING = "updating"
    REMOVING = "removing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REMOVED = "removed"


UNFINISHED: Final = (
    *(State.WAITING, State.RETRYING, State.QUARANTINED, State.READY),
    *(State.IN_FLIGHT, State.UPDATING, State.REMOVING),
)
ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.REMOVED})
# What ended otherwise than it should: few, as a rule, and kept in a table of their own.
SET_APART: Final = ENDED - {State.SUCCEEDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One request in a list or an export. A sealed credential is shown as `sealed:<key id>`."""

    id: int
    target: str
    project_id: str
    name: str
    description: str | None
    credential: str
    on_conflict: str
    priority: int
    batch: str | None
    project_name: str | None
    not_before: datetime | None
    requested_by: str | None
    created_at: datetime
    state: str
    attempts: int
    connection_id: str | None
    org_id: str | None
    credentials_hash: str | None
    adopted: bool
    error_code: str | None
    error_message: str | None
    next_attempt_at: datetime | None
    finished_at: datetime | None
    # Only rotations have these.
    kind: str = "connection"
    rotation_id: str | None = None
    connection: str | None = None
    waits_for: str | None = None
    environment: str | None = None
    secret_path: str | None = None
    secret_name: str | None = None
    key_issued: str | None = None
    left_behind: str | None = None

    @property
    def is_rotation(self) -> bool:
        """Whether it asks for a rotation instead of a connection."""
        return self.kind == "rotation"

    @property
    def made_id(self) -> str | None:
        """The id in Infisical of what was made."""
        return self.rotation_id if self.is_rotation else self.connection_id

    @property
    def secret(self) -> str:
        """Where a rotation writes its key: environment, folder and name."""
        if self.environment is None or self.secret_path is None:
            return ""
        return f"{self.environment}:{self.secret_path.rstrip('/')}/{self.secret_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail(Listed):
    """One request at the moment `now`, on the database's clock.

    `unknown`: an attempt may have made the connection. `cancel_requested`: it is cancelled as soon as that is resolved.
    `quarantine`: what it waits for, together with others. `place`: how many requests are served before and including
    it, if it is in line. `workers` are live and serve its target, at `pace` creates a second, None if unknown. `worker`
    has had it in flight since `claimed_at`. `unrecorded`: why its outcome could not be recorded yet. `awaited_id` is
    the request of the connection that a rotation waits for.
    """

    now: datetime
    unknown: bool
    cancel_requested: bool
    failures: int
    quarantine: str | None
    claimed_at: datetime | None
    worker: str | None
    unrecorded: str | None
    unrecorded_connection: str | None
    recorded_again_at: datetime | None
    place: int | None
    workers: int
    pace: float | None
    paused_at: datetime | None
    paused_by: str | None
    trouble: str | None
    awaited_id: int | None = None
    awaited_status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call for a request, as recorded in the log."""

    attempt: int
    worker: int
    action: str
    started_at: datetime
    ended_at: datetime
    http_status: int | None
    req_id: str | None
    outcome: str
    error_code: str | None
    error_message: str | None

    @property
    def took(self) -> float:
        """Its duration in seconds."""
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search for requests; empty fields match everything.

    `text` is an id, the UUID of a project, or a part of the name of a request, a project or a batch. `state` may also
    be `pending`. `before` and `after` are ids: only older, or only newer requests.
    """

    text: str = ""
    state: str = ""
    error: str = ""
    batch: str = ""
    target: str = ""
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of requests, newest first, and whether there are newer and older ones.

    `searched_to`: the time was up, and only requests down or up to this id were searched.
    """

    requests: tuple[Listed, ...]
    newer: bool = False
    older: bool = False
    searched_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHistory:
    """One request with its latest calls, oldest first, and the number of `earlier` calls that are left out.

    `drift`: how its connection differs from what was recorded, according to standing verification at `verified_at`.
    """

    detail: Detail
    attempts: tuple[Attempt, ...]
    earlier: int
    drift: str | None = None
    verified_at: datetime | None = None
