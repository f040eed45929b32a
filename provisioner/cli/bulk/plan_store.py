"""What a bulk file asks for, by target and project: on the disk if there is one, so that memory does not grow."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import groupby, islice
from typing import Final

from provisioner.cli.look.findings import Planned
from provisioner.intake.spool import has_disk

Projects = Mapping[str, Mapping[str, Planned]]
"""By project, by name."""

_TABLE: Final = """
    CREATE TABLE wanted (
        target TEXT, project_id TEXT, name TEXT, on_conflict TEXT, line INTEGER,
        project_name TEXT, PRIMARY KEY (target, project_id, name)
    ) WITHOUT ROWID
"""
# The first line for a connection counts, as it does when the file is loaded.
_ADD: Final = "INSERT OR IGNORE INTO wanted VALUES (?, ?, ?, ?, ?, ?)"
_TARGETS: Final = "SELECT target, count(DISTINCT project_id), count(*) FROM wanted GROUP BY target ORDER BY target"
_OF_TARGET: Final = (
    "SELECT project_id, name, on_conflict, line, project_name FROM wanted WHERE target = ? ORDER BY project_id, name"
)


class PlanStore:
    """The connections that are asked for, each once."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store

    def targets(self) -> list[tuple[str, int, int]]:
        """Every target, how many of its projects are meant, and how many connections."""
        return self._store.execute(_TARGETS).fetchall()

    def projects(self, target: str, at_once: int) -> Iterator[Projects]:
        """A target's projects, a page at a time."""
        rows = self._store.execute(_OF_TARGET, (target,))
        by_project = (
            (project, {name: _planned(target, project, name, *rest) for _, name, *rest in group})
            for project, group in groupby(rows, key=lambda row: str(row[0]))
        )
        while chunk := dict(islice(by_project, at_once)):
            yield chunk


def _planned(  # noqa: PLR0917  # a row of the table
    target: str, project: str, name: str, on_conflict: str, line: int, project_name: str | None
) -> Planned:
    return Planned(
        line=line, target=target, project_id=project, name=name, on_conflict=on_conflict, project_name=project_name
    )


@contextmanager
def wanting(planned: Iterable[Planned]) -> Iterator[PlanStore]:
    """Sort what is asked for; the temporary file, which holds no credential, is gone afterwards."""
    with closing(sqlite3.connect("" if has_disk() else ":memory:")) as store:
        if not has_disk():
            store.execute("PRAGMA temp_store = MEMORY")  # sorting would look for a disk as well
        store.execute(_TABLE)
        rows = (
            (each.target, each.project_id, each.name, each.on_conflict, each.line, each.project_name)
            for each in planned
        )
        store.executemany(_ADD, rows)
        yield PlanStore(store)
