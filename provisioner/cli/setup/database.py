"""`provisioner migrate`, `grant` and `database`: the schema, its rights, its address, and programs that use it."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.output import console, print_json, say, show, tell_error, tell_warning

if TYPE_CHECKING:
    from provisioner.postgres.access import Change, Kind
    from provisioner.settings import Settings

MAY = {
    "requester": "may request connections and see its own requests",
    "reader": "may see everything but credentials",
    "worker": "may run workers",
}

database = typer.Typer(add_completion=False, rich_markup_mode=None)


async def migrate(
    config: Config = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="List outstanding migrations without applying them; exit 1 if there are any."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Create or upgrade the database schema. It is safe to run this twice, or on several hosts at once.

    Example: provisioner migrate --check || provisioner migrate
    """
    from provisioner.embedded.server import source_of
    from provisioner.postgres import migrations

    settings = load(config)
    applied: Sequence[str] = ()
    outstanding: Sequence[str] = ()
    if check:
        async with open_database(settings) as opened:
            outstanding = tuple(map(str, await migrations.pending(opened)))
    else:
        url, ssl_root_cert = source_of(settings.database_url()), settings.database.ssl_root_cert
        applied = tuple(map(str, await migrations.migrate(url, ssl_root_cert=ssl_root_cert)))
    if as_json:
        print_json({"applied": applied, "outstanding": outstanding})
    else:
        for step in applied:
            say(f"applied {step}")
        for step in outstanding:
            say(f"outstanding: {step}")
        if not (applied or outstanding):
            say("the schema is up to date")
    return NOT_DONE if outstanding else DONE


async def grant(  # noqa: PLR0917  # the command line names them
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
) -> int:
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
    settings = load(config)
    if listing:
        return await _list_rights(settings, as_json)
    return await _grant(settings, given, revoke or [], dry_run, as_json)


@database.command(name="database", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run_program(
    config: Config = None,
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROGRAM …]", help="Program to run, with its arguments.", show_default=False),
    ] = None,
) -> int:
    """Show where the database is, or run a program on it: psql, pg_dump, or one of yours.

    The program gets libpq's variables (PGHOST, PGPASSWORD, …) and DATABASE_URL. The embedded database runs as long as
    the program does, and brings its own psql and pg_dump, because older ones cannot dump it. The exit status is the
    program's.

    Example: provisioner database psql -c 'TABLE provisioner.batch_progress'
    """
    settings = load(config)
    if program:
        return _run(settings, program)
    run_async(_tell_place(settings))
    return DONE


async def _grant(
    settings: "Settings", given: tuple[Sequence[str], ...], revokes: Sequence[str], dry_run: bool, as_json: bool
) -> int:
    from provisioner.postgres import access
    from provisioner.postgres.migrations import require_schema

    grants: dict[str, list[access.Kind]] = {}
    for kind, roles in zip(access.Kind, given, strict=True):
        for role in roles:
            grants.setdefault(role, []).append(kind)
    async with open_database(settings) as database:
        await require_schema(database)
        change = await access.plan(database, grants=grants, revokes=list(dict.fromkeys(revokes)))
        if not dry_run:
            await access.apply(database, change)
    if as_json:
        print_json({"grants": grants, "revokes": revokes, "dry_run": dry_run, **asdict(change)})
    else:
        _tell_change(change, grants, revokes, dry_run=dry_run)
    return DONE


def _tell_change(
    change: "Change", grants: "Mapping[str, Sequence[Kind]]", revokes: Sequence[str], *, dry_run: bool
) -> None:
    for warning in change.warnings:
        tell_warning(warning)
    if dry_run:
        say("".join(f"{statement};\n" for statement in ("BEGIN", *change.statements, "COMMIT")).rstrip())
        return
    for role in dict.fromkeys(revokes):
        say(f"{role}: all of its rights in the schema were revoked")
    for role, kinds in grants.items():
        say(f"{role} {', '.join(MAY[kind] for kind in kinds)}")


async def _list_rights(settings: "Settings", as_json: bool) -> int:
    from provisioner.postgres.access import overview
    from provisioner.postgres.migrations import require_schema

    async with open_database(settings) as database:
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


def _run(settings: "Settings", program: list[str]) -> int:
    import shutil
    import subprocess

    from provisioner.core.conninfo import parse
    from provisioner.core.libpq import KEYWORDS
    from provisioner.embedded.place import directory_of, is_embedded
    from provisioner.embedded.server import embedded_at, source_of

    given = settings.database_url()
    source = source_of(given)
    url = (source() if callable(source) else source).reveal()
    environment = os.environ | {"DATABASE_URL": url, "PROVISIONER_DATABASE_URL": url}
    environment |= {variable: value for name, value in parse(url).items() if (variable := KEYWORDS[name].variable)}
    if is_embedded(given.reveal()):
        ours = embedded_at(directory_of(given.reveal())).programs
        environment["PATH"] = os.pathsep.join(filter(None, (str(ours), os.environ.get("PATH"))))
    sys.stdout.flush()
    found = shutil.which(program[0], path=environment.get("PATH"))
    if found is None:
        tell_error(f"there is no program {program[0]} on the PATH")
        return NOT_DONE
    # This process is not replaced by the program, because it keeps the embedded database running. An interrupt is for
    # the program, which gets it as well; unlike SIG_IGN, a handler is not passed on to it.
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.run([found, *program[1:]], env=environment, check=False).returncode  # noqa: S603 - the user's


async def _tell_place(settings: "Settings") -> None:
    from provisioner.embedded.place import directory_of, is_embedded
    from provisioner.postgres.condition import read_server

    async with open_database(settings) as opened:
        server = await read_server(opened)
    url = settings.database_url().reveal()
    where = f"embedded, in {directory_of(url)}" if is_embedded(url) else "a server of yours"
    say(f"PostgreSQL {server.version}, {where}; role {server.role}")
