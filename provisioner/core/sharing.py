"""Divide a target's slots among its workers.

`exchange` is the only entry point: a worker reports what its calls showed and how many slots it could use, and gets its
number of slots. Unused slots go to the others; if there are fewer slots than workers, they take turns.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from provisioner.core.concurrency import (
    FIRST_STALL,
    MIN_ROUND,
    SELF_HOSTED_LIMIT,
    CallReport,
    Concurrency,
    Holder,
    Rules,
    learn,
    unknown,
)

# If there are fewer slots than workers, a turn lasts this many seconds.
TURN: Final = 1.0
# If all workers have some, the remainder of the division rotates once in this many turns.
SLOW_TURN: Final = 60
# A worker's first calls, one for each slot, are spread over at least this share of the usual latency: twice as fast as
# later calls, of which each begins as another ends, so the spreading costs nothing then.
SPREAD: Final = 0.5
# And over at most this many seconds: calls that take long do not crowd the server.
LONGEST_SPREAD: Final = 0.5
# A server that handles more than this in flight has no pool that simultaneous calls could exhaust: nothing is spread.
SPREAD_LIMIT: Final = 32
# A worker comes back at once if it has slots to hand over. Otherwise it does after this many seconds, if it has nothing
# to do, nothing moves, the limit may change, or it waits for a slot.
IDLE_PAUSE: Final = 60.0
CALM: Final = 1.0
LIVELY: Final = 0.25
WAITING: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What one worker may do: have `slots` of the shared `limit` calls in flight, and come back after `pause` seconds.

    `round` is the number of its calls after which it should report at once; None if nothing depends on it. A call that
    takes `patience` seconds is slow. `stalled`: its calls are expected to fail because of their number alone.
    `awaited`: other workers wait for slots. Up to `burst` calls may begin at once, and each further one `spacing`
    seconds after the previous one; 0 if they need not be spread.
    """

    slots: int
    limit: int
    pause: float
    round: int | None = None
    patience: float = FIRST_STALL
    stalled: bool = False
    awaited: bool = False
    cliff: int | None = None
    burst: int = SELF_HOSTED_LIMIT
    spacing: float = 0.0


class Concurrencies(Protocol):
    """The number of creates that may be in flight at one target, shared by all its workers."""

    async def exchange(self, worker: int, told: CallReport) -> Allotment:
        """Report calls and wanted slots; returns what this worker may do now. Raises `DatabaseUnavailable`."""


def exchange(
    state: Concurrency, worker: int, told: CallReport, *, rules: Rules, now: float, alive: Collection[int]
) -> tuple[Concurrency, Allotment]:
    """Apply one worker's report, and return its slots; the slots of workers that are not `alive` are free."""
    others = tuple(each for each in state.holders if each.worker != worker and each.worker in alive)
    mine = next((each for each in state.holders if each.worker == worker), Holder(worker=worker))
    if state.address != rules.address:
        # What was learned about one server says nothing about another.
        state = unknown(rules)
    state = learn(state, told, in_flight=told.running + sum(each.running for each in others), rules=rules, now=now)
    ceiling = state.ceiling(rules, now)
    state = replace(state, limit=max(1, min(state.limit, ceiling)))
    slots, awaited, short = _part(state, mine, told, others, int(now / TURN))
    # Until it hears of it, it may begin calls in all slots that it has: the others get them when it tells next.
    me = replace(mine, held=max(slots, told.running, told.slots), wanted=told.wanted, running=told.running)
    kept = (*others, me) if me.held or me.wanted or me.running else others
    state = replace(state, holders=tuple(sorted(kept, key=lambda each: each.worker)))
    widening = state.limit < ceiling and not state.stalls(now)
    if me.held > max(slots, told.running):
        pause = 0.0
    elif not (told.wanted or told.running or told.calls or me.held > slots or awaited or state.stalled_at is not None):
        pause = IDLE_PAUSE
    elif slots < told.wanted and (short or awaited):
        pause = min(CALM, WAITING * max(1, len(kept) // 4))
    else:
        pause = LIVELY if widening or short or awaited or state.stalled_at is not None or me.held > slots else CALM
    return state, Allotment(
        slots=slots,
        limit=state.limit,
        pause=pause,
        round=max(MIN_ROUND * slots // state.limit, slots, 1) if widening else None,
        patience=state.patience,
        stalled=state.stalls(now),
        awaited=awaited,
        cliff=state.proven,
        # Over all workers, as many calls begin at once as a server with a pool of ten can handle, or half of the limit.
        # The rest must not arrive in a crowd.
        burst=max(1, max(SELF_HOSTED_LIMIT, state.limit // 2) * slots // state.limit),
        spacing=min(SPREAD * (state.usual or 0.0), LONGEST_SPREAD) / max(1, slots)
        if state.limit <= SPREAD_LIMIT
        else 0.0,
    )


def _part(
    state: Concurrency, mine: Holder, told: CallReport, others: Collection[Holder], turn: int
) -> tuple[int, bool, bool]:
    """Return a worker's slots now, whether others have fewer than their share, and whether it has itself.

    A worker never gets more than the others have left, so the total stays within the limit in any order.
    """
    wanted = {each.worker: each.wanted for each in others} | {mine.worker: told.wanted}
    shares = fair_shares(wanted, state.limit, turn)
    free = max(0, state.limit - sum(each.held for each in others))
    share = shares[mine.worker]
    waiting = any(each.held < shares[each.worker] for each in others)
    # A worker that is alone gets everything, for calls to come.
    slots = min(share, free) if waiting else min(max(share, told.wanted, mine.held, 0 if others else free), free)
    return slots, waiting, slots < share


def fair_shares(wanted: Mapping[int, int], slots: int, turn: int) -> dict[int, int]:
    """Divide slots evenly among workers, giving none more than it wants; the remainder rotates by turns."""
    shares = dict.fromkeys(wanted, 0)
    while slots and (hungry := sorted(worker for worker in wanted if wanted[worker] > shares[worker])):
        each = slots // len(hungry)
        if not each:
            # A worker that has some need not wait for the next turn, and each change of hands costs a write.
            first = turn * slots // (SLOW_TURN if any(shares[worker] for worker in hungry) else 1) % len(hungry)
            for place in range(slots):
                shares[hungry[(first + place) % len(hungry)]] += 1
            break
        for worker in hungry:
            more = min(each, wanted[worker] - shares[worker])
            shares[worker] += more
            slots -= more
    return shares
