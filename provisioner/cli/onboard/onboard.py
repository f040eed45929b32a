"""`provisioner onboard`: the main job in one command, from a list of projects to connections and a report."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.bulk.lines import (
    STDIN,
    BulkFile,
    FileFormat,
    Rotation,
    WithRotation,
    checked_lines,
    lines_of,
    parse_batch,
    parse_rotation,
)
from provisioner.cli.terminal.frame import NOT_DONE, Config, open_database, run_async
from provisioner.cli.terminal.output import console, say, tell_detail, tell_error
from provisioner.core.model import Request
from provisioner.core.projects import ProjectFilter, ProjectType, chosen
from provisioner.core.text import several
from provisioner.intake.checked import CheckedFile
from provisioner.intake.rows import Row

if TYPE_CHECKING:
    from provisioner.cli.bulk.lines import Line
    from provisioner.cli.onboard.preview import Preview, TargetAnswer
    from provisioner.core.reports import Leftovers
    from provisioner.settings import Settings

LABEL: Final = 10  # columns

File = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE]", help="CSV with a header, or JSON Lines; - for standard input.", show_default=False
    ),
]
FromInfisical = Annotated[
    bool, typer.Option("--from-infisical", help="Take the projects that the machine identity is in, instead of a file.")
]
Target = Annotated[str, typer.Option(help="With --from-infisical: the target to ask.")]
Kinds = Annotated[
    list[ProjectType] | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help=f"With --from-infisical: type of project, {', '.join(ProjectType)}. Default: secret-manager.",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="GLOB", help="With --from-infisical: projects whose name or slug matches.", show_default=False
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="GLOB", help="With --from-infisical: leave out projects that match.", show_default=False
    ),
]
Without = Annotated[
    bool, typer.Option("--without-connection", help="With --from-infisical: projects without an OpenRouter connection.")
]
Batch = Annotated[
    str | None, typer.Option(callback=parse_batch, help="Batch for requests that name none.", show_default=False)
]
Skip = Annotated[bool, typer.Option("--skip-invalid", help="Skip invalid lines and onboard the rest.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything is created.")]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a report: .html, .csv or .jsonl, by the suffix.", show_default=False),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The options of the command line; `file` is None if Infisical is asked for the projects."""

    file: BulkFile | None
    target: str
    wanted: ProjectFilter
    without_connection: bool
    skip_invalid: bool
    yes: bool
    report: Path | None
    batch: str | None
    rotation: dict[str, object] | None


def onboard(  # noqa: PLR0917  # the command line names them
    file: File = None,
    config: Config = None,
    from_infisical: FromInfisical = False,
    target: Target = "default",
    kinds: Kinds = None,
    names: Names = None,
    exclude: Exclude = None,
    without_connection: Without = False,
    batch: Batch = None,
    form: FileFormat = None,
    skip_invalid: Skip = False,
    yes: Yes = False,
    report: Report = None,
    with_rotation: WithRotation = False,
    rotation: Rotation = None,
) -> int:
    """Onboard projects in one command: database, schema, checks, requests, work, and a report.

    The projects come from a file, as for submit, or from Infisical. If no database is configured, the embedded one is
    used. Before it creates anything, the command says what would be created, what is in the way and how long it takes,
    and asks. Ctrl-C stops cleanly; the same command continues where it stopped, and does nothing once everything is
    done.

    Exit status: 0 all done; 3 some requests failed; 1 something could not be done.

    Example: provisioner onboard --from-infisical --name 'team-*' --report onboarding.html
    """
    types = tuple(kinds or [ProjectType.SECRET_MANAGER])
    wanted = ProjectFilter(types=types, names=tuple(names or ()), exclude=tuple(exclude or ()))
    if (file is None) != from_infisical:
        raise typer.BadParameter("give either a FILE or --from-infisical")
    if file is not None and (kinds or names or exclude or without_connection or target != "default"):
        raise typer.BadParameter("--target, --type, --name, --exclude and --without-connection need --from-infisical")
    if not yes and (file == STDIN or not sys.stdin.isatty()):
        raise typer.BadParameter(
            "standard input is not a terminal, so the question cannot be asked: add --yes to proceed"
        )
    _require_report(report)
    columns = parse_rotation(with_rotation=with_rotation, columns=rotation)
    order = Order(
        file=None if file is None else BulkFile(path=file, form=form, batch=batch, rotation=columns),
        target=target,
        wanted=wanted,
        without_connection=without_connection,
        skip_invalid=skip_invalid,
        yes=yes,
        report=report,
        batch=batch,
        rotation=columns,
    )
    return _onboard(order, config)


def _require_report(report: Path | None) -> None:
    from provisioner.reports.forms import form_of

    if report is None:
        return
    if form_of(report) is None:
        raise typer.BadParameter("--report must end in .html, .csv or .jsonl")
    if not os.access(report.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"--report: {report.absolute().parent} cannot be written to")


def _onboard(order: Order, config: Path | None) -> int:
    from provisioner.cli.onboard.outcome import conclude

    settings = _settings(config)
    if order.file is None and order.target not in settings.targets:
        raise typer.BadParameter(f"there is no target {order.target}; configured are {', '.join(settings.targets)}")
    run_async(_prepare(settings))
    told: dict[str, TargetAnswer] = {}
    with _source(order, settings, told) as checked:
        if checked.bad and not order.skip_invalid:
            return _refuse(checked)
        lines = list(lines_of(checked))
        preview = run_async(_look(settings, lines, told))
        if not _agreed(order, preview):
            return NOT_DONE
        ids = run_async(_load(settings, checked))
    if ids is None:
        return NOT_DONE
    left = run_async(_work(settings, ids))
    return run_async(conclude(settings, ids, order.report, left))


def _settings(config: Path | None) -> "Settings":
    """Return the settings, with the embedded database if there is no other, and without a status port."""
    from provisioner.settings import load_settings

    alone: dict[str, object] = {"listen": {"address": "off"}}
    if load_settings(config=config).database.url is None:
        alone["database"] = {"url": "embedded"}
    return load_settings(config=config, overrides=alone)


def _label(label: str, text: str) -> None:
    say(f"{label:>{LABEL}}  {text}")


async def _prepare(settings: "Settings") -> None:
    from provisioner.embedded.place import directory_of, is_embedded
    from provisioner.embedded.server import source_of
    from provisioner.observe.logs import configure_logging
    from provisioner.postgres.condition import read_server
    from provisioner.postgres.migrations import migrate

    # The worker's log would disturb the display, unless a level was set to read it.
    given = settings.sources()["log.level"] != "default"
    configure_logging(settings.log.level if given else "critical", settings.log.format)
    url = settings.database_url()
    embedded = is_embedded(url.reveal())
    steps = await migrate(source_of(url), ssl_root_cert=settings.database.ssl_root_cert)
    async with open_database(settings) as database:
        server = await read_server(database)
    where = f"embedded, in {directory_of(url.reveal())}" if embedded else f"as {server.role}"
    _label("database", f"PostgreSQL {server.version}, {where}")
    if embedded and settings.sources()["database.url"] == "command line":
        _label("", "for the other commands: export PROVISIONER_DATABASE_URL=embedded")
    _label("schema", f"{several(len(steps), 'migration')} applied" if steps else "up to date")


@contextmanager
def _source(order: Order, settings: "Settings", told: "dict[str, TargetAnswer]") -> Iterator[CheckedFile]:
    """Provide the requests, checked: from the file, or one for each of Infisical's projects."""
    from provisioner.cli.setup.keys import sealer

    if order.file is None:
        with run_async(_projects(order, settings, told)) as checked:
            yield checked
        return
    with checked_lines(order.file, sealer(settings, make=True), quiet=False) as checked:
        _label("file", f"{order.file.name}: {several(checked.lines, 'line')}")
        yield checked


async def _projects(order: Order, settings: "Settings", told: "dict[str, TargetAnswer]") -> CheckedFile:
    from uuid import UUID

    from provisioner.cli.onboard.preview import ask_target, without_connection

    async with open_database(settings) as database:
        anybodys = Request(id=0, project_id="", name="openrouter", description=None, credential="default")
        answer = told[order.target] = await ask_target(settings, database, order.target, [anybodys])
        projects = chosen(answer.projects.values(), order.wanted)
        if order.without_connection:
            projects = list(await without_connection(settings, database, order.target, answer, projects))
    listed = several(len(answer.projects), "project")
    meant = "" if len(projects) == len(answer.projects) else f", {len(projects):,} of them selected"
    _label("Infisical", f"{settings.targets[order.target].url}: {listed}{meant}")
    checked = CheckedFile()
    for number, project in enumerate(projects, start=1):
        row = Row.model_validate(
            {
                "target": order.target,
                "project_id": UUID(project.id),
                "project_name": project.name or None,
                "batch": order.batch,
                **(order.rotation or {}),
            }
        )
        checked.add(number, row)
    return checked


def _refuse(checked: CheckedFile) -> int:
    one = checked.bad == 1
    tell_error(f"{several(checked.bad, 'line')} {'is' if one else 'are'} invalid; nothing was loaded")
    for problem in checked.problems:
        tell_detail(str(problem))
    tell_detail(f"correct {'it' if one else 'them'}, or onboard the others with --skip-invalid")
    return NOT_DONE


async def _look(settings: "Settings", lines: "Sequence[Line]", told: "Mapping[str, TargetAnswer]") -> "Preview":
    from provisioner.cli.onboard.preview import preview_of

    async with open_database(settings) as database:
        return await preview_of(settings, database, lines, told)


def _agreed(order: Order, preview: "Preview") -> bool:
    """Describe what will happen, and ask for confirmation."""
    from provisioner.cli.onboard.preview import question

    for line in preview.told():
        say(f"{'':{LABEL - 8}}{line}")
    if preview.is_hopeless:
        tell_error("nothing was loaded: fix the problems above, then run the same command again")
        return False
    if not preview.to_do:
        return True
    _label("time", preview.time())
    if order.yes:
        return True
    sys.stdout.flush()
    if typer.confirm(question(preview), default=False, err=True):
        return True
    say("nothing was loaded")
    return False


async def _load(settings: "Settings", checked: CheckedFile) -> Sequence[int] | None:
    """Load new requests, and return the ids of all lines' requests; None if lines contradict each other."""
    from provisioner.intake.checked import SHOWN
    from provisioner.postgres.intake import staging
    from provisioner.postgres.onboarding import retry_credentials

    async with open_database(settings) as database:
        async with staging(database) as staged:
            await staged.take(checked.rows())
            twice = await staged.set_rotations_apart(SHOWN)
            repeats = await staged.drop_repeats(SHOWN)
            if number := repeats.conflicting + twice.conflicting:
                tell_error(f"{several(number, 'line')} contradict earlier ones; nothing was loaded")
                for conflict in (*repeats.conflicts, *twice.conflicts):
                    columns = " and ".join(conflict.columns)
                    tell_detail(f"line {conflict.line} has another {columns} than line {conflict.first_line}")
                return None
            await staged.insert()
            await staged.insert_rotations()
            ids = [*await staged.ids(), *await staged.rotation_ids()]
        await retry_credentials(database, ids)
    return ids


async def _work(settings: "Settings", ids: Sequence[int]) -> "Leftovers | None":
    """Work in this process until nothing is left to do; None if there was nothing to do."""
    from functools import partial

    from provisioner.cli.bulk.watching import watch
    from provisioner.postgres.onboarding import tally
    from provisioner.service import run_daemon

    async with open_database(settings) as database:
        if not (await tally(database, ids)).pending:
            return None
    return await run_daemon(settings, drain=True, beside=partial(watch, ids=ids, screen=console()))
