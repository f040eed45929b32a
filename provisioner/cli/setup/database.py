"""`provisioner database`: where the database is, and programs such as psql and pg_dump on it."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.frame import NOT_DONE, Config, load, open_database, run_async, say, tell_error

if TYPE_CHECKING:
    from provisioner.settings import Settings

database = typer.Typer(add_completion=False, rich_markup_mode=None)


@database.command(name="database", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run_program(
    config: Config = None,
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROGRAM …]", help="Program to run, with its arguments.", show_default=False),
    ] = None,
) -> None:
    """Show where the database is, or run a program on it: psql, pg_dump, or one of yours.

    The program gets libpq's variables (PGHOST, PGPASSWORD, …) and DATABASE_URL. The embedded database runs as long as
    the program does, and brings its own psql and pg_dump, because older ones cannot dump it. The exit status is the
    program's.

    Example: provisioner database psql -c 'TABLE provisioner.batch_progress'
    """
    settings = load(config)
    if program:
        raise typer.Exit(_run(settings, program))
    run_async(_tell(settings))


def _run(settings: "Settings", program: list[str]) -> int:
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
    import shutil

    found = shutil.which(program[0], path=environment.get("PATH"))
    if found is None:
        tell_error(f"there is no program {program[0]} on the PATH")
        return NOT_DONE
    # Not replaced by the program: this process keeps the embedded database up.
    return subprocess.run([found, *program[1:]], env=environment, check=False).returncode  # noqa: S603 - the user's


async def _tell(settings: "Settings") -> None:
    from provisioner.embedded.place import directory_of, is_embedded
    from provisioner.postgres.condition import read_server

    async with open_database(settings) as opened:
        server = await read_server(opened)
    url = settings.database_url().reveal()
    where = f"embedded, in {directory_of(url)}" if is_embedded(url) else "a server of yours"
    say(f"PostgreSQL {server.version}, {where}; role {server.role}")
