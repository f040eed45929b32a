"""A limiter, workers that share one budget, and strangers behind the same address, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from provisioner.core.model import RateHeaders
from provisioner.core.pacing import Budget, LimiterReply, grant, learn

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = 1_772_366_400.0
ROOM = 64  # requests that a worker has in flight at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """Another client: so many requests a second, evenly or by chance, from one second of the run to another."""

    pace: float
    begins: float = 0.0
    ends: float = math.inf
    even: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One situation. Times in seconds; `lost` is the share of answers without headers, `skew` of workers' clocks."""

    name: str
    workers: int = 3
    limit: int = 200
    window: float = 60.0
    windows: int = 10
    latency: float = 0.3
    strangers: tuple[Stranger, ...] = ()
    lost: float = 0.0
    skew: float = 0.0
    fleets: int = 1
    seed: int = 1


@dataclass(slots=True)
class Limiter:
    """Infisical's: a fixed window that begins with its first request, `reset` in whole seconds rounded up."""

    limit: int
    window: float
    starts_at: float = -math.inf
    used: int = 0

    def count(self, now: float) -> tuple[RateHeaders, bool]:
        """Count one request; says whether it may pass."""
        if now >= self.starts_at + self.window:
            self.starts_at, self.used = now, 0
        self.used += 1
        reset = float(max(1, math.ceil(round(self.starts_at + self.window - now, 6))))
        left = max(0, self.limit - self.used)
        return RateHeaders(limit=self.limit, remaining=left, reset=reset), self.used <= self.limit


@dataclass(slots=True)
class Tally:
    """When requests were made, and when they were refused."""

    made: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def asked(self, begin: float, end: float) -> int:
        """Requests in a stretch of time."""
        return between(self.made, begin, end) + between(self.refused, begin, end)


def between(times: list[float], begin: float, end: float) -> int:
    """How many of the times lie in a stretch."""
    return sum(begin <= at < end for at in times)


@dataclass(slots=True)
class _Worker:
    fleet: int
    skew: float
    room: int = ROOM
    full: bool = False
    lessons: list[LimiterReply] = field(default_factory=list)


class World:
    """Runs one scenario. As in the product, what a worker learns reaches the budget when it next asks for permits."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.limiter = Limiter(scenario.limit, scenario.window)
        self.budgets = [Budget() for _ in range(scenario.fleets)]
        self.ours = [Tally() for _ in range(scenario.fleets)]
        self.theirs = Tally()
        self.asked = 0
        self._random = Random(scenario.seed)  # noqa: S311 - repeatable, keeps no secret
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Callable[[float], None]]] = []
        for number in range(scenario.workers * scenario.fleets):
            worker = _Worker(number % scenario.fleets, scenario.skew * self._random.uniform(-1, 1))
            self._at(NOON + self._random.random(), partial(self._feed, worker))
        for stranger in scenario.strangers:
            self._at(NOON + stranger.begins, partial(self._intrude, stranger))

    def run(self) -> None:
        """Let all the windows pass."""
        end = NOON + self.scenario.window * self.scenario.windows
        while self._coming[0][0] < end:
            now, _, happen = heapq.heappop(self._coming)
            happen(now)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._coming, (when, next(self._order), happen))

    def _feed(self, worker: _Worker, now: float) -> None:
        if not worker.room:
            worker.full = True
            return
        budget = self.budgets[worker.fleet]
        for lesson in worker.lessons:
            budget = learn(budget, lesson)
        worker.lessons.clear()
        budget, granted = grant(budget, worker.room, now)
        self.budgets[worker.fleet] = budget
        self.asked += 1
        worker.room -= granted.permits
        for _ in range(granted.permits):
            there = now + 0.01 + self.scenario.latency * self._random.uniform(0.1, 0.2)
            self._at(there, partial(self._arrive, worker, now))
        self._at(now + (granted.wait or 0.001), partial(self._feed, worker))

    def _arrive(self, worker: _Worker, sent_at: float, now: float) -> None:
        headers, passed = self.limiter.count(now)
        tally = self.ours[worker.fleet]
        (tally.made if passed else tally.refused).append(now)
        back = now + self.scenario.latency * self._random.uniform(0.6, 1.0)
        lesson = LimiterReply(
            at=back + worker.skew,
            rate=None if self._random.random() < self.scenario.lost else headers,
            throttled_for=None if passed else headers.reset,
            elapsed=back - sent_at,
        )
        self._at(back, partial(self._answer, worker, lesson))

    def _answer(self, worker: _Worker, lesson: LimiterReply, now: float) -> None:
        worker.room += 1
        worker.lessons.append(lesson)
        if worker.full:
            worker.full = False
            self._feed(worker, now)

    def _intrude(self, stranger: Stranger, now: float) -> None:
        if now >= NOON + stranger.ends:
            return
        _, passed = self.limiter.count(now)
        (self.theirs.made if passed else self.theirs.refused).append(now)
        pause = 1 / stranger.pace if stranger.even else self._random.expovariate(stranger.pace)
        self._at(now + pause, partial(self._intrude, stranger))
