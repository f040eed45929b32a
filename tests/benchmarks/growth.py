"""Whether the queue stays as quick when it is large: each figure with many rows over the same figure with few."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.benchmarks import processes
from tests.benchmarks.alone import paces
from tests.benchmarks.figures import Figure, Measure, Samples, number, percentile, save
from tests.benchmarks.latency import wake_ups
from tests.benchmarks.stage import Stage, fill, settle_down, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.benchmarks.stage import Session

ALONE = 2_000  # requests that are claimed and settled without a worker
WORKED = 6_000  # requests that a worker is timed over
MOST_PROJECTS = 100_000
PENDING = 10_000  # rows in line beside the finished ones
CHURN = 50_000  # requests that come and go while the old transaction is open
ELSEWHERE = "elsewhere"  # a target of its own for the single inserts, so that they do not queue behind the others
MANY = "many projects"
OLD = "old transaction"
SHAPES = ("one project", MANY, "finished")
# What a figure may lose to the small case, and more under an old transaction.
TOLERANCE = {OLD: 0.15}
USUAL_TOLERANCE = 0.10
FINISHED = """
INSERT INTO provisioner.connection_requests (
    project_id, name, description, status, connection_id, org_id, credentials_hash, attempts, finished_at
)
SELECT
    ('7b0e5d6a-2222-4222-8333-' || lpad(to_hex(g % 100000), 12, '0'))::uuid, 'past-' || g, 'made by a benchmark',
    'succeeded', gen_random_uuid(), gen_random_uuid(), encode(sha256(g::text::bytea), 'hex'), 1, now()
FROM generate_series($1::bigint, $2::bigint) AS g
"""
MEASURES = (
    Measure(key="claims", title="claims alone", unit="requests/s", more=True),
    Measure(key="settles", title="settlements alone", unit="requests/s", more=True),
    Measure(key="claim_pages", title="claims alone, pages touched", unit="/ request"),
    Measure(key="settle_pages", title="settlements alone, pages touched", unit="/ request"),
    Measure(key="worker", title="a worker, API 0 ms", unit="requests/s", more=True),
    Measure(key="first", title="worker's start to its first create", unit="ms"),
    Measure(key="postgres", title="PostgreSQL CPU with a worker", unit="s / 1 000"),
    Measure(key="wake", title="single insert on an idle worker, p50", unit="ms"),
    Measure(key="status", title="`provisioner status`", unit="ms"),
)
note = Console(stderr=True).print


@dataclass(slots=True, kw_only=True)
class Case:
    """A database of some shape and size; `used` counts the rows that were ever asked for."""

    shape: str
    rows: int
    database: str
    used: int

    @property
    def pending(self) -> int:
        """Rows in line at the start of each round."""
        return PENDING if self.shape == "finished" else self.rows

    @property
    def projects(self) -> int:
        """Projects that they belong to."""
        return 1 if self.shape == "one project" else min(self.pending, MOST_PROJECTS)

    def key(self, measure: str) -> str:
        """Where a figure of this case is kept."""
        return f"growth.{self.shape}.{self.rows}.{measure}".replace(" ", "-")


async def prepare(stage: Stage, case: Case) -> None:
    """Fill a case's database."""
    began = time.perf_counter()
    async with stage.session(case.database) as session:
        if case.shape == "finished":
            for first in range(1, case.rows + 1, 100_000):
                await session.execute(FINISHED, first, min(first + 99_999, case.rows))
        await fill(session, case.pending, projects=case.projects)
        await settle_down(session)
        size = await session.fetchval("SELECT pg_database_size(current_database())")
    took = time.perf_counter() - began
    note(f"[dim]{case.shape}, {number(case.rows)} rows: filled in {took:.0f} s, {size / 2**20:,.0f} MiB")


async def top_up(session: Session, case: Case) -> None:
    """Bring the rows in line back to what they were at first."""
    missing = case.pending - await session.fetchval("SELECT count(*) FROM provisioner.ready WHERE target = 'default'")
    if missing > 0:
        await fill(session, missing, projects=case.projects, first=case.used + 1)
        case.used += missing


async def measure(stage: Stage, case: Case) -> dict[str, float]:
    """One round over one case."""
    figures = asdict(await paces(stage, case.database, ALONE))
    async with stage.session(case.database) as session:
        figures |= await _worker(stage, case)
        await session.execute("SELECT provisioner.pause('default')")
        targets = {"PROVISIONER_TARGETS__ELSEWHERE__URL": stage.api, "PROVISIONER_TARGETS__ELSEWHERE__TOKEN": "bench"}
        with stage.worker(case.database, targets) as worker:
            await until(lambda: session.fetchval("SELECT count(*) > 0 FROM provisioner.workers"), worker)
            await wake_ups(session, worker, singles=5, target=ELSEWHERE)
            figures["wake"] = percentile(await wake_ups(session, worker, singles=30, target=ELSEWHERE), 0.5)
        figures["status"] = stage.command(case.database, "status") * 1000
        await session.execute("SELECT provisioner.resume('default')")
        await top_up(session, case)
    return {case.key(name): value for name, value in figures.items()}


async def _worker(stage: Stage, case: Case) -> dict[str, float]:
    """A worker for as long as it needs for its share."""
    await stage.reset()
    postgres = processes.cpu_seconds(stage.server.pid) if processes.KNOWN else 0.0

    async def enough() -> bool:
        return (await stage.seen()).creates >= WORKED

    with stage.worker(case.database) as worker:
        await until(enough, worker)
        seen = await stage.seen()
        first = seen.first or worker.began
        figures = {"worker": seen.creates / ((seen.last or first) - first), "first": (first - worker.began) * 1000}
    if processes.KNOWN:
        figures["postgres"] = (processes.cpu_seconds(stage.server.pid) - postgres) / seen.creates * 1000
    return figures


async def grow(rows: Sequence[int], shapes: Sequence[str], reps: int) -> Samples:
    """All cases side by side, and round by round, so that a busy minute hits the small and the large alike."""
    samples, cases = Samples(), []
    wanted = [(shape, count) for shape in shapes for count in rows]
    if MANY in shapes:
        wanted.append((OLD, max(rows)))
    async with Stage() as stage, AsyncExitStack() as stack:
        for shape, count in wanted:
            database = await stack.enter_async_context(stage.database())
            case = Case(shape=shape, rows=count, database=database, used=0)
            case.used = case.pending
            await prepare(stage, case)
            if shape == OLD:
                await stack.enter_async_context(_old_transaction(stage, case))
            cases.append(case)
        for rep in range(reps):
            for case in cases:
                note(f"[dim]{rep + 1} of {reps}: {case.shape}, {number(case.rows)} rows")
                samples.add(await measure(stage, case))
    return samples


@asynccontextmanager
async def _old_transaction(stage: Stage, case: Case) -> AsyncIterator[None]:
    """A snapshot that is held open, while many requests have come and gone."""
    async with stage.session(case.database) as old, old.transaction(isolation="repeatable_read"):
        await old.fetchval("SELECT count(*) FROM provisioner.permits")  # takes the snapshot
        churn = min(CHURN, case.rows // 2)
        note(f"[dim]an old transaction: {number(churn)} requests come and go")
        await paces(stage, case.database, churn)
        async with stage.session(case.database) as session:
            await session.execute(
                "VACUUM (ANALYZE)"
            )  # what autovacuum does within a minute, but always before the rounds
            await top_up(session, case)
        yield


def ratios(samples: Samples, rows: Sequence[int], shapes: Sequence[str]) -> list[tuple[str, Figure, Figure, Figure]]:
    """Shape, small figure, large figure and their ratio, round by round, for each measure."""
    made = []
    pairs = [(shape, (shape, min(rows)), (shape, count)) for shape in shapes for count in sorted(rows)[1:]]
    pairs.append((OLD, (MANY, max(rows)), (OLD, max(rows))))
    for _, (before, few), (after, many) in pairs:
        small, large = (Case(shape=s, rows=n, database="", used=0) for s, n in ((before, few), (after, many)))
        for one in MEASURES:
            olds, news = samples.runs.get(small.key(one.key)), samples.runs.get(large.key(one.key))
            if olds and news:
                ratio = Measure(key=large.key(one.key), title=f"{after}, {number(many)}: {one.title}", unit="ratio")
                runs = tuple(new / old for old, new in zip(olds, news, strict=True))
                old, new = (Figure(measure=one, runs=tuple(values)) for values in (olds, news))
                made.append((after, old, new, Figure(measure=ratio, runs=runs)))
    return made


def holds(shape: str, measure: Measure, ratio: float) -> bool:
    """Whether a ratio is within what the design allows."""
    loss = 1 - ratio if measure.more else ratio - 1
    return loss <= TOLERANCE.get(shape, USUAL_TOLERANCE)


def table(rows: Sequence[tuple[str, Figure, Figure, Figure]]) -> Table:
    """The ratios for a terminal."""
    made = Table("case and measure", "unit", "before", "after", "after / before", "")
    for shape, old, new, ratio in rows:
        fine = holds(shape, old.measure, ratio.median)
        values = (number(old.median), number(new.median), str(ratio))
        made.add_row(
            ratio.measure.title, old.measure.unit, *values, "" if fine else "beyond", style="" if fine else "red"
        )
    return made


def main() -> None:
    """Measure the growth, print the ratios and keep them."""
    given = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--rows", default=given("BENCH_ROWS", "10000,1000000"), help="sizes, the smallest is the base")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--reps", type=int, default=given("BENCH_REPS", "3"), help="rounds")
    parser.add_argument("--out", type=Path, default=given("BENCH_OUT", "build/bench"), help="directory of the results")
    chosen = parser.parse_args()
    rows, shapes = sorted({int(each) for each in chosen.rows.split(",")}), chosen.shapes.split(",")
    if min(rows) < PENDING:
        parser.error(f"--rows must be at least {PENDING}: a round takes that many")
    samples = asyncio.run(grow(rows, shapes, chosen.reps))
    measured = ratios(samples, rows, shapes)
    Console().print(table(measured))
    chosen.out.mkdir(parents=True, exist_ok=True)
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "raw": samples.runs,
    }
    save(chosen.out / "growth.json", [ratio for *_, ratio in measured], about)
    note(f"written: {chosen.out}/growth.json")


if __name__ == "__main__":
    main()
