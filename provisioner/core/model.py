"""The values that the parts of the provisioner exchange: requests, claims, observations, decisions.

They are frozen, have no behaviour beyond reading their own fields, and are compared whole in tests. Times are aware
`datetime`s on the database's clock unless a name says otherwise; durations are seconds.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar, dataclass_transform

ERROR_MESSAGE_LENGTH: Final = 500  # characters of an external message to keep in a row

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=())
def value(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass that only the type checker keeps frozen.

    It is for values that are built several times per request: `frozen=True` doubles the cost of building one.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


class OnConflict(StrEnum):
    """What to do when somebody else's connection already has the name."""

    FAIL = "fail"
    ADOPT = "adopt"
    REPLACE = "replace"


class ErrorCode(StrEnum):
    """Why a request failed, for programs: the values of `connection_requests.error_code`."""

    NAME_CONFLICT = "name_conflict"
    CREDENTIAL_REFUSED = "credential_refused"
    CREDENTIAL_UNKNOWN = "credential_unknown"
    CREDENTIAL_UNREADABLE = "credential_unreadable"
    PROJECT_NOT_FOUND = "project_not_found"
    PERMISSION_DENIED = "permission_denied"
    INVALID_REQUEST = "invalid_request"
    WRONG_SCOPE = "wrong_scope"
    TARGET_UNKNOWN = "target_unknown"
    OUTCOME_UNKNOWN = "outcome_unknown"
    GAVE_UP = "gave_up"
    IN_USE = "in_use"
    PLAN_RESTRICTED = "plan_restricted"
    FOLDER_NOT_FOUND = "folder_not_found"
    SECRET_EXISTS = "secret_exists"  # noqa: S105 - a code, not a secret
    KEY_NOT_ISSUED = "key_not_issued"
    CONNECTION_FAILED = "connection_failed"


class Action(StrEnum):
    """A call that a worker makes for a claim; these are also the words of the attempt log."""

    CREATE = "create"
    LOOK_UP = "look_up"  # did an earlier attempt make it?
    IDENTIFY = "identify"  # the name is taken: by which connection?
    REPLACE = "replace"
    REMOVE = "remove"
    INSPECT = "inspect"  # which connection did an answer name?
    UPDATE = "update"  # send what was edited of a recorded connection
    CONFIRM = "confirm"  # does a recorded connection still exist?
    DELETE = "delete"  # remove what is no longer wanted


class Result(StrEnum):
    """What one call showed, after `infisical-api.md` §8. The policy decides on these values."""

    CREATED = "created"
    UPDATED = "updated"
    REMOVED = "removed"
    FOUND = "found"
    ABSENT = "absent"
    WRONG_SCOPE = "wrong_scope"
    NAME_TAKEN = "name_taken"
    OTHER_APP = "other_app"
    KEY_REFUSED = "key_refused"
    FORBIDDEN = "forbidden"
    NOT_IN_PROJECT = "not_in_project"  # the machine identity is not a member
    FOREIGN_PROJECT = "foreign_project"  # the project belongs to another organization
    PROJECT_MISSING = "project_missing"
    INVALID = "invalid"
    IN_USE = "in_use"
    PLAN_RESTRICTED = "plan_restricted"
    FOLDER_MISSING = "folder_missing"
    SECRET_EXISTS = "secret_exists"  # noqa: S105 - a code, not a secret
    KEY_NOT_ISSUED = "key_not_issued"
    CONNECTION_MISSING = "connection_missing"
    THROTTLED = "throttled"
    TOKEN_TROUBLE = "token_trouble"  # noqa: S105 - a code, not a token
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"
    CREDENTIAL_UNKNOWN = "credential_unknown"
    CREDENTIAL_UNREADABLE = "credential_unreadable"
    CREDENTIAL_AWAY = "credential_away"


# Results of calls that certainly left nothing behind, because they were never sent.
NEVER_SENT: Final = frozenset(
    {Result.NOT_SENT, Result.CREDENTIAL_UNKNOWN, Result.CREDENTIAL_UNREADABLE, Result.CREDENTIAL_AWAY}
)


class Proof(StrEnum):
    """What the end of a create proves about its connection. If it proves nothing, the create stays in doubt."""

    MADE = "made"  # the documented answer
    REFUSED = "refused"  # Infisical's own refusal, at a stage before the insert
    TAKEN = "taken"  # Infisical's own "already exists": this call inserted nothing, unless a gateway sent it twice
    UNSENT = "unsent"  # nothing left this process
    NONE = "none"


@value
class Edits:
    """What was edited since the connection was recorded; an update sends exactly this.

    `others` are columns that only this kind of request has. `adopted`: the removal also deletes a connection that
    somebody else made.
    """

    name: bool = False
    description: bool = False
    credential: bool = False
    adopted: bool = False
    others: frozenset[str] = frozenset()

    @property
    def any(self) -> bool:
        """Whether there is anything to send."""
        return self.name or self.description or self.credential or bool(self.others)


UNEDITED: Final = Edits()


@value
class Request:
    """One row of `connection_requests`, with the fields that its connection needs.

    `project_name` is for people. `recorded_id` is the recorded connection, and `adopted` says that somebody else made
    it. `absent`: the row asks for no connection. `mark` identifies what this claim's create makes, for kinds of request
    that have such a mark.
    """

    id: int
    project_id: str
    name: str
    description: str | None
    credential: str
    on_conflict: OnConflict = OnConflict.FAIL
    target: str = "default"
    project_name: str | None = None
    recorded_id: str | None = None
    adopted: bool = False
    absent: bool = False
    edits: Edits = UNEDITED
    mark: str | None = None

    @property
    def thing(self) -> str:
        """The noun for what it asks for."""
        return "connection"

    @property
    def taking_over(self) -> str:
        """The values of `on_conflict` that take over somebody else's connection."""
        return f"{OnConflict.ADOPT} or {OnConflict.REPLACE}"

    @property
    def looks_up_first(self) -> bool:
        """Whether it is looked up even before its first create.

        Then a claim that finds its recorded object gone does not create: it clears the record, and the next claim looks
        first.
        """
        return False

    @property
    def reads_back(self) -> bool:
        """Whether everything that can be edited can be read, so that a read shows whether a lost update succeeded."""
        return False

    def has_edits(self, found: "Connection") -> bool:  # noqa: ARG002 - see `reads_back`
        """Whether Infisical already has what was edited."""
        return False

    def recognises(self, found: "Connection", doubt: "tuple[SentCreate, ...]") -> bool | None:  # noqa: ARG002 - see below
        """Whether one of these creates made what was found, by its mark; None if this kind has no marks."""
        return None

    def removing(self, found: "Connection") -> "Connection":
        """Return what to delete, with the request's options for the deletion."""
        return found

    def left_behind(self, doubt: "tuple[SentCreate, ...]", recorded: "Connection | None") -> str:  # noqa: ARG002
        """Describe what these creates may have left behind besides what is recorded; usually empty."""
        return ""

    def left_by_removal(self, doubt: "tuple[SentCreate, ...]", *, deleted: bool) -> str:  # noqa: ARG002
        """Describe what stays after a removal; `deleted` says that a call of ours was answered."""
        return ""


@value
class SentCreate:
    """One create that was sent and may have made a connection: evidence that the connection is ours.

    `description` is the text that was sent; `exact` is false if a marker may have been added to it. It was sent at
    `sent_at` or later, and it was answered or given up at `ended_at`. `proof` is what the answer proved: `NONE` or
    `TAKEN`. `key_fingerprint` is that of the key that was sent, if known; for a create that makes a key it is the mark
    in that key's name.
    """

    target: str
    project_id: str
    name: str
    description: str
    sent_at: datetime
    ended_at: datetime
    proof: Proof = Proof.NONE
    exact: bool = True
    key_fingerprint: str | None = None


@value
class Claim:
    """One worker's right to one request, for one attempt.

    `fence` is a random number: a settlement whose claim is no longer in flight under its fence changes nothing, even if
    the id has been used again. `attempt` is a count for people. `sent` counts the creates that earlier attempts sent,
    `failures` those that failed because of the row itself, and `streak` how many of the latest of these in a row were
    of the kind `streak_of`. The first attempt began at `since`. `doubt` contains the creates whose outcome is not
    proven.
    """

    request: Request
    attempt: int
    claimed_at: datetime
    fence: int = 0
    sent: int = 0
    failures: int = 0
    streak: int = 0
    streak_of: str | None = None
    since: datetime | None = None
    doubt: tuple[SentCreate, ...] = ()
    cancelled: bool = False

    @property
    def mark(self) -> tuple[int, int]:
        """What distinguishes this claim from every other claim of its request."""
        return (self.attempt, self.fence)

    @property
    def first_tried_at(self) -> datetime:
        """When the first attempt of this request began."""
        return self.since or self.claimed_at


@value
class Connection:
    """An app connection as Infisical describes it."""

    id: str
    project_id: str | None
    org_id: str | None
    credentials_hash: str
    name: str
    app: str
    method: str
    description: str | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateHeaders:
    """The rate limiter's headers on one answer: permits per window, permits left, seconds until the window ends."""

    limit: int
    remaining: int
    reset: float


@value
class Observation:
    """What one call showed.

    `result` decides what happens next, and `proof` is what it proves about a create; neither follows from the other.
    `retry_after` is in seconds, for `THROTTLED` and `CREDENTIAL_AWAY`. `metered`: the answer came through the rate
    limiter, so missing `rate` headers mean that there is no limit. `skew` is the server's clock minus ours in seconds,
    if the answer told. `began` is when the call was sent, on the monotonic clock; `elapsed` is its duration in seconds.
    `message` is safe to show and to store.
    """

    result: Result
    proof: Proof = Proof.NONE
    connection: Connection | None = None
    status: int | None = None
    req_id: str | None = None
    message: str = ""
    retry_after: float | None = None
    rate: RateHeaders | None = None
    metered: bool = False
    skew: float | None = None
    began: float | None = None
    elapsed: float = 0.0


@value
class Succeed:
    """Record the connection. `adopted`: somebody else made it, and `on_conflict` allows recording or replacing it."""

    connection: Connection
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Record a failure that needs a person. `left_behind` describes what may still exist outside."""

    code: ErrorCode
    message: str
    left_behind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Put the request back for `delay` seconds.

    `counted`: this attempt failed because of the row itself. `quarantine`: what the request waits for, together with
    others, until that is released.
    """

    delay: float
    message: str
    code: ErrorCode | None = None
    counted: bool = False
    quarantine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """Make another call for the same claim after `delay` seconds.

    `connection` is its subject, unless the call is a create or a look-up by name.
    """

    action: Action
    connection: Connection | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Record that the request was cancelled; it certainly made nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Record that no connection of ours exists, as requested."""


Outcome = Succeed | Fail | Retry | Cancel | Remove
Decision = Outcome | Do


@value
class AttemptRecord:
    """One call for a claim: a row of the attempt log."""

    action: Action
    started_at: datetime
    elapsed: float
    status: int | None
    req_id: str | None
    result: Result
    message: str


@value
class Settlement:
    """How one claim ended: what the settler records. The claim's `doubt` contains what is still in doubt.

    `key_fingerprint` is that of the key that Infisical accepted, if one was sent.
    """

    claim: Claim
    outcome: Outcome
    sent: int
    key_fingerprint: str | None = None
    records: tuple[AttemptRecord, ...] = ()
