"""`provisioner export`: results as CSV or JSON Lines."""

import csv
import io
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from provisioner.cli.terminal.filters import Batches, Errors, Ids, Projects, States, Targets, filtered, tell_unknown
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, load, open_database, run_async
from provisioner.core.errors import ProvisionerError
from provisioner.core.text import printable, printable_json
from provisioner.intake.formulas import escaped

if TYPE_CHECKING:
    from provisioner.postgres.browse import Filter
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

Write = Callable[[Sequence[object]], object]


class Form(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"


_SUFFIXES: Final = {".csv": Form.CSV, ".jsonl": Form.JSONL, ".ndjson": Form.JSONL, ".json": Form.JSONL}


class NotWritable(ProvisionerError):
    """The file cannot be written; nothing of it was changed."""


def export(  # noqa: PLR0917  # the command line names them
    ids: Ids = None,
    config: Config = None,
    states: States = None,
    batches: Batches = None,
    projects: Projects = None,
    errors: Errors = None,
    targets: Targets = None,
    form: Annotated[
        Form | None,
        typer.Option("--format", help="Output format. Default: by the suffix of --output, or csv.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write. Default: standard output.", show_default=False
        ),
    ] = None,
) -> None:
    """Export requests and their results as CSV or JSON Lines, the oldest first, in one consistent snapshot.

    A filter can be repeated: a request matches if any of its values does. Different filters must all match. An
    existing file is replaced only when the export is complete. Sealed credentials are written as sealed:<key id>,
    without content.
    In CSV, text that a spreadsheet would run as a formula gets a leading apostrophe; submit removes it again.

    Example: provisioner export --state succeeded --batch onboarding --output connections.csv
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    chosen = form or (_SUFFIXES.get(output.suffix.lower()) if output else None) or Form.CSV
    raise typer.Exit(run_async(_export(load(config), wanted, chosen, output)))


async def _export(settings: "Settings", wanted: "Filter", form: Form, output: Path | None) -> int:
    from provisioner.postgres.browse import unknown_ids

    async with open_database(settings) as database:
        if unknown := await unknown_ids(database, wanted.ids):
            tell_unknown(unknown)
            return NOT_DONE
        try:
            with _opened(output) as stream:
                await write_all(database, wanted, form, stream)
        except NotWritable as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise error.__cause__ from None  # whoever reads has seen enough
            raise
    return DONE


async def write_file(file: Path, write: Callable[[TextIO], Awaitable[None]]) -> None:
    """Write a file that replaces an existing one only when it is complete. Raises `NotWritable`."""
    with _opened(file) as stream:
        await write(stream)


async def write_all(database: "Database", wanted: "Filter", form: Form, stream: TextIO) -> None:
    """Write every request that the filter matches. Raises `NotWritable`."""
    from provisioner.postgres.browse import COLUMNS, exporting

    begin = _csv if form is Form.CSV else _jsonl
    async with exporting(database, wanted) as rows:
        # Told apart from trouble with the database here, where it is known which of the two it is.
        with _writing(stream.name):
            write = begin(stream, COLUMNS)
        async for row in rows:
            with _writing(stream.name):
                write(row)


@contextmanager
def _writing(name: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritable(f"{name} cannot be written: {error.strerror or error}") from error


def _csv(stream: TextIO, columns: Sequence[str]) -> Write:
    # So that the writer quotes both letters of a line's end wherever they stand; ours is the short one.
    writer = csv.writer(_ShortLines(stream), lineterminator="\r\n")
    shown = _shown if stream.isatty() else _kept  # a file keeps what was given, a terminal must not obey it
    writer.writerow(columns)

    def write(row: Sequence[object]) -> None:
        writer.writerow([shown(_cell(value)) for value in row])

    return write


class _ShortLines:
    """Ends each line that the writer gives with a line feed alone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        """Write a line."""
        return self._stream.write(f"{line[:-2]}\n")


def _cell(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else value


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _kept(value: object) -> object:
    return value


def _jsonl(stream: TextIO, columns: Sequence[str]) -> Write:
    import orjson

    def write(row: Sequence[object]) -> None:
        line = orjson.dumps(dict(zip(columns, row, strict=True))).decode()
        stream.write(f"{printable_json(line)}\n")

    return write


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")  # data is the same whatever the terminal can show
        yield sys.stdout
        return
    with _writing(output), _replacing(output) as stream:
        yield stream


@contextmanager
def _replacing(output: Path) -> Iterator[TextIO]:
    """Write beside the file and put it in its place in the end; what is no plain file, as a pipe, is written to."""
    if output.exists() and not stat.S_ISREG(output.stat().st_mode):
        with output.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    real = output.resolve()
    descriptor, made = mkstemp(dir=real.parent, prefix=f".{real.name}.")
    beside = Path(made)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123  # it is open already
            yield stream
        beside.chmod(_mode(real))  # a temporary file is nobody else's to read
        beside.replace(real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _mode(file: Path) -> int:
    """The permissions that the file has, or that a new one would get."""
    if file.exists():
        return stat.S_IMODE(file.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
