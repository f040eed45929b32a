"""`provisioner plan FILE`: compare a bulk file with Infisical, without changing anything."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.asking.infisical import Unqueried
from provisioner.cli.bulk.lines import BulkFile, File, FileFormat, Line, checked_lines, lines_of
from provisioner.cli.bulk.obstacles import forewarned, wrong_keys
from provisioner.cli.bulk.plan_report import Plan, tell_plan
from provisioner.cli.bulk.sorted_lines import Projects, SortedLines, sorted_lines
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.progress import counting
from provisioner.core.comparison import PlannedOutcome, Project, planned_outcome
from provisioner.core.model import Observation, Result
from provisioner.intake.rows import SEALED

if TYPE_CHECKING:
    from provisioner.cli.asking.infisical import Surveyor
    from provisioner.core.secret import Secret
    from provisioner.postgres.pool import Database
    from provisioner.postgres.recorded import ExistingRequest
    from provisioner.settings import Settings

CHUNK: Final = 500  # projects between two queries of the table
_ANSWERS: Final = frozenset({Result.FOUND, Result.ABSENT, Result.OTHER_APP})


def plan(  # noqa: PLR0917  # the command line names them
    file: File,
    config: Config = None,
    form: FileFormat = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Skip invalid lines and plan the rest.")] = False,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="Also look up each name that would be created: one more read each.")
    ] = False,
    as_json: Json = False,
) -> int:
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
    settings.database_url()  # before reading a long file
    shown = _Shown()
    given = BulkFile(path=file, form=form)
    with checked_lines(given, shown, quiet=as_json, consequence="") as checked:
        result = Plan(
            file=given.name, by_name=by_name, lines=checked.lines, problems=checked.problems, skipped=checked.bad
        )
        if skip_invalid or not checked.bad:
            with sorted_lines(lines_of(checked)) as wanted:
                run_async(_plan(settings, wanted, result, quiet=as_json))
            result.wrong_keys = run_async(
                wrong_keys(settings, checked, {word: key for key, word in shown.words.items()})
            )
            result.warnings = tuple(forewarned(checked, settings, ()))
    tell_plan(result, as_json=as_json)
    return DONE if result.is_fine else NOT_DONE


class _Shown:
    """A substitute for sealing, because a plan loads nothing. It keeps each key, under a word, to check it later."""

    def __init__(self) -> None:
        self.words: dict[Secret, str] = {}

    def __call__(self, api_key: "Secret", *, project_id: str, name: str) -> str:  # noqa: ARG002  # it is sealed for nobody
        return self.words.setdefault(api_key, f"{SEALED}shown-{len(self.words)}")


async def _plan(settings: "Settings", wanted: SortedLines, result: Plan, *, quiet: bool) -> None:
    from provisioner.cli.asking.infisical import surveying

    targets = wanted.targets()
    async with open_database(settings) as database:
        with counting("asking", total=sum(projects for _, projects, _ in targets), quiet=quiet) as advance:
            for target, projects, connections in targets:
                if target not in settings.targets:
                    problem = f"target {target} is not in the settings of this host"
                    result.unasked.append(Unqueried(target, None, connections, problem))
                    continue
                result.projects += projects
                async with surveying(settings, database, target) as surveyor:
                    joined = await surveyor.joined()
                    for chunk in wanted.projects(target, CHUNK):
                        inside = {id_: names for id_, names in chunk.items() if joined is None or id_ in joined}
                        result.outside += [next(iter(chunk[id_].values())) for id_ in chunk if id_ not in inside]
                        await _ask(database, surveyor, target, inside, result)
                        advance(len(chunk))
        result.seconds_left, result.reason = await time_left(settings, database, result.work, result.work)


async def _ask(database: "Database", surveyor: "Surveyor", target: str, projects: Projects, result: Plan) -> None:
    from provisioner.postgres.recorded import asked_for

    asked = await asked_for(
        database, target, [(project, name) for project, names in projects.items() for name in names]
    )
    free: list[tuple[str, str]] = []

    def tell(project_id: str, project: Project | None, problem: str) -> None:
        names = projects[project_id]
        if project is None:
            result.unasked.append(Unqueried(target, project_id, len(names), problem))
            return
        for name, line in names.items():
            what, pending = _prospect(line, project, asked.get((project_id, name)))
            if what is PlannedOutcome.CREATE and result.by_name:
                free.append((project_id, name))
            else:
                result.add(what, line, project.by_name.get(name), pending=pending)

    def tell_name(project_id: str, name: str, seen: Observation) -> None:
        if seen.result not in _ANSWERS:
            result.unasked.append(Unqueried(target, project_id, 1, seen.message))
            return
        line, found = projects[project_id][name], seen.connection
        project = Project.of([found] if found else [])
        what, pending = _prospect(line, project, asked.get((project_id, name)))
        result.add(PlannedOutcome.CONFLICT if seen.result is Result.OTHER_APP else what, line, found, pending=pending)

    await surveyor.survey(projects, tell)
    await surveyor.look_up(free, tell_name)


def _prospect(line: Line, project: Project, asked: "ExistingRequest | None") -> tuple[PlannedOutcome, bool]:
    recorded = asked.connection_id if asked and asked.status == "succeeded" else None
    what = planned_outcome(line.name, line.on_conflict, project, recorded_id=recorded)
    return what, asked is not None and asked.status == "pending"


async def time_left(
    settings: "Settings", database: "Database", work: Counter[str], targets: Iterable[str]
) -> tuple[float | None, str]:
    """Return the seconds until all pending requests at these targets and `work` more are done, and the basis.

    The slowest target counts; None if the limit of any of them is unknown.
    """
    from provisioner.core.forecast import expected_pace
    from provisioner.postgres.reports import read_gauges, read_outlook
    from provisioner.settings import RateLimit

    reports = {each.target: each for each in (await read_outlook(database))[0]}
    reads = {each.target: each for each in (await read_gauges(database)).budgets if each.kind == "read"}
    longest, reason = 0.0, ""
    for target in targets:
        report, limit, why = reports.get(target), settings.targets[target].write_limit, ""
        if not (left := work[target] + (report.pending if report else 0)):
            continue
        pace = limit.permits / limit.window if isinstance(limit, RateLimit) else report and report.expected
        if not pace and (read := reads.get(target)):
            guess = expected_pace(metered=read.metered, reads=read.permits, period=read.period)
            pace, why = (guess.pace, guess.reason) if guess else (None, "")
        if not pace:
            return None, ""
        if left / pace > longest:
            longest, reason = left / pace, why
    return longest, reason
