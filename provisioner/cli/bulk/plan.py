"""`provisioner plan FILE`: what a bulk file would change, asked of Infisical without changing anything."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from provisioner.cli.bulk.forewarning import forewarned, wrong_keys
from provisioner.cli.bulk.plan_store import PlanStore, Projects, wanting
from provisioner.cli.look.findings import Plan, Planned, Unasked, tell_plan
from provisioner.cli.terminal.bars import counting
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.progress import reading
from provisioner.core.comparison import PlannedOutcome, Project, planned_outcome
from provisioner.core.model import Observation, Result
from provisioner.intake.checked import CheckedFile, check_file
from provisioner.intake.errors import FileUnusable
from provisioner.intake.reading import Format
from provisioner.intake.rows import COLUMNS, SEALED

if TYPE_CHECKING:
    from provisioner.cli.look.survey import Surveyor
    from provisioner.core.secret import Secret
    from provisioner.postgres.pool import Database
    from provisioner.postgres.recorded import Asked
    from provisioner.settings import Settings

STDIN: Final = "-"
CHUNK: Final = 500  # projects between two looks into the table
_ANSWERS: Final = frozenset({Result.FOUND, Result.ABSENT, Result.OTHER_APP})


def plan(  # noqa: PLR0917  # the command line names them
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV with a header, or JSON Lines; - for standard input.")
    ],
    config: Config = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="File format. Default: by its suffix or first characters.", show_default=False),
    ] = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Skip invalid lines and plan the rest.")] = False,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="Also look up each name that would be created: one more read each.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask Infisical which connections of a bulk file exist, would be created, or would conflict. Changes nothing.

    The file is the one for `provisioner submit`. The command logs in once, reads the identity's projects, and then the
    connections of the whole organization or, if the identity may not do that, of each project, using at most half of
    the read budget. Connections of other apps are not in these lists, although their names count too: --by-name also
    looks up each name. OpenRouter is asked once about each key that this host has.

    Exits 1 if anything would conflict, no longer exists, or could not be looked up, if projects lack the machine
    identity, or if a key is not a management key.

    Example: provisioner plan projects.csv
    """
    settings = load(config)
    settings.database_url()  # before a long file is read
    shown = _Shown()
    with _checked(file, form, shown, quiet=as_json) as checked:
        result = Plan(file="standard input" if file == STDIN else file, lines=checked.lines, problems=checked.problems)
        result.by_name = by_name
        result.skipped = checked.bad
        if skip_invalid or not checked.bad:
            with wanting(_planned(checked)) as wanted:
                run_async(_plan(settings, wanted, result, quiet=as_json))
            result.wrong_keys = run_async(
                wrong_keys(settings, checked, {word: key for key, word in shown.words.items()})
            )
            result.warnings = tuple(forewarned(checked, settings, ()))
    tell_plan(result, as_json=as_json)
    raise typer.Exit(DONE if result.is_fine else NOT_DONE)


@contextmanager
def _checked(file: str, form: Format | None, shown: "_Shown", *, quiet: bool) -> Iterator[CheckedFile]:
    name = "standard input" if file == STDIN else file
    try:
        with _opened(file) as stream, reading(stream, quiet=quiet) as progress:
            checked = check_file(stream, name=name, form=form, seal=shown, progress=progress)
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


class _Shown:
    """Seals nothing: a plan loads nothing. It keeps each key once, under a word, to ask about it."""

    def __init__(self) -> None:
        self.words: dict[Secret, str] = {}

    def __call__(self, api_key: "Secret", *, project_id: str, name: str) -> str:  # noqa: ARG002  # it is sealed for nobody
        return self.words.setdefault(api_key, f"{SEALED}shown-{len(self.words)}")


def _planned(checked: CheckedFile) -> Iterator[Planned]:
    for line, *values in checked.rows():
        row = dict(zip(COLUMNS, values, strict=True))
        yield Planned(
            line=int(str(line)),
            target=str(row["target"]),
            project_id=str(row["project_id"]),
            name=str(row["name"]),
            on_conflict=str(row["on_conflict"]),
            project_name=str(row["project_name"]) if row["project_name"] else None,
        )


async def _plan(settings: "Settings", wanted: PlanStore, result: Plan, *, quiet: bool) -> None:
    from provisioner.cli.look.survey import surveying

    targets = wanted.targets()
    async with open_database(settings) as database:
        with counting("asking", total=sum(projects for _, projects, _ in targets), quiet=quiet) as advance:
            for target, projects, connections in targets:
                if target not in settings.targets:
                    problem = f"target {target} is not in the settings of this host"
                    result.unasked.append(Unasked(target, None, connections, problem))
                    continue
                result.projects += projects
                async with surveying(settings, database, target) as surveyor:
                    joined = await surveyor.joined()
                    for chunk in wanted.projects(target, CHUNK):
                        inside = {id_: names for id_, names in chunk.items() if joined is None or id_ in joined}
                        result.outside += [next(iter(chunk[id_].values())) for id_ in chunk if id_ not in inside]
                        await _ask(database, surveyor, target, inside, result)
                        advance(len(chunk))
        await _foretell(settings, database, result)


async def _ask(database: "Database", surveyor: "Surveyor", target: str, projects: Projects, result: Plan) -> None:
    from provisioner.postgres.recorded import asked_for

    asked = await asked_for(
        database, target, [(project, name) for project, names in projects.items() for name in names]
    )
    free: list[tuple[str, str]] = []

    def tell(project_id: str, project: Project | None, problem: str) -> None:
        names = projects[project_id]
        if project is None:
            result.unasked.append(Unasked(target, project_id, len(names), problem))
            return
        for name, planned in names.items():
            what, pending = _prospect(planned, project, asked.get((project_id, name)))
            if what is PlannedOutcome.CREATE and result.by_name:
                free.append((project_id, name))
            else:
                result.add(what, planned, project.by_name.get(name), pending=pending)

    def tell_name(project_id: str, name: str, seen: Observation) -> None:
        if seen.result not in _ANSWERS:
            result.unasked.append(Unasked(target, project_id, 1, seen.message))
            return
        planned, found = projects[project_id][name], seen.connection
        project = Project.of([found] if found else [])
        what, pending = _prospect(planned, project, asked.get((project_id, name)))
        result.add(
            PlannedOutcome.CONFLICT if seen.result is Result.OTHER_APP else what, planned, found, pending=pending
        )

    await surveyor.survey(projects, tell)
    await surveyor.look_up(free, tell_name)


def _prospect(planned: Planned, project: Project, asked: "Asked | None") -> tuple[PlannedOutcome, bool]:
    recorded = asked.connection_id if asked and asked.status == "succeeded" else None
    what = planned_outcome(planned.name, planned.on_conflict, project, recorded_id=recorded)
    return what, asked is not None and asked.status == "pending"


async def _foretell(settings: "Settings", database: "Database", result: Plan) -> None:
    """How long the rest takes: at each target what is pending already, and what would be new."""
    from provisioner.core.outlook import expected
    from provisioner.postgres.reports import read_gauges, read_outlook
    from provisioner.settings import RateLimit

    targets, _ = await read_outlook(database)
    reports = {each.target: each for each in targets}
    reads = {each.target: each for each in (await read_gauges(database)).budgets if each.kind == "read"}
    longest, result.reason = 0.0, ""
    for target, work in result.work.items():
        report, limit, why = reports.get(target), settings.targets[target].write_limit, ""
        allowed = limit.permits / limit.window if isinstance(limit, RateLimit) else report and report.expected
        if not allowed and (read := reads.get(target)):
            guess = expected(metered=read.metered, reads=read.permits, period=read.period)
            allowed, why = (guess.pace, guess.reason) if guess else (None, "")
        if not allowed:
            return
        seconds = (work + (report.pending if report else 0)) / allowed
        if seconds > longest:
            longest, result.reason = seconds, why
    result.seconds_left = longest
