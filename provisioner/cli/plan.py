"""`provisioner plan FILE`: what a bulk file would change, asked of Infisical without changing anything."""

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from provisioner.cli._bars import counting
from provisioner.cli._findings import Plan, Planned, Unasked, tell_plan
from provisioner.cli._frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli._progress import reading
from provisioner.core.comparison import Project, prospect
from provisioner.intake.checked import CheckedFile, check_file
from provisioner.intake.errors import FileUnusable
from provisioner.intake.reading import Format
from provisioner.intake.rows import COLUMNS

if TYPE_CHECKING:
    from provisioner.cli._survey import Surveyor
    from provisioner.core.secret import Secret
    from provisioner.postgres.pool import Database
    from provisioner.postgres.recorded import Asked
    from provisioner.settings import Settings

STDIN: Final = "-"
CHUNK: Final = 500  # projects between two looks into the table

Wanted = Mapping[str, Mapping[str, Mapping[str, Planned]]]
"""What is asked for: by target, by project, by name."""


def plan(  # the command line names them
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV with a header, or JSON Lines; - is standard input.")],
    config: Config = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="How the file is written; else by its suffix or beginning.", show_default=False),
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Plan the good lines, leave out the bad.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask Infisical which connections of a bulk file exist, would be created or would conflict; nothing is changed.

    The file is what `provisioner submit` takes. Each project is asked for once, by reading, within the read budget that
    the workers share; it counts one login. A name that a connection of another app has cannot be seen this way. Exits 1
    if anything would conflict, is gone, or could not be asked for.

    Example: provisioner plan projects.csv
    """
    settings = load(config)
    settings.database_url()  # before a long file is read
    with _checked(file, form, quiet=as_json) as checked:
        result = Plan(file="standard input" if file == STDIN else file, lines=checked.lines, problems=checked.problems)
        result.skipped = checked.bad
        if skip_invalid or not checked.bad:
            run_async(_plan(settings, _wanted(checked), result, quiet=as_json))
    tell_plan(result, as_json=as_json)
    raise typer.Exit(DONE if result.is_fine else NOT_DONE)


@contextmanager
def _checked(file: str, form: Format | None, *, quiet: bool) -> Iterator[CheckedFile]:
    name = "standard input" if file == STDIN else file
    try:
        with _opened(file) as stream, reading(stream, quiet=quiet) as progress:
            checked = check_file(stream, name=name, form=form, seal=_forget, progress=progress)
    except FileUnusable as error:
        raise FileUnusable(f"{name} {error}") from error
    except OSError as error:
        raise FileUnusable(f"{name} cannot be read: {error.strerror}") from error
    with checked:
        yield checked


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader]:
    if file == STDIN:
        yield cast("io.BufferedReader", sys.stdin.buffer)
        return
    with Path(file).open("rb") as stream:
        yield stream


def _forget(api_key: "Secret", *, project_id: str, name: str) -> str:  # noqa: ARG001  # a plan needs no key
    return "default"


def _wanted(checked: CheckedFile) -> Wanted:
    wanted: dict[str, dict[str, dict[str, Planned]]] = {}
    for line, *values in checked.rows():
        row = dict(zip(COLUMNS, values, strict=True))
        planned = Planned(
            line=int(str(line)),
            target=str(row["target"]),
            project_id=str(row["project_id"]),
            name=str(row["name"]),
            on_conflict=str(row["on_conflict"]),
        )
        # The first line for a connection counts, as it does when the file is loaded.
        wanted.setdefault(planned.target, {}).setdefault(planned.project_id, {}).setdefault(planned.name, planned)
    return wanted


async def _plan(settings: "Settings", wanted: Wanted, result: Plan, *, quiet: bool) -> None:
    from provisioner.cli._survey import surveying

    async with open_database(settings) as database:
        with counting("asking", total=sum(map(len, wanted.values())), quiet=quiet) as advance:
            for target, projects in wanted.items():
                if target not in settings.targets:
                    problem = f"target {target} is not in the settings of this host"
                    result.unasked.append(Unasked(target, None, _size(projects), problem))
                    continue
                async with surveying(settings, database, target) as surveyor:
                    for chunk in _chunks(projects):
                        await _ask(database, surveyor, target, chunk, result)
                        advance(len(chunk))
        await _foretell(settings, database, result)


def _size(projects: Mapping[str, Mapping[str, Planned]]) -> int:
    return sum(map(len, projects.values()))


def _chunks(projects: Mapping[str, Mapping[str, Planned]]) -> Iterator[Mapping[str, Mapping[str, Planned]]]:
    ids = [*projects]
    for start in range(0, len(ids), CHUNK):
        yield {project: projects[project] for project in ids[start : start + CHUNK]}


async def _ask(
    database: "Database",
    surveyor: "Surveyor",
    target: str,
    projects: Mapping[str, Mapping[str, Planned]],
    result: Plan,
) -> None:
    from provisioner.postgres.recorded import asked_for

    asked = await asked_for(
        database, target, [(project, name) for project, names in projects.items() for name in names]
    )

    def tell(project_id: str, project: Project | None, problem: str) -> None:
        names = projects[project_id]
        if project is None:
            result.unasked.append(Unasked(target, project_id, len(names), problem))
            return
        for name, planned in names.items():
            _add(result, planned, project, asked.get((project_id, name)))

    await surveyor.survey(projects, tell)


def _add(result: Plan, planned: Planned, project: Project, asked: "Asked | None") -> None:
    recorded = asked.connection_id if asked and asked.status == "succeeded" else None
    what = prospect(planned.name, planned.on_conflict, project, recorded_id=recorded)
    result.add(
        what, planned, project.by_name.get(planned.name), pending=asked is not None and asked.status == "pending"
    )


async def _foretell(settings: "Settings", database: "Database", result: Plan) -> None:
    """How long the rest takes: at each target what is pending already, and what would be new."""
    from provisioner.postgres.reports import read_outlook
    from provisioner.settings import RateLimit

    targets, _ = await read_outlook(database)
    reports = {each.target: each for each in targets}
    longest: float | None = 0.0
    for target, work in result.work.items():
        report = reports.get(target)
        limit = settings.targets[target].write_limit
        allowed = limit.permits / limit.window if isinstance(limit, RateLimit) else report and report.allowed
        if not allowed:
            longest = None
            break
        longest = max(longest or 0.0, (work + (report.pending if report else 0)) / allowed)
    result.seconds_left = longest
