"""The status that people see."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from provisioner.postgres.reports import (
    Failures,
    TargetReport,
    Workers,
    read_outlook,
    read_status,
    seconds_left,
)
from tests.support.cli import query
from tests.support.sessions import opened

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from tests.support.postgres import Database as Lent

NOBODY = Workers(living=0, lost=0, pace=0.0)
ASK = """
INSERT INTO provisioner.connection_requests (project_id, target, batch, not_before)
SELECT gen_random_uuid(), $1, $2, CASE WHEN i > $3 THEN now() + interval '1 day' END
FROM generate_series(1, $4::int) AS i
"""
END = """
WITH ended AS (
    DELETE FROM provisioner.ready
    WHERE id IN (
        SELECT r.id FROM provisioner.ready AS r JOIN provisioner.connection_requests AS q USING (id)
        WHERE q.batch IS NOT DISTINCT FROM $1 ORDER BY id LIMIT $2
    )
    RETURNING id
)
UPDATE provisioner.connection_requests AS q
SET status = $3, error_code = $4, error_message = 'of ' || q.id, finished_at = now() FROM ended AS e
WHERE e.id = q.id AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
"""


async def ask(
    database: Database, count: int, *, target: str = "default", batch: str | None = None, now: int = 99
) -> None:
    """Insert this many requests; those after the first `now` start tomorrow."""
    await database.execute(ASK, target, batch, now, count)


async def end(
    database: Database, count: int, status: str, *, batch: str | None = None, code: str | None = None
) -> None:
    """Finish this many of the first ready requests."""
    await database.execute(END, batch, count, status, code)


async def test_an_empty_table_is_reported_as_such(database: Lent) -> None:
    """Before the first request there is a total of nought, and no target."""
    async with opened(database) as ours:
        status = await read_status(ours)
    assert status.progress is not None
    assert (status.progress.total, status.progress.requests, status.progress.pending) == (True, 0, 0)
    assert (status.batches, status.more_batches, status.targets, status.failures) == ((), 0, (), ())
    assert status.workers == NOBODY


async def test_progress_counts_every_state_by_batch(database: Lent) -> None:
    """The total and each batch are counted by state; unfinished batches come first."""
    async with opened(database) as ours:
        await ask(ours, 4, batch="done")
        await end(ours, 4, "succeeded", batch="done")
        await ask(ours, 5, batch="open", now=4)
        await end(ours, 1, "failed", batch="open", code="gave_up")
        await end(ours, 1, "cancelled", batch="open")
        await ask(ours, 1)
        status = await read_status(ours)
    total = status.progress
    assert total is not None
    assert (total.requests, total.waiting, total.ready, total.succeeded, total.failed) == (10, 1, 3, 4, 1)
    assert (total.cancelled, total.in_flight, total.pending, total.finished) == (1, 0, 4, 6)
    assert {each.batch for each in status.batches[:2]} == {"open", None}
    done = status.batches[2]
    assert (done.batch, done.pending, done.ended_at is not None, done.ends_at) == ("done", 0, True, None)


async def test_one_batch_is_reported_alone(database: Lent) -> None:
    """With a batch named, counts, targets and failures are those of the batch."""
    async with opened(database) as ours:
        await ask(ours, 3, batch="ours")
        await ask(ours, 9, batch="theirs", target="eu")
        await end(ours, 2, "failed", batch="theirs", code="gave_up")
        await end(ours, 1, "failed", batch="ours", code="name_conflict")
        status = await read_status(ours, batch="ours")
        unknown = await read_status(ours, batch="nobody's")
    assert status.progress is not None
    assert (status.progress.batch, status.progress.pending, status.progress.failed) == ("ours", 2, 1)
    assert status.batches == (status.progress,)
    assert status.targets == (TargetReport(target="default", pending=2),)
    assert [(each.error_code, each.requests) for each in status.failures] == [("name_conflict", 1)]
    assert unknown.progress is None


async def test_many_batches_are_cut_short(database: Lent) -> None:
    """The limit applies, and the omitted batches are counted."""
    async with opened(database) as ours:
        for number in range(5):
            await ask(ours, 1, batch=f"b{number}")
        status = await read_status(ours, batches=3)
    assert [each.batch for each in status.batches] == ["b4", "b3", "b2"]
    assert status.more_batches == 2


async def test_a_target_tells_what_holds_it(database: Lent) -> None:
    """Pause, trouble, limit, block and workers are shown; a worker with an expired lease does not count."""
    async with opened(database) as ours:
        await ask(ours, 3, now=2)
        for name, lease in (("living", "1 hour"), ("lost", "-1 hour")):
            await ours.execute(
                "INSERT INTO provisioner.workers (name, version, targets, lease_until, pace)"
                " VALUES ($1, '1', '{default,eu}', now() + $2::text::interval, 2)",
                name,
                lease,
            )
        await ours.execute(
            "INSERT INTO provisioner.permits (target, kind, metered, permits, blocked_until, their_pace, seen_at)"
            " VALUES"
            " ('default', 'write', true, 120, extract(epoch FROM now()) + 60, 0.5, extract(epoch FROM now())),"
            " ('default', 'read', true, 350, 0, 0, 0), ('us', 'write', NULL, NULL, 0, 0, 0)"
        )
        await ours.execute("INSERT INTO provisioner.targets VALUES ('default', now(), now(), 'ann')")
        await ours.execute(
            "INSERT INTO provisioner.target_incidents VALUES ('default', 'a worker', 'OpenRouter is down')"
        )
        status = await read_status(ours)
    default, eu, us = status.targets
    assert replace(default, blocked_until=None, paused_at=None, trouble_since=None) == TargetReport(
        target="default",
        pending=3,
        workers=1,
        metered=True,
        permits=120,
        period=60.0,
        others=0.5,
        paused_by="ann",
        trouble="OpenRouter is down",
        troubled=1,
    )
    assert None not in {default.blocked_until, default.paused_at, default.trouble_since}
    assert default.allowed == 1.5
    assert eu == TargetReport(target="eu", workers=1)
    assert us == TargetReport(target="us", period=60.0)
    assert status.workers == Workers(living=1, lost=1, pace=2.0)


async def test_failures_are_grouped_with_their_newest(database: Lent) -> None:
    """Each error code appears once, most frequent first, with its newest request as an example."""
    async with opened(database) as ours:
        await ask(ours, 6)
        await end(ours, 1, "failed", code="gave_up")
        await end(ours, 3, "failed", code="name_conflict")
        await end(ours, 1, "succeeded")
        status = await read_status(ours)
    newest = status.failures[0].example_id or 0
    assert status.failures == (
        Failures(error_code="name_conflict", requests=3, example_id=newest, example=f"of {newest}"),
        Failures(error_code="gave_up", requests=1, example_id=newest - 3, example=f"of {newest - 3}"),
    )


async def test_the_outlook_needs_the_queues_only(database: Lent) -> None:
    """Targets and workers are shown without counting what has ended."""
    async with opened(database) as ours:
        await ask(ours, 3)
        assert await read_outlook(ours) == ((TargetReport(target="default", pending=3),), NOBODY)


@pytest.mark.parametrize(
    ("targets", "workers", "seconds"),
    [
        ([], NOBODY, 0.0),
        ([TargetReport(target="a")], NOBODY, 0.0),
        ([TargetReport(target="a", pending=10)], NOBODY, None),
        ([TargetReport(target="a", pending=10)], Workers(living=1, lost=0, pace=2.0), 5.0),
        (
            [
                TargetReport(target="a", pending=120, metered=True, permits=60, period=60.0),
                TargetReport(target="b", pending=10, metered=True, permits=60, period=60.0),
            ],
            NOBODY,
            120.0,
        ),
    ],
)
def test_the_slowest_target_tells_how_long_it_takes(
    targets: list[TargetReport], workers: Workers, seconds: float | None
) -> None:
    """The remaining requests are divided by the limiter's rate, or else by the workers' pace."""
    assert seconds_left(targets, workers) == seconds


async def test_a_target_is_reported_with_its_rotations(database: Lent) -> None:
    """Their failures and their drift count for the target; a line by its own name is reported alone."""
    query(
        database,
        """
        INSERT INTO provisioner.connection_requests (project_id, batch) VALUES (gen_random_uuid(), 'mixed');
        INSERT INTO provisioner.rotation_requests (project_id, batch)
        VALUES (gen_random_uuid(), 'mixed'), (gen_random_uuid(), 'mixed');
        SELECT provisioner.finish(ARRAY (SELECT id FROM provisioner.connection_requests), 'failed', 'gave_up', 'no');
        SELECT provisioner.finish(ARRAY[min(id)], 'failed', 'in_use', 'because') FROM provisioner.rotation_requests;
        UPDATE provisioner.rotation_requests SET status = 'succeeded', finished_at = now() - interval '1 hour'
        WHERE status = 'pending';
        INSERT INTO provisioner.drifts (id, target, drift)
        SELECT max(id), 'default/rotations', 'failing' FROM provisioner.rotation_requests;
        """,
    )
    async with opened(database) as ours:
        whole, line, other = [await read_status(ours, target=name) for name in ("default", "default/rotations", "eu")]
    assert whole.progress is not None
    assert line.progress is not None
    assert (whole.progress.requests, whole.progress.failed) == (3, 2)
    assert [each.batch for each in whole.batches] == ["mixed"]
    assert {each.error_code: each.example for each in whole.failures} == {"gave_up": "no", "in_use": "because"}
    assert (whole.drifted, whole.drifted_rotations) == (1, 1)
    assert (line.progress.requests, line.drifted) == (2, 1)
    assert [each.error_code for each in line.failures] == ["in_use"]
    assert (other.progress, other.failures, other.drifted) == (None, (), 0)
