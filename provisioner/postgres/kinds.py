"""The kinds of request: their names in SQL, how their claims are read, and what is recorded for them.

Everything else is one statement for all kinds, so that a fix of the queue applies to each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from provisioner.core.comparison import AnyRecorded, Recorded
from provisioner.core.model import Action, Claim, OnConflict, Request, Result, Settlement, Succeed
from provisioner.core.rotations import RecordedRotation, Rotation, RotationRequest, filled_in, mark_of_claim
from provisioner.postgres import queries
from provisioner.postgres.queries import Words, statements

if TYPE_CHECKING:
    import asyncpg

_CONFLICTS: Final = {str(choice): choice for choice in OnConflict}
COMPARED: Final = 160  # characters of a credential that show whether the row has another one meanwhile

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """One kind of request.

    `first` is its lowest id, `request` the class of its requests. `read` builds one from the columns that every request
    has, the columns of this kind alone, and the claim's attempt and fence. `result` and `removal` return the columns
    that only this kind records for a success and for a removal. `recorded` builds what is compared with Infisical.
    """

    words: Words
    first: int
    request: type[Request]
    read: Callable[[dict[str, Any], Sequence[Any], int, int], Request]
    result: Callable[[Settlement, Succeed], Row]
    removal: Callable[[Settlement], Row]
    recorded: Callable[["asyncpg.Record"], AnyRecorded]

    @property
    def name(self) -> str:
        """Its name in SQL, and for outcomes that are set aside."""
        return self.words.only

    def sql(self, file: str, *, own: bool = False) -> Mapping[str, str]:
        """Return the statements of a file for this kind; `own` for a role that only sees its own requests."""
        return statements(file, self.words, own=own)

    def claim(self, row: "asyncpg.Record", line: str, fence: int) -> Claim:
        """Return the claim in one row of a line."""
        # By position, because this runs for every request and names would be looked up each time. A row that was
        # written with triggers off may contain anything: it fails by itself, and does not end the worker.
        id_, project, name, described, conflict, recorded_id, wanted, adopted, project_name, *rest = row
        attempt, at, sent, failures, streak, of, since, cancelled, _, _, *its = rest
        common = {
            "id": id_,
            "project_id": project,
            "name": name or "",
            "description": described,
            "on_conflict": _CONFLICTS.get(conflict, OnConflict.FAIL),
            "target": line.removesuffix(self.words.line),
            "project_name": project_name,
            "recorded_id": recorded_id,
            "adopted": bool(adopted),
            "absent": wanted == "absent",
        }
        return Claim(
            request=self.read(common, its, attempt, fence),
            attempt=attempt,
            fence=fence,
            claimed_at=at,
            sent=sent or 0,
            failures=failures or 0,
            streak=streak or 0,
            streak_of=of,
            since=since,
            cancelled=bool(cancelled),
        )


def kind_of_id(request: int) -> Kind:
    """Return the kind with this id."""
    return next((kind for kind in reversed(KINDS) if request >= kind.first), CONNECTIONS)


def kind_of_line(line: str) -> Kind:
    """Return the kind whose requests use this line."""
    return ROTATIONS if line.endswith(ROTATIONS.words.line) else CONNECTIONS


def kind_of(request: Request) -> Kind:
    """Return the kind of a request."""
    return _BY_REQUEST[type(request)]


def _connection(common: dict[str, Any], its: Sequence[Any], attempt: int, fence: int) -> Request:  # noqa: ARG001 - as below
    return Request(credential=its[0] or "", **common)


def _connection_result(settlement: Settlement, outcome: Succeed) -> Row:
    made, credential = outcome.connection, settlement.claim.request.credential
    return (made.org_id, made.credentials_hash, settlement.key_fingerprint, credential[:COMPARED])


def _rotation(common: dict[str, Any], its: Sequence[Any], attempt: int, fence: int) -> RotationRequest:
    connection_id, environment, path, secret, days, at, key_name, limit, reset, byok, with_secrets, revoke, issued = its
    named = filled_in(
        key_name, project_name=common["project_name"], project_id=common["project_id"], environment=environment
    )
    return RotationRequest(
        **common,
        credential="",
        mark=mark_of_claim(common["id"], attempt, fence),
        connection_id=connection_id or "",
        environment=environment,
        secret_path=path,
        secret_name=secret,
        interval_days=days,
        rotate_at=(at.hour, at.minute),
        key_name=named,
        spend_limit=limit,
        limit_reset=reset,
        include_byok=byok,
        with_secrets=with_secrets,
        revoke_keys=revoke,
        key_issued=issued,
    )


def _rotation_result(settlement: Settlement, outcome: Succeed) -> Row:
    claim, made = settlement.claim, outcome.connection
    connection_id, key = (made.connection_id or None, made.key_name) if isinstance(made, Rotation) else (None, None)
    return (connection_id, key, claim.request.left_behind(claim.doubt, made) or None)


def _rotation_removal(settlement: Settlement) -> Row:
    claim = settlement.claim
    deleted = any(call.action is Action.DELETE and call.result is Result.REMOVED for call in settlement.records)
    return (claim.request.left_by_removal(claim.doubt, deleted=deleted) or None,)


def _rotation_recorded(row: "asyncpg.Record") -> RecordedRotation:
    return RecordedRotation(**dict(row) | {"rotate_at": (row["rotate_at"].hour, row["rotate_at"].minute)})


CONNECTIONS: Final = Kind(
    words=queries.CONNECTIONS,
    first=-(2**63),
    request=Request,
    read=_connection,
    result=_connection_result,
    removal=lambda _: (),
    recorded=lambda row: Recorded(**dict(row)),
)
ROTATIONS: Final = Kind(
    words=queries.ROTATIONS,
    first=1_000_000_000_001,
    request=RotationRequest,
    read=_rotation,
    result=_rotation_result,
    removal=_rotation_removal,
    recorded=_rotation_recorded,
)
# All kinds, in the order of their ids.
KINDS: Final = (CONNECTIONS, ROTATIONS)
BY_NAME: Final = {kind.name: kind for kind in KINDS}
_BY_REQUEST: Final = {kind.request: kind for kind in KINDS}
