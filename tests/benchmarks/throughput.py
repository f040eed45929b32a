"""How fast workers are, and what a request costs them and PostgreSQL."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks import processes
from tests.benchmarks.stage import IN_FLIGHT, fill, settle_down, until

if TYPE_CHECKING:
    from tests.benchmarks.stage import Result, Running, Session, Stage

LATENCY = 0.1  # seconds, when scaling; 64 in flight are 640 requests a second for each worker
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8"
TRANSACTIONS = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::float8"
LAST = "SELECT extract(EPOCH FROM max(finished_at))::float8 FROM provisioner.connection_requests"
BUSY = "SELECT EXISTS (SELECT FROM provisioner.in_flight) OR EXISTS (SELECT FROM provisioner.ready)"
SUCCEEDED = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
SIZE = "SELECT pg_total_relation_size('provisioner.connection_requests')::float8"
TOTAL = (
    "SELECT sum(pg_total_relation_size(oid))::float8 FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'provisioner'::regnamespace"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What had been used at one moment: CPU seconds of each process, bytes of WAL, write transactions."""

    postgres: float
    workers: float
    others: float
    wal: float
    transactions: float


async def used(stage: Stage, session: Session, workers: list[Running]) -> Use:
    """What has been used so far."""
    wal, transactions = await session.fetchval(WAL), await session.fetchval(TRANSACTIONS)
    if not processes.KNOWN:
        return Use(postgres=0, workers=0, others=0, wal=wal, transactions=transactions)
    postgres, ours = processes.cpu_seconds(stage.server.pid), sum(processes.cpu_seconds(one.pid) for one in workers)
    known = postgres + ours + processes.cpu_seconds(stage.mock_pid) + own_seconds()
    others = processes.machine_seconds() - known
    return Use(postgres=postgres, workers=ours, others=others, wal=wal, transactions=transactions)


def own_seconds() -> float:
    """CPU seconds of this process alone."""
    return time.process_time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of workers over requests that were there before; seconds, bytes and shares."""

    requests: int
    steady: float
    whole: float
    first: float
    use: Use
    peak: float
    foreign: float

    def costs(self, prefix: str) -> dict[str, float]:
        """What a request cost, under keys that begin alike."""
        each, use = self.requests, self.use
        costs = {f"{prefix}.wal": use.wal / each, f"{prefix}.transactions": use.transactions / each}
        if processes.KNOWN:
            costs |= {
                f"{prefix}.worker_cpu": use.workers / each * 1000,
                f"{prefix}.postgres_cpu": use.postgres / each * 1000,
                f"{prefix}.peak": self.peak,
                f"{prefix}.foreign": self.foreign,
            }
        return costs


async def work(
    stage: Stage, database: str, requests: int, *, workers: int = 1, latency: float = 0.0, limit: int = 0
) -> Run:
    """Have workers do all that is there, and check that it was done, each request once.

    What is missing of the requests is inserted when all workers are there, so that they begin together.
    """
    await stage.reset(latency=latency, limit=limit)
    async with stage.session(database) as session:
        there = await session.fetchval("SELECT count(*) FROM provisioner.ready")
        before = await used(stage, session, [])
        with ExitStack() as stack:
            # The number is for all workers together.
            settings = {"PROVISIONER_TARGETS__DEFAULT__MAX_IN_FLIGHT": str(IN_FLIGHT * workers)}
            running = [stack.enter_context(stage.worker(database, settings)) for _ in range(workers)]
            await until(lambda: _entered(session, workers), *running)
            await fill(session, requests - there)
            await until(lambda: _all_sent(stage, requests), *running)
            await until(lambda: _at_rest(session), *running)
            after, seen = await used(stage, session, running), await stage.seen()
            peak = sum(processes.peak_megabytes(one.pid) for one in running)
        done, last = await session.fetchval(SUCCEEDED), await session.fetchval(LAST)
    if done != requests or seen.duplicates:
        raise RuntimeError(f"{done} of {requests} requests succeeded, {seen.duplicates} were sent twice")
    return _run(requests, running[0].began, seen, max(last, seen.last or last), before, after, peak)


def _run(requests: int, began: float, seen: Result, end: float, before: Use, after: Use, peak: float) -> Run:
    first = seen.first or began
    return Run(
        requests=requests,
        steady=requests / (end - first),
        whole=requests / (end - began),
        first=first - began,
        use=Use(**{name: getattr(after, name) - getattr(before, name) for name in Use.__slots__}),
        peak=peak,
        foreign=max(0.0, after.others - before.others) / (end - began),
    )


async def _entered(session: Session, workers: int) -> bool:
    return bool(await session.fetchval("SELECT count(*) >= $1 FROM provisioner.workers", workers))


async def _all_sent(stage: Stage, requests: int) -> bool:
    return (await stage.seen()).creates >= requests


async def _at_rest(session: Session) -> bool:
    return not await session.fetchval(BUSY)


async def throughput(stage: Stage, requests: int, latency: float) -> dict[str, float]:
    """One worker against the bare loop, which is measured right before and right after."""
    short = f"throughput.{latency * 1000:g}ms"
    probe = max(500, requests // (2 if latency else 1))
    ceilings = [await stage.ceiling(probe, latency)]
    async with stage.database() as database:
        async with stage.session(database) as session:
            empty = await session.fetchval(SIZE)
            await fill(session, requests)
            pending = await session.fetchval(TOTAL)
            await settle_down(session)
        run = await work(stage, database, requests, latency=latency)
        async with stage.session(database) as session:
            finished = await session.fetchval(SIZE) - empty
    ceilings.append(await stage.ceiling(probe, latency))
    bare = sum(rate for rate, _ in ceilings) / 2
    figures = {
        f"{short}.bare": bare,
        f"{short}.steady": run.steady,
        f"{short}.whole": run.whole,
        f"{short}.steady_share": run.steady / bare,
        f"{short}.whole_share": run.whole / bare,
        f"{short}.mock": sum(share for _, share in ceilings) / 2,
        **run.costs(short),
    }
    if not latency:
        figures |= {"size.pending": pending / requests, "size.finished": finished / requests}
    return figures


async def scaling(stage: Stage, requests: int) -> dict[str, float]:
    """One, two and four workers on one queue, with an API so slow that the machine is not what limits them."""
    figures: dict[str, float] = {}
    for name, limit in (("free", 0), ("metered", 1_000_000)):
        alone = 0.0
        for workers in (1, 2, 4):
            async with stage.database() as database:
                run = await work(stage, database, requests * workers, workers=workers, latency=LATENCY, limit=limit)
            alone = alone or run.steady
            prefix = f"scaling.{name}.{workers}"
            costs = run.costs(prefix)
            figures |= {f"{prefix}.steady": run.steady, f"{prefix}.share": run.steady / alone / workers}
            figures |= {key: costs[key] for key in (f"{prefix}.postgres_cpu", f"{prefix}.transactions") if key in costs}
    return figures
