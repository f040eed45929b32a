"""The result of an onboarding, on the terminal and in the requested report."""

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from provisioner.cli.bulk.export import write_report
from provisioner.cli.serve.run import told
from provisioner.cli.terminal.frame import DONE, NOT_DONE, PARTLY, open_database
from provisioner.cli.terminal.output import called, one_line, program, say, tell_error
from provisioner.core.alerts import advice_for
from provisioner.core.reports import Leftovers
from provisioner.core.requests import State
from provisioner.core.text import several
from provisioner.postgres.browse import COLUMNS, REPORT_COLUMNS
from provisioner.postgres.filters import Filter
from provisioner.postgres.kinds import KINDS, ROTATIONS, kind_of_id
from provisioner.postgres.onboarding import OF_CREDENTIALS, Tally, rotations, tally
from provisioner.postgres.search import page
from provisioner.reports.forms import Form, form_of

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

NAMED: Final = 5  # failed projects per cause that are listed
# Failures with these codes need no separate retry: onboard retries them, or the retry of their connection does.
_BY_ITSELF: Final = frozenset({*OF_CREDENTIALS, "connection_failed"})


async def conclude(settings: "Settings", ids: Sequence[int], report: Path | None, left: Leftovers | None) -> int:
    """Print the result, write the report, and return the exit status; `left` is None if there was nothing to do."""
    async with open_database(settings) as database:
        done = await tally(database, ids)
        say(_result(done, left))
        async for line in _details(database, ids, done, command=_command(settings)):
            say(line)
        if report is not None:
            form = form_of(report) or Form.CSV
            both = form is Form.HTML or kind_of_id(max(ids, default=0)) is ROTATIONS
            columns = REPORT_COLUMNS if both else COLUMNS
            await write_report(
                database, Filter(ids=ids), form, report, columns=columns, kinds=KINDS, title="Onboarding"
            )
            say(f"the report is in {report}")
    if done.pending and left is not None:
        _tell_left(done, left)
        return NOT_DONE
    return PARTLY if done.failures else DONE


def _command(settings: "Settings") -> str:
    """Return the command that runs this program with the same database."""
    database = "PROVISIONER_DATABASE_URL=embedded " if settings.sources()["database.url"] == "command line" else ""
    return f"{database}{program()}"


def _result(done: Tally, left: Leftovers | None) -> str:
    parts = [f"{done.succeeded:,} succeeded", f"{done.failures:,} failed"]
    parts += [f"{done.cancelled:,} cancelled"] if done.cancelled else []
    parts += [f"{done.pending:,} not finished"] if done.pending else []
    parts += [f"{done.retried:,} retried"] if done.retried and left is not None else []
    if left is None:
        every = "every request was done earlier" if done.requests else "there is no request"
        return f"nothing to do: {every}" + (f" ({', '.join(parts)})" if done.requests else "")
    return f"{done.ended:,} of {several(done.requests, 'request')} done: {', '.join(parts)}"


def _tell_left(done: Tally, left: Leftovers) -> None:
    sys.stdout.flush()  # problems come last
    if left.unfinished:
        tell_error(
            f"stopped with {several(done.pending, 'request')} to do; nothing is lost: run the same command to continue"
        )
        return
    for line in list(told(left))[1:]:
        if " failed with " not in line:
            tell_error(line)


async def _details(database: "Database", ids: Sequence[int], done: Tally, *, command: str) -> AsyncIterator[str]:
    """Yield the rotations, and the failures by cause, with some projects each, and what to do.

    `command` is how to call this program for the same database.
    """
    asked = await rotations(database, ids)
    if asked.rotations:
        yield f"{asked.rotations:,} of them are rotations: `{command} rotations` lists them with their keys' names"
    if asked.leaving:
        yield f"{several(asked.leaving, 'rotation')} may have left keys behind at OpenRouter"
        for words in asked.left_behind:
            yield f"  {one_line(words)}"
        if more := asked.leaving - len(asked.left_behind):
            yield f"  … and {more:,} more: `{command} rotations --left-behind` lists them"
    for code, count in done.failed.items():
        yield f"{count:,} failed with {code or 'no error code'}: {advice_for(code)}"
        wanted = Filter(ids=ids, states=(State.FAILED,), errors=(code,) if code else ())
        listed = (await page(database, wanted, limit=NAMED, oldest_first=True)).requests
        for each in listed:
            yield f"  {called(one_line(each.project_name), each.project_id)}: {one_line(each.error_message)}"
        if more := count - len(listed):
            yield f"  … and {several(more, 'other project')}"
        again = f"`{command} retry {f'--error {code}' if code else '--state failed'}` and "
        yield f"  then run {'' if code in _BY_ITSELF else again}the same command again"
