"""How many creates may be in flight, held against a simulated server with a pool of database connections."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from provisioner.core.concurrency import (
    CLIFF_MEMORY,
    FIRST_SUSPICION,
    LONGEST_STALL,
    METERED_LIMIT,
    MIN_LIMIT,
    SELF_HOSTED_LIMIT,
    START_LIMIT,
    UPSTREAM_LIMIT,
    CallReport,
    Concurrency,
    Holder,
    Rules,
    unknown,
)
from provisioner.core.sharing import SPREAD, Allotment, exchange, fair_shares
from provisioner.core.slots import Ending, Slots

HERE = "https://infisical.example"
AUTO = Rules(address=HERE)
HANGS = 60.0  # seconds until a pool gives up


@dataclass
class Server:
    """A server whose creates wait `upstream` seconds, then need two connections for `database` seconds.

    With more of them in the second part than the pool has connections, and one more, none of them moves again for a
    minute.
    """

    pool: int = 10
    upstream: float = 0.0
    database: float = 0.04
    jitter: float = 0.0
    headers: bool = False
    away: bool = False
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - spreads latencies
    inside: dict[int, float] = field(default_factory=dict)
    stuck_until: float = 0.0
    deadlocks: int = 0
    most: int = 0
    ending: Ending = Ending.BROKEN

    def waits(self) -> float:
        """How long this create waits for OpenRouter."""
        return self.upstream * (1 + self.jitter * self.chance.random())

    def enter(self, call: int, now: float) -> float:
        """A create comes to the database; returns when it will have ended there."""
        self.inside[call] = now
        self.most = max(self.most, len(self.inside))
        if len(self.inside) > self.pool + 1 and now >= self.stuck_until:
            self.deadlocks += 1
            self.stuck_until = now + HANGS
        return max(self.stuck_until, now + self.database * max(1, len(self.inside) / 4))


class Fleet:
    """Workers that share a row, in simulated time."""

    def __init__(self, server: Server, workers: int, *, rules: Rules = AUTO, state: Concurrency | None = None) -> None:
        self.server = server
        self.rules = rules
        self.now = 1_000_000.0
        self.row = state or unknown(rules)
        self.slots = {number: Slots() for number in range(1, workers + 1)}
        self.work = dict.fromkeys(self.slots, 10**9)
        self.done = dict.fromkeys(self.slots, 0)
        self.failed = 0
        self.alive = set(self.slots)
        self.most = 0
        self.longest_wait = dict.fromkeys(self.slots, 0.0)
        self._served = dict.fromkeys(self.slots, self.now)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._next = dict.fromkeys(self.slots, 0.0)
        self._count = 0
        for number in self.slots:
            self._at(self.now + 0.01 * number, partial(self._tick, number))

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> float:
        """Let time go by; returns how long it took."""
        began = self.now
        while self._events and self._events[0][0] <= began + seconds and not until():
            self.now, _, what = heapq.heappop(self._events)
            what()
        if not until():
            self.now = began + seconds
        return self.now - began

    def _tick(self, worker: int) -> None:
        """Exchange, and come back when told to."""
        if worker not in self.alive or self.now < self._next[worker] - 1e-9:
            return
        slots = self.slots[worker]
        told = slots.read(min(64, self.work[worker]) + 0, self.now)
        told = replace(told, wanted=max(told.wanted, told.running))
        self.row, allotment = exchange(
            self.row, worker, told, rules=self.rules, now=self.now, alive=frozenset(self.alive)
        )
        slots.obey(allotment, self.now, told=told)
        held = sum(each.held for each in self.row.holders)
        assert held <= max(self.row.limit, sum(len(each._out) for each in self.slots.values())), self.row
        self._next[worker] = self.now + allotment.pause
        self._at(self._next[worker], lambda: self._tick(worker))
        self._fill(worker)

    def _fill(self, worker: int) -> None:
        slots = self.slots[worker]
        while worker in self.alive and slots.is_free and self.work[worker] > 0:
            self.work[worker] -= 1
            number, sent_at = slots.begin(self.now)
            self.longest_wait[worker] = max(self.longest_wait[worker], self.now - self._served[worker])
            self._served[worker] = self.now
            self.most = max(self.most, sum(each.running for each in self.slots.values()))
            self._at(sent_at, partial(self._begin, worker, number))

    def _begin(self, worker: int, number: int) -> None:
        if self.server.away:
            self._at(self.now + 0.001, lambda: self._end(worker, number, Ending.REFUSED))
            return
        call = worker * 10**9 + number
        self._at(self.now + self.server.waits(), lambda: self._enter(worker, number, call))

    def _enter(self, worker: int, number: int, call: int) -> None:
        self._leave(worker, number, call, self.server.enter(call, self.now))

    def _leave(self, worker: int, number: int, call: int, due: float) -> None:
        def leave() -> None:
            if self.now < self.server.stuck_until and self.server.inside[call] <= self.server.stuck_until:
                self._leave(worker, number, call, self.server.stuck_until)
                return
            entered = self.server.inside.pop(call)
            hung = self.now - entered >= HANGS - 1
            self._end(worker, number, self.server.ending if hung and number % 3 else Ending.ACCEPTED)

        self._at(due, leave)

    def _end(self, worker: int, number: int, ending: Ending) -> None:
        slots = self.slots[worker]
        slots.end(number, ending, self.now, metered=self.server.headers)
        if ending is Ending.ACCEPTED:
            self.done[worker] += 1
        else:
            self.failed += 1
            self.work[worker] += 1
        if worker in self.alive:
            if slots.is_due:
                self._next[worker] = self.now
                self._tick(worker)
            else:
                self._fill(worker)

    @property
    def total(self) -> int:
        """Successful creates."""
        return sum(self.done.values())


@given(
    pool=st.integers(10, 40),
    workers=st.integers(1, 12),
    upstream=st.sampled_from([0.0, 0.05, 0.15, 0.3, 2.0]),
    database=st.sampled_from([0.001, 0.01, 0.04, 0.2]),
    jitter=st.sampled_from([0.0, 0.2, 1.0]),
)
@settings(max_examples=8, deadline=None)
def test_a_server_with_an_ordinary_pool_never_stops_by_default(
    pool: int, workers: int, upstream: float, database: float, jitter: float
) -> None:
    """Whatever its speed and however many workers there are, a server with a pool of ten is never deadlocked."""
    server = Server(pool=pool, upstream=upstream, database=database, jitter=jitter)
    fleet = Fleet(server, workers)
    fleet.run(30.0)
    assert server.deadlocks == 0
    assert fleet.most <= UPSTREAM_LIMIT
    assert fleet.row.cliff is None
    assert fleet.row.limit >= (SELF_HOSTED_LIMIT if upstream + database < 0.5 else START_LIMIT)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize(("database", "limit"), [(0.01, SELF_HOSTED_LIMIT), (0.04, SELF_HOSTED_LIMIT)])
def test_a_fast_server_gets_eight_at_once(workers: int, database: float, limit: int) -> None:
    """Where answers come quickly the limit settles at eight over all workers, within a few seconds."""
    fleet = Fleet(Server(database=database), workers)
    fleet.run(5.0)
    assert fleet.row.limit == limit
    assert fleet.most == limit


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_where_openrouter_takes_the_time_eleven_are_in_flight(workers: int) -> None:
    """Two hundred creates at 0.3 s each are done in little more than eleven at a time need."""
    fleet = Fleet(Server(upstream=0.3, database=0.02), workers)
    took = fleet.run(60.0, until=lambda: fleet.total >= 200)
    assert fleet.row.limit == UPSTREAM_LIMIT
    assert took < 1.3 * 200 * 0.32 / UPSTREAM_LIMIT


@given(most=st.integers(1, 3), steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("thse")), min_size=20))
@settings(max_examples=100, deadline=None)
def test_none_has_another_ones_slot(most: int, steps: list[tuple[int, str]]) -> None:
    """The number in flight never exceeds the settings, whatever happens between a report and its answer."""
    rules, now, slots = Rules(address=HERE, most=most), 1_000_000.0, [Slots() for _ in range(3)]
    row, out, possible_create = unknown(rules), [list[int](), list[int](), list[int]()], dict[int, Any]()
    for worker, step in steps:
        mine, calls = slots[worker], out[worker]
        if step == "t" and worker not in possible_create:
            now += 0.5
            told = mine.read(3, now)
            row, allotment = exchange(row, worker, told, rules=rules, now=now, alive=range(3))
            possible_create[worker] = told, allotment
        elif step == "h" and worker in possible_create:
            told, allotment = possible_create.pop(worker)
            mine.obey(allotment, now, told=told)
        elif step == "s" and mine.is_free:
            calls.append(mine.begin(now)[0])
        elif step == "e" and calls:
            mine.end(calls.pop(), Ending.ACCEPTED, now)
        assert sum(map(len, out)) <= most


def test_a_limiter_sets_the_pace_and_concurrency_may_go_on() -> None:
    """Behind a rate limiter the number in flight is no concern, and grows to what the pace needs."""
    fleet = Fleet(Server(pool=1000, upstream=0.1, database=0.001, headers=True), 2)
    fleet.run(10.0)
    assert fleet.row.limit == METERED_LIMIT


@pytest.mark.parametrize("most", [1, 3, 12, 64, 512])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_number_is_the_most_over_all_workers_and_is_reached_quickly(most: int, workers: int) -> None:
    """A number in the settings is never exceeded by all workers together, and soon reached."""
    fleet = Fleet(Server(pool=10**6, upstream=0.01, database=0.0), workers, rules=Rules(address=HERE, most=most))
    fleet.work = dict.fromkeys(fleet.slots, 10**9)
    fleet.run(2.0)
    assert fleet.row.limit == most
    assert fleet.most <= most


@pytest.mark.parametrize(("most", "first"), [(None, 4), (3, 4), (16, 4), (40, 10), (64, 16), (1000, 16)])
def test_a_number_is_one_round_away_at_first(most: int | None, first: int) -> None:
    """A setting of sixty-four begins with sixteen, and no setting begins with more."""
    assert unknown(Rules(address=HERE, most=most)).limit == first


@given(pool=st.sampled_from([3, 4, 5, 6]), workers=st.integers(1, 6), upstream=st.sampled_from([0.0, 0.05, 0.3]))
@settings(max_examples=5, deadline=None)
def test_a_smaller_pool_is_found_out_by_one_stall(pool: int, workers: int, upstream: float) -> None:
    """A server with a lower limit is stopped a few times at most; then the limit stays below its cliff."""
    server = Server(pool=pool, upstream=upstream, database=0.04)
    fleet = Fleet(server, workers)
    for _ in range(3):
        fleet.run(100.0)
        fleet.run(100.0, until=lambda: fleet.row.stalled_at is None)
    assert server.deadlocks <= 3
    assert (fleet.row.cliff is not None) == bool(server.deadlocks)
    if fleet.row.cliff is not None:
        assert fleet.row.limit < fleet.row.cliff
        assert fleet.row.limit >= 2


def test_a_number_that_is_too_large_is_found_out_too() -> None:
    """A setting of sixty-four for a server with a pool of ten leads to one stall, and then to a low limit for hours."""
    server = Server(pool=10, database=0.02)
    fleet = Fleet(server, 2, rules=Rules(address=HERE, most=64))
    fleet.run(400.0)
    assert 1 <= server.deadlocks <= 3
    assert fleet.row.cliff is not None
    assert fleet.row.limit <= UPSTREAM_LIMIT


def test_the_cliff_is_kept_away_from_for_hours_and_then_approached_by_single_steps() -> None:
    """For six hours nothing beyond the bar is tried; then one more, and one more after each further six hours."""
    state = Concurrency(address=HERE, cliff=8, bar=6, cliff_at=0.0)
    assert [state.ceiling(AUTO, hours * 3600.0) for hours in (0, 5.9, 6.1, 12.1, 48)] == [6, 6, 7, 8, 8]
    assert CLIFF_MEMORY == 6 * 3600


def test_all_obey_a_stall() -> None:
    """While nothing ends, the limit is one, and no worker begins more than that before the calls have ended."""
    server = Server(pool=4, database=0.02)
    fleet = Fleet(server, 3)
    fleet.run(60.0, until=lambda: fleet.row.stalled_at is not None)
    assert fleet.row.limit == 1
    begun = sum(each._number for each in fleet.slots.values())
    fleet.run(40.0)
    assert sum(each._number for each in fleet.slots.values()) == begun
    assert all(each.excuses(fleet.now) for each in fleet.slots.values())


def test_an_outage_is_no_cliff() -> None:
    """Refused connections leave no cliff behind, nor do calls that hang until the server is gone."""
    server = Server()
    fleet = Fleet(server, 2)
    fleet.run(5.0)
    server.stuck_until = fleet.now + 30.0  # it hangs
    fleet.run(20.0)
    assert fleet.row.stalled_at is not None
    server.away = True  # and is gone
    server.stuck_until = fleet.now
    fleet.run(10.0, until=lambda: fleet.row.stalled_at is None)
    server.away = False
    fleet.run(20.0)
    assert fleet.row.cliff is None
    assert fleet.row.limit == SELF_HOSTED_LIMIT


def test_a_network_that_swallows_everything_is_suspected_for_minutes_only() -> None:
    """Calls that end without an answer leave a suspicion behind, which ends after ten minutes."""
    server = Server()
    fleet = Fleet(server, 2)
    fleet.run(5.0)
    server.ending = Ending.FAILED
    server.stuck_until = fleet.now + HANGS
    fleet.run(HANGS + 20.0)
    assert fleet.row.stalled_at is None
    assert (fleet.row.cliff, fleet.row.memory) == (SELF_HOSTED_LIMIT, FIRST_SUSPICION)
    assert MIN_LIMIT <= fleet.row.limit < SELF_HOSTED_LIMIT
    fleet.run(FIRST_SUSPICION)
    assert fleet.row.limit == SELF_HOSTED_LIMIT


def test_a_cliff_whose_errors_never_arrive_is_met_less_and_less_often() -> None:
    """Where our patience ends before the pool's, a stall follows each suspicion, and each is kept for twice as long."""
    server = Server(pool=4, database=2.0, ending=Ending.FAILED)  # slow, so that six hours are few calls
    fleet = Fleet(server, 2)
    fleet.run(6 * 3600.0)
    assert 2 <= server.deadlocks <= 8
    assert fleet.row.memory > FIRST_SUSPICION


@pytest.mark.parametrize("again", [False, True])
def test_one_word_of_the_server_makes_a_suspicion_a_cliff(again: bool) -> None:
    """Timeouts come first, then a late error of Infisical's own: it is kept for six hours, in whatever order."""
    state = Concurrency(address=HERE, limit=1, usual=0.1, ended_at=990.0, stalled_at=994.0, stalled_with=8)
    readings = [CallReport(calls=1, failed=1, lost=1), CallReport(calls=1, failed=1, slow=1)]
    for second, told in enumerate([*readings, readings[0]] if again else readings):
        state, _ = exchange(state, 1, told, rules=AUTO, now=1000.0 + second, alive={1})
    assert (state.cliff, state.memory, state.bar) == (8, CLIFF_MEMORY, 6)


@pytest.mark.parametrize(
    ("slots", "limit", "at_once"),
    [(8, 8, 8), (4, 8, 4), (16, 16, 8), (8, 16, 4), (32, 32, 16), (64, 64, 64), (1, 64, 1)],
)
def test_calls_beyond_what_any_server_bears_at_once_are_spread(slots: int, limit: int, at_once: int) -> None:
    """Up to 32 slots, half of the calls, or eight, leave at once and the others soon after; above 32 none waits."""
    state = Concurrency(address=HERE, limit=limit, usual=0.4)
    others = Holder(worker=2, held=limit - slots, wanted=limit - slots)
    state = replace(state, holders=(others,))
    rules = Rules(address=HERE, most=limit)
    told = CallReport(wanted=slots)
    _, allotment = exchange(state, 1, told, rules=rules, now=1.0, alive={1, 2})
    assert allotment.slots == slots
    mine = Slots()
    mine.obey(allotment, 1.0, told=told)
    sent = [mine.begin(1.0)[1] for _ in range(slots)]
    assert sum(each < 1.0 + 1e-9 for each in sent) == at_once
    assert sent == sorted(sent)
    assert sent[-1] - 1.0 <= 0.2


@pytest.mark.parametrize("upstream", [0.002, 0.05])
def test_spreading_costs_a_server_without_a_pool_next_to_nothing(
    upstream: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sixty-four in flight five thousand creates take less than 3 % longer than if all began at once."""
    took = []
    for spread in (SPREAD, 0.0):
        monkeypatch.setattr("provisioner.core.sharing.SPREAD", spread)
        fleet = Fleet(Server(pool=10**6, upstream=upstream, database=0.0), 1, rules=Rules(address=HERE, most=64))
        took.append(fleet.run(60.0, until=lambda fleet=fleet: fleet.total >= 5000))  # type: ignore[misc]  # mypy infers no type for it
    assert took[0] < 1.03 * took[1]


def test_calls_that_follow_others_are_not_held_up() -> None:
    """When each call begins as another ends, at the usual latency, none of them waits."""
    mine, told = Slots(), CallReport(wanted=16)
    mine.obey(Allotment(slots=16, limit=16, pause=1.0, burst=8, spacing=0.01), 0.0, told=told)
    out = [mine.begin(0.0) for _ in range(16)]
    ends = [(sent + 0.32, number) for number, sent in out]
    for _ in range(20):
        following = []
        for end, number in ends:
            mine.end(number, Ending.ACCEPTED, end)
            follower, sent = mine.begin(end)
            assert sent == pytest.approx(end)
            following.append((sent + 0.32, follower))
        ends = following


def test_fast_failures_halve_and_are_forgotten() -> None:
    """A server in distress gets half as many, and all of them again when it has recovered."""
    state = Concurrency(address=HERE, limit=8, usual=0.05)
    bad = CallReport(wanted=64, running=8, calls=8, failed=8)
    state, _ = exchange(state, 1, bad, rules=AUTO, now=1000.0, alive={1})
    assert (state.limit, state.cliff) == (4, None)
    good = CallReport(wanted=64, running=4, calls=8, accepted=8, elapsed=0.4, pressed=True)
    for second in range(4):
        state, _ = exchange(state, 1, good, rules=AUTO, now=1001.0 + second, alive={1})
    assert state.limit == 8


def test_what_was_learned_ends_with_the_address() -> None:
    """The limit and the cliff of one server are not those of another."""
    state = Concurrency(address=HERE, limit=64, metered=True, cliff=20, bar=15, cliff_at=10.0)
    after, _ = exchange(state, 1, CallReport(wanted=9), rules=Rules(address="https://other"), now=20.0, alive={1})
    assert after == Concurrency(address="https://other", holders=after.holders)
    assert after.limit == START_LIMIT


def test_a_dead_workers_slots_are_free_at_once() -> None:
    """The slots of a worker with an expired lease go to the others at their next exchange."""
    state = Concurrency(address=HERE, limit=8, usual=0.05)
    many = CallReport(wanted=64)
    state, first = exchange(state, 1, many, rules=AUTO, now=1.0, alive={1, 2})
    state, second = exchange(state, 2, many, rules=AUTO, now=1.1, alive={1, 2})
    assert (first.slots, second.slots) == (8, 0)
    _, second = exchange(state, 2, many, rules=AUTO, now=1.2, alive={2})
    assert second.slots == 8


@pytest.mark.parametrize("workers", [2, 3, 5, 9])
def test_more_workers_than_slots_take_turns(workers: int) -> None:
    """With a single slot every worker has its turn, and the slot is hardly ever idle."""
    fleet = Fleet(Server(database=0.05), workers, rules=Rules(address=HERE, most=1))
    fleet.run(30.0)
    assert fleet.most == 1
    assert min(fleet.done.values()) > 0.5 * fleet.total / workers
    assert max(fleet.longest_wait.values()) < 2.5 * workers
    assert fleet.total > 0.7 * 30 / 0.05


@pytest.mark.parametrize("idle", [1, 3])
def test_who_has_no_work_leaves_its_slots_to_the_others(idle: int) -> None:
    """One busy worker among idle ones has all slots within two seconds, also when they held them before."""
    fleet = Fleet(Server(database=0.02), idle + 1)
    for number in range(1, idle + 1):
        fleet.work[number] = 50
    fleet.run(10.0, until=lambda: all(not fleet.work[number] for number in range(1, idle + 1)))
    fleet.run(2.0)
    assert fleet.slots[idle + 1].slots == fleet.row.limit == SELF_HOSTED_LIMIT


@given(
    wanted=st.dictionaries(st.integers(1, 50), st.integers(0, 20), min_size=1, max_size=12),
    slots=st.integers(0, 40),
    turn=st.integers(0, 10**6),
)
def test_shares_are_fair(wanted: dict[int, int], slots: int, turn: int) -> None:
    """No worker gets more than it wants, no slot is left while one wants more, and shares differ by at most one."""
    shares = fair_shares(wanted, slots, turn)
    assert sum(shares.values()) == min(slots, sum(wanted.values()))
    assert all(0 <= shares[worker] <= wanted[worker] for worker in wanted)
    hungry = [shares[worker] for worker in wanted if shares[worker] < wanted[worker]]
    assert not hungry or max(shares.values()) - min(hungry) <= 1


_readings = st.builds(
    CallReport,
    wanted=st.integers(0, 100),
    running=st.integers(0, 20),
    calls=st.integers(0, 100),
    accepted=st.integers(0, 100),
    elapsed=st.floats(0, 1000),
    failed=st.integers(0, 100),
    slow=st.integers(0, 3),
    lost=st.integers(0, 3),
    refused=st.integers(0, 3),
    metered=st.integers(0, 3),
    quick=st.booleans(),
    pressed=st.booleans(),
    oldest=st.floats(0, 200),
    ended_ago=st.floats(0, 100),
)


@given(
    st.lists(st.tuples(st.integers(1, 5), _readings, st.floats(0, 100)), max_size=40),
    st.one_of(st.none(), st.integers(1, 100)),
)
@settings(deadline=None)
def test_whatever_is_told_the_slots_of_all_are_within_the_limit(
    told: list[tuple[int, CallReport, float]], most: int | None
) -> None:
    """No worker gets a slot beyond what the others leave, and the limit stays between one and the most."""
    rules, now = Rules(address=HERE, most=most), 1000.0
    state = Concurrency(address=HERE)
    for worker, reading, later in told:
        now += later
        others = sum(each.held for each in state.holders if each.worker != worker)
        state, allotment = exchange(state, worker, reading, rules=rules, now=now, alive=range(1, 6))
        assert allotment.slots == 0 or allotment.slots + others <= state.limit
        assert 1 <= state.limit <= (most or METERED_LIMIT)
        assert allotment.pause > 0
        if state.cliff is not None and now - state.cliff_at < state.memory:
            assert state.limit < max(3, state.cliff)
    state, allotment = exchange(
        state, 1, CallReport(wanted=9, calls=1), rules=rules, now=now + LONGEST_STALL + 1, alive=range(1, 6)
    )
    assert not allotment.stalled
