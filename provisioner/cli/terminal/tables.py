"""Tables for people: with lines and colour on a terminal, plain columns and whole lines elsewhere."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from provisioner.cli.terminal.output import local_time, one_line
from provisioner.core.requests import Listed
from provisioner.core.text import printable

ROOMY: Final = 140  # columns: wide enough for a whole project id beside the rest
RESULT: Final = 43  # columns of an error code and a point in time
NARROW: Final = 12  # columns; a narrower name says nothing
STYLES: Final = {
    "failed": "red",
    "succeeded": "green",
    "in_flight": "cyan",
    "waiting": "yellow",
    "retrying": "yellow",
    "quarantined": "red",
    "cancelled": "dim",
    "removed": "dim",
    "updating": "yellow",
    "removing": "yellow",
}


class PlainConsole(Console):
    """A console that removes unprintable characters from everything it renders.

    Such characters have no width, so tables keep their layout.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of a renderable."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(printable(segment.text, kept="\n", instead=""), segment.style)


def plain_table(
    screen: Console, *headings: str, right: Sequence[str] = (), whole: Sequence[str] = (), wrap: bool = False
) -> Table:
    """Make an empty table; on a terminal, cells that do not fit are truncated, except in the columns `whole`.

    With `wrap` they are folded instead.
    """
    table = Table(box=box.SIMPLE_HEAD if screen.is_terminal else None, pad_edge=False)
    for heading in headings:
        kept = heading in right or heading in whole
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=kept or not wrap,
            overflow="fold" if kept or wrap else "ellipsis",
            min_width=len(heading) if kept and not wrap else None,
        )
    return table


def request_table(requests: Sequence[Listed], screen: Console) -> Table:
    """Make a table with one row per request; on a terminal, columns with one value throughout are left out."""
    columns = {
        "id": [str(each.id) for each in requests],
        "state": [each.state for each in requests],
        "target": [each.target for each in requests],
        "project": [each.project_id for each in requests],
        "project name": [one_line(each.project_name) for each in requests],
        "name": [each.secret or each.name for each in requests],
        "batch": [one_line(each.batch) for each in requests],
        "tries": [str(each.attempts) for each in requests],
        "created": [local_time(each.created_at) for each in requests],
        "result": [result(each) for each in requests],
    }
    if not any(columns["project name"]):
        del columns["project name"]
    if screen.is_terminal:
        _fit(columns, screen.width)
    table = plain_table(screen, *columns, right=("id", "tries"), whole=("state",))
    for cells in zip(*columns.values(), strict=True):
        texts = [Text(cell) for cell in cells]
        texts[1].stylize(STYLES.get(cells[1], ""))
        table.add_row(*texts)
    return table


def _fit(columns: dict[str, list[str]], width: int) -> None:
    """Remove columns with one value throughout, and shorten long ones, least important first, until the rest fits."""
    if width < ROOMY:
        del columns["created"]
    for optional, usual in (("target", "default"), ("batch", "")):
        if set(columns[optional]) == {usual}:
            del columns[optional]
    columns["result"] = [_cut(cell, RESULT) for cell in columns["result"]]
    # There are three spaces between columns.
    needed = {name: 3 + max(len(name), *map(len, cells)) for name, cells in columns.items()}
    excess = sum(needed.values()) - width
    for name in ("batch", "project name", "name", "project", "result"):
        if name in columns and excess > 0:
            kept = max(NARROW, needed[name] - 3 - excess)
            excess -= max(0, needed[name] - 3 - kept)
            columns[name] = [_cut(cell, kept) for cell in columns[name]]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def result(request: Listed) -> str:
    """Return a request's result so far, in a few words."""
    if request.waits_for is not None:
        return f"waits for connection {request.waits_for}"
    if request.left_behind is not None:
        return ", ".join(filter(None, (request.error_code, "a key may be left behind")))
    if request.made_id is not None:
        return f"{request.made_id}{' (adopted)' if request.adopted else ''}"
    said = [request.error_code or ""]
    if request.next_attempt_at is not None:
        word = "again" if request.attempts else "from"
        said.append(f"{word} {local_time(request.next_attempt_at)}")
    return ", ".join(filter(None, said))
