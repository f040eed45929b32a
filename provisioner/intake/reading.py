"""Split a file into lines: CSV with a header, or JSON Lines.

Nothing is kept, so a file may be larger than the memory. An unreadable file raises `FileUnusable`; a bad line yields a
`Problem` in its place.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import PurePath
from re import IGNORECASE, MULTILINE, compile as pattern
from typing import Final

from provisioner.core.formulas import unescaped
from provisioner.intake.errors import FileUnusable, Problem
from provisioner.intake.header import Header, delimiter, read_header, separator
from provisioner.intake.json_lines import is_one_document, parse

LONGEST: Final = 1 << 20  # characters: a longer line is not a request, and would fill the memory
# Invisible characters around a value, from a copied page or a spreadsheet.
_INVISIBLE: Final = " \t\r\n\v\f\u00a0\ufeff\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2060"
_FREE: Final = frozenset({"description", "rotation_description"})  # text that is kept unchanged
_TEXTS: Final = frozenset(
    {"description", "batch", "project_name", "rotation_key_name", "rotation_description"}
)  # columns that a spreadsheet may take for a formula
_FOREIGN: Final = {
    b"\xff\xfe\0\0": "is UTF-32 text; save it as UTF-8",
    b"\0\0\xfe\xff": "is UTF-32 text; save it as UTF-8",
    b"PK\x03\x04": "is a spreadsheet or an archive; export it as CSV",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet; export it as CSV",
    b"\x1f\x8b": "is compressed; unpack it first (gunzip -c FILE | provisioner submit -)",
    b"\x28\xb5\x2f\xfd": "is compressed; unpack it first (zstd -dc FILE | provisioner submit -)",
    b"%PDF": "is a PDF; export the list as CSV",
}
_PAGES: Final = (b"<!doctype", b"<html", b"<?xml")
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
# A line within a cell that looks like a line of the file: it begins with a project.
_REQUEST: Final = pattern(
    r"^[\"'{]?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}[\"'}]?\s*[,;\t]", IGNORECASE | MULTILINE
)


class Format(StrEnum):
    """The formats of bulk files."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The values of one line by column; missing and empty columns are left out."""

    line: int
    values: dict[str, object]


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
}


def read(
    stream: io.BufferedReader, *, name: str, form: Format | None = None, rotations: bool = False
) -> Iterator[Record | Problem]:
    """Yield every line of a file. The suffix of `name` tells the format, unless `form` overrides it.

    The lines request connections, or only `rotations`.

    Raises `FileUnusable`, and `OSError` if the file cannot be read to its end.
    """
    head = stream.peek(4096)[:4096]
    for signature, said in _FOREIGN.items():
        if head.startswith(signature):
            raise FileUnusable(said)
    bare = head.translate(None, b"\0\xef\xbb\xbf\xfe\xff").lstrip()  # without the marks and the zeros of UTF-16
    if bare[:9].lower().startswith(_PAGES):
        raise FileUnusable("is a page, not a list; export the list as CSV")
    wide = head.startswith(_UTF_16)
    if not wide and b"\0" in head[:4]:
        raise FileUnusable("is UTF-16 text without a byte order mark, or not text; save it as UTF-8")
    form = form or _SUFFIXES.get(PurePath(name).suffix.lower()) or _guessed(bare)
    # Invalid UTF-8 becomes lone surrogates, so that it is reported with its line and column.
    encoding, errors = ("utf-16", "surrogatepass") if wide else ("utf-8-sig", "surrogateescape")
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
    try:
        read_form = _read_csv if form is Format.CSV else _read_jsonl
        yield from read_form(_lines(text), rotations=rotations)
    except UnicodeDecodeError:
        raise FileUnusable("is cut off: its UTF-16 text ends in the middle of a character") from None
    finally:
        if not text.closed:
            text.detach()  # the stream belongs to the caller


def _guessed(bare: bytes) -> Format:
    return Format.JSONL if bare[:1] in {b"{", b"["} else Format.CSV


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST):
        number += 1
        if len(line) == LONGEST:
            raise FileUnusable(f"line {number} is longer than {LONGEST} characters; is this CSV or JSON Lines?")
        yield line


def _read_csv(lines: Iterator[str], *, rotations: bool) -> Iterator[Record | Problem]:
    # The header is on the first non-empty line, or below Excel's `sep=` line.
    skipped, first = _first(enumerate(lines))
    if mark := separator(first):
        skipped, first = _first(enumerate(lines, start=skipped + 1))
    mark = mark or delimiter(first)
    reader = csv.reader(chain([first], lines), delimiter=mark, strict=True)
    try:
        header = read_header(next(reader), rotations=rotations)
    except csv.Error as error:
        said = str(error).replace("\t", "tab")  # an invisible delimiter
        raise FileUnusable(f"has a header that is not CSV: {said}") from error
    end = skipped + reader.line_num
    while True:
        start = end + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = max(skipped + reader.line_num, start)
            yield _swallowed(start, end, str(error).replace("\t", "tab"))
            continue
        end = skipped + reader.line_num
        if end > start and any(_REQUEST.search(cell.partition("\n")[2]) for cell in cells if "\n" in cell):
            yield Problem(
                line=start,
                lines=end - start + 1,
                problem=f"a quoted cell contains what look like lines of the file ({start} to {end}); "
                "look for a quotation mark that is not closed",
            )
        elif any(cell and not cell.isspace() for cell in cells):
            yield _record(start, header, cells)


def _first(numbered: Iterable[tuple[int, str]]) -> tuple[int, str]:
    """Return the first non-empty line, and how many lines precede it."""
    return next(((number, line) for number, line in numbered if line.strip()), (0, ""))


def _swallowed(start: int, end: int, error: str) -> Problem:
    if "field limit" in error:
        said = f"a cell is longer than {csv.field_size_limit()} characters; is a quotation mark missing?"
    else:
        said = f"{error}; look for a misplaced quotation mark"
    also = f" (lines {start} to {end} belong to it)" if end > start else ""
    return Problem(line=start, lines=end - start + 1, problem=f"is not CSV: {said}{also}")


def _record(line: int, header: Header, cells: list[str]) -> Record | Problem:
    width = len(header.columns)
    beyond = [cell for cell in cells[width:] if cell and not cell.isspace()]
    if len(cells) < width or beyond:
        # Spreadsheets pad lines at the end.
        said = f"has {len(cells)} cells, the header has {width}; a cell that contains the delimiter must be in quotes"
        return Problem(line=line, problem=said)
    values: dict[str, object] = {}
    for place, (column, cell) in enumerate(zip(header.columns, cells, strict=False)):
        if column is None:
            if place in header.nameless and cell and not cell.isspace():
                return Problem(
                    line=line,
                    problem=f"has a value in column {place + 1}, which has no name; name the column or empty it",
                )
            continue
        value = cell if column in _FREE else cell.strip(_INVISIBLE)
        if column in _TEXTS:
            value = unescaped(value)
        if value:
            values[column] = value
    return Record(line=line, values=values)


def _read_jsonl(lines: Iterator[str], *, rotations: bool) -> Iterator[Record | Problem]:
    first = True
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if first and is_one_document(text):
            is_array = text.startswith("[")
            what, filter_ = ("a JSON array", ".[]") if is_array else ("a JSON object over several lines", ".")
            raise FileUnusable(f"is {what}; JSON Lines has one object per line (convert it with jq -c '{filter_}')")
        first = False
        given = parse(number, text, rotations=rotations)
        yield given if isinstance(given, Problem) else Record(line=number, values=_said(given))


def _said(given: Mapping[str, object]) -> dict[str, object]:
    """Leave out empty values, as for an empty cell."""
    values = {
        column: value.strip(_INVISIBLE) if isinstance(value, str) and column not in _FREE else value
        for column, value in given.items()
    }
    return {column: value for column, value in values.items() if value is not None and value != ""}
