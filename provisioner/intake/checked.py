"""Check a whole file before any of it is loaded, and keep what passed.

So one reading is enough, also of a pipe, memory does not grow with the file, and what waits to be loaded is only what
the table may hold.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Self

import orjson

from provisioner.intake.errors import FileUnusable, Problem
from provisioner.intake.reading import Format, read
from provisioner.intake.rotation import CALLED
from provisioner.intake.rows import API_KEY, COLUMNS, Row, Seal, check
from provisioner.intake.spool import Spool

SHOWN: Final = 20  # problems that are told one by one
_NOT_BEFORE: Final = COLUMNS.index("not_before") + 1  # behind the line's number
STEP: Final = 1000  # lines between two reports of progress


class CheckedFile:
    """The lines of a file that may be loaded, how many may not, and what is wrong with the first of those.

    A context manager: what was kept is gone afterwards.
    """

    def __init__(self) -> None:
        self.lines = 0  # that ask for something, good and bad
        self.bad = 0
        self.problems: list[Problem] = []
        self._spool = Spool()

    @property
    def good(self) -> int:
        """How many lines may be loaded."""
        return self.lines - self.bad

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, line: int, row: Row, given: Sequence[str] = ()) -> None:
        """Keep a row for loading; `given` are the columns that its line names a value for."""
        self.lines += 1
        self._spool.add(orjson.dumps((line, *row.columns(), given), option=orjson.OPT_APPEND_NEWLINE))

    def refuse(self, problems: list[Problem]) -> None:
        """Count a bad line, and those that are lost with it; keep what is wrong, if it is among the first."""
        lost = max((problem.lines for problem in problems), default=1)
        self.lines += lost
        self.bad += lost
        self.problems += problems[: SHOWN - len(self.problems)]

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Give what may be loaded, in order: the line's number, then the values in the order of `rows.COLUMNS`."""
        for values in self.rows_and_given():
            yield values[:-1]

    def rows_and_given(self) -> Iterator[tuple[object, ...]]:
        """The same, and last the columns that the line itself names a value for."""
        for kept in self._spool.lines():
            values = orjson.loads(kept)
            if not_before := values[_NOT_BEFORE]:
                values[_NOT_BEFORE] = datetime.fromisoformat(not_before)
            yield tuple(values)


def check_file(
    stream: io.BufferedReader,
    *,
    name: str,
    form: Format | None = None,
    seal: Seal,
    batch: str | None = None,
    rotation: Mapping[str, object] | None = None,
    rotations: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> CheckedFile:
    """Read and check a whole file; rows without a batch get `batch`, those without a rotation's column its `rotation`.

    With `rotations` the lines ask for those alone. Calls `progress` now and then.

    Readable keys are sealed at once, so that none is kept. The caller closes what is returned. Raises `FileUnusable`
    and `OSError`.
    """
    checked = CheckedFile()
    try:
        for found in read(stream, name=name, form=form, rotations=rotations):
            if checked.lines % STEP == 0:
                progress()
            if isinstance(found, Problem):
                checked.refuse([found])
                continue
            given = sorted("credential" if column == API_KEY else column for column in found.values)
            if batch is not None:
                found.values.setdefault("batch", batch)
            for column, value in (rotation or {}).items():
                found.values.setdefault(column, value)
            row = check(found.line, found.values)
            if isinstance(row, Row):
                checked.add(found.line, row.sealed(seal), given)
            else:
                checked.refuse([_as_called(problem) for problem in row] if rotations else list(row))
    except MemoryError:
        checked.__exit__()
        raise FileUnusable(
            "needs more memory than is available; set TMPDIR to a directory for temporary files, or split the file"
        ) from None
    except BaseException:
        checked.__exit__()
        raise
    return checked


def _as_called(problem: Problem) -> Problem:
    """The problem with a column as it is called in a file of rotations."""
    return replace(problem, column=CALLED.get(problem.column, problem.column)) if problem.column else problem
