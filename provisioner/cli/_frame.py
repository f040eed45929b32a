"""What every command shares: its errors and exit statuses, its common options, its way to the database."""

import io
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from provisioner.core.errors import ProvisionerError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

T = TypeVar("T")

DONE: Final = 0
NOT_DONE: Final = 1  # it could not be done, or what was asked about is not so
USAGE: Final = 2  # bad usage or settings
PARTLY: Final = 3  # done, and some requests failed
INTERRUPTED: Final = 130  # what a shell reports after Ctrl-C

EXIT_STATUSES: Final = (
    "Exit status: 0 done; 1 not possible, or the answer is no; 2 invalid usage or settings; "
    "3 done, but some requests failed."
)
CONFIG_HELP: Final = "Settings file. Default: PROVISIONER_CONFIG, or config/provisioner.toml if it exists."
PLAIN_WIDTH: Final = 400  # columns where there is no terminal: whole lines for grep

Config = Annotated[Path | None, typer.Option(help=CONFIG_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def guarded(run: Callable[[], object]) -> int:
    """Run a command and return its exit status; what went wrong is told in one line of standard error."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shows a question mark; that is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = _status_of(run)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE
    return status


def _status_of(run: Callable[[], object]) -> int:
    try:
        result = run()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "provisioner"
        said = error.format_message().replace("Value error, ", "")
        tell_error(f"{said} (see `{command} --help`)")
        return USAGE
    except (ProvisionerError, BaseExceptionGroup) as error:
        return _tell_ours(error)
    return result if isinstance(result, int) else DONE


def _tell_ours(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if not isinstance(error, ProvisionerError):
        raise error
    tell_error(_advised(error))
    from provisioner.settings.errors import SettingsError

    return USAGE if isinstance(error, SettingsError) else NOT_DONE


def _advised(error: ProvisionerError) -> str:
    from provisioner.core.errors import DatabaseUnavailable

    if isinstance(error, DatabaseUnavailable):
        reason = re.sub(r"^(\w+: )?(\[Errno -?\d+\] )?", "", str(error))  # the sentence, without Python's words for it
        return f"the database cannot be reached: {reason}; see that it runs and that PROVISIONER_DATABASE_URL is right"
    return str(error)


def tell_error(text: str) -> None:
    """Say on standard error, in one line, what went wrong and what to do."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")


def tell_detail(text: str) -> None:
    """Say on standard error what belongs to the error before."""
    sys.stderr.write(f"  {text}\n")


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def print_json(value: object) -> None:
    """Print a value, dataclasses and times included, as one JSON document."""
    import orjson

    say(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def console(*, stderr: bool = False) -> "Console":
    """Where to print for people: with colour on a terminal, in lines that are never folded elsewhere."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = PLAIN_WIDTH
    return made


def show(what: "RenderableType", screen: "Console") -> None:
    """Print something for people; where there is no terminal, without the spaces that fill the lines."""
    if screen.is_terminal:
        screen.print(what)
        return
    with screen.capture() as captured:
        screen.print(what)
    for line in captured.get().splitlines():
        say(line.rstrip())


def load(config: Path | None) -> "Settings":
    """Load the settings. Raises `SettingsError`."""
    from provisioner.settings import load_settings

    return load_settings(config=config)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    import uvloop

    return uvloop.run(main)


@asynccontextmanager
async def open_database(settings: "Settings", *, size: int = 1) -> "AsyncIterator[Database]":
    """Lend the database of the settings, closed afterwards. Raises `SettingsError` when none is set."""
    from provisioner.postgres.pool import Database

    database = Database(
        settings.database_url(),
        size=size,
        ssl_root_cert=settings.database.ssl_root_cert,
        name="provisioner command line",
    )
    try:
        yield database
    finally:
        await database.close()
