"""The values that travel through the house: what was asked for, what was seen, what is to be done.

Frozen, without behaviour beyond reading themselves, compared whole in tests. Times are on the database's clock
(`datetime`, aware) unless a name says otherwise; durations are seconds.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar, dataclass_transform

ERROR_MESSAGE_LENGTH: Final = 500  # characters of a foreign message that are worth keeping in a row

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=())
def value(cls: type[_T]) -> type[_T]:
    """A frozen dataclass whose frozenness the type checker keeps, not the interpreter.

    For what is made several times a request: `frozen=True` makes building a value twice as dear.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


class OnConflict(StrEnum):
    """What to do when the name is already taken by a connection that is not ours."""

    FAIL = "fail"
    ADOPT = "adopt"
    REPLACE = "replace"


class ErrorCode(StrEnum):
    """Why a request failed: the words of `connection_requests.error_code`, for programs."""

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
    """A call that a worker makes for a claim; also the word in the attempt log."""

    CREATE = "create"
    LOOK_UP = "look_up"  # has an earlier attempt made it?
    IDENTIFY = "identify"  # the name is taken: by whom?
    REPLACE = "replace"
    REMOVE = "remove"
    INSPECT = "inspect"  # what is the connection that an answer named?
    UPDATE = "update"  # what was edited of a recorded connection
    CONFIRM = "confirm"  # is a recorded connection still there?
    DELETE = "delete"  # what is not wanted any more


class Result(StrEnum):
    """What one call showed, after `infisical-api.md` §8: the alphabet that the policy decides on."""

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
    NOT_IN_PROJECT = "not_in_project"  # the machine identity is not
    FOREIGN_PROJECT = "foreign_project"  # another organization's
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


class Proof(StrEnum):
    """What the end of a create proves about the connection that it asked for. What proves nothing leaves a doubt."""

    MADE = "made"  # the promised answer
    REFUSED = "refused"  # Infisical's own refusal of a stage before the insert
    TAKEN = "taken"  # Infisical's own "already exists": this call inserted nothing, unless a gateway had repeated it
    UNSENT = "unsent"  # nothing left this process
    NONE = "none"


@value
class Edits:
    """What was edited of a request since its connection was recorded: an update sends that and no more.

    `others` are columns that only this kind of request has. `adopted`: its removal deletes also what somebody else
    made.
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
    """One row of `connection_requests`, as far as its connection needs it.

    `project_name` is for people. `recorded_id` is the connection that it has recorded, and `adopted` says that somebody
    else made that. `absent`: no connection of ours shall be there. `mark` is in what this claim's create makes, and in
    nothing else, where the kind of request has such a mark.
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
        """What it asks for, in a word."""
        return "connection"

    @property
    def taking_over(self) -> str:
        """Which choices of `on_conflict` take over what somebody else made."""
        return f"{OnConflict.ADOPT} or {OnConflict.REPLACE}"

    @property
    def looks_up_first(self) -> bool:
        """Whether it is looked up before its very first create, too.

        Then a claim that finds what is recorded gone does not create: it forgets that, and the next one looks first.
        """
        return False

    @property
    def reads_back(self) -> bool:
        """Whether all that can be edited can be read: then an update whose answer is lost is found out by a read."""
        return False

    def has_edits(self, found: "Connection") -> bool:  # noqa: ARG002 - see `reads_back`
        """Whether what was edited is there already."""
        return False

    def recognises(self, found: "Connection", doubt: "tuple[SentCreate, ...]") -> bool | None:  # noqa: ARG002 - see below
        """Whether a mark tells that one of these creates made what was found; None if there are no such marks."""
        return None

    def removing(self, found: "Connection") -> "Connection":
        """What is to be deleted, as the wish says how."""
        return found

    def left_behind(self, doubt: "tuple[SentCreate, ...]", recorded: "Connection | None") -> str:  # noqa: ARG002
        """In words, what these creates may have left behind besides what is recorded; mostly nothing."""
        return ""

    def left_by_removal(self, doubt: "tuple[SentCreate, ...]", *, deleted: bool) -> str:  # noqa: ARG002
        """In words, what stays or may stay somewhere once it is removed; `deleted` by a call that was answered."""
        return ""


@value
class SentCreate:
    """One create that left and may have made a connection: the evidence by which that is known for ours.

    `description` is as it was sent; where `exact` is false nobody knows whether a mark was added to it. It left at
    `sent_at` or later, and its answer came, or was given up, at `ended_at`. `proof` is what the answer proved: `NONE`
    or `TAKEN`. `key_fingerprint` is of the key that was sent, where that is known; of a create that
    makes a key it is the mark in that key's name.
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
    """One worker's hold on one request, for one attempt.

    `fence` was drawn by lot for it: a settlement whose claim is no longer in flight under its fence changes nothing,
    even where the id has come again meanwhile. `attempt` counts for people. `sent` counts the
    creates sent by earlier attempts, `failures` those that were the row's own fault, `streak` how many of the last of
    these in a row were of the kind `streak_of`. `since` is when the first attempt began. `doubt` are the creates of
    this request whose outcome is not proven.
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
        """What tells this claim of its request from every other."""
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
    """The limiter's own word on one answer: permits a window, permits left in it, seconds until it ends."""

    limit: int
    remaining: int
    reset: float


@value
class Observation:
    """What one call showed.

    `result` is what it means for what happens next, `proof` what it proves of a create; neither follows from the other.
    `retry_after` is in seconds, for `THROTTLED` and `CREDENTIAL_AWAY`. `metered` says that the answer came from behind
    the rate limiter, so that missing `rate` headers mean that there is no limiter. `skew` is the server's clock minus
    ours in seconds, where the answer told. `began` is when the call was sent, on the monotonic clock, and `elapsed` the
    seconds until its end. `message` is safe to show and to store.
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
    """Record the connection. `adopted`: somebody else made it, and `on_conflict` says to record or to replace it."""

    connection: Connection
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Record that a person has to act, and what may have been `left_behind` outside, in words."""

    code: ErrorCode
    message: str
    left_behind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Put it back for `delay` seconds.

    `counted`: this attempt was the row's own fault. `quarantine`: why it waits together with others until
    they are released.
    """

    delay: float
    message: str
    code: ErrorCode | None = None
    counted: bool = False
    quarantine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """Make another call for the same claim in `delay` seconds.

    `connection` is what it is about, unless it is a create or a look-up by name.
    """

    action: Action
    connection: Connection | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Record that the request was called off, now that it is certain that it made nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Record that nothing of ours is there, as was wanted."""


Outcome = Succeed | Fail | Retry | Cancel | Remove
Decision = Outcome | Do


@value
class AttemptRecord:
    """One call that was made for a claim: a row of the attempt log."""

    action: Action
    started_at: datetime
    elapsed: float
    status: int | None
    req_id: str | None
    result: Result
    message: str


@value
class Settlement:
    """How one claim ended: what the settler writes. The claim's `doubt` is what is in doubt now.

    `key_fingerprint` is of the key that Infisical accepted, where one was sent.
    """

    claim: Claim
    outcome: Outcome
    sent: int
    key_fingerprint: str | None = None
    records: tuple[AttemptRecord, ...] = ()
