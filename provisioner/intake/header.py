"""Recognise the columns of a bulk file however people write them, or suggest what was probably meant."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from provisioner.intake.errors import FileUnusable
from provisioner.intake.rotation import OF_ROTATIONS
from provisioner.intake.rows import API_KEY, COLUMNS, RESULTS, SIMPLE, unknown_column

DELIMITERS: Final = ",;\t|"
# The first line by which spreadsheets are told the delimiter.
_SEPARATOR: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_EXPORTED: Final = frozenset({"id", "state", "created_at"})  # only an export has all of these


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


_KNOWN: Final = {_plain(column): column for column in (*COLUMNS, API_KEY, *RESULTS)}
_KNOWN_OF_ROTATIONS: Final = {_plain(column): column for column in RESULTS} | {
    _plain(name): column for name, column in OF_ROTATIONS.items()
}


OTHER_KIND: Final = (
    "holds rotations of an export: `submit --rotations` loads what `export --rotations` writes, and `submit` what"
    " `export` writes without it"
)


@dataclass(frozen=True, slots=True)
class Header:
    """The columns in order; None for a column without a name, or one that is ignored."""

    columns: tuple[str | None, ...]
    nameless: frozenset[int]


def column_of(name: str, *, rotations: bool = False) -> str:
    """Return the column's name in our spelling, ignoring case, spaces and hyphens; an unknown name is unchanged.

    In a file of `rotations`, columns have other names.
    """
    return (_KNOWN_OF_ROTATIONS if rotations else _KNOWN).get(_plain(name), name)


def is_export(columns: Iterable[str]) -> bool:
    """Whether these are the columns of an export, whose results are not requested again."""
    return set(columns) >= _EXPORTED


def separator(line: str) -> str | None:
    """Return the delimiter that a first line such as `sep=;` names."""
    found = _SEPARATOR.fullmatch(line.strip("\ufeff\r\n"))
    return found[1] if found else None


def delimiter(first: str) -> str:
    """Return the delimiter that yields the most known column names."""
    return max(DELIMITERS, key=lambda mark: sum(_plain(name) in _KNOWN for name in first.split(mark)))


def read_header(cells: Sequence[str], *, rotations: bool = False) -> Header:
    """Interpret a header. Raises `FileUnusable` saying what is wrong with it."""
    names = [column_of(cell, rotations=rotations) if _plain(cell) else "" for cell in cells]
    while names and not names[-1]:  # empty columns that a spreadsheet adds at the end
        names.pop()
    known = set(OF_ROTATIONS.values()) if rotations else {*COLUMNS, API_KEY}
    if not known.intersection(names):
        simple = f"{', '.join(SIMPLE)}, {API_KEY}, and those of rotations (rotation_…)"
        there_are = ", ".join(OF_ROTATIONS) if rotations else simple
        raise FileUnusable(
            f"has no header: the first line must name the columns, such as project_id,name; there are {there_are}"
        )
    if "id" in names and "project_id" not in names:
        raise FileUnusable(
            "has a column id, which is a request's number here: if it is the project's UUID, call the column project_id"
        )
    if is_export(names) and not rotations and "rotation_id" in names:
        raise FileUnusable(OTHER_KIND)
    passed_over = RESULTS if is_export(names) else frozenset[str]()
    if unknown := [
        unknown_column(name.strip(), rotations=rotations) for name in names if name and name not in known | passed_over
    ]:
        raise FileUnusable(f"has an invalid header: {'; '.join(unknown)}")
    if "project_id" not in names:
        raise FileUnusable("has a header without the column project_id: the UUID of the Infisical project")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise FileUnusable(f"has a header that names {' and '.join(twice)} twice")
    return Header(
        tuple(name if name in known else None for name in names),
        frozenset(place for place, name in enumerate(names) if not name),
    )
