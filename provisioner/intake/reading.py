"""Take a file apart into lines: CSV with a header, or JSON Lines.

Nothing is kept: a file may be larger than the memory. What cannot be read at all raises `FileUnusable`; what is wrong
with one line is given in its place.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import PurePath
from typing import Final

import orjson

from provisioner.intake.errors import FileUnusable, Problem
from provisioner.intake.rows import API_KEY, COLUMNS, unknown_column

LONGEST: Final = 1 << 20  # characters: a longer line is no list of requests, and would fill the memory
DELIMITERS: Final = ",;\t"
_FOREIGN: Final = {
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"PK\x03\x04": "is a spreadsheet or an archive; export it as CSV",
    b"\x1f\x8b": "is compressed; unpack it first (gunzip -c FILE | provisioner submit -)",
}


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one line says, by column; a column that it leaves out or leaves empty is not there."""

    line: int
    values: dict[str, object]


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
}


def read(stream: io.BufferedReader, *, name: str, form: Format | None = None) -> Iterator[Record | Problem]:
    """Give every line of a file. `name` is the file's, for its suffix; `form` overrides what that says.

    Raises `FileUnusable`, and `OSError` when the file cannot be read to its end.
    """
    head = stream.peek(4096)[:4096]
    for signature, said in _FOREIGN.items():
        if head.startswith(signature):
            raise FileUnusable(said)
    form = form or _SUFFIXES.get(PurePath(name).suffix.lower()) or _guessed(head)
    # What is no UTF-8 survives as lone surrogates, so that it is found with its line and column.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _read_csv(_lines(text)) if form is Format.CSV else _read_jsonl(_lines(text))
    finally:
        if not text.closed:
            text.detach()  # the stream is its owner's to close


def _guessed(head: bytes) -> Format:
    return Format.JSONL if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in {b"{", b"["} else Format.CSV


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST):
        number += 1
        if len(line) == LONGEST:
            raise FileUnusable(f"line {number} is longer than {LONGEST} characters; is this CSV or JSON Lines?")
        yield line


def _read_csv(lines: Iterator[str]) -> Iterator[Record | Problem]:
    # The header is on the first line that is not empty.
    skipped, first = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
    reader = csv.reader(chain([first], lines), delimiter=_delimiter(first), strict=True)
    try:
        header = _header(next(reader))
    except csv.Error as error:
        raise FileUnusable(f"its header is not CSV: {error}") from error
    end = skipped + reader.line_num
    while True:
        start = end + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = max(skipped + reader.line_num, start)
            yield Problem(
                line=start, problem=f"is not CSV: {error}; look for a quotation mark that does not belong there"
            )
            continue
        end = skipped + reader.line_num
        if any(cell and not cell.isspace() for cell in cells):
            yield _record(start, header, cells)


def _record(line: int, header: Sequence[str], cells: list[str]) -> Record | Problem:
    if len(cells) != len(header):
        said = f"has {len(cells)} cells, the header has {len(header)}; put a cell that holds the delimiter in quotes"
        return Problem(line=line, problem=said)
    values: dict[str, object] = {}
    for column, cell in zip(header, cells, strict=True):
        value = cell if column == "description" else cell.strip()
        if value:
            values[column] = value
    return Record(line=line, values=values)


def _delimiter(first: str) -> str:
    """The delimiter that makes the most of the header's names ours."""
    return max(DELIMITERS, key=lambda mark: sum(_plain(name) in {*COLUMNS, API_KEY} for name in first.split(mark)))


def _plain(name: str) -> str:
    return name.strip().strip('"').strip().lower()


def _header(cells: Sequence[str]) -> Sequence[str]:
    names = [_plain(cell) for cell in cells]
    if not {*COLUMNS, API_KEY}.intersection(names):
        raise FileUnusable(
            f"has no header: the first line names the columns, such as project_id,name; there are {', '.join(COLUMNS)}"
        )
    known = {*COLUMNS, API_KEY}
    if unknown := [unknown_column(name) if name else "a column has no name" for name in names if name not in known]:
        raise FileUnusable(f"its header is not right: {'; '.join(unknown)}")
    if "project_id" not in names:
        raise FileUnusable("its header lacks the column project_id: the UUID of the Infisical project")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FileUnusable(f"its header names {' and '.join(twice)} twice")
    return names


def _read_jsonl(lines: Iterator[str]) -> Iterator[Record | Problem]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text:
            yield _parsed(number, text)


def _parsed(number: int, text: str) -> Record | Problem:
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        return Problem(line=number, problem="is not UTF-8 text; save the file as UTF-8")
    if octets.startswith(b"[") and number == 1:
        raise FileUnusable("is a JSON array; JSON Lines has one object a line (jq -c '.[]' makes it so)")
    try:
        given = orjson.loads(octets)
    except orjson.JSONDecodeError as error:
        return Problem(line=number, problem=f"is not JSON, from character {error.colno} on")
    if not isinstance(given, dict):
        return Problem(line=number, problem='is not a JSON object, such as {"project_id": "…", "name": "…"}')
    values = {
        column: value.strip() if isinstance(value, str) and column != "description" else value
        for column, value in given.items()
        if value is not None
    }
    return Record(line=number, values=values)
