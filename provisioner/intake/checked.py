"""Check a whole file before any of it is loaded, and keep the valid lines.

So one pass is enough, even over a pipe; memory does not grow with the file; and only data that the table accepts waits
for loading.
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

SHOWN: Final = 20  # problems that are described individually
_NOT_BEFORE: Final = COLUMNS.index("not_before") + 1  # after the line's number
STEP: Final = 1000  # lines between two progress reports


class CheckedFile:
    """The lines of a file that may be loaded, the number of bad ones, and the first problems.

    A context manager: stored lines are discarded at its end.
    """

    def __init__(self) -> None:
        self.lines = 0  # non-empty lines, good and bad
        self.bad = 0
        self.problems: list[Problem] = []
        self._spool = Spool()

    @property
    def good(self) -> int:
        """The number of lines that may be loaded."""
        return self.lines - self.bad

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, line: int, row: Row, given: Sequence[str] = ()) -> None:
        """Store a row for loading; `given` are the columns for which its line has a value."""
        self.lines += 1
        self._spool.add(orjson.dumps((line, *row.columns(), given), option=orjson.OPT_APPEND_NEWLINE))

    def refuse(self, problems: list[Problem]) -> None:
        """Count a bad line and the lines lost with it; keep the problems if they are among the first."""
        lost = max((problem.lines for problem in problems), default=1)
        self.lines += lost
        self.bad += lost
        self.problems += problems[: SHOWN - len(self.problems)]

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Yield the rows to load, in order: the line's number, then the values in the order of `rows.COLUMNS`."""
        for values in self.rows_and_given():
            yield values[:-1]

    def rows_and_given(self) -> Iterator[tuple[object, ...]]:
        """Yield the same rows, each followed by the columns for which its line has a value."""
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
    """Read and check a whole file. Rows without a batch get `batch`, rows without a rotation column that of `rotation`.

    With `rotations`, the lines request rotations only. Calls `progress` now and then.

    Readable keys are sealed at once, so that none is stored. The caller closes the result. Raises `FileUnusable` and
    `OSError`.
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
    """Return the problem with its column named as in a file of rotations."""
    return replace(problem, column=CALLED.get(problem.column, problem.column)) if problem.column else problem
