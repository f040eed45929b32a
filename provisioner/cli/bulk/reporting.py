"""Write requests and their results to a file, in any form: for `export`, and for the reports of other commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.reports.document import Heading
from provisioner.reports.files import NotWritable, opened, telling
from provisioner.reports.forms import Form, begin

if TYPE_CHECKING:
    from provisioner.postgres.filters import Filter
    from provisioner.postgres.kinds import Kind
    from provisioner.postgres.pool import Database


async def write_report(
    database: "Database",
    wanted: "Filter",
    form: Form,
    output: Path | None,
    *,
    columns: Sequence[str],
    kinds: "Sequence[Kind]",
    title: str = "Requests and their results",
    asked: str = "",
    bom: bool = False,
) -> None:
    """Write every request of some kinds that the filter matches, the oldest first, all of one moment.

    Without `output` to standard output.

    A page is called `title`, and says what was `asked` for. Raises `NotWritable`; a file that was there before is then
    as it was.
    """
    from provisioner.postgres.browse import exporting

    try:
        with opened(output) as stream:
            async with exporting(database, wanted, columns=columns, kinds=kinds) as snapshot:
                states = await snapshot.states() if form is Form.HTML else {}
                causes = await snapshot.causes() if form is Form.HTML else {}
                heading = Heading(title=title, made_at=snapshot.at, asked=asked, states=states, causes=causes)
                # Told apart from trouble with the database here, where it is known which of the two it is.
                with telling(stream.name):
                    writer = begin(form, stream, columns, heading=heading, bom=bom)
                async for row in snapshot.rows:
                    with telling(stream.name):
                        writer.write(row)
                with telling(stream.name):
                    writer.end()
    except NotWritable as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None  # the reader has seen enough
        raise
