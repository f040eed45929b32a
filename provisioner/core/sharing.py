"""Which worker has how many of a target's slots.

`exchange` is the one door: a worker tells what its calls showed and how many slots it could use, and is told how many
it has. What a worker does not use goes to the others; where there are fewer slots than workers, they take turns.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from provisioner.core.concurrency import (
    FIRST_PATIENCE,
    LEAST,
    SELF_HOSTED,
    CallReport,
    Concurrency,
    Holder,
    Rules,
    learn,
    unknown,
)

# Where there are fewer slots than workers, a turn lasts so many seconds.
TURN: Final = 1.0
# Where all have some, what cannot be divided goes round in so many turns.
SLOW_TURN: Final = 60
# As many calls as a worker has slots begin over this share of the usual latency at least: twice as fast as they do when
# each begins as another ends, so that it costs nothing then.
SPREAD: Final = 0.5
# And over no more than so many seconds: what takes long is far from being crowded.
LONGEST_SPREAD: Final = 0.5
# A server that bears more than this in flight has no pool that their arrival could exhaust: nothing is spread.
UNSPREAD: Final = 32
# A worker comes back after so many seconds: it has nothing to do; nothing moves; the limit may change; it waits for a
# slot.
REST: Final = 60.0
CALM: Final = 1.0
LIVELY: Final = 0.25
WAITING: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What one worker may do: have `slots` calls in flight, of the `limit` of all, and come back in `pause` seconds.

    `round`: so many of its calls make its part of a round, after which it should tell at once; None when nothing
    depends on it. `patience`: a call that takes as many seconds is a slow one. `stalled`: its calls are expected to
    fail, and nobody is to blame but their number. `awaited`: others wait for slots. So many calls as `burst` may begin
    at once, and each further one `spacing` seconds after the one before; 0 where they need not be spread.
    """

    slots: int
    limit: int
    pause: float
    round: int | None = None
    patience: float = FIRST_PATIENCE
    stalled: bool = False
    awaited: bool = False
    cliff: int | None = None
    burst: int = SELF_HOSTED
    spacing: float = 0.0


class Concurrencies(Protocol):
    """How many creates may be in flight at one target, shared by all its workers."""

    async def exchange(self, worker: int, told: CallReport) -> Allotment:
        """Tell what calls showed and how many could be used, and hear how many may be. Raises `DatabaseUnavailable`."""


def exchange(
    state: Concurrency, worker: int, told: CallReport, *, rules: Rules, now: float, alive: Collection[int]
) -> tuple[Concurrency, Allotment]:
    """Learn what one worker tells, and say how many slots it has; those of workers that are not `alive` are free."""
    others = tuple(each for each in state.holders if each.worker != worker and each.worker in alive)
    mine = next((each for each in state.holders if each.worker == worker), Holder(worker=worker))
    if state.address != rules.address:
        # What was learned of one server says nothing about another.
        state = unknown(rules)
    state = learn(state, told, in_flight=told.running + sum(each.running for each in others), rules=rules, now=now)
    ceiling = state.ceiling(rules, now)
    state = replace(state, limit=max(1, min(state.limit, ceiling)))
    slots, awaited, short = _part(state, mine, told, others, int(now / TURN))
    me = replace(mine, held=max(slots, told.running), wanted=told.wanted, running=told.running)
    kept = (*others, me) if me.held or me.wanted or me.running else others
    state = replace(state, holders=tuple(sorted(kept, key=lambda each: each.worker)))
    widening = state.limit < ceiling and not state.stalls(now)
    if not (told.wanted or told.running or told.calls or me.held > slots or awaited or state.stalled_at is not None):
        pause = REST
    elif slots < told.wanted and (short or awaited):
        pause = min(CALM, WAITING * max(1, len(kept) // 4))
    else:
        pause = LIVELY if widening or short or awaited or state.stalled_at is not None or me.held > slots else CALM
    return state, Allotment(
        slots=slots,
        limit=state.limit,
        pause=pause,
        round=max(LEAST * slots // state.limit, slots, 1) if widening else None,
        patience=state.patience,
        stalled=state.stalls(now),
        awaited=awaited,
        cliff=state.proven,
        # All together begin as many at once as a server with a pool of ten bears, or half of what is in flight. The
        # rest must not come as a crowd.
        burst=max(1, max(SELF_HOSTED, state.limit // 2) * slots // state.limit),
        spacing=min(SPREAD * (state.usual or 0.0), LONGEST_SPREAD) / max(1, slots) if state.limit <= UNSPREAD else 0.0,
    )


def _part(
    state: Concurrency, mine: Holder, told: CallReport, others: Collection[Holder], turn: int
) -> tuple[int, bool, bool]:
    """How many slots a worker has now, whether others have fewer than their share, and whether it has itself.

    Never more than the others have left: so all together have no more than the limit, no matter who comes first.
    """
    wanted = {each.worker: each.wanted for each in others} | {mine.worker: told.wanted}
    shares = fair_shares(wanted, state.limit, turn)
    free = max(0, state.limit - sum(each.held for each in others))
    share = shares[mine.worker]
    waiting = any(each.held < shares[each.worker] for each in others)
    # Who is alone has all of it, for what comes next.
    slots = min(share, free) if waiting else min(max(share, told.wanted, mine.held, 0 if others else free), free)
    return slots, waiting, slots < share


def fair_shares(wanted: Mapping[int, int], slots: int, turn: int) -> dict[int, int]:
    """Divide slots evenly among workers, to none more than it wants; what is left over goes round by turns."""
    shares = dict.fromkeys(wanted, 0)
    while slots and (hungry := sorted(worker for worker in wanted if wanted[worker] > shares[worker])):
        each = slots // len(hungry)
        if not each:
            # Who has some already need not wait for the next turn, and each change of hands is a write.
            first = turn * slots // (SLOW_TURN if any(shares[worker] for worker in hungry) else 1) % len(hungry)
            for place in range(slots):
                shares[hungry[(first + place) % len(hungry)]] += 1
            break
        for worker in hungry:
            more = min(each, wanted[worker] - shares[worker])
            shares[worker] += more
            slots -= more
    return shares
