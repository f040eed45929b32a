"""`provisioner submit`: bulk onboarding from a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.bulk.lines import (
    BulkFile,
    File,
    FileFormat,
    Rotation,
    WithRotation,
    checked_lines,
    parse_batch,
    parse_rotation,
)
from provisioner.cli.bulk.obstacles import forewarned, outsiders
from provisioner.cli.bulk.submit_report import Report, States, tell
from provisioner.cli.serve.run import exit_status
from provisioner.cli.terminal.frame import DONE, NOT_DONE, PARTLY, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.progress import loading
from provisioner.intake.checked import SHOWN, CheckedFile
from provisioner.intake.errors import Problem
from provisioner.postgres.intake import Comparison, Repeats, Staging, staging
from provisioner.postgres.reports import TargetReport, read_outlook, seconds_left

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

Rotations = Annotated[
    bool, typer.Option("--rotations", help="Load rotations alone: the columns are those of rotation_requests.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The options of the command line."""

    file: BulkFile
    dry_run: bool
    skip_invalid: bool
    update: bool
    wait: bool
    as_json: bool


def submit(  # noqa: PLR0917  # the command line names them
    file: File,
    config: Config = None,
    batch: Annotated[
        str | None,
        typer.Option(callback=parse_batch, help="Batch for rows that name none.", show_default=False),
    ] = None,
    form: FileFormat = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare everything, and load nothing.")] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Skip invalid lines and load the rest; exit 3 if any were skipped.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Update existing requests with the changed values of the file.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the file's requests have ended; exits as `run --drain` does.")
    ] = False,
    with_rotation: WithRotation = False,
    rotation: Rotation = None,
    rotations: Rotations = False,
    as_json: Json = False,
) -> int:
    """Load requests in bulk. Every line is checked first, and loading the same file again is harmless.

    Columns: target, project_id (required), name, description, credential, on_conflict, priority, batch, project_name,
    not_before, and api_key, which holds a readable key and is sealed before it leaves this process. The table's
    defaults apply to missing columns and empty cells. If a line is invalid, it is reported and nothing is loaded.

    With --with-rotation, or a column that begins with rotation_, a line also requests a rotation. With --rotations, the
    file holds rotations alone, as `export --rotations` writes it. If this host can log in to Infisical, the command
    also says which projects lack the machine identity.

    Requests that already exist stay as they are. With --update they get the changed values of their lines, and workers
    change the connections. Exits 3 if some could not be changed.

    Example: provisioner submit projects.csv --batch onboarding --dry-run
    """
    if wait and dry_run:
        raise typer.BadParameter("--wait and --dry-run cannot be combined")
    if rotations and update:
        raise typer.BadParameter("--rotations and --update cannot be combined")
    columns = parse_rotation(with_rotation=with_rotation or rotations, columns=rotation)
    order = Order(
        file=BulkFile(path=file, form=form, batch=batch, rotation=columns, rotations=rotations),
        dry_run=dry_run,
        skip_invalid=skip_invalid,
        update=update,
        wait=wait,
        as_json=as_json,
    )
    return _submitted(load(config), order)


def _submitted(settings: "Settings", order: Order) -> int:
    from provisioner.cli.setup.keys import sealer

    settings.database_url()  # before reading a long file
    with checked_lines(order.file, sealer(settings), quiet=order.as_json) as checked:
        problems, bad = tuple(checked.problems), checked.bad
        report = Report(
            file=order.file.name, dry_run=order.dry_run, lines=checked.lines, skipped=bad, problems=problems
        )
        if order.skip_invalid or not bad:
            report = run_async(_submit(order, settings, checked, report))
    tell(report, as_json=order.as_json)
    return _status(report)


def _status(report: Report) -> int:
    """Return the exit status; what could not be done outweighs what was skipped or failed."""
    if report.skipped and not report.accepted:
        return NOT_DONE
    ended = exit_status(report.outcome) if report.outcome is not None else DONE
    return PARTLY if (report.skipped or report.not_updated) and ended == DONE else ended


async def _submit(order: Order, settings: "Settings", checked: CheckedFile, report: Report) -> Report:
    async with open_database(settings) as database:
        report, found, ids = await _load(order, database, checked, report)
        if not report.accepted:
            return report
        sees_all = report.of_others is None
        if sees_all:  # a role that only sees its own requests cannot see the queues
            report = await _with_outlook(order, settings, database, report, checked, found)
        if order.wait:
            from provisioner.cli.bulk.watching import wait

            if not order.as_json:
                tell(report, as_json=False)
                sys.stdout.flush()
            report = replace(report, outcome=await wait(database, ids, sees_all=sees_all, quiet=order.as_json))
    return report


async def _with_outlook(  # noqa: PLR0917  # the results so far
    order: Order,
    settings: "Settings",
    database: "Database",
    report: Report,
    checked: CheckedFile,
    found: Sequence[Comparison],
) -> Report:
    targets, workers = await read_outlook(database)
    served = {each.target for each in targets if each.workers}
    warnings = (*forewarned(checked, settings, served), *await outsiders(checked, settings, database))
    if order.dry_run:
        targets = _with_newcomers(targets, found)
    return replace(
        report,
        workers=workers.living,
        seconds_left=seconds_left(targets, workers),
        ends_why=min(filter(None, (each.obstacle for each in targets)), key=lambda why: why.order, default=None),
        warnings=warnings,
    )


async def _load(
    order: Order, database: "Database", checked: CheckedFile, report: Report
) -> tuple[Report, Sequence[Comparison], Sequence[int]]:
    async with staging(database) as staged:
        rows = checked.rows_and_given() if order.update else checked.rows()
        await staged.take(loading(rows, total=checked.good, quiet=order.as_json), given=order.update)
        twice = await staged.set_rotations_apart(SHOWN, alone=order.file.rotations)
        repeats = await staged.drop_repeats(SHOWN)
        report = _with_repeats(_with_repeats(report, repeats), twice, "rotation")
        if (repeats.conflicting or twice.conflicting) and not order.skip_invalid:
            return report, (), ()
        found = await staged.compare()
        wanted = sum(each.wanted for each in found)
        inserted = wanted - sum(each.existing for each in found) if order.dry_run else await staged.insert()
        report = await _with_rotations(order, staged, report)
        ids = [*await staged.ids(), *await staged.rotation_ids()] if order.wait else ()
        report = _with_result(report, found, inserted=inserted, already=wanted - inserted)
        if order.update:
            report = await _updated(order, staged, report)
    return (report if staged.sees_all else _of_one_requester(report, found)), found, ids


async def _with_rotations(order: Order, staged: Staging, report: Report) -> Report:
    rotations, different, first_different = await staged.rotations()
    new = 0 if order.dry_run or not rotations else await staged.insert_rotations()
    return replace(
        report,
        rotations=rotations,
        rotations_inserted=new,
        rotations_alone=order.file.rotations,
        rotations_different=different,
        first_different_rotation=first_different,
    )


async def _updated(order: Order, staged: Staging, report: Report) -> Report:
    changes = await staged.changes()
    refused = [] if order.dry_run or not changes else await staged.change(changes)
    return replace(
        report,
        updated=len(changes) - len(refused),
        not_updated=len(refused),
        refusals=tuple(Problem(line=line, problem=reason) for line, reason in refused[:SHOWN]),
        different=0,
        first_different=None,
    )


def _with_repeats(report: Report, repeats: Repeats, kind: str = "connection") -> Report:
    problems = [
        Problem(
            line=conflict.line,
            problem=f"asks for the same {kind} as line {conflict.first_line}, with another "
            f"{' and '.join(conflict.columns)}; keep one of them",
        )
        for conflict in repeats.conflicts
    ]
    return replace(
        report,
        repeated=report.repeated + (0 if kind == "rotation" and report.repeated else repeats.identical),
        skipped=report.skipped + repeats.conflicting,
        problems=(*report.problems, *problems)[:SHOWN],
    )


def _with_result(report: Report, found: Sequence[Comparison], *, inserted: int, already: int) -> Report:
    succeeded, failed, cancelled = (
        sum(getattr(each, state) for each in found) for state in ("succeeded", "failed", "cancelled")
    )
    return replace(
        report,
        accepted=True,
        inserted=inserted,
        already_there=already,
        # Requests that somebody else inserted after our comparison are pending too.
        already=States(
            pending=already - succeeded - failed - cancelled, succeeded=succeeded, failed=failed, cancelled=cancelled
        ),
        different=sum(each.different for each in found),
        first_different=min((each.first_different for each in found if each.first_different), default=None),
    )


def _of_one_requester(report: Report, found: Sequence[Comparison]) -> Report:
    """Adjust the report for a role that only sees its own requests: other existing ones belong to others."""
    own = replace(report.already, pending=sum(each.pending for each in found))
    others = max(report.already_there - sum(each.existing for each in found), 0)
    return replace(report, already=own, of_others=others)


def _with_newcomers(targets: Sequence[TargetReport], found: Sequence[Comparison]) -> Sequence[TargetReport]:
    """Return the targets as they would be after loading the file."""
    known = {target.target: target for target in targets}
    for each in found:
        target = known.get(each.target) or TargetReport(target=each.target)
        known[each.target] = replace(target, pending=target.pending + each.wanted - each.existing)
    return list(known.values())
