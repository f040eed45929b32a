"""How long a look takes when there are millions of requests: each report, each list, each search, and the commands.

The database is filled once (five minutes for ten million) and kept if a directory is named.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from provisioner.core.queue_values import FRONT
from provisioner.core.requests import Query, State
from provisioner.postgres.browse import exporting
from provisioner.postgres.filters import Filter
from provisioner.postgres.pool import Database
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.reports import read_gauges, read_history, read_leftovers, read_outlook, read_status
from provisioner.postgres.search import find, page, read_request
from tests.benchmarks.crowd import gather
from tests.benchmarks.figures import Figure, Measure, Samples, number, save
from tests.benchmarks.stage import TEMPLATE, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    Look = Callable[[Database], Awaitable[object]]

CROWD: Final = "crowd"
BOUND: Final = 500.0  # milliseconds that a look may take
note = Console(stderr=True).print


def looks(rows: int) -> Mapping[str, Look]:
    """Everything that people, monitors and workers look at, in a database with so many rows."""
    last, first = "import-0299", "import-0001"
    filters: tuple[dict[str, Any], ...] = (
        {},
        *({"states": [state]} for state in State),
        {"states": [State.FAILED], "errors": ["invalid_request"]},
        {"states": [State.FAILED], "batches": [first]},
        {"states": [State.READY], "batches": [last]},
        {"errors": ["outcome_unknown"]},
        {"batches": [first]},
        {"targets": ["eu"]},
        {"projects": ["c34dc7c2-d5b4-ef9a-fcb0-e1e8a1e64513"]},
    )
    queries: tuple[dict[str, Any], ...] = (
        {},
        *({"state": str(state)} for state in (*State, "pending")),
        {"error": "permission_denied"},
        {"batch": first},
        {"target": "eu"},
        {"text": str(rows // 2)},
        {"text": "c34dc7c2-d5b4-ef9a-fcb0-e1e8a1e64513"},
        {"text": "openrouter-49"},
        {"text": "payments 70"},
        {"text": "such a name has nobody"},
        {"before": rows // 2, "state": "failed"},
        {"after": rows // 2, "state": "pending"},
    )
    found: dict[str, Look] = {
        "a worker's look": lambda pool: PostgresQueue(pool).poll(marks={"default": FRONT}, served={}),
        "status, page": partial(read_status, batches=50),
        "status of one batch": partial(read_status, batch=last),
        "metrics": read_gauges,
        "plan's outlook": read_outlook,
        "what a drain leaves": lambda pool: read_leftovers(pool, ["default", "eu"]),
        "history": read_history,
        "batch_progress": lambda pool: pool.fetch("SELECT * FROM provisioner.batch_progress"),
        "request_status of one": lambda pool: pool.fetch(
            "SELECT * FROM provisioner.request_status WHERE id = $1", rows - 10
        ),
        "story of a request in line": lambda pool: read_request(pool, rows - 10),
        "story of a finished request": lambda pool: read_request(pool, rows // 2),
    }
    found |= {f"list {_words(wanted)}": _listed(wanted) for wanted in filters}
    found |= {f"export, first rows {_words(wanted)}": _exported(wanted) for wanted in filters}
    return found | {f"search {_words(asked)}": _sought(asked) for asked in queries}


def _words(wanted: Mapping[str, object]) -> str:
    said = (", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in wanted.values())
    return "; ".join(said) or "of all"


def _listed(wanted: Mapping[str, Any]) -> Look:
    return lambda pool: page(pool, Filter(**wanted), limit=50)


def _sought(asked: Mapping[str, Any]) -> Look:
    return lambda pool: find(pool, Query(**asked))


def _exported(wanted: Mapping[str, Any]) -> Look:
    async def first(pool: Database) -> None:
        async with exporting(pool, Filter(**wanted)) as snapshot:
            async for _ in snapshot.rows:
                return

    return first


@contextmanager
def commands(rows: int) -> Iterator[Mapping[str, tuple[str, ...]]]:
    """Commands, from their start to their end."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "projects.csv"
        file.write_text("project_id\n7b0e5d6a-1111-4222-8333-000000000001\n", encoding="utf-8")
        yield {
            "provisioner --version": ("--version",),
            "provisioner status": ("status",),
            "provisioner list --state failed": ("list", "--state", "failed"),
            "provisioner show": ("show", str(rows - 10)),
            "provisioner doctor": ("doctor",),
            "provisioner plan, one project": ("plan", str(file)),
        }


async def measure(stage: Stage, rows: int, reps: int) -> tuple[Samples, Mapping[str, str]]:
    """Each look so many times, after once in vain: what is asked for the first time is read from disk."""
    samples, titles = Samples(), {}
    database = Database(stage.server.url(CROWD), size=1)
    try:
        for title, look in looks(rows).items():
            key = f"looks.{rows}.{title}".replace(" ", "-")
            titles[key] = title
            await look(database)
            for _ in range(reps):
                began = time.perf_counter()
                await look(database)
                samples.add({key: (time.perf_counter() - began) * 1000})
    finally:
        await database.close()
    with commands(rows) as known:
        for title, arguments in known.items():
            key = f"looks.{rows}.{title}".replace(" ", "-")
            titles[key] = title
            for _ in range(reps):
                samples.add({key: stage.command(CROWD, *arguments) * 1000})
    return samples, titles


async def prepare(stage: Stage, rows: int) -> int:
    """Fill the database unless it is there; returns how many rows it has."""
    async with stage.session("postgres") as session:
        there = await session.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", CROWD)
        if not there:
            await session.execute(f"CREATE DATABASE {CROWD} TEMPLATE {TEMPLATE}")
    async with stage.session(CROWD) as session:
        if not there:
            began = time.perf_counter()
            await gather(session, rows)
            note(f"[dim]{number(rows)} rows: filled in {time.perf_counter() - began:.0f} s")
        size = await session.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
        found = int(await session.fetchval("SELECT max(id) FROM provisioner.connection_requests"))
        note(f"[dim]{number(found)} rows, {size}")
        return found


async def run(chosen: argparse.Namespace) -> list[Figure]:
    """Fill, measure, and tell."""
    async with Stage(chosen.directory) as stage:
        rows = await prepare(stage, chosen.rows)
        samples, titles = await measure(stage, rows, chosen.reps)
    return [
        Figure(measure=Measure(key=key, title=titles[key], unit="ms"), runs=tuple(runs))
        for key, runs in samples.runs.items()
    ]


def main() -> None:
    """Measure the looks, print the times and keep them."""
    given = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.looks", description=__doc__)
    parser.add_argument("--rows", type=int, default=given("BENCH_ROWS", "10000000"), help="requests")
    parser.add_argument("--directory", type=Path, default=None, help="where the database is kept for the next time")
    parser.add_argument("--reps", type=int, default=given("BENCH_REPS", "5"), help="times that each look is taken")
    parser.add_argument("--out", type=Path, default=given("BENCH_OUT", "build/bench"), help="directory of the results")
    chosen = parser.parse_args()
    figures = asyncio.run(run(chosen))
    table = Table("look", "ms", "")
    for figure in figures:
        beyond = figure.median > BOUND and not figure.measure.title.startswith("provisioner")
        table.add_row(figure.measure.title, str(figure), "beyond" if beyond else "", style="red" if beyond else "")
    Console().print(table)
    chosen.out.mkdir(parents=True, exist_ok=True)
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "rows": chosen.rows,
    }
    save(chosen.out / "looks.json", figures, about)
    note(f"written: {chosen.out}/looks.json")


if __name__ == "__main__":
    main()
