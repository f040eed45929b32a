"""A bulk file on the command line: its options, its checks, and the connections that its lines request."""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Final, NamedTuple, cast

import typer
from pydantic import ValidationError

from provisioner.cli.terminal.output import called
from provisioner.cli.terminal.progress import reading
from provisioner.core.model import Request
from provisioner.intake.checked import CheckedFile, check_file
from provisioner.intake.errors import FileUnusable
from provisioner.intake.reading import Format
from provisioner.intake.rotation import PREFIX, ROTATION_COLUMNS, RULES, RotationColumns
from provisioner.intake.rows import BATCH_RULE, COLUMNS, Seal, is_batch

STDIN: Final = "-"
NOTHING_LOADED: Final = "; nothing was loaded"
_ROTATION: Final = [column.removeprefix(PREFIX) for column in ROTATION_COLUMNS]

File = Annotated[str, typer.Argument(metavar="FILE", help="CSV with a header, or JSON Lines; - for standard input.")]
FileFormat = Annotated[
    Format | None,
    typer.Option("--format", help="File format. Default: by its suffix or first characters.", show_default=False),
]
WithRotation = Annotated[
    bool,
    typer.Option(
        "--with-rotation",
        help="Also request a secret rotation for every project: an API key of its own, in a secret.",
    ),
]
Rotation = Annotated[
    list[str] | None,
    typer.Option(
        "--rotation",
        metavar="COLUMN=VALUE",
        help="Default for a column of every rotation, where its line leaves it empty: "
        f"{', '.join(_ROTATION)}. Example: --rotation spend_limit=10.",
        show_default=False,
    ),
]


def parse_batch(value: str | None) -> str | None:
    """Parse the batch on the command line."""
    if value is not None and not is_batch(value):
        raise typer.BadParameter(BATCH_RULE)
    return value


def parse_rotation(*, with_rotation: bool, columns: Sequence[str] | None) -> dict[str, object] | None:
    """Return the defaults of every line's rotation; None if no rotation is requested."""
    if not with_rotation and not columns:
        return None
    given: dict[str, object] = {}
    for each in columns or ():
        name, equals, text = each.partition("=")
        column = PREFIX + name.strip().replace("-", "_")
        if not equals or column not in ROTATION_COLUMNS:
            raise typer.BadParameter(f"--rotation {each}: give COLUMN=VALUE with one of {', '.join(_ROTATION)}")
        given[column] = text.strip()
    try:
        RotationColumns.model_validate(given)
    except ValidationError as error:
        column = str(error.errors(include_url=False)[0]["loc"][0])
        raise typer.BadParameter(f"--rotation {column.removeprefix(PREFIX)} {RULES[column]}") from None
    return {"rotation_name": "openrouter"} | given


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkFile:
    """A file, and the defaults for its lines: a batch, and a rotation beside the connection.

    With `rotations`, the lines request rotations only.
    """

    path: str
    form: Format | None = None
    batch: str | None = None
    rotation: dict[str, object] | None = None
    rotations: bool = False

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return "standard input" if self.path == STDIN else self.path or "''"


@contextmanager
def checked_lines(
    file: BulkFile, seal: Seal, *, quiet: bool, consequence: str = NOTHING_LOADED
) -> Iterator[CheckedFile]:
    """Check a whole file. Raises `FileUnusable`, whose message ends with the `consequence`."""
    try:
        with _opened(file.path) as stream, reading(stream, quiet=quiet) as progress:
            checked = check_file(
                stream,
                name=file.path,
                form=file.form,
                seal=seal,
                batch=file.batch,
                rotation=file.rotation,
                rotations=file.rotations,
                progress=progress,
            )
    except FileUnusable as error:
        raise FileUnusable(f"{file.name} {error}{consequence}") from error
    except OSError as error:
        raise FileUnusable(f"{file.name} cannot be read: {error.strerror}{consequence}") from error
    with checked:
        yield checked


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader]:
    if file == STDIN:
        yield cast("io.BufferedReader", sys.stdin.buffer)
        return
    with Path(file).open("rb") as stream:
        yield stream


class Line(NamedTuple):
    """The connection that a line requests, and the line's number."""

    number: int
    target: str
    project_id: str
    name: str
    on_conflict: str
    credential: str
    project_name: str | None

    @property
    def project(self) -> str:
        """The project for people: its name and its id."""
        return called(self.project_name, self.project_id)


_PICKED: Final = itemgetter(0, *(COLUMNS.index(name) + 1 for name in Line._fields[1:]))


def lines_of(checked: CheckedFile) -> Iterator[Line]:
    """Yield the connections that a file's valid lines request, in order."""
    return (Line._make(_PICKED(row)) for row in checked.rows())


def request_of(line: Line) -> Request:
    """Return the request of a line, with the fields that finding its key needs."""
    return Request(id=0, project_id=line.project_id, name=line.name, description=None, credential=line.credential)
