"""How soon things happen: single inserts on an idle worker, what idleness costs, and starting."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.benchmarks import processes
from tests.benchmarks.figures import percentile
from tests.benchmarks.stage import fill, until

if TYPE_CHECKING:
    from tests.benchmarks.stage import Running, Session, Stage

IDLE = 5.0  # seconds over which idleness is measured
SINGLES = 50
GAP = 0.06  # seconds between two single inserts, longer than one takes from end to end
INSERT = (
    "INSERT INTO provisioner.connection_requests (target, project_id, name)"
    " VALUES ($1, gen_random_uuid(), 'wake') RETURNING id"
)
ENDS = """
SELECT id, extract(EPOCH FROM finished_at)::float8 AS at FROM provisioner.connection_requests
WHERE id = ANY ($1::bigint[]) AND status = 'succeeded'
"""
COMMITS = "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()"


async def wake_ups(
    session: Session, worker: Running, *, singles: int = SINGLES, target: str = "default"
) -> list[float]:
    """Milliseconds from before each insert until its result is recorded."""
    inserted: dict[int, float] = {}
    for _ in range(singles):
        at = time.time()
        inserted[await session.fetchval(INSERT, target)] = at
        await asyncio.sleep(GAP)
    ends: dict[int, float] = {}

    async def ended() -> bool:
        ends.update({row["id"]: row["at"] for row in await session.fetch(ENDS, list(inserted))})
        return len(ends) == len(inserted)

    await until(ended, worker, within=60)
    return [(ends[id_] - at) * 1000 for id_, at in inserted.items()]


async def wake(stage: Stage) -> dict[str, float]:
    """One worker with nothing to do, then with single requests now and then."""
    await stage.reset()
    async with stage.database() as database, stage.session(database) as session:
        with stage.worker(database) as worker:
            await wake_ups(session, worker, singles=5)  # opens connections and plans the statements
            commits, began = await session.fetchval(COMMITS), time.perf_counter()
            busy, postgres = _seconds(worker.pid), _seconds(stage.server.pid)
            await asyncio.sleep(IDLE)
            took = time.perf_counter() - began
            figures = {"idle.queries": (await session.fetchval(COMMITS) - commits - 1) / took}
            if processes.KNOWN:
                figures["idle.worker_cpu"] = (_seconds(worker.pid) - busy) / took * 100
                figures["idle.postgres_cpu"] = (_seconds(stage.server.pid) - postgres) / took * 100
            latencies = await wake_ups(session, worker)
    return figures | {"wake.p50": percentile(latencies, 0.5), "wake.p99": percentile(latencies, 0.99)}


def _seconds(pid: int) -> float:
    return processes.cpu_seconds(pid) if processes.KNOWN else 0.0


async def start(stage: Stage) -> dict[str, float]:
    """Milliseconds until `--help` and `status` have ended, and until a daemon has recorded its first request."""
    await stage.reset()
    async with stage.database() as database, stage.session(database) as session:
        figures = {
            "start.help": stage.command(database, "--help") * 1000,
            "start.status": stage.command(database, "status") * 1000,
        }
        await fill(session, 1)
        with stage.worker(database) as worker:
            ids = [await session.fetchval("SELECT min(id) FROM provisioner.connection_requests")]

            async def ended() -> bool:
                return bool(await session.fetch(ENDS, ids))

            await until(ended, worker, within=60)
            [end] = await session.fetch(ENDS, ids)
            figures["start.daemon"] = (end["at"] - worker.began) * 1000
    return figures
