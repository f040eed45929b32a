"""The formats of results: CSV, JSON Lines, or a self-contained page.

A writer takes one row at a time, so memory does not grow with their number.
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
    """The formats of results."""

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
    """Return the format that a file's suffix implies, if any."""
    return _SUFFIXES.get(file.suffix.lower()) if file else None


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes one row, with values in the order of the columns; `end` completes the file."""

    write: Callable[[Sequence[object]], object]
    end: Callable[[], object] = lambda: None


def begin(form: Form, stream: TextIO, columns: Sequence[str], *, heading: Heading, bom: bool = False) -> Writer:
    """Begin a file and return its writer. `heading` appears only on a page. `bom` is for Excel, in CSV."""
    if form is Form.HTML:
        document = Document(stream, columns, heading)
        return Writer(document.write, document.end)
    return begin_rows(form, stream, columns, bom=bom)


def begin_rows(form: Form, stream: TextIO, columns: Sequence[str], *, bom: bool = False) -> Writer:
    """Begin a file for programs, with rows alone: CSV or JSON Lines."""
    return _jsonl(stream, columns) if form is Form.JSONL else _csv(stream, columns, bom=bom)


def _csv(stream: TextIO, columns: Sequence[str], *, bom: bool) -> Writer:
    if bom:
        stream.write(BOM)
    # The writer then quotes every line-end character; the file itself has the short line ends.
    writer = csv.writer(_ShortLines(stream), lineterminator="\r\n")
    shown = _shown if stream.isatty() else _kept  # a file keeps the original text, a terminal must not obey it
    writer.writerow(columns)
    return Writer(lambda row: writer.writerow([shown(_cell(value)) for value in row]))


class _ShortLines:
    """Replaces the line ends of the CSV writer by line feeds."""

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
    import orjson  # noqa: PLC0415 - only for this format

    def write(row: Sequence[object]) -> None:
        line = orjson.dumps(dict(zip(columns, row, strict=True))).decode()
        stream.write(f"{printable_json(line)}\n")

    return Writer(write)
