"""`provisioner export`: results as CSV, as JSON Lines, or as a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.filters import Batches, Errors, Ids, Projects, States, Targets, filtered, tell_unknown_of
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, load, open_database, run_async
from provisioner.reports.forms import Form, form_of

if TYPE_CHECKING:
    from provisioner.postgres.filters import Filter
    from provisioner.settings import Settings


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
) -> None:
    """Export requests and their results as CSV, JSON Lines or a page, the oldest first, in one consistent snapshot.

    A filter can be repeated: a request matches if any of its values does. Different filters must all match. An
    existing file is replaced only when the export is complete. Sealed credentials are written as sealed:<key id>,
    without content.
    In CSV, text that a spreadsheet would run as a formula gets a leading apostrophe; submit removes it again. A page
    (html) is one file for people: the totals, why requests failed and what to do, and every request.

    Example: provisioner export --state succeeded --batch onboarding --output connections.csv
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    chosen = form or form_of(output) or Form.CSV
    if bom and chosen is not Form.CSV:
        raise typer.BadParameter(f"is for CSV, and the format is {chosen}", param_hint="--bom")
    raise typer.Exit(run_async(_export(load(config), wanted, chosen, output, bom=bom)))


async def _export(settings: "Settings", wanted: "Filter", form: Form, output: Path | None, *, bom: bool) -> int:
    from provisioner.cli.bulk.reporting import write_report

    async with open_database(settings) as database:
        if await tell_unknown_of(database, wanted):
            return NOT_DONE
        await write_report(database, wanted, form, output, asked="; ".join(_asked(wanted)), bom=bom)
    return DONE


def _asked(wanted: "Filter") -> Iterator[str]:
    """What was asked for, in words."""
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
