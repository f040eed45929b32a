"""`provisioner grant`: who may do what in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.frame import (
    DONE,
    Config,
    Json,
    console,
    load,
    open_database,
    print_json,
    run_async,
    say,
    show,
    tell_warning,
)

if TYPE_CHECKING:
    from provisioner.postgres.access import Change, Kind

MAY = {
    "requester": "may request connections and see its own requests",
    "reader": "may see everything but credentials",
    "worker": "may run workers",
}


def grant(  # noqa: PLR0917  # the command line names them
    requester: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="Role that may insert requests and see its own.")
    ] = None,
    reader: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="Role that may see everything except credentials.")
    ] = None,
    worker: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="Role that may run workers.")] = None,
    revoke: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="Role to take all rights in the schema from, first.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="List which roles have which rights; change nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL and change nothing.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Give database roles the rights that a requester, a reader or a worker needs, and no more.

    The roles must exist. Each option can be repeated, and granting again is harmless. Connect as the owner of the
    schema; only the owner can cancel, retry, pause and resume. A role with members works as a group.

    Example: provisioner grant --requester app --reader grafana --worker provisioner_worker
    """
    given = (requester or [], reader or [], worker or [])
    if listing and (any(given) or revoke or dry_run):
        raise typer.BadParameter("--list cannot be combined with other options")
    if not listing and not any(given) and not revoke:
        raise typer.BadParameter("name a role: --requester, --reader, --worker or --revoke")
    run_async(_list(config, as_json) if listing else _grant(config, given, revoke or [], dry_run, as_json))


async def _grant(
    config: Config, given: tuple[Sequence[str], ...], revokes: Sequence[str], dry_run: bool, as_json: bool
) -> int:
    from provisioner.postgres import access
    from provisioner.postgres.migrations import require_schema

    grants: dict[str, list[access.Kind]] = {}
    for kind, roles in zip(access.Kind, given, strict=True):
        for role in roles:
            grants.setdefault(role, []).append(kind)
    async with open_database(load(config)) as database:
        await require_schema(database)
        change = await access.plan(database, grants=grants, revokes=list(dict.fromkeys(revokes)))
        if not dry_run:
            await access.apply(database, change)
    if as_json:
        print_json({"grants": grants, "revokes": revokes, "dry_run": dry_run, **asdict(change)})
    else:
        _tell(change, grants, revokes, dry_run=dry_run)
    return DONE


def _tell(change: "Change", grants: "Mapping[str, Sequence[Kind]]", revokes: Sequence[str], *, dry_run: bool) -> None:
    for warning in change.warnings:
        tell_warning(warning)
    if dry_run:
        say("".join(f"{statement};\n" for statement in ("BEGIN", *change.statements, "COMMIT")).rstrip())
        return
    for role in dict.fromkeys(revokes):
        say(f"{role}: all of its rights in the schema were revoked")
    for role, kinds in grants.items():
        say(f"{role} {', '.join(MAY[kind] for kind in kinds)}")


async def _list(config: Config, as_json: bool) -> int:
    from provisioner.postgres.access import overview
    from provisioner.postgres.migrations import require_schema

    async with open_database(load(config)) as database:
        await require_schema(database)
        found = await overview(database)
    if as_json:
        print_json(found)
        return DONE
    if not found:
        say("only the schema's owner has rights; `provisioner grant` gives rights to others")
        return DONE
    from rich.table import Table

    table = Table("role", "has the rights of", box=None, header_style="")
    for role, kinds in found.items():
        table.add_row(role, ", ".join(f"a {kind}" for kind in kinds) or "nobody: some rights are missing")
    show(table, console())
    return DONE
