"""`provisioner export`: results as CSV, as JSON Lines, or as a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.terminal.filters import filtering, tell_unknown_of
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, load, open_database
from provisioner.cli.terminal.output import tell_detail
from provisioner.core.text import several
from provisioner.postgres.filters import Filter
from provisioner.reports.document import Heading
from provisioner.reports.files import opened, write_errors
from provisioner.reports.forms import Form, begin, form_of

if TYPE_CHECKING:
    from provisioner.postgres.kinds import Kind
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

# The forms of spreadsheets, which open CSV but not under these names.
SPREADSHEETS: Final = frozenset({".xlsx", ".xls", ".ods", ".numbers"})


@filtering()
async def export(
    config: Config = None,
    *,
    wanted: Filter,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format",
            help="Output format: csv, jsonl or html. Default: by the suffix of --output, or csv.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write. Default: standard output.", show_default=False
        ),
    ] = None,
    bom: Annotated[
        bool, typer.Option("--bom", help="Begin the CSV with a byte order mark, so that Excel reads it as UTF-8.")
    ] = False,
    rotations: Annotated[
        bool, typer.Option("--rotations", help="Export rotations; `submit --rotations` loads such a file.")
    ] = False,
) -> int:
    """Export requests and their results as CSV, JSON Lines or a page, the oldest first, in one consistent snapshot.

    CSV and JSON Lines hold connections, or with --rotations rotations; a page holds both.

    A filter can be repeated: a request matches if any of its values does. Different filters must all match. An
    existing file is replaced only when the export is complete. Sealed credentials are written as sealed:<key id>,
    without content.
    In CSV, text that a spreadsheet would run as a formula gets a leading apostrophe; submit removes it again. A page
    (html) is one file for people: the totals, why requests failed and what to do, and every request.

    Example: provisioner export --state succeeded --batch onboarding --output connections.csv
    """
    chosen = chosen_form(form, output)
    if bom and chosen is not Form.CSV:
        raise typer.BadParameter(f"works only with CSV, and the format is {chosen}", param_hint="--bom")
    kinds, columns = _meant(wanted, chosen, rotations=rotations)
    task = Task(form=chosen, output=output, bom=bom, kinds=kinds, columns=columns)
    return await _export(load(config), wanted, task)


def chosen_form(form: Form | None, output: Path | None) -> Form:
    """Return the form that was asked for, or that the file's suffix stands for. A spreadsheet's own is bad usage."""
    if form is None and output is not None and output.suffix.lower() in SPREADSHEETS:
        message = f"{output.suffix} cannot be written: name a .csv file, which spreadsheets open"
        raise typer.BadParameter(message, param_hint="--output")
    return form or form_of(output) or Form.CSV


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The kinds of requests to write, the format, and the destination."""

    form: Form
    output: Path | None
    bom: bool
    kinds: "Sequence[Kind]"
    columns: Sequence[str]


def _meant(wanted: Filter, form: Form, *, rotations: bool) -> "tuple[Sequence[Kind], Sequence[str]]":
    """Return the selected kinds and their columns; each kind has its own file. Raises bad usage."""
    from provisioner.postgres.browse import COLUMNS, REPORT_COLUMNS, ROTATION_COLUMNS
    from provisioner.postgres.kinds import CONNECTIONS, KINDS, ROTATIONS, kind_of_id

    named = {kind_of_id(each) for each in wanted.ids}
    if form is Form.HTML:
        return [ROTATIONS] if rotations else KINDS, REPORT_COLUMNS
    if len(named) > 1 or (rotations and CONNECTIONS in named):
        raise typer.BadParameter(
            f"these ids are those of connections and of rotations, which {form} has in two files: export each by itself"
        )
    if rotations or ROTATIONS in named:
        return [ROTATIONS], ROTATION_COLUMNS
    return [CONNECTIONS], COLUMNS


async def _export(settings: "Settings", wanted: Filter, task: Task) -> int:
    from provisioner.postgres.browse import count
    from provisioner.postgres.kinds import KINDS, ROTATIONS

    async with open_database(settings) as database:
        if await tell_unknown_of(database, wanted):
            return NOT_DONE
        await write_report(
            database,
            wanted,
            task.form,
            task.output,
            kinds=task.kinds,
            columns=task.columns,
            asked="; ".join(_asked(wanted)),
            bom=task.bom,
        )
        others = [kind for kind in KINDS if kind is ROTATIONS and kind not in task.kinds]
        if others and (more := sum((await count(database, wanted, kinds=others)).values())):
            one = more == 1
            tell_detail(
                f"{several(more, 'rotation')} {'matches' if one else 'match'} too:"
                f" `provisioner export --rotations` writes {'it' if one else 'them'}"
            )
    return DONE


def _asked(wanted: Filter) -> Iterator[str]:
    """Yield the selection, in words."""
    kinds = {
        "state": wanted.states,
        "batch": wanted.batches,
        "project": wanted.projects,
        "error": wanted.errors,
        "target": wanted.targets,
    }
    if wanted.ids:
        yield f"{len(wanted.ids):,} by their ids"
    for kind, values in kinds.items():
        if values:
            yield f"{kind} {' or '.join(map(str, values))}"


async def write_report(
    database: "Database",
    wanted: Filter,
    form: Form,
    output: Path | None,
    *,
    columns: Sequence[str],
    kinds: "Sequence[Kind]",
    title: str = "Requests and their results",
    asked: str = "",
    bom: bool = False,
) -> None:
    """Write every request of some kinds that the filter matches, oldest first, in one snapshot.

    Without `output`, write to standard output.

    A page has the title `title`, and shows the selection `asked`. Raises `NotWritable`; an existing file is then
    unchanged.
    """
    from provisioner.postgres.browse import exporting

    with opened(output) as stream:
        async with exporting(database, wanted, columns=columns, kinds=kinds) as snapshot:
            states = await snapshot.states() if form is Form.HTML else {}
            causes = await snapshot.causes() if form is Form.HTML else {}
            heading = Heading(title=title, made_at=snapshot.at, asked=asked, states=states, causes=causes)
            # Errors of the file must not be mistaken for errors of the database.
            with write_errors(stream.name):
                writer = begin(form, stream, columns, heading=heading, bom=bom)
            async for row in snapshot.rows:
                with write_errors(stream.name):
                    writer.write(row)
            with write_errors(stream.name):
                writer.end()
