"""Renew the forecasts that workers, views and commands read: this module reads the facts, `core.forecast` decides."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from provisioner.core.forecast import (
    SOON,
    BatchInFront,
    BatchPart,
    Forecast,
    LineSample,
    LineState,
    Measured,
    NoForecast,
    Waits,
    estimated_places,
    forecast_part,
    measure,
    obstacle,
    pace_of,
    rate_of,
)
from provisioner.core.pacing import Allowance, Budget
from provisioner.core.queue_values import QueuePosition
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

# This many requests of each line are read one by one, and a sample of about this many of those behind.
HEAD: Final = 5000
SAMPLE: Final = 4000
# The newest batches get a forecast of their own; all others end no later than their line.
BATCHES: Final = 500
# Forecasting may take this share of the time, not counting some seconds each time: the first run prepares statements.
LOAD: Final = 0.05
QUICK: Final = 0.3

# Reasons not to be in line that pass by themselves; for all others the request waits for somebody.
_PASSING: Final = frozenset({"in_flight", "retried", "scheduled"})
_HELD: Final = {"credential": NoForecast.KEY, "project": NoForecast.PROJECT, "connection": NoForecast.CONNECTION}

_FIELDS: Final = tuple(each.name for each in fields(Budget))

Key = tuple[str, str]  # a line, and a batch


@dataclass(slots=True)
class _Left:
    """What is left of a batch in one line, or of a whole line; `moving` counts what is not in line, by reason."""

    requests: int
    newest: int | None = None
    moving: dict[str, Waits] = field(default_factory=dict)

    def take(self, kind: str, waits: Waits) -> None:
        """Add requests that are not in line."""
        had = self.moving.get(kind)
        self.moving[kind] = (
            waits
            if had is None
            else Waits(
                requests=had.requests + waits.requests,
                first=min(had.first, waits.first),
                last=max(had.last, waits.last),
            )
        )

    @property
    def ready(self) -> int:
        """The number of requests in line."""
        return max(0, self.requests - sum(each.requests for each in self.moving.values()))

    def part(self, place: int) -> BatchPart:
        """Return it in the form that a forecast needs."""
        held = [_HELD.get(kind, NoForecast.KEY) for kind in self.moving if kind not in _PASSING]
        return BatchPart(
            ready=self.ready,
            in_flight=self.moving.get("in_flight", Waits()).requests,
            place=place,
            held=min(held, key=lambda why: why.order, default=None),
            later=self.moving.get("scheduled", Waits()),
            again=self.moving.get("retried", Waits()),
        )


async def renew_forecasts(database: Database, *, every: float) -> bool:
    """Renew the forecasts if they are due and no other worker is doing it; whether it was done.

    They are due again after `every` seconds, or later if this takes long. Raises `DatabaseUnavailable`.
    """
    sql, began = statements("forecast"), time.monotonic()
    async with database.acquire() as connection, connection.transaction(isolation="read_committed"):
        await database.set_up(connection)
        if await connection.fetchrow(sql["turn"], timedelta(seconds=every)) is None:
            return False
        rows = await connection.fetch(sql["lines"])
        lines, batches = await _left(connection, {row["target"]: row["pending"] for row in rows})
        where = await _places(connection, {target: line.ready for target, line in lines.items()}, batches)
        forecasts, told = [], []
        for row in rows:
            target = row["target"]
            left = lines[target]
            line, measured = _line(row, left)
            pace = line.pace.ended if line.pace else None
            forecasts.append((target, measured, pace, forecast_part(line, left.part(line.ready))))
            told += [
                (key, forecast_part(line, each.part(where[key]))) for key, each in batches.items() if key[0] == target
            ]
        await _write(connection, forecasts, told)
        # A line that has just begun is forecast again soon.
        known = all(forecast.why is not NoForecast.PACE for _, _, _, forecast in forecasts)
        pause = max(0.0, time.monotonic() - began - QUICK) / LOAD if known else 0.0
        await connection.execute(sql["made"], timedelta(seconds=pause))
        return True


async def _left(
    connection: "Connection", pending: Mapping[str, int]
) -> tuple[Mapping[str, _Left], Mapping[Key, _Left]]:
    """Return what is left of each line, and of each batch in it."""
    sql = statements("forecast")
    lines = {target: _Left(requests) for target, requests in pending.items()}
    batches = {
        (row["target"], row["batch"]): _Left(row["requests"], row["newest"])
        for row in await connection.fetch(sql["pending"], BATCHES)
        if row["target"] in lines
    }
    for row in await connection.fetch(sql["moving"]):
        waits = Waits(requests=row["requests"], first=max(0.0, row["first"]), last=max(0.0, row["last"]))
        if row["kind"] == "scheduled" and waits.last <= SOON:
            continue  # it is about to be put in line
        for left in (lines.get(row["target"]), batches.get((row["target"], row["batch"]))):
            if left is not None:
                left.take(row["kind"], waits)
    return lines, batches


def _line(row: "asyncpg.Record", left: _Left) -> tuple[LineState, Measured]:
    """Return one line's state, and its measurements so far."""
    budget, now = _budget(row), row["now"]
    allowance = Allowance(row["writes_limit"], row["writes_period"]) if row["writes_limit"] else None
    before = Measured()
    if row["seen_at"] is not None:
        before = Measured(
            seen_at=row["seen_at"],
            ended=row["ended_before"],
            busy=row["busy"],
            seconds=row["seconds"],
            permits=row["allowed"],
            got=row["got"],
        )
    line = LineState(
        paused=row["paused"],
        workers=row["workers"],
        troubled=row["troubled"],
        in_flight=left.moving.get("in_flight", Waits()).requests,
        ready=left.ready,
    )
    measured = measure(
        before,
        now=now,
        ended=row["ended"],
        busy=left.ready > 0 and obstacle(line) is None,
        budget=budget,
        rate=rate_of(budget, now, allowance),
    )
    return replace(line, pace=pace_of(budget, now, allowance, measured)), measured


def _budget(row: "asyncpg.Record") -> Budget:
    """Return the budget of a line's creates, which is unknown until a permit was asked for."""
    if row["period"] is None:
        return Budget()
    return Budget(**{name: row["others_seen_at" if name == "seen_at" else name] for name in _FIELDS})


async def _places(
    connection: "Connection", ready: Mapping[str, int], batches: Mapping[Key, _Left]
) -> Mapping[Key, int]:
    """Return the position of each batch's last request."""
    sql = statements("forecast")
    front: defaultdict[str, dict[str, BatchInFront]] = defaultdict(dict)
    for row in await connection.fetch(sql["front"], [target for target, requests in ready.items() if requests], HEAD):
        front[row["target"]][row["batch"]] = BatchInFront(row["requests"], row["place"])
    edges, samples, newest = await _behind(connection, [t for t, many in ready.items() if many > HEAD], batches)
    found: dict[Key, int] = {}
    for target, length in ready.items():
        ours = {batch: left.ready for (line, batch), left in batches.items() if line == target}
        survey = LineSample(
            length=length,
            head=HEAD,
            front=front[target],
            edge=edges.get(target),
            sample=samples[target],
            newest=newest[target],
        )
        found |= {(target, batch): place for batch, place in estimated_places(survey, ours).items()}
    return found


async def _behind(
    connection: "Connection", long: Sequence[str], batches: Mapping[Key, _Left]
) -> tuple[
    Mapping[str, QueuePosition],
    Mapping[str, Sequence[tuple[QueuePosition, str]]],
    Mapping[str, Mapping[str, QueuePosition]],
]:
    """For lines that are too long to read: the end of the front, a sample, and each batch's newest request."""
    sql = statements("forecast")
    samples: defaultdict[str, list[tuple[QueuePosition, str]]] = defaultdict(list)
    newest: defaultdict[str, dict[str, QueuePosition]] = defaultdict(dict)
    if not long:
        return {}, samples, newest
    edges = {row["target"]: _position(row) for row in await connection.fetch(sql["edge"], list(long), HEAD)}
    for row in await connection.fetch(sql["sample"], SAMPLE):
        samples[row["target"]].append((_position(row), row["batch"]))
    ids = {left.newest: key for key, left in batches.items() if left.newest is not None and key[0] in edges}
    for row in await connection.fetch(sql["newest"], list(ids)):
        target, batch = ids[row["id"]]
        newest[target][batch] = _position(row)
    return edges, samples, newest


def _position(row: "asyncpg.Record") -> QueuePosition:
    return QueuePosition(row["rank"], row["turn"], row["id"])


async def _write(
    connection: "Connection",
    lines: Sequence[tuple[str, Measured, float | None, Forecast]],
    batches: Sequence[tuple[Key, Forecast]],
) -> None:
    sql = statements("forecast")
    if lines:
        await connection.execute(
            sql["write_lines"],
            [target for target, _, _, _ in lines],
            [each.seen_at for _, each, _, _ in lines],
            [each.ended for _, each, _, _ in lines],
            [each.busy for _, each, _, _ in lines],
            [each.seconds for _, each, _, _ in lines],
            [each.permits for _, each, _, _ in lines],
            [each.got for _, each, _, _ in lines],
            [pace for _, _, pace, _ in lines],
            *_columns([forecast for _, _, _, forecast in lines]),
        )
    keys = [target for (target, _), _ in batches], [batch for (_, batch), _ in batches]
    if batches:
        await connection.execute(sql["write"], *keys, *_columns([forecast for _, forecast in batches]))
    await connection.execute(sql["forget"], *keys)


def _columns(forecasts: Sequence[Forecast]) -> tuple[list[object], ...]:
    return (
        [each.seconds for each in forecasts],
        [each.why for each in forecasts],
        [each.why.order if each.why else None for each in forecasts],
    )
