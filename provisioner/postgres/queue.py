"""The queue of requests in PostgreSQL: claim, settle, renew, rescue."""

import json
import secrets
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from provisioner import __version__
from provisioner.core.description import SPACE
from provisioner.core.endings import UNSENT, lost, status_after, unknown_target
from provisioner.core.errors import DatabaseUnusable, LeaseLost, StatementRefused, Unstorable
from provisioner.core.model import Claim, Edits, Proof, SentCreate, Settlement
from provisioner.core.queue_values import (
    Claims,
    Heartbeat,
    LateRecord,
    OperatorLimit,
    QueuePosition,
    QueueSnapshot,
    Report,
    Rescue,
    SweepResult,
    Wiped,
    WorkerId,
)
from provisioner.postgres.forecasts import renew_forecasts
from provisioner.postgres.kinds import Kind, kind_of, kind_of_line
from provisioner.postgres.outcomes import record_set_aside, refusals_translated, set_aside
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements
from provisioner.postgres.settling import write_settlements

RECOUNT: Final = 600.0  # seconds that counting all requests may take: it reads the whole table, and delays nothing


class PostgresQueue:
    """`core.ports.Queue` on the tables of `migrations/`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._claim = statements("claim")
        self._keep = statements("maintenance")
        self._settle = statements("settle")

    async def register(self, *, name: str, targets: Sequence[str], lease: float) -> WorkerId:
        """Register this process as a worker whose lease lasts `lease` seconds."""
        row = await self._database.fetchrow(
            self._keep["register"], name, __version__, list(targets), timedelta(seconds=lease)
        )
        return int(row["id"]) if row else 0

    async def renew(self, worker: WorkerId, *, lease: float, heartbeat: Heartbeat) -> None:
        """Renew the lease of everything that the worker has claimed. Raises `LeaseLost`."""
        span = timedelta(seconds=lease)
        row = await self._database.fetchrow(
            self._keep["renew"], worker, span, heartbeat.created, heartbeat.pace, heartbeat.stopping
        )
        if row is None:
            raise LeaseLost

    async def leave(self, worker: WorkerId) -> None:
        """Remove the worker from the list if it has no claims."""
        await self._database.execute(self._keep["leave"], worker)

    async def claim(
        self, worker: WorkerId, *, target: str, start: QueuePosition, limit: int, retried_only: bool = False
    ) -> Claims:
        """Claim up to `limit` requests in line from `start` on; the intent is durable when this returns."""
        if retried_only:
            row = await self._database.fetchrow(self._claim["retried"], target, start.rank, limit)
            limit = row["requests"] if row else 0
            if not limit:
                return Claims(claims=[], last=None)
        fence, kind = secrets.randbits(63), kind_of_line(target)
        sql = kind.sql("claim")
        claiming = (sql["claim"], target, start.rank, start.turn, limit, worker, start.id, fence)
        try:
            rows = await self._database.fetch(*claiming)
        except Unstorable:  # a request that is in flight already, or in line twice, prevents the claim
            await self._database.execute(sql["untangle"], target, start.rank, start.turn, limit, start.id)
            rows = await self._database.fetch(*claiming)
        last = QueuePosition(rows[-1]["rank"], rows[-1]["turn"], rows[-1]["id"]) if rows else None
        retried = sum(row["turn"] < 0 for row in rows)
        claims = [kind.claim(row, target, fence) for row in rows]
        if again := [claim.request.id for claim in claims if claim.attempt > 1]:
            doubt = await self._doubt(again)
            claims = [replace(claim, doubt=tuple(doubt.get(claim.request.id, ()))) for claim in claims]
        if changed := [one.request.id for one in claims if one.attempt > 1 or one.request.recorded_id is not None]:
            edits = await self._edits(changed)
            claims = [_edited(claim, edits.get(claim.request.id)) for claim in claims]
        return Claims(claims=claims, last=last, retried=retried)

    async def _edits(self, ids: Collection[int]) -> Mapping[int, Edits]:
        """Return what was edited since the connections of these requests were recorded."""
        return {
            id_: Edits(
                name=name, description=description, credential=credential, adopted=adopted, others=frozenset(others)
            )
            for id_, name, description, credential, adopted, others in await self._database.fetch(
                self._claim["edits"], list(ids)
            )
        }

    async def _doubt(self, ids: Collection[int]) -> dict[int, list[SentCreate]]:
        """Return the creates whose outcome is not proven, by request."""
        found: defaultdict[int, list[SentCreate]] = defaultdict(list)
        for id_, target, project, name, description, sent, ended, proof, exact, key in await self._database.fetch(
            self._claim["doubt"], list(ids)
        ):
            found[id_].append(
                SentCreate(
                    target=target,
                    project_id=project,
                    name=name,
                    description=description,
                    sent_at=sent,
                    ended_at=ended,
                    proof=Proof(proof),
                    exact=exact,
                    key_fingerprint=key,
                )
            )
        return found

    async def release(self, worker: WorkerId, claims: Collection[Claim]) -> None:
        """Give back claims for which nothing was sent."""
        for kind in {kind_of(claim.request) for claim in claims}:
            fences = {claim.request.id: claim.fence for claim in claims if kind_of(claim.request) is kind}
            await self._release(worker, fences, kind)

    async def _release(self, worker: WorkerId, fences: Mapping[int, int], kind: Kind) -> None:
        if not fences:
            return
        try:
            called_off = [status_after(type(UNSENT), doubted=doubted).if_cancelled for doubted in (False, True)]
            release = kind.sql("claim")["release"]
            await self._database.execute(release, worker, list(fences), list(set(fences.values())), *called_off)
        except (StatementRefused, DatabaseUnusable):
            if len(fences) == 1:
                ((request, fence),) = fences.items()
                await self._database.execute(self._claim["abandon"], worker, request, fence)
                return
            for request, fence in fences.items():
                await self._release(worker, {request: fence}, kind)

    async def release_lost(self, worker: WorkerId, *, target: str, known: Collection[int], older: float = 0.0) -> int:
        """Give back claims of this worker, `older` seconds old or more, whose answer was lost; returns how many."""
        span = timedelta(seconds=older)
        lost = await self._database.fetch(self._claim["lost"], worker, target, list(known), span)
        await self._release(worker, {row["id"]: row["fence"] for row in lost}, kind_of_line(target))
        return len(lost)

    async def settle(self, worker: WorkerId, settlements: Sequence[Settlement]) -> Report:
        """Record how claims ended, in one transaction; each only if the worker still has it under that fence."""
        async with self._database.writing() as connection:
            with refusals_translated(connection):
                settled = await write_settlements(connection, worker, settlements)
        ids = frozenset(settlement.claim.request.id for settlement in settlements)
        return Report(settled=settled, fenced=ids - settled)

    async def set_aside(self, worker: WorkerId, settlement: Settlement, *, reason: str) -> bool:
        """Set aside an outcome that could not be recorded; whether the claim was still ours."""
        async with self._database.acquire() as connection:
            return await set_aside(connection, worker, settlement, reason)

    async def record_set_aside(self, limit: int) -> Sequence[LateRecord]:
        """Try again to record outcomes that were set aside and are due, at most `limit`."""
        tried = []
        for row in await self._database.fetch(self._settle["take_aside"], limit):
            async with self._database.acquire() as connection:
                reason = await record_set_aside(connection, row["id"], row["fence"], row["calls"])
            tried.append(LateRecord(request=row["id"], reason=reason))
        return tried

    async def poll(self, *, marks: dict[str, QueuePosition], served: dict[str, QueuePosition]) -> QueueSnapshot:
        """Read what there is to do, from the given marks on, and store how far the queues have been served."""
        ids = [mark.id for mark in marks.values()]
        row = await self._database.fetchrow(self._keep["poll"], *_columns(marks), *_columns(served), ids)
        if row is None:  # a SELECT without FROM has exactly one row
            raise AssertionError
        heads = zip(row["targets"], row["ranks"], row["turns"], row["ids"], strict=True)
        return QueueSnapshot(
            now=row["now"],
            next_due=row["next_due"],
            lapsed=row["lapsed"],
            paused=frozenset(row["paused"]),
            heads={target: QueuePosition(rank, turn, id_) for target, rank, turn, id_ in heads},
            forecast_due=row["forecast_due"],
            late=row["late"],
            troubled=frozenset(row["troubled"]),
            awaited=frozenset(row["awaited"]),
            limits={target: OperatorLimit(**limit) for target, limit in json.loads(row["limits"] or "{}").items()},
        )

    async def renew_forecasts(self, *, every: float) -> bool:
        """Renew the forecasts if they are due and no other worker is doing it; whether it was done."""
        return await renew_forecasts(self._database, every=every)

    async def promote(self, limit: int) -> dict[str, QueuePosition]:
        """Put due requests in line; returns, by target, the first position at which one was added."""
        heads: dict[str, QueuePosition] = {}
        for row in await self._database.fetch(self._keep["promote"], limit):
            heads.setdefault(row["target"], QueuePosition(row["rank"], row["turn"]))
        return heads

    async def rescue(self, *, pause: float) -> Rescue:
        """Take over the claims of lost workers; each is retried after `pause` seconds."""
        end = lost(pause)
        row = await self._database.fetchrow(
            self._keep["rescue"], timedelta(seconds=end.delay), SPACE, end.code, end.message
        )
        return Rescue(requests=row["requests"], workers=row["workers"]) if row else Rescue()

    async def fail_unknown_targets(self, limit: int) -> Sequence[int]:
        """Fail requests for targets that no worker has ever had; returns their ids."""
        ids: list[int] = []
        for row in await self._database.fetch(self._keep["strangers"]):
            line, end = row["target"], unknown_target(row["target"].partition("/")[0])
            failed = await self._database.fetch(self._keep["fail_unknown_targets"], line, limit, end.code, end.message)
            ids += [one["id"] for one in failed]
        return ids

    async def work_left(self, targets: Collection[str]) -> bool:
        """Whether these targets have any work left, apart from what is scheduled or paused."""
        row = await self._database.fetchrow(self._keep["left"], list(targets))
        return bool(row and row["left"])

    async def turn_log(self, *, keep: float) -> bool:
        """Add partitions to the attempt log and drop those older than `keep` seconds; whether no lock prevented it."""
        row = await self._database.fetchrow(self._keep["turn_log"], timedelta(seconds=keep))
        return bool(row and row["turned"])

    async def sweep(self, limit: int, *, pause: float) -> SweepResult:
        """Put up to about `limit` requests without a place in line, unless that was done within `pause` seconds."""
        row = await self._database.fetchrow(self._keep["sweep"], limit, timedelta(seconds=pause))
        return SweepResult(found=row["seen"], placed=row["placed"], done=row["done"]) if row else SweepResult()

    async def sweep_all(self, limit: int) -> int:
        """Put every request without a place in line, checking `limit` at a time; returns how many."""
        placed, last = 0, 0
        while True:
            row = await self._database.fetchrow(self._keep["misplaced"], last, limit)
            if row is None or row["last"] is None:
                return placed
            last = row["last"]
            if row["ids"]:
                put = await self._database.fetchrow(self._keep["put_in_line"], row["ids"])
                placed += put["placed"] if put else 0

    async def recount(self) -> int:
        """Correct the counts of requests; returns how many were wrong."""
        async with self._database.acquire() as connection:
            return int(await connection.fetchval(self._keep["recount"], timeout=RECOUNT) or 0)

    async def fold(self, limit: int, *, retried: Mapping[str, int]) -> bool:
        """Fold at most `limit` changes into the counts of requests; whether there may be more.

        `retried`: by target, how many attempts since the last call ended in a retry.
        """
        if retried:
            await self._database.execute(self._keep["retried"], list(retried), list(retried.values()))
        row = await self._database.fetchrow(self._keep["fold"], limit)
        return bool(row and row["folded"] == limit)

    async def wipe(self, limit: int, *, keep: float) -> Wiped:
        """Wipe sealed keys of requests that failed at least `keep` seconds ago, at most `limit` of them."""
        row = await self._database.fetchrow(self._keep["wipe"], timedelta(seconds=keep), limit)
        return Wiped(keys=row["wiped"], more=row["due"] == limit) if row else Wiped()


def _columns(places: dict[str, QueuePosition]) -> tuple[list[str], list[int], list[int]]:
    return list(places), [place.rank for place in places.values()], [place.turn for place in places.values()]


def _edited(claim: Claim, edits: Edits | None) -> Claim:
    return claim if edits is None else replace(claim, request=replace(claim.request, edits=edits))
