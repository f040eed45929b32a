"""Find how many creates may be in flight at a target over all its workers: as many as its server can handle.

A self-hosted Infisical has a pool of ten database connections, and a create holds one of them while it waits for a
second (`infisical-api.md` §2). Twelve creates at once stop the server for a minute, for everybody who uses it. So each
target has one limit that all its workers share. It starts small, grows while answers stay quick, and falls to one when
calls stop ending, which is a *stall*. When the calls of a stall end in late errors from Infisical itself, the number in
flight was the *cliff*. The limit then stays well below the cliff for hours.

If the calls end without any answer from Infisical (timeouts, resets, a gateway's page), the cause may be a network that
drops packets or a pool that outlasts our timeout. The number is then only *suspected*: the limit stays below it for
minutes, and for twice as long each time it happens again. A false suspicion costs little, and a true cliff whose errors
never reach us is met less and less often. A read that hangs as well proves neither case, because it hangs in both.

`core.sharing` divides the slots among the workers. Pure: no clock, no I/O. Times are seconds since 1970 on the
database's clock, which all workers share.
"""

from dataclasses import dataclass, replace
from typing import Final

# The limit for a server of which nothing is known.
START_LIMIT: Final = 4
# The limit without a rate limiter: most of a pool of ten, leaving room for the server's other clients.
SELF_HOSTED_LIMIT: Final = 8
# A pool of ten was measured to handle 11 creates at once, and to stop at 12. Used only if OpenRouter takes the time.
UPSTREAM_LIMIT: Final = 11
# A create that takes this many seconds with few in flight waits for OpenRouter, not for Infisical's database.
UPSTREAM_LATENCY: Final = 0.15
# It still does while the latency with more in flight stays below this multiple of the usual latency.
FLAT_FACTOR: Final = 1.5
# A rate limiter sets the pace by itself; no rate of Infisical's needs more than this.
METERED_LIMIT: Final = 64
# A number in the settings vouches for the server: the limit starts at this fraction of it, and grows by this factor. At
# 50 ms a call it reaches 64 after 0.05 s, which costs 5 000 creates 1 % of their time; growing from 4 would cost 2 %.
VOUCHED_DIVISOR: Final = 4
# A round has as many calls as may be in flight, and at least this many.
MIN_ROUND: Final = 4
# If at least this share of a round's calls failed, the server is in distress. Fewer failures are bad luck.
DISTRESS_SHARE: Final = 0.5
# A latency this many times the usual one, and this many seconds above it, is distress too.
SLOW_FACTOR: Final = 3.0
SLOW_MARGIN: Final = 0.5
# The usual latency grows by this factor each round while the latency stays high.
BASELINE_GROWTH: Final = 1.25
# A stall: no call ends for this multiple of the usual latency, and for at least this many seconds.
STALL_FACTOR: Final = 8.0
MIN_STALL: Final = 4.0
# The same, in seconds, before any latency is known.
FIRST_STALL: Final = 10.0
# If fewer calls than this hang, they are slow calls rather than too many at once.
MIN_STALLED: Final = 3
# Below a cliff the limit is this share of it, and at least this many.
CLIFF_SHARE: Final = 0.75
MIN_LIMIT: Final = 2
# The limit stays there for this many seconds, and then grows by one step in each further such period.
CLIFF_MEMORY: Final = 6 * 3600.0
# The first suspicion lasts this many seconds: an owner of such a server would tolerate this many stalls per hour.
FIRST_SUSPICION: Final = 600.0
# Infisical's pool gives up after 60 s, and our client after 120 s at most. A longer stall, in seconds, is an outage.
LONGEST_STALL: Final = 150.0
# After this many seconds without a call, the present latency is unknown.
LATENCY_EXPIRY: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings say: the server's address, and at most `most` creates in flight (None: find out).

    `sharers` targets have the same address, so each gets its part of the default.
    """

    address: str
    most: int | None = None
    sharers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One worker's part: the slots it has, the slots it could use, and the calls it last reported as running."""

    worker: int
    held: int = 0
    wanted: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """What one worker reports: the calls that ended since its last report, those running now, and the slots it has.

    `accepted` of the `calls` that ended were accepted by the server, and took `elapsed` seconds in total. `failed`
    calls suggest that the server could not cope. Of these, `slow` ended in Infisical's own server errors after a long
    silence, and `lost` ended after one without an answer from Infisical. `refused` calls were never sent, because
    nothing listened. `metered` calls carried the limiter's headers. `quick`: at least one was answered promptly by a
    healthy server. `pressed`: all slots were in use at once. `oldest` is the age of the oldest running call, and
    `ended_ago` the time since the last call ended, in seconds. Until the worker is answered it may fill its `slots`.
    """

    wanted: int = 0
    running: int = 0
    slots: int = 0
    calls: int = 0
    accepted: int = 0
    elapsed: float = 0.0
    failed: int = 0
    slow: int = 0
    lost: int = 0
    refused: int = 0
    metered: int = 0
    quick: bool = False
    pressed: bool = False
    oldest: float = 0.0
    ended_ago: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """What all workers know about one target's server.

    `usual` is the latency of creates while few are in flight, in seconds. `calls`, `accepted`, `elapsed`, `failed`,
    `headers` and `pressed` belong to the present round. The present stall was noticed at `stalled_at` with
    `stalled_with` calls in flight. The last cliff is `cliff`, met at `cliff_at`. `bar` is the highest limit allowed
    since then, for `memory` seconds; a cliff remembered for less than `CLIFF_MEMORY` is a suspicion.
    """

    address: str
    limit: int = START_LIMIT
    metered: bool = False
    usual: float | None = None
    calls: int = 0
    accepted: int = 0
    elapsed: float = 0.0
    failed: int = 0
    headers: int = 0
    pressed: bool = False
    ended_at: float = 0.0
    stalled_at: float | None = None
    stalled_with: int = 0
    cliff: int | None = None
    cliff_at: float = 0.0
    bar: int = 0
    memory: float = CLIFF_MEMORY
    holders: tuple[Holder, ...] = ()

    @property
    def patience(self) -> float:
        """Seconds without any call ending that make a stall."""
        return FIRST_STALL if self.usual is None else max(MIN_STALL, STALL_FACTOR * self.usual)

    def stalls(self, now: float) -> bool:
        """Whether too many calls were in flight and have not ended yet."""
        return self.stalled_at is not None and now - self.stalled_at < LONGEST_STALL

    @property
    def proven(self) -> int | None:
        """The cliff, if Infisical's own errors proved it; a suspicion only lowers the limit."""
        return self.cliff if self.memory >= CLIFF_MEMORY else None

    def ceiling(self, rules: Rules, now: float) -> int:
        """The highest limit allowed, whatever the present latency."""
        if rules.most is not None:
            most = rules.most
        elif self.metered:
            most = METERED_LIMIT
        else:
            elsewhere = self.usual is not None and self.usual >= UPSTREAM_LATENCY
            most = max(1, (UPSTREAM_LIMIT if elsewhere else SELF_HOSTED_LIMIT) // rules.sharers)
        steps = int((now - self.cliff_at) / self.memory)
        if self.cliff is None or (steps > 0 and self.memory < CLIFF_MEMORY):
            return most
        return min(most, max(1, self.bar + steps * max(1, self.bar // 8)))


def unknown(rules: Rules) -> Concurrency:
    """Return the state for a server of which only the settings are known."""
    # A larger setting does not start higher: if the setting is wrong, a slow start finds out with fewer stalls.
    vouched = min(rules.most or 0, METERED_LIMIT) // VOUCHED_DIVISOR
    return Concurrency(address=rules.address, limit=max(START_LIMIT, vouched))


def learn(state: Concurrency, told: CallReport, *, in_flight: int, rules: Rules, now: float) -> Concurrency:
    """Apply one worker's report; `in_flight` is the number of calls of all workers."""
    if told.calls:
        if state.ended_at and now - state.ended_at > LATENCY_EXPIRY:
            state = replace(state, limit=min(state.limit, START_LIMIT), usual=None)
        state = replace(state, ended_at=max(state.ended_at, now - told.ended_ago))
    if told.slow and state.stalled_with:
        state = replace(_meet_cliff(state, CLIFF_MEMORY, now), stalled_with=0)
    elif told.lost and state.stalled_with and not _is_met(state, now):
        state = _meet_cliff(state, _suspicion(state, now), now)
    if state.stalled_at is not None:
        return _recover(state, told, now)
    silent = min(told.oldest, now - state.ended_at)
    if in_flight >= MIN_STALLED and silent >= state.patience:
        return replace(_new_round(state), limit=1, stalled_at=now, stalled_with=in_flight)
    state = replace(
        state,
        calls=state.calls + told.calls,
        accepted=state.accepted + told.accepted,
        elapsed=state.elapsed + told.elapsed,
        failed=state.failed + told.failed,
        headers=state.headers + told.metered,
        pressed=state.pressed or told.pressed,
    )
    return _round(state, rules, now) if state.calls >= max(MIN_ROUND, state.limit) else state


def _is_met(state: Concurrency, now: float) -> bool:
    """Whether the present stall has already produced its cliff."""
    return state.cliff == state.stalled_with and now - state.cliff_at < LONGEST_STALL


def _suspicion(state: Concurrency, now: float) -> float:
    """Seconds for which to remember a stall that ended without an answer: twice as long if one happened recently."""
    again = state.cliff is not None and now - state.cliff_at < CLIFF_MEMORY
    return min(CLIFF_MEMORY, 2 * state.memory) if again else FIRST_SUSPICION


def _meet_cliff(state: Concurrency, memory: float, now: float) -> Concurrency:
    """Record a cliff, proven or suspected, after the calls of a stall have ended."""
    number = state.stalled_with
    # If only a setting allowed this many, the cliff may be anywhere above the previous step.
    below = int(number * CLIFF_SHARE) if number <= UPSTREAM_LIMIT else max(SELF_HOSTED_LIMIT, number // VOUCHED_DIVISOR)
    bar = max(MIN_LIMIT, min(below, number - 1))
    return replace(state, cliff=number, cliff_at=now, bar=bar, memory=memory, limit=min(state.limit, START_LIMIT, bar))


def _recover(state: Concurrency, told: CallReport, now: float) -> Concurrency:
    """End a stall if a call that began after it succeeded, or if nothing listens, which is an outage."""
    if told.refused:
        return replace(state, limit=MIN_LIMIT, stalled_at=None, stalled_with=0)
    if told.quick:
        return replace(state, limit=MIN_LIMIT, stalled_at=None)
    if state.stalled_at is not None and now - state.stalled_at >= LONGEST_STALL and told.calls:
        return replace(state, usual=None, stalled_at=None, stalled_with=0)
    return state


def _round(state: Concurrency, rules: Rules, now: float) -> Concurrency:
    """Adjust the limit after a round of calls."""
    state = replace(state, metered=state.headers > 0, stalled_with=0)
    latency = state.elapsed / state.accepted if state.accepted else None
    usual = state.usual
    slower = latency is not None and usual is not None and latency > max(SLOW_FACTOR * usual, usual + SLOW_MARGIN)
    if slower or state.failed / state.calls >= DISTRESS_SHARE:
        used = usual * BASELINE_GROWTH if usual is not None else None
        return replace(_new_round(state), limit=max(1, state.limit // 2), usual=used)
    if latency is not None and (usual is None or latency < usual):
        usual = latency
    state = replace(state, usual=usual)
    limit = min(state.limit, state.ceiling(rules, now))
    if latency is not None and usual is not None:
        flat = latency <= FLAT_FACTOR * usual
        if state.pressed:
            limit = _wider(state, limit, rules, flat=flat, now=now)
        if not flat and rules.most is None and not state.metered:
            limit = min(limit, SELF_HOSTED_LIMIT)
    return replace(_new_round(state), limit=limit)


def _wider(state: Concurrency, limit: int, rules: Rules, *, flat: bool, now: float) -> int:
    elsewhere = flat and state.usual is not None and state.usual >= UPSTREAM_LATENCY
    if rules.most is not None:
        wider = limit * VOUCHED_DIVISOR
    elif limit < START_LIMIT or state.metered or elsewhere:
        wider = limit * 2
    else:
        wider = limit + 1
    return min(wider, state.ceiling(rules, now))


def _new_round(state: Concurrency) -> Concurrency:
    return replace(state, calls=0, accepted=0, elapsed=0.0, failed=0, headers=0, pressed=False)
