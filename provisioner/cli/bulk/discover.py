"""`provisioner discover`: the projects that the machine identity can see, as a file for `submit`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.bulk.export import chosen_form
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, load
from provisioner.cli.terminal.output import tell_detail, tell_error, tell_warning
from provisioner.cli.terminal.progress import counting
from provisioner.cli.terminal.streams import tell
from provisioner.core.projects import ProjectFilter, ProjectType, SeenProject, chosen
from provisioner.core.text import printable, several
from provisioner.reports.forms import Form

if TYPE_CHECKING:
    from provisioner.cli.asking.infisical import Surveyor
    from provisioner.core.comparison import Project
    from provisioner.settings import Settings

COLUMNS: Final = ("target", "project_id", "project_name")
NAMED: Final = 3  # projects that could not be queried and are listed


Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="File to write. Default: standard output.", show_default=False),
]


class RowForm(StrEnum):
    """The formats of the list."""

    CSV = "csv"
    JSONL = "jsonl"


async def discover(  # noqa: PLR0917  # the command line names them
    config: Config = None,
    target: Annotated[
        str | None,
        typer.Option(help="Target to ask. Default: the only one, or default.", show_default=False),
    ] = None,
    kinds: Annotated[
        list[ProjectType] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help=f"Type of project: {', '.join(ProjectType)}. Default: secret-manager.",
            show_default=False,
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="GLOB",
            help="Projects whose name or slug matches, such as 'team-*', ignoring case.",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Leave out projects that match.", show_default=False),
    ] = None,
    without_connection: Annotated[
        bool, typer.Option("--without-connection", help="Only projects that have no OpenRouter connection.")
    ] = False,
    form: Annotated[
        RowForm | None,
        typer.Option("--format", help="csv or jsonl. Default: by the suffix of --output, or csv.", show_default=False),
    ] = None,
    output: Output = None,
) -> int:
    """List the projects that the machine identity can see, as a file for submit and plan. Changes nothing.

    Infisical shows an identity only the projects that it is a member of. The command needs no database. It logs in once
    and makes one read; with --without-connection it also reads the connections of the whole organization or, if the
    identity may not do that, of each project, using at most half of the read budget. A project whose connections cannot
    be read is left out, and the exit status is 1. --type, --name and --exclude can be repeated.

    Example: provisioner discover --name 'team-*' --without-connection -o projects.csv
    """
    settings = load(config)
    types = tuple(kinds or [ProjectType.SECRET_MANAGER])
    wanted = ProjectFilter(types=types, names=tuple(names or ()), exclude=tuple(exclude or ()))
    written = chosen_form(Form(form) if form else None, output)
    if written is Form.HTML:
        raise typer.BadParameter(
            "must be csv or jsonl: choose one, or use another suffix for --output", param_hint="--format"
        )
    where = _target(settings, target)
    found = await _discover(settings, where, wanted, without_connection=without_connection)
    _write(where, found.projects, written, output)
    return found.tell(where, wanted)


class Discovered:
    """The result: the selected projects, and which of them were left out."""

    def __init__(self, seen: int, projects: Sequence[SeenProject]) -> None:
        self.seen = seen
        self.projects = list(projects)
        self.connected = 0
        self.unasked: list[tuple[SeenProject, str]] = []

    def tell(self, target: str, wanted: ProjectFilter) -> int:
        """Report on standard error what the list contains and lacks; returns the exit status."""
        kind = "" if ProjectType.ALL in wanted.types else f" of type {' or '.join(wanted.types)}"
        given = " with a matching name" if wanted.names or wanted.exclude else ""
        has = "has" if self.connected == 1 else "have"
        aside = f"; {self.connected:,} more {has} an OpenRouter connection" if self.connected else ""
        tell(f"{several(len(self.projects), 'project')}{kind}{given} at target {target}{aside}")
        if not self.seen:
            tell_warning(
                f"the machine identity of target {target} is a member of no project: add it to each, under Access "
                "Control, with a role that may create app connections"
            )
        if not self.unasked:
            return DONE
        tell_error(f"left out {several(len(self.unasked), 'project')} that could not be read")
        for project, problem in self.unasked[:NAMED]:
            tell_detail(f"{project.name or project.id}: {problem}")
        if (more := len(self.unasked) - NAMED) > 0:
            tell_detail(f"… and {more:,} more")
        return NOT_DONE


async def _discover(
    settings: "Settings", target: str, wanted: ProjectFilter, *, without_connection: bool
) -> Discovered:
    from provisioner.cli.asking.infisical import looking

    async with looking(settings, target) as surveyor:
        projects = await surveyor.projects(None)
        found = Discovered(len(projects), chosen(projects, wanted))
        if without_connection:
            await _drop_connected(surveyor, found)
    return found


async def _drop_connected(surveyor: "Surveyor", found: Discovered) -> None:
    by_id = {project.id: project for project in found.projects}
    free: set[str] = set()
    with counting("asking", total=len(by_id), quiet=False) as advance:

        def note(project_id: str, project: "Project | None", problem: str) -> None:
            advance(1)
            if project is None:
                found.unasked.append((by_id[project_id], problem))
            elif project.by_name:
                found.connected += 1
            else:
                free.add(project_id)

        await surveyor.with_connections(by_id, note)
    found.projects = [project for project in found.projects if project.id in free]


def _target(settings: "Settings", given: str | None) -> str:
    known = tuple(settings.targets)
    name = given or (known[0] if len(known) == 1 else "default")
    if name not in settings.targets:
        raise typer.BadParameter(
            f"target {printable(name)} is not in the settings; configured targets: {', '.join(known) or 'none'}",
            param_hint="--target",
        )
    return name


def _write(target: str, projects: Sequence[SeenProject], form: Form, output: Path | None) -> None:
    from provisioner.reports.files import opened, write_errors
    from provisioner.reports.forms import begin_rows

    with opened(output) as stream, write_errors(stream.name):
        writer = begin_rows(form, stream, COLUMNS)
        for project in projects:
            writer.write((target, project.id, project.name or None))
        writer.end()
