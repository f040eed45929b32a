"""Requests as people look at them: in a list, one by one, with what was tried."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One request as a list or an export shows it. A sealed credential is only `sealed:<key id>`."""

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
    # What only rotations have.
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
        """Whether it asks for a rotation, not for a connection."""
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

    `unknown`: an attempt may have made the connection. `cancel_requested`: it is cancelled as soon as that is certain.
    `quarantine`: why it waits together with others. `place`: how many are served up to and with it, if it is in line.
    `workers` live and serve its target, at `pace` creates a second, None if that is not known. `worker` has it in
    flight since `claimed_at`. `unrecorded`: why its outcome could not be recorded yet. `awaited_id` is the request of
    the connection that a rotation waits for.
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
    """One call that was made for a request, as the log has it."""

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
        """How long it took, in seconds."""
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which requests somebody looks for; empty means any.

    `text` is an id, the UUID of a project, or a part of the name of a request, a project or a batch. `state` may also
    be `pending`: not finished. `before` and `after` are ids: those older, or those newer.
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
    """A page of requests, the newest first, and whether there are newer and older ones.

    `searched_to`: there was no time to look at all; those up to this id were looked at.
    """

    requests: tuple[Listed, ...]
    newer: bool = False
    older: bool = False
    searched_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHistory:
    """One request with the latest calls that were made for it, the oldest first; so many `earlier` are left out.

    `drift`: how its connection differs from what was recorded, as standing verification found; `verified_at`: when.
    """

    detail: Detail
    attempts: tuple[Attempt, ...]
    earlier: int
    drift: str | None = None
    verified_at: datetime | None = None
