"""How results are written: CSV, JSON Lines, or a page that a browser shows and prints without anything else.

A writer takes one row after the other, so memory does not grow with their number.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, TextIO

from provisioner.core.formulas import escaped
from provisioner.core.text import printable, printable_json
from provisioner.reports.document import Document, Heading

BOM: Final = "\ufeff"


class Form(StrEnum):
    """How results are written."""

    CSV = "csv"
    JSONL = "jsonl"
    HTML = "html"


_SUFFIXES: Final = {
    ".csv": Form.CSV,
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
    ".json": Form.JSONL,
    ".html": Form.HTML,
    ".htm": Form.HTML,
}


def form_of(file: Path | None) -> Form | None:
    """The form that a file's suffix stands for, if it does for any."""
    return _SUFFIXES.get(file.suffix.lower()) if file else None


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes a row, whose values are in the order of the columns; and what stands below all of them."""

    write: Callable[[Sequence[object]], object]
    end: Callable[[], object] = lambda: None


def begin(form: Form, stream: TextIO, columns: Sequence[str], *, heading: Heading, bom: bool = False) -> Writer:
    """Write what stands above the rows. `heading` is for people: only a page shows it. `bom` is for Excel, in CSV."""
    if form is Form.HTML:
        document = Document(stream, columns, heading)
        return Writer(document.write, document.end)
    return begin_rows(form, stream, columns, bom=bom)


def begin_rows(form: Form, stream: TextIO, columns: Sequence[str], *, bom: bool = False) -> Writer:
    """The same for programs: rows alone, as CSV or JSON Lines."""
    return _jsonl(stream, columns) if form is Form.JSONL else _csv(stream, columns, bom=bom)


def _csv(stream: TextIO, columns: Sequence[str], *, bom: bool) -> Writer:
    if bom:
        stream.write(BOM)
    # So that the writer quotes both letters of a line's end wherever they stand; ours is the short one.
    writer = csv.writer(_ShortLines(stream), lineterminator="\r\n")
    shown = _shown if stream.isatty() else _kept  # a file keeps what was given, a terminal must not obey it
    writer.writerow(columns)
    return Writer(lambda row: writer.writerow([shown(_cell(value)) for value in row]))


class _ShortLines:
    """Ends each line that the writer gives with a line feed alone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        """Write a line."""
        return self._stream.write(f"{line[:-2]}\n")


def _cell(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else value


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _kept(value: object) -> object:
    return value


def _jsonl(stream: TextIO, columns: Sequence[str]) -> Writer:
    import orjson  # noqa: PLC0415 - only for this form

    def write(row: Sequence[object]) -> None:
        line = orjson.dumps(dict(zip(columns, row, strict=True))).decode()
        stream.write(f"{printable_json(line)}\n")

    return Writer(write)
