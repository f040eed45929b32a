"""The kinds of request, as far as SQL tells them apart: a table of the users', what a claim reads, what is recorded.

Everything else is the same statement: where a kind has none of its own, that of connections is used with its table
instead. So a fix of the queue is a fix for all kinds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from provisioner.core.comparison import AnyRecorded
from provisioner.core.model import Action, Claim, OnConflict, Request, Result, Settlement, Succeed
from provisioner.core.rotations import RecordedRotation, Rotation, RotationRequest, filled_in, mark_of_claim
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg

CONFLICTS: Final = {str(choice): choice for choice in OnConflict}
_LISTED: Final = "provisioner.listed_requests"
# Only connections have a sealed key, which is wiped in the statement that records their end.
_wiping: Final = re.compile(
    r",\s*credential = (?:CASE\s.*?\sEND|provisioner\.wiped\(q\.credential\))(?=\s+FROM )", re.DOTALL
)

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of request besides connections.

    `line` is what its lines' names end with, `first` its lowest id, `table` the users' table, `listed` a view with the
    live state. `file` has the statements of its own, beside those of connections or in their place. `claim` reads a row
    of its claim, `result` tells what is recorded of a success, and `removal` of a removal.
    """

    line: str
    first: int
    table: str
    listed: str
    file: str
    claim: Callable[["asyncpg.Record", int], Claim]
    result: Callable[[Settlement, Succeed], Row]
    removal: Callable[[Settlement], Row]
    recorded: Callable[["asyncpg.Record"], AnyRecorded]

    def sql(self, file: str) -> Mapping[str, str]:
        """The statements of a file, as they are for this kind."""
        return _adapted(self, file)


@cache
def _adapted(kind: Kind, file: str) -> Mapping[str, str]:
    return {name: _for_table(text, kind) for name, text in statements(file).items()} | statements(kind.file)


def _for_table(text: str, kind: Kind) -> str:
    placed = text.replace("u.target, -u.priority", f"u.target || '/{kind.line}', -u.priority")
    return _wiping.sub("", placed).replace("provisioner.connection_requests", kind.table).replace(_LISTED, kind.listed)


def sql_of(kind: Kind | None, file: str) -> Mapping[str, str]:
    """The statements of a file, for a kind; None for connections."""
    return statements(file) if kind is None else kind.sql(file)


def kind_of_id(request: int) -> Kind | None:
    """The kind that has such ids; None for connections."""
    return next((kind for kind in reversed(KINDS) if kind is not None and request >= kind.first), None)


def kind_of_line(line: str) -> Kind | None:
    """The kind whose requests stand in a line; None for connections."""
    return _BY_LINE.get(line.partition("/")[2])


def kind_of(request: Request) -> Kind | None:
    """The kind of a request; None for connections."""
    return _BY_REQUEST.get(type(request))


def _rotation_claim(row: "asyncpg.Record", fence: int) -> Claim:
    project_id = row["project_id"]
    return Claim(
        request=RotationRequest(
            id=row["id"],
            project_id=project_id,
            name=row["name"],
            description=row["description"],
            credential="",
            on_conflict=CONFLICTS.get(row["on_conflict"], OnConflict.FAIL),
            target=row["target"],
            project_name=row["project_name"],
            recorded_id=row["rotation_id"],
            adopted=row["adopted"],
            absent=row["wanted"] == "absent",
            with_secrets=row["with_secrets"],
            revoke_keys=row["revoke_keys"],
            mark=mark_of_claim(row["id"], row["attempt"], fence),
            connection_id=row["connection_id"] or "",
            environment=row["environment"],
            secret_path=row["secret_path"],
            secret_name=row["secret_name"],
            interval_days=row["interval_days"],
            rotate_at=(row["rotate_at"].hour, row["rotate_at"].minute),
            key_name=filled_in(
                row["key_name"],
                project_name=row["project_name"],
                project_id=project_id,
                environment=row["environment"],
            ),
            spend_limit=row["spend_limit"],
            limit_reset=row["limit_reset"],
            include_byok=row["include_byok"],
            key_issued=row["key_issued"],
        ),
        attempt=row["attempt"],
        fence=fence,
        claimed_at=row["claimed_at"],
        sent=row["sent"] or 0,
        failures=row["failures"] or 0,
        streak=row["streak"] or 0,
        streak_of=row["streak_of"],
        since=row["since"],
        cancelled=bool(row["cancelled"]),
    )


def _rotation_result(settlement: Settlement, outcome: Succeed) -> Row:
    claim, made = settlement.claim, outcome.connection
    connection_id, key = (made.connection_id or None, made.key_name) if isinstance(made, Rotation) else (None, None)
    left = claim.request.left_behind(claim.doubt, made) or None
    return (claim.request.id, claim.attempt, made.id, connection_id, key, outcome.adopted, settlement.sent, left)


def _rotation_removal(settlement: Settlement) -> Row:
    claim = settlement.claim
    deleted = any(call.action is Action.DELETE and call.result is Result.REMOVED for call in settlement.records)
    left = claim.request.left_by_removal(claim.doubt, deleted=deleted) or None
    return (claim.request.id, claim.attempt, settlement.sent, left)


def _rotation_recorded(row: "asyncpg.Record") -> RecordedRotation:
    return RecordedRotation(**dict(row) | {"rotate_at": (row["rotate_at"].hour, row["rotate_at"].minute)})


ROTATIONS: Final = Kind(
    line="rotations",
    first=1_000_000_000_001,
    table="provisioner.rotation_requests",
    listed="provisioner.rotation_status",
    file="rotations",
    claim=_rotation_claim,
    result=_rotation_result,
    removal=_rotation_removal,
    recorded=_rotation_recorded,
)
# Every kind, in the order of their ids; None stands for connections.
KINDS: Final[tuple[Kind | None, ...]] = (None, ROTATIONS)
_BY_LINE: Final = {kind.line: kind for kind in KINDS if kind is not None}
_BY_REQUEST: Final[dict[type[Request], Kind]] = {RotationRequest: ROTATIONS}
