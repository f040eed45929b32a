"""What came of an onboarding: on the terminal, and as a file that can be passed on."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from provisioner.cli.bulk.export import Form, write_file
from provisioner.cli.terminal.frame import several
from provisioner.cli.terminal.tables import one_line
from provisioner.core.alerts import remedy
from provisioner.core.text import printable
from provisioner.postgres.browse import Filter, State, page
from provisioner.postgres.onboarding import Tally

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database

NAMED: Final = 5  # failed projects of a kind, one by one
SUFFIXES: Final = (".html", ".csv", ".jsonl")


async def told(database: "Database", ids: Sequence[int], done: Tally) -> Iterator[str]:
    """The outcome in lines: the failures by cause, with some projects each, and what to do."""
    lines = []
    for code, count in done.failed.items():
        lines.append(f"{count:,} failed with {code or 'no error code'}: {remedy(code)}")
        wanted = Filter(ids=ids, states=(State.FAILED,), errors=(code,) if code else ())
        listed, more = await page(database, wanted, limit=NAMED, oldest_first=True)
        lines += [
            f"  {_project(each.project_name, each.project_id)}: {one_line(each.error_message)}" for each in listed
        ]
        if more:
            lines.append(f"  … and {several(more, 'other project')}")
        lines.append(
            f"  then: provisioner retry --error {code}" if code else "  then: provisioner retry --state failed"
        )
    return iter(lines)


def _project(name: str | None, project_id: str) -> str:
    return f"{one_line(name)} ({project_id})" if name else project_id


async def write(database: "Database", ids: Sequence[int], done: Tally, file: Path, *, now: datetime) -> None:
    """Write all requests to a file, by its suffix. Raises `NotWritable`."""
    wanted = Filter(ids=ids)
    if file.suffix == ".html":
        await write_file(file, lambda stream: _write_page(database, wanted, done, stream, now))
    else:
        from provisioner.cli.bulk.export import write_all

        form = Form.CSV if file.suffix == ".csv" else Form.JSONL
        await write_file(file, lambda stream: write_all(database, wanted, form, stream))


async def _write_page(database: "Database", wanted: Filter, done: Tally, stream: Any, now: datetime) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from provisioner.postgres.browse import COLUMNS, exporting

    environment = Environment(
        loader=PackageLoader("provisioner.cli.onboard", "templates"), autoescape=True, undefined=StrictUndefined
    )
    async with exporting(database, wanted) as found:
        rows = [dict(zip(COLUMNS, map(_shown, row), strict=True)) async for row in found]
    # What needs a person stands first.
    rows.sort(key=lambda row: (row["state"] != "failed", row["state"] == "succeeded"))
    causes = [
        {"code": code or "no error code", "count": count, "remedy": remedy(code)} for code, count in done.failed.items()
    ]
    stream.write(environment.get_template("report.html").render(rows=rows, done=done, causes=causes, now=now))


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) else value
