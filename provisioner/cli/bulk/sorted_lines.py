"""Sort a bulk file's requests by target and project: on disk if possible, so that memory does not grow."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import groupby, islice
from typing import Final

from provisioner.cli.bulk.lines import Line
from provisioner.intake.spool import has_disk

Projects = Mapping[str, Mapping[str, Line]]
"""By project, by name."""

_TABLE: Final = """
    CREATE TABLE lines (
        number INTEGER, target TEXT, project_id TEXT, name TEXT, on_conflict TEXT, credential TEXT, project_name TEXT,
        PRIMARY KEY (target, project_id, name)
    ) WITHOUT ROWID
"""
# The first line for a connection counts, as when the file is loaded.
_ADD: Final = "INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?, ?, ?, ?)"
_TARGETS: Final = "SELECT target, count(DISTINCT project_id), count(*) FROM lines GROUP BY target ORDER BY target"
_OF_TARGET: Final = "SELECT * FROM lines WHERE target = ? ORDER BY project_id, name"


class SortedLines:
    """The requested connections, without repetitions."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store

    def targets(self) -> list[tuple[str, int, int]]:
        """Return every target, with the number of its projects and of its connections."""
        return self._store.execute(_TARGETS).fetchall()

    def projects(self, target: str, at_once: int) -> Iterator[Projects]:
        """Yield a target's projects, a page at a time."""
        lines = map(Line._make, self._store.execute(_OF_TARGET, (target,)))
        by_project = (
            (project, {line.name: line for line in group})
            for project, group in groupby(lines, key=lambda line: line.project_id)
        )
        while chunk := dict(islice(by_project, at_once)):
            yield chunk


@contextmanager
def sorted_lines(lines: Iterable[Line]) -> Iterator[SortedLines]:
    """Sort the requests; the temporary file, which contains no readable key, is removed afterwards."""
    with closing(sqlite3.connect("" if has_disk() else ":memory:")) as store:
        if not has_disk():
            store.execute("PRAGMA temp_store = MEMORY")  # sorting would use the disk too
        store.execute(_TABLE)
        store.executemany(_ADD, lines)
        yield SortedLines(store)
