"""Least privilege: the rights that a requester, a reader and a worker need in the database, and no others.

The rights are plain privileges on the objects of the schema. They also determine which rows a role sees: see
`migrations/0007_access.sql`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from provisioner.core.errors import DatabaseUnusable, SchemaMismatch
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

_SQL: Final = "access"

# Each has a view `own_…`; see `migrations/0006_views.sql`.
NARROWED: Final = (
    *("ready", "waiting", "in_flight", "attempt_state", "sent_creates", "unrecorded", "attempts", "drifts", "requests"),
    *("listed_requests", "listed_rotations", "credential_health", "project_health", "quarantined_credentials"),
)


class Kind(StrEnum):
    """What a database role is for."""

    REQUESTER = "requester"
    READER = "reader"
    WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Privileges, such as `SELECT`, on one object of the schema; with `columns`, on these alone."""

    privileges: tuple[str, ...]
    on: str
    columns: tuple[str, ...] = ()
    kind: str = "TABLE"


def _table(name: str, *privileges: str, columns: tuple[str, ...] = ()) -> Right:
    return Right(privileges=privileges, on=name, columns=columns)


def _function(name: str) -> Right:
    return Right(privileges=("EXECUTE",), on=name, kind="FUNCTION")


WISH: Final = (
    *("target", "project_id", "name", "description", "credential", "on_conflict", "priority", "batch", "project_name"),
    *("wanted", "not_before"),
)
RESULT: Final = (
    *("status", "connection_id", "org_id", "credentials_hash", "adopted", "key_fingerprint", "attempts"),
    *("error_code", "error_message", "finished_at"),
)
ROTATION_WISH: Final = (
    *("target", "project_id", "name", "connection", "environment", "secret_path", "secret_name"),
    *("interval_days", "rotate_at", "key_name", "spend_limit", "limit_reset", "include_byok"),
    *("description", "on_conflict", "priority", "batch", "project_name", "not_before"),
)
ROTATION_RESULT: Final = (
    *("status", "rotation_id", "connection_id", "key_issued", "adopted", "attempts", "left_behind"),
    *("error_code", "error_message", "finished_at"),
)
# All columns except `credential`.
SEEN: Final = ("id", *(each for each in WISH if each != "credential"), "requested_by", "created_at", *RESULT)

_REQUESTS: Final = "connection_requests"
_USAGE: Final = Right(privileges=("USAGE",), on="provisioner", kind="SCHEMA")

# What the views read with the rights of their user.
_LIVE: Final = (
    _function("live_state(text,text,uuid,bigint,bigint,text,text,boolean)"),
    _function("counted_as(text,text,uuid)"),
    _function("while_pending(text,anyelement,anyelement)"),
    _function("quarantine_code(text)"),
)

_READING: Final[Sequence[Right]] = (
    _USAGE,
    *(_table(name, "SELECT") for name in ("rotation_requests", "rotation_status", "requests")),
    _table("salt", "SELECT"),  # to compare a connection's key with its credential's present one
    _table(_REQUESTS, "SELECT", columns=SEEN),
    *(
        _table(name, "SELECT")
        for name in ("request_status", "batch_progress", "request_counts", "target_progress", "progress")
    ),
    _table("forecasts", "SELECT"),
    *(_table(name, "SELECT") for name in ("listed_requests", "listed_rotations", "places", "overlooked")),
    *(
        _table(name, "SELECT")
        for name in ("ready", "waiting", "in_flight", "attempt_state", "fair_cursors", "attempts")
    ),
    *(_table(name, "SELECT") for name in ("unrecorded", "miscounted", "sent_creates", "edits", "installation")),
    _function("misplaced(bigint,integer)"),
    *_LIVE,
    *(
        _table(name, "SELECT")
        for name in ("workers", "targets", "present_incidents", "permits", "concurrency", "credential_health")
    ),
    *(
        _table(name, "SELECT")
        for name in ("quarantined_credentials", "quarantined_projects", "project_health", "sealing_keys", "notices")
    ),
    *(_table(name, "SELECT") for name in ("migrations", "history", "drifts", "verify_rounds", "set_apart")),
    *(_table(name, "SELECT") for name in ("line_forecasts", "forecast_turn")),
    _function("sealing_key()"),
)

RIGHTS: Final[Mapping[Kind, Sequence[Right]]] = {
    Kind.REQUESTER: (
        _USAGE,
        _table(_REQUESTS, "SELECT", columns=SEEN),
        _table(_REQUESTS, "INSERT", columns=WISH),
        _table("rotation_requests", "SELECT"),
        _table("rotation_requests", "INSERT", columns=ROTATION_WISH),
        *(_table(name, "SELECT") for name in ("rotation_status", "request_status")),
        _function("utf16_length(text)"),  # a CHECK runs with the rights of the role that writes
        *(
            _table(name, "SELECT")
            for name in ("batch_progress", "request_counts", "target_progress", "progress", "migrations")
        ),
        # What it may know beyond its own requests.
        *(_table(f"own_{name}", "SELECT") for name in NARROWED),
        *(
            _table(name, "SELECT")
            for name in (
                "workers",
                "targets",
                "present_incidents",
                "permits",
                "concurrency",
                "line_forecasts",
                "forecast_turn",
            )
        ),
        _function("sealing_key()"),
        *_LIVE,
    ),
    Kind.READER: _READING,
    Kind.WORKER: (
        *_READING,  # its status page shows what a reader sees
        _table(_REQUESTS, "SELECT"),
        _table(_REQUESTS, "UPDATE", columns=("credential", *RESULT)),
        *(_table(name, "SELECT") for name in ("rotation_requests", "requests")),
        _table("rotation_requests", "UPDATE", columns=ROTATION_RESULT),
        _function("utf16_length(text)"),  # as above
        *(
            _table(name, "SELECT", "INSERT", "UPDATE", "DELETE")
            for name in ("ready", "waiting", "attempt_state", "workers")
        ),
        *(_table(name, "SELECT", "INSERT", "UPDATE", "DELETE") for name in ("credential_health", "target_incidents")),
        *(_table(name, "SELECT", "INSERT", "UPDATE", "DELETE") for name in ("project_health", "project_checks")),
        *(_table(name, "SELECT", "INSERT", "UPDATE") for name in ("key_verdicts", "discover_rounds")),
        _function("request_discovered(text,uuid[],text[],text,text)"),
        _table("seen_projects", "SELECT", "INSERT", "UPDATE"),
        _function("remove_gone(text,uuid)"),
        *(_table(name, "SELECT", "INSERT", "UPDATE", "DELETE") for name in ("in_flight", "unrecorded")),
        _table("sent_creates", "SELECT", "INSERT", "UPDATE", "DELETE"),
        _table("edits", "SELECT", "INSERT", "UPDATE", "DELETE"),
        *(_table(name, "SELECT") for name in ("miscounted", "installation")),
        *(_table(name, "SELECT", "INSERT", "UPDATE") for name in ("fair_cursors", "permits", "concurrency", "targets")),
        *(_table(name, "SELECT", "INSERT", "UPDATE", "DELETE") for name in ("notices", "notice_batches")),
        *(_table(name, "SELECT", "INSERT", "UPDATE", "DELETE") for name in ("verify_rounds", "drifts")),
        _table("notice_concerns", "SELECT", "INSERT", "DELETE"),
        _table("notice_turn", "SELECT", "UPDATE"),
        _table("forecast_turn", "SELECT", "UPDATE"),
        *(_table(name, "SELECT", "INSERT", "UPDATE", "DELETE") for name in ("forecasts", "line_forecasts")),
        _table("attempts", "INSERT"),
        _table("failed_boxes", "SELECT", "UPDATE", "DELETE"),
        *(_table(name, "SELECT") for name in ("salt", "migrations", "batch_progress", "request_counts", "history")),
        *_LIVE,
        _function("turn_attempt_log(interval)"),
        _function("add_history(text[],bigint[],bigint[],bigint[])"),
        *map(_function, ("fold_counts(integer)", "recount()", "not_updated(bigint)", "sweep(integer,interval)")),
        *map(_function, ("misplaced(bigint,integer)", "put_in_line(bigint[])")),
        *map(_function, ("also_left(text,text)", "wiped(text,text)", "wipe_failed_boxes(interval,integer)")),
        *map(
            _function,
            (
                "wipe_boxes(provisioner.failed_boxes[])",
                "fail_unknown_targets(text,integer,text,text)",
                "disown_requests(bigint[],text,text)",
                "finish(bigint[],text,text,text)",
            ),
        ),
        _function("sealing_key()"),
    ),
}


class RoleUnusable(DatabaseUnusable):
    """The role cannot be given rights, or we may not give them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role of the database server.

    `unbound`: it is a superuser or bypasses row-level security. `as_owner`: it may act as the schema's owner.
    `connects`, `stages`: it may connect to the database, and create temporary tables there.
    """

    name: str
    quoted: str
    owns: bool
    unbound: bool
    as_owner: bool
    connects: bool
    stages: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The result of `plan`: the statements to run, and warnings about what they cannot do."""

    statements: tuple[str, ...]
    warnings: tuple[str, ...]


async def sees_all(database: "Database | PoolConnectionProxy[asyncpg.Record]") -> bool:
    """Return whether our role sees every request. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    row = await database.fetchrow(statements(_SQL)["sees_all"])
    return bool(row and row["sees_all"])


async def plan(database: Database, *, grants: Mapping[str, Collection[Kind]], revokes: Collection[str]) -> Change:
    """Plan to revoke everything from the roles `revokes`, and to grant the roles of `grants` what they need.

    Raises `RoleUnusable`, `SchemaMismatch`, `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    place = await database.fetchrow(statements(_SQL)["place"])
    if place is None:
        raise SchemaMismatch("there is no schema provisioner; run `provisioner migrate`")
    if not place["ours"]:
        raise RoleUnusable(
            f"role {place['role']} does not own the schema provisioner and cannot grant rights in it;"
            f" connect as {place['owner']}"
        )
    wanted = list(dict.fromkeys((*revokes, *grants)))
    roles = {row["name"]: Role(**dict(row)) for row in await database.fetch(statements(_SQL)["roles"], wanted)}
    for name in wanted:
        _require_usable(name, roles.get(name))
    return Change(
        statements=(
            *(statement for name in revokes for statement in _revoking(roles[name])),
            *(statement for name, kinds in grants.items() for statement in _granting(roles[name], kinds)),
        ),
        warnings=tuple(
            each for name, kinds in grants.items() for each in _warnings(roles[name], kinds, place["database"])
        ),
    )


async def apply(database: Database, change: Change) -> None:
    """Carry out a change in one transaction. Repeating it is harmless. Raises as `plan` does."""
    async with database.acquire() as connection, connection.transaction():
        await connection.execute(statements(_SQL)["lock"])
        for statement in change.statements:
            await connection.execute(statement)


async def lacking(database: Database, kind: Kind, role: str | None = None) -> Sequence[str]:
    """Return the rights that a role (ours by default) lacks for its purpose, such as `UPDATE on ready`."""
    single = [
        (privilege, right, column)
        for right in RIGHTS[kind]
        for privilege in right.privileges
        for column in right.columns or (None,)
    ]
    rows = await database.fetch(
        statements(_SQL)["lacking"],
        role,
        [privilege for privilege, _, _ in single],
        [right.kind for _, right, _ in single],
        [right.on for _, right, _ in single],
        [column for _, _, column in single],
    )
    missing: dict[str, list[str]] = {}
    for row in rows:
        privilege, right, column = single[row["place"] - 1]
        missing.setdefault(f"{privilege}{{}} on {_named(right)}", []).extend([column] if column else [])
    return [text.format(f" ({', '.join(columns)})" if columns else "") for text, columns in missing.items()]


async def require_rights(database: Database, kind: Kind) -> None:
    """Raise `DatabaseUnusable` unless our role has all rights for its purpose."""
    if missing := await lacking(database, kind):
        place = await database.fetchrow(statements(_SQL)["place"])
        role = place["role"] if place else ""
        raise DatabaseUnusable(
            f"role {role} lacks {', '.join(missing)}; `provisioner grant --{kind} {role}` gives it what a {kind} needs"
        )


async def overview(database: Database) -> Mapping[str, Sequence[Kind]]:
    """Return every role that may access the schema, with the purposes it fits. Raises as `plan` does."""
    roles = [row["role"] for row in await database.fetch(statements(_SQL)["grantees"])]
    found = {role: [kind for kind in Kind if not await lacking(database, kind, role)] for role in roles}
    # A worker can always act as a reader, so that is left out.
    return {
        role: [kind for kind in kinds if kind is not Kind.READER or Kind.WORKER not in kinds]
        for role, kinds in found.items()
    }


def _named(right: Right) -> str:
    return f"the schema {right.on}" if right.kind == "SCHEMA" else right.on


def _granting(role: Role, kinds: Collection[Kind]) -> Iterator[str]:
    rights = dict.fromkeys(right for kind in Kind if kind in kinds for right in RIGHTS[kind])
    for right in rights:
        columns = f" ({', '.join(right.columns)})" if right.columns else ""
        what = ", ".join(f"{privilege}{columns}" for privilege in right.privileges)
        where = right.on if right.kind == "SCHEMA" else f"provisioner.{right.on}"
        yield f"GRANT {what} ON {right.kind} {where} TO {role.quoted}"


def _revoking(role: Role) -> Iterator[str]:
    """Yield statements that revoke every right in the schema, by every grantor."""
    for what in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        yield f"REVOKE ALL ON ALL {what} IN SCHEMA provisioner FROM {role.quoted}"
    yield f"REVOKE ALL ON SCHEMA provisioner FROM {role.quoted}"


def _require_usable(name: str, role: Role | None) -> None:
    if role is None:
        quoted = '"' + name.replace('"', '""') + '"'
        raise RoleUnusable(
            f"there is no role {name}; create it first, for example with CREATE ROLE {quoted} LOGIN PASSWORD '…'"
        )
    if role.owns:
        raise RoleUnusable(f"role {name} owns the schema provisioner and already has every right; name another role")


def _warnings(role: Role, kinds: Collection[Kind], database: str) -> Iterator[str]:
    if role.unbound:
        yield f"role {role.name} is a superuser or has BYPASSRLS: it sees more than it was granted"
    elif role.as_owner:
        yield f"role {role.name} may act as the schema's owner: it can do more than it was granted"
    if not role.connects:
        yield f"role {role.name} may not connect: GRANT CONNECT ON DATABASE {database} TO {role.quoted}"
    if Kind.REQUESTER in kinds and not role.stages:
        yield (
            f"role {role.name} may not make temporary tables, which `provisioner submit` needs:"
            f" GRANT TEMPORARY ON DATABASE {database} TO {role.quoted}"
        )
