"""Pieces of HTML: tables that fold on narrow screens, bars, times.

No style attributes: the page's policy forbids them.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from provisioner.core.text import printable

LONGEST: Final = 600  # characters of a foreign text that are shown
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell. `html` is markup already."""

    html: str
    kind: str = ""
    long: bool = False


def escape(foreign: str) -> str:
    """Foreign text as markup: what is not printable, such as marks that turn the writing around, is taken out."""
    return html.escape(printable(foreign))


def number(digits: str) -> Cell:
    """A cell with a number."""
    return Cell(escape(digits), "number")


def graph(svg: str) -> Cell:
    """A cell with a picture."""
    return Cell(svg, "graph")


def text(foreign: str) -> str:
    """Text from outside in one line, cut where it gets too long; what stands in backticks is code."""
    line = " ".join(foreign.split())
    return _CODE.sub(r"<code>\1</code>", escape(line if len(line) <= LONGEST else f"{line[:LONGEST]}…"))


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, more: str = "") -> str:
    """A section with a table, the first column its rows' headings, and more below; nothing if there are no rows.

    The roles are said because a narrow screen shows each row as a block, and a block is no table any more.
    """
    if not rows:
        return ""
    name = "".join(letter for letter in caption.lower() if letter.isalpha())
    head = "".join(
        f'<th scope="col" role="columnheader" class="{cell.kind}">{escape(heading)}</th>'
        for heading, cell in zip(headings, rows[0], strict=True)
    )
    body = "".join(f'<tr role="row">{_row(headings, row)}</tr>' for row in rows)
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(caption)}</h2>'
        f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">'
        f'<table role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>{more}</section>'
    )


def _row(headings: Sequence[str], row: Sequence[Cell]) -> str:
    first, *others = row
    cells = [f'<th scope="row" role="rowheader">{first.html}</th>']
    for heading, cell in zip(headings[1:], others, strict=True):
        kinds = " ".join(kind for kind in (cell.kind, "long" if cell.long else "") if kind)
        cells.append(f'<td role="cell" class="{kinds}" data-label="{escape(heading)}">{cell.html}</td>')
    return "".join(cells)


def bar(parts: Sequence[tuple[float, str]], whole: float, *, label: str, mark: float | None = None) -> str:
    """A bar of parts in a row; what is bad is hatched too, for those who do not see its colour.

    `mark` is where a line is drawn, as a share of the whole.
    """
    pieces, at = [], 0.0
    for size, kind in parts:
        width = 100.0 * size / whole if whole else 0.0
        if width:
            pieces.append(f'<rect class="{kind}" x="{at:.2f}%" width="{width:.2f}%" height="100%"/>')
            if kind == "bad":
                pieces.append(f'<rect fill="url(#hatch)" x="{at:.2f}%" width="{width:.2f}%" height="100%"/>')
        at += width
    line = "" if mark is None else f'<line x1="{100 * mark:.2f}%" x2="{100 * mark:.2f}%" y1="0" y2="100%"/>'
    return (
        f'<svg class="bar" role="img" aria-label="{escape(label)}"><defs><pattern id="hatch" width="6" height="6"'
        f' patternUnits="userSpaceOnUse"><path d="M0 6L6 0"/></pattern></defs>'
        f'<rect class="rest" width="100%" height="100%"/>{"".join(pieces)}{line}</svg>'
    )


def when(moment: datetime, *, clock: bool = False) -> str:
    """A point in time; the script shows it in the reader's own zone."""
    shown = moment.astimezone(UTC)
    form = "%H:%M:%S" if clock else "%Y-%m-%d %H:%M"
    kind = ' class="clock"' if clock else ""
    return f'<time{kind} datetime="{shown.isoformat(timespec="seconds")}">{shown:{form}} UTC</time>'


def ahead(moment: datetime, now: datetime) -> str:
    """A point in time to come."""
    return f"in about {duration((moment - now).total_seconds())}, {when(moment)}"


def ago(moment: datetime, now: datetime) -> str:
    """A point in time that has passed, by how long ago it was."""
    return f"{duration((now - moment).total_seconds())} ago"


def duration(seconds: float) -> str:
    """About how long that is, in one or two units."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
