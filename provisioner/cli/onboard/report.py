"""What came of an onboarding, on the terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from provisioner.cli.terminal.frame import several
from provisioner.cli.terminal.tables import one_line
from provisioner.core.alerts import advice_for
from provisioner.postgres.filters import Filter, State
from provisioner.postgres.onboarding import OF_CREDENTIALS, Tally, rotations
from provisioner.postgres.search import page

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database

NAMED: Final = 5  # failed projects of a kind, one by one
# What failed with these needs no retry of its own: onboard retries it, or the retry of its connection does.
_BY_ITSELF: Final = frozenset({*OF_CREDENTIALS, "connection_failed"})


async def told(database: "Database", ids: Sequence[int], done: Tally, *, command: str) -> Iterator[str]:
    """The outcome in lines: the failures by cause, with some projects each, and what to do.

    `command` is how this program is called for the same database.
    """
    lines = []
    asked = await rotations(database, ids)
    if asked.rotations:
        lines.append(
            f"{asked.rotations:,} of them are rotations: `{command} rotations` lists them with their keys' names"
        )
    if asked.leaving:
        lines.append(f"{several(asked.leaving, 'rotation')} may have left keys behind at OpenRouter")
        lines += [f"  {one_line(words)}" for words in asked.left_behind]
        if more := asked.leaving - len(asked.left_behind):
            lines.append(f"  … and {more:,} more: `{command} rotations --left-behind` lists them")
    for code, count in done.failed.items():
        lines.append(f"{count:,} failed with {code or 'no error code'}: {advice_for(code)}")
        wanted = Filter(ids=ids, states=(State.FAILED,), errors=(code,) if code else ())
        listed = (await page(database, wanted, limit=NAMED, oldest_first=True)).requests
        lines += [
            f"  {_project(each.project_name, each.project_id)}: {one_line(each.error_message)}" for each in listed
        ]
        if more := count - len(listed):
            lines.append(f"  … and {several(more, 'other project')}")
        again = f"`{command} retry {f'--error {code}' if code else '--state failed'}` and "
        lines.append(f"  then run {'' if code in _BY_ITSELF else again}the same command again")
    return iter(lines)


def _project(name: str | None, project_id: str) -> str:
    return f"{one_line(name)} ({project_id})" if name else project_id
