"""The report of `submit` about a file."""

from dataclasses import asdict, dataclass

from provisioner.cli.serve.run import told as told_left
from provisioner.cli.terminal.output import print_json, say, tell_detail, tell_error, tell_warning
from provisioner.core.reports import Leftovers
from provisioner.core.text import duration, several
from provisioner.intake.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The states of requests that existed already."""

    pending: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {state}" for state, count in asdict(self).items() if count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened to a file's lines, or would happen with `dry_run`.

    `accepted`: its valid lines were loaded. `inserted` are new, `repeated` repeat an earlier line, and `skipped` are
    invalid; `problems` describe the first of them. `updated` existing requests got new values (None: not asked for),
    `not_updated` could not get them now, and `refusals` say why; `different` exist with other values. The lines request
    `rotations` (`rotations_alone`: and nothing else), of which `rotations_inserted` are new and `rotations_different`
    exist with other values. `of_others` counts existing requests of other requesters, and is None if our role sees
    everybody's requests. `outcome` is the final result, if it was waited for.
    """

    file: str
    dry_run: bool
    lines: int
    accepted: bool = False
    inserted: int = 0
    already_there: int = 0
    already: States = States()
    of_others: int | None = None
    updated: int | None = None
    not_updated: int = 0
    refusals: tuple[Problem, ...] = ()
    different: int = 0
    first_different: int | None = None
    repeated: int = 0
    skipped: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    rotations: int = 0
    rotations_inserted: int = 0
    rotations_alone: bool = False
    rotations_different: int = 0
    first_different_rotation: int | None = None
    outcome: Leftovers | None = None
    workers: int | None = None
    seconds_left: float | None = None
    ends_why: str | None = None


def tell(report: Report, *, as_json: bool) -> None:
    """Print the report: for programs as JSON, for people what matters; invalid lines go to standard error.

    For people, the loading is reported before the wait, and afterwards only the outcome.
    """
    if as_json:
        print_json(report)
        return
    if report.outcome is not None:
        for line in told_left(report.outcome):
            say(line)
        return
    if report.skipped:
        _tell_problems(report)
    if report.accepted:
        _tell_result(report)


def _tell_problems(report: Report) -> None:
    one = report.skipped == 1
    kept = f"{'was' if one else 'were'} skipped" if report.accepted else "nothing was loaded"
    bad = f"{several(report.skipped, 'line')} {'is' if one else 'are'} invalid"
    tell_error(f"{report.file}: {bad}{' and ' if report.accepted else '; '}{kept}")
    for problem in report.problems:
        tell_detail(str(problem))
    if more := report.skipped - sum({problem.line: problem.lines for problem in report.problems}.values()):
        tell_detail(f"… and {more:,} more")
    if not report.accepted:
        tell_detail(f"correct {'it' if one else 'them'}, or load the others with --skip-invalid")


def _tell_result(report: Report) -> None:
    say(f"{report.file}: {several(report.lines, 'line')}{', nothing was loaded (--dry-run)' if report.dry_run else ''}")
    if not report.rotations_alone:
        _tell_connections(report)
    if report.rotations:
        new = "" if report.dry_run else f", {report.rotations_inserted:,} inserted"
        say(f"  {'rotations':13} {report.rotations:,}{new}")
    if report.skipped:
        say(f"  {'skipped':13} {report.skipped:,}")
    if report.dry_run and report.of_others is not None:
        say("  this role cannot see what others have requested; those requests are not inserted again")
    _tell_update(report)
    if report.different:
        have = "has other values and was" if report.different == 1 else "have other values and were"
        say(
            f"  {report.different:,} of those already there {have} not changed (the first: line "
            f"{report.first_different}); --update changes them"
        )
    if report.rotations_different:
        have = "has other values and was" if report.rotations_different == 1 else "have other values and were"
        say(
            f"  {report.rotations_different:,} of the rotations already there {have} not changed (the first: line"
            f" {report.first_different_rotation}); edit their rows with SQL"
        )
    for warning in report.warnings:
        tell_warning(warning)
    _tell_outlook(report)


def _tell_connections(report: Report) -> None:
    say(f"  {'would insert' if report.dry_run else 'inserted':13} {report.inserted:,}")
    there = report.already_there + report.repeated
    told = [str(report.already)] if str(report.already) else []
    if report.of_others:
        told.append(f"{report.of_others:,} requested by others")
    if report.repeated:
        told.append(f"{report.repeated:,} repeated in the file")
    aside = f" ({'; '.join(told)})" if told else ""
    say(f"  {'already there':13} {there:,}{aside}")


def _tell_update(report: Report) -> None:
    if report.updated is not None:
        say(f"  {'would update' if report.dry_run else 'updated':13} {report.updated:,}")
    if report.not_updated:
        tell_error(f"{report.file}: {report.not_updated:,} of those already there could not be changed")
        for refusal in report.refusals:
            tell_detail(str(refusal))
        if more := report.not_updated - len(report.refusals):
            tell_detail(f"… and {more:,} more")


def _tell_outlook(report: Report) -> None:
    if report.seconds_left:
        pace = "at the current pace" if report.workers else "once a worker runs"
        say(f"{pace}, everything pending takes about {duration(report.seconds_left)}")
    if report.ends_why:
        say(f"there is no forecast of when everything pending ends: {report.ends_why}")
    if report.workers == 0 and (report.inserted or report.rotations_inserted):
        say("no worker is running: `provisioner run` starts one")
