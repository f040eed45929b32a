"""Whatever happened to requests, every place that counts them by state counts the same."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest

from provisioner.core.model import ErrorCode, Fail, Remove, Retry
from provisioner.core.queue_values import FRONT
from provisioner.core.requests import UNFINISHED, State
from provisioner.postgres.browse import count
from provisioner.postgres.filters import Filter
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from provisioner.postgres.reports import read_gauges, read_status
from tests.support.builders import a_settlement, doubted, project
from tests.support.sessions import SEALED, connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from provisioner.core.model import Claim, Outcome
    from tests.support.postgres import Database
    from tests.support.sessions import Session

LINES: Final = ("default", "eu", "default/rotations")
ENDS: Final[tuple[Outcome | None, ...]] = (
    None,  # it succeeds
    None,
    Fail(code=ErrorCode.NAME_CONFLICT, message="taken"),
    Retry(delay=60.0, message="no", code=ErrorCode.PERMISSION_DENIED, counted=True),
    Retry(delay=0.0, message="the server was away"),
    Retry(delay=60.0, message="no", code=ErrorCode.CREDENTIAL_REFUSED, quarantine="credential:team-a"),
    Retry(delay=60.0, message="no", code=ErrorCode.PERMISSION_DENIED, quarantine=f"project:{project(1)}"),
)
# By place, in people's words: its counts by state. An empty state has no entry.
Counts = Counter[str]

HOLD_BACK = """
WITH gone AS (DELETE FROM provisioner.ready WHERE id = $1 RETURNING *)
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
SELECT id, now() + interval '1 hour', target, rank, project_id, 'credential:team-b' FROM gone
"""
EDITS: Final = (
    "name = 'n-' || (random() * 1e9)::bigint",
    "description = md5(random()::text)",
    "credential = 'team-b'",
    "wanted = 'absent'",
    "wanted = 'present'",
    "priority = 3",
    "not_before = now() + interval '1 hour'",
    "not_before = NULL",
    "status = 'pending'",
    "batch = 'another'",
)


class Chance:
    """Does to requests what workers, requesters and operators do, in an order that a seed decides."""

    def __init__(self, seed: int, session: Session, pool: Pool) -> None:
        self.random = random.Random(seed)  # noqa: S311  # keeps no secret
        self.session = session
        self.pool = pool
        self.queue = PostgresQueue(pool)
        self.worker = 0
        self.held: list[Claim] = []

    async def step(self) -> None:
        """Do one thing; a refusal changes nothing."""
        acts: tuple[Callable[[], Awaitable[None]], ...] = (
            *(self.insert, self.claim, self.claim, self.settle, self.settle, self.settle),
            *(self.edit, self.amend, self.operate, self.hold_back, self.promote, self.pause, self.fold),
        )
        with suppress(asyncpg.ObjectInUseError, asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.CheckViolationError):
            await self.random.choice(acts)()

    async def insert(self) -> None:
        """Ask for a few connections, or for a rotation; some start later, some have a key of their own."""
        number, batch = self.random.randint(1, 3), self.random.choice(["a", "b", None])
        if not self.random.randrange(5):
            await self.session.execute(
                "INSERT INTO provisioner.rotation_requests (project_id, batch, name, secret_name)"
                " VALUES ($1, $2, 'r-' || (random() * 1e9)::bigint, 'KEY') ON CONFLICT DO NOTHING",
                project(number),
                batch,
            )
            return
        await self.session.execute(
            "INSERT INTO provisioner.connection_requests (target, project_id, name, batch, credential, not_before)"
            " SELECT $1, $2, CASE WHEN n = 1 THEN 'openrouter' ELSE 'n-' || (random() * 1e9)::bigint END, $3, $4,"
            " CASE WHEN $5 THEN now() + interval '1 hour' END"
            " FROM generate_series(1, 3) AS n ON CONFLICT DO NOTHING",
            self.random.choice(LINES[:2]),
            project(number),
            batch,
            self.random.choice(["default", "team-a", SEALED]),
            not self.random.randrange(4),
        )

    async def claim(self) -> None:
        """Take a few in hand."""
        self.worker = self.worker or await self.queue.register(name="w", targets=list(LINES), lease=600.0)
        line = self.random.choice(LINES)
        found = await self.queue.claim(self.worker, target=line, start=FRONT, limit=self.random.randint(1, 4))
        self.held += found.claims

    async def settle(self) -> None:
        """End one claim in one way or another; some leave a doubt."""
        if not self.held:
            return
        claim = self.held.pop(self.random.randrange(len(self.held)))
        outcome = self.random.choice(ENDS)
        if getattr(claim.request, "absent", False) and outcome is None:
            outcome = Remove()
        if isinstance(outcome, Retry) and claim.request.recorded_id is None and self.random.randrange(2):
            claim = doubted(claim)
        await self.queue.settle(self.worker, [a_settlement(claim, outcome)])

    async def edit(self) -> None:
        """Change a row by hand."""
        edit = self.random.choice(EDITS)
        await self.session.execute("SET provisioner.recording = 'off'")
        await self.session.execute(f"UPDATE provisioner.connection_requests SET {edit} WHERE id = $1", await self.any())

    async def amend(self) -> None:
        """Change the description of what was made."""
        await self.session.execute("SET provisioner.recording = 'off'")
        await self.session.execute(
            "UPDATE provisioner.connection_requests SET description = md5(random()::text)"
            " WHERE id = (SELECT min(id) FROM provisioner.connection_requests WHERE status = 'succeeded')"
        )

    async def operate(self) -> None:
        """Call a function of the schema."""
        function = self.random.choice(["cancel", "retry", "remove", "rekey"])
        await self.session.execute(f"SELECT provisioner.{function}(ARRAY [$1::bigint])", await self.any())

    async def hold_back(self) -> None:
        """Take one out of the line for a key that was refused."""
        await self.session.execute(HOLD_BACK, await self.any())

    async def promote(self) -> None:
        """Make waiting requests due."""
        if self.random.randrange(2):
            await self.session.execute(
                "UPDATE provisioner.waiting SET run_at = now() WHERE quarantine IS NULL AND id % 2 = 0"
            )
        await self.queue.promote(100)

    async def pause(self) -> None:
        """Pause a target, or resume it."""
        await self.session.execute(f"SELECT provisioner.{self.random.choice(['pause', 'resume'])}('eu')")

    async def fold(self) -> None:
        """Fold some of the counts."""
        await self.queue.fold(self.random.randint(1, 20), retried={})

    async def any(self) -> int | None:
        """Some request."""
        ids = [row["id"] for row in await self.session.fetch("SELECT id FROM provisioner.requests ORDER BY id")]
        return self.random.choice(ids) if ids else None


async def told(chance: Chance) -> dict[str, Counts]:
    """Return the counts of each place."""
    fetch = chance.session.fetch
    shown = Counter(
        {
            row["state"]: row["requests"]
            for row in await fetch(
                "SELECT state, count(*) AS requests FROM (SELECT state FROM provisioner.request_status"
                " UNION ALL SELECT state FROM provisioner.rotation_status) AS s GROUP BY state"
            )
        }
    )
    status = await read_status(chance.pool)
    gauges = await read_gauges(chance.pool)
    assert status.progress is not None
    batches: Counts = Counter()
    for batch in status.batches:
        batches.update({state.value: getattr(batch, state.value) for state in State})
        assert batch.pending + batch.finished == batch.requests
    queued: Counts = Counter()
    for line in gauges.lines:
        assert line.requests > 0
        queued[line.state] += line.requests
    stuck: Counts = Counter()
    for each in status.retries:
        stuck[each.state] += each.requests
    unfinished = sum(shown[state] for state in UNFINISHED)
    assert status.progress.pending == unfinished == sum(target.pending for target in status.targets)
    assert status.progress.requests == shown.total()
    assert min(batches.values(), default=0) >= 0
    ends = Counter({state: shown[state] for state in shown if state not in set(UNFINISHED)})
    return {
        "request_status": shown,
        "batch_progress": +Counter({state.value: getattr(status.progress, state.value) for state in State}),
        "its batches": +batches,
        "the filters of list": Counter(
            {state.value: number for state, number in (await count(chance.pool, Filter())).items()}
        ),
        "metrics": queued + ends,
        "causes": stuck + Counter({s: n for s, n in shown.items() if s not in {"retrying", "quarantined"}}),
    }


@pytest.mark.parametrize(
    ("seed", "steps"), [(1, 200), *(pytest.param(n, 400, marks=pytest.mark.soak) for n in range(3, 30))]
)
async def test_every_place_counts_the_same(database: Database, seed: int, steps: int) -> None:
    """After any steps each request is in one state, and status, page, metrics, filters and causes agree on how many."""
    met: set[str] = set()
    pool = Pool(database.url, size=2)
    try:
        async with connected(database.url) as session:
            chance = Chance(seed, session, pool)
            for step in range(steps):
                await chance.step()
                if step % 5 == 0:
                    counted = await told(chance)
                    met.update(counted["request_status"])
                    differing = {place: it for place, it in counted.items() if it != counted["request_status"]}
                    assert differing == {}, (seed, step, counted["request_status"])
    finally:
        await pool.close()
    assert met >= {"ready", "in_flight", "waiting", "retrying", "quarantined", "updating", "removing", "succeeded"}
