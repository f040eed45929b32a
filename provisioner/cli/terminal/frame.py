"""The frame of every command: exit status, error messages, settings and database."""

import errno
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from provisioner.cli.commands import COMMANDS, OWNER
from provisioner.cli.terminal.output import tell_detail, tell_error, tell_warning
from provisioner.cli.terminal.streams import OutputUnwritable, abandon, flush_output, prepare_streams
from provisioner.core.errors import ProvisionerError, is_outage

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

T = TypeVar("T")

DONE: Final = 0
NOT_DONE: Final = 1  # the command could not do it, or the answer is no
USAGE: Final = 2  # bad usage or settings
PARTLY: Final = 3  # done, and some requests failed
INTERRUPTED: Final = 130  # a shell's status after Ctrl-C

EXIT_STATUSES: Final = (
    "Exit status: 0 done; 1 not possible, or the answer is no; 2 invalid usage or settings; "
    "3 done, but some requests failed."
)
CONFIG_HELP: Final = "Settings file. Default: PROVISIONER_CONFIG, or config/provisioner.toml if it exists."
DEBUG: Final = "PROVISIONER_LOG__LEVEL"
FILES: Final = 16  # for an event loop, a connection and its certificates; libuv aborts the process if it gets none
# Commands that show requesters their own requests, and readers all.
_LOOKING: Final = ("status", "list", "show", "export", "rotations")
# The dynamic loader's messages about a library.
_NO_MEMORY: Final = re.compile(r"failed to map segment|cannot allocate memory|out of memory", re.IGNORECASE)


def parse_config(text: str | Path) -> Path:
    """Parse the name of the settings file; an empty name, as of an unset variable, would mean the directory."""
    if not str(text):
        raise typer.BadParameter("must be the path of a settings file, and is empty")
    return Path(text)


Config = Annotated[Path | None, typer.Option(metavar="PATH", parser=parse_config, help=CONFIG_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def guarded(run: Callable[[], object]) -> int:
    """Run a command and return its exit status; an error becomes one line on standard error."""
    prepare_streams()
    _check_key_log()
    try:
        status = _status_of(run)
        flush_output()
    except BrokenPipeError:
        # The reader of our output has stopped.
        abandon(sys.stdout)
        return NOT_DONE
    except OutputUnwritable as error:
        abandon(sys.stdout)
        tell_error(str(error))
        return NOT_DONE
    return status


def _check_key_log() -> None:
    """Ignore a log of TLS keys that cannot be written: every TLS context would fail because of it."""
    path = os.environ.get("SSLKEYLOGFILE")
    if not path:
        return
    try:
        # Without waiting for a pipe's reader.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600))
    except OSError as error:
        del os.environ["SSLKEYLOGFILE"]
        tell_warning(f"SSLKEYLOGFILE names a file that cannot be written: {error.strerror}; no TLS keys are logged")


def _status_of(run: Callable[[], object]) -> int:
    try:
        result = run()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as error:
        # Typer's own exit for a reader that has stopped; it has replaced the streams.
        abandon(sys.stdout)
        return error.code if isinstance(error.code, int) else NOT_DONE
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "provisioner"
        said = error.format_message().replace("Value error, ", "").replace("Input should be", "must be")
        said = said.removeprefix("Invalid value: ").removesuffix(".")
        if said.startswith("Usage:"):  # the whole help, because a group was called without a command
            said = "a command is missing"
        tell_error(f"{said} (see `{command} --help`)")
        return USAGE
    except (BrokenPipeError, OutputUnwritable):
        raise
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  # users never see a traceback
        return _tell_any(error)
    return result if isinstance(result, int) else DONE


def _tell_any(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError | OutputUnwritable):
        raise error
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and _NO_MEMORY.search(str(error))):
        tell_error("there is not enough memory; give the process more")
        return NOT_DONE
    if (isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}) or (
        isinstance(error, ImportError) and "Too many open files" in str(error)
    ):
        tell_error("no more files can be opened; raise the limit of this process (ulimit -n)")
        return NOT_DONE
    if not isinstance(error, ProvisionerError):
        return _tell_unforeseen(error)
    tell_error(_advised(error))
    from provisioner.settings.errors import SettingsError

    return USAGE if isinstance(error, SettingsError) else NOT_DONE


def _tell_unforeseen(error: BaseException) -> int:
    """Report an unexpected error by its type and place; its text may contain anything, even secrets."""
    import traceback

    if os.environ.get(DEBUG, "").strip().lower() == "debug":
        from provisioner.observe.logs import redact_text

        for line in redact_text("".join(traceback.format_exception(error))).splitlines():
            tell_detail(line)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "provisioner" in Path(frame.filename).parts] or frames
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    system = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    tell_error(
        f"an unexpected error occurred ({type(error).__name__}{where}{system}); run the command again with "
        f"{DEBUG}=debug for details, and please report it"
    )
    return NOT_DONE


def _advised(error: ProvisionerError) -> str:
    if said := re.match(r"permission denied for [^;]+", str(error)):
        return f"{said[0]}: {_who_may()}"

    if is_outage(error):
        reason = re.sub(r"^(\w+: )?(\[Errno -?\d+\] )?", "", str(error))  # the sentence, without Python's words for it
        return (
            f"the database cannot be reached: {reason}; check that it is running and that PROVISIONER_DATABASE_URL is"
            " right"
        )
    return str(error)


def _who_may() -> str:
    """Return the database role that this command is for."""
    command = next((word for word in sys.argv[1:] if word in COMMANDS and COMMANDS[word].role), "")
    if not command:
        return "`provisioner grant` gives requesters, readers and workers their rights; operators must own the schema"
    if command == "keys" and "list" in sys.argv:
        return "`provisioner keys list` is for a reader; `provisioner grant --reader ROLE` makes one"
    role = COMMANDS[command].role
    if role == OWNER:
        return f"`provisioner {command}` is for the role that owns the schema"
    own = ", which sees its own requests, or a reader" if command in _LOOKING else ""
    return f"`provisioner {command}` is for a {role}{own}; `provisioner grant --{role} ROLE` makes one"


def load(config: Path | None) -> "Settings":
    """Load the settings. Raises `SettingsError`."""
    from provisioner.settings import load_settings

    return load_settings(config=config)


def running(command: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Give a command that may be asynchronous as Typer calls it. What it returns is its exit status."""
    if command is None or not iscoroutinefunction(command):
        return command

    @wraps(command)
    def run(**given: Any) -> object:
        return run_async(command(**given))

    return run


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part. Raises `OSError` if the limit of open files is too low for it."""
    import uvloop

    try:
        _require_files()
    except OSError:
        main.close()
        raise
    return uvloop.run(main)


def _require_files() -> None:
    taken: list[int] = []
    try:
        taken.extend(os.dup(2) for _ in range(FILES))
    finally:
        for number in taken:
            os.close(number)


@asynccontextmanager
async def open_database(settings: "Settings") -> "AsyncIterator[Database]":
    """Lend the database of the settings, closed afterwards. Raises `SettingsError` when none is set."""
    from provisioner.embedded.server import source_of
    from provisioner.postgres.pool import Database

    database = Database(
        source_of(settings.database_url()),
        size=1,
        ssl_root_cert=settings.database.ssl_root_cert,
        name="provisioner command line",
    )
    try:
        yield database
    finally:
        await database.close()
