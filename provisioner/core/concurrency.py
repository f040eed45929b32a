"""How many creates may be in flight at a target, over all its workers? As many as its server bears.

A self-hosted Infisical has a pool of ten database connections, and a create holds one of them while it waits for a
second (`infisical-api.md` §2). Twelve creates at once stop the server for a minute, for everybody who uses it. So a
target has one limit that all its workers share. It starts small, widens while answers stay quick, and falls to one when
no call ends any more: that is a *stall*. When the calls of a stall end in late errors of Infisical's own, the number
that was in flight is the *cliff*. It is remembered, and the limit stays well below it for hours.

When they end without any word of Infisical's (timeouts, resets, a gateway's page), a network that swallows packets
looks the same as a pool that waits longer than we do. Then the number is only suspected: the limit stays below it for
minutes, and for twice as long each time that it happens again. A false suspicion costs little, and a true cliff whose
errors never reach us is met less and less often. A read that hangs too proves neither: it hangs in both.

Who has how many of the slots, `core.sharing` says. Pure: no clock, no I/O. Times are seconds since 1970 on the
database's clock, for all workers share that one.
"""

from dataclasses import dataclass, replace
from typing import Final

# Creates in flight at a server of which nothing is known.
START: Final = 4
# Where no limiter sets the pace: most of a pool of ten, which leaves room for the server's other clients.
SELF_HOSTED: Final = 8
# As many at once were seen to pass a pool of ten, and one more was not. Only where the time goes by elsewhere.
UPSTREAM: Final = 11
# A create that takes so long, seconds, with few in flight, waits for OpenRouter and not for Infisical's database.
ELSEWHERE: Final = 0.15
# It does so as long as its latency stays below this multiple of the usual one while more are in flight.
FLAT: Final = 1.5
# Behind a limiter the pace is set by that; more are not needed at any of Infisical's rates.
METERED: Final = 64
# A number in the settings vouches for the server: the limit begins at this part of it, and grows by this factor.
# At 50 ms a call it is at 64 after 0.05 s, which costs 5 000 creates 1 % of their time; from four on it would be 2 %.
VOUCHED: Final = 4
# A round is as many calls as may be in flight, and at least this many.
LEAST: Final = 4
# The share of a round's calls that failed, from which on the server is in distress; fewer are bad luck.
DISTRESS: Final = 0.5
# A latency above this multiple of the usual one, and above it by this many seconds, is distress too.
SLOWER: Final = 3.0
MUCH: Final = 0.5
# What was distress becomes the usual latency, by this factor a round, if it stays.
GETTING_USED: Final = 1.25
# A stall: no call ends for this multiple of the usual latency, and for at least this many seconds.
LONG: Final = 8.0
PATIENCE: Final = 4.0
# The same while no latency is known, seconds.
FIRST_PATIENCE: Final = 10.0
# Fewer calls than this that do not end are slow calls, not too many at once.
CROWD: Final = 3
# Below a cliff the limit keeps to this share of it, and to at least so many.
BELOW: Final = 0.75
LOWEST: Final = 2
# So long, seconds, nothing more is tried; then one step more for each further such time.
MEMORY: Final = 6 * 3600.0
# So long, seconds, a suspicion lasts at first: as many stalls an hour as a person would bear who has such a server.
SUSPICION: Final = 600.0
# The pool gives up after 60 s and our client after 120 s at most: what stalls longer than this, seconds, is an outage.
LONGEST_STALL: Final = 150.0
# After so many seconds without a call nothing is known of the present latency.
FORGOTTEN: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings say: the server's address, and `most` creates in flight there, None for what it seems to bear.

    `sharers` targets are at that address, and each keeps to its part of the default.
    """

    address: str
    most: int | None = None
    sharers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One worker's part: slots that it has, slots that it could use, calls that it had out when it last told."""

    worker: int
    held: int = 0
    wanted: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """What one worker tells: its calls since it told last, and what it has out now.

    Of the `calls` that ended, `accepted` took `elapsed` seconds together and were accepted by the server; `failed` look
    as if it could not cope; `slow` of these were Infisical's own server errors after a long silence, `lost` ended after
    one without any word of Infisical's; `refused` were never sent, for nobody listened; `metered` carried the limiter's
    headers. `quick`: one was answered without a long silence, and not by a server in trouble. `pressed`: all slots were
    in use at once. `oldest` is for how long the oldest call has been out, `ended_ago` when the last one ended.
    """

    wanted: int = 0
    running: int = 0
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
    """What all workers know together of one target's server.

    `usual` is the latency of creates while few are in flight. `calls`, `accepted`, `elapsed`, `failed`, `headers` and
    `pressed` belong to the present round. `stalled_at` is when the present stall was noticed, `stalled_with` how many
    were in flight then. A `cliff` was met at `cliff_at`, and `bar` is how far the limit went at most right after it,
    for `memory` seconds; one that is remembered for less than `MEMORY` is a suspicion.
    """

    address: str
    limit: int = START
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
    memory: float = MEMORY
    holders: tuple[Holder, ...] = ()

    @property
    def patience(self) -> float:
        """Seconds without an end of any call that make a stall."""
        return FIRST_PATIENCE if self.usual is None else max(PATIENCE, LONG * self.usual)

    def stalls(self, now: float) -> bool:
        """Whether too many were in flight, and have not ended yet."""
        return self.stalled_at is not None and now - self.stalled_at < LONGEST_STALL

    @property
    def proven(self) -> int | None:
        """The cliff, if Infisical itself has said so; a suspicion concerns nobody but the limit."""
        return self.cliff if self.memory >= MEMORY else None

    def ceiling(self, rules: Rules, now: float) -> int:
        """How far the limit may go, whatever the present latency."""
        if rules.most is not None:
            most = rules.most
        elif self.metered:
            most = METERED
        else:
            elsewhere = self.usual is not None and self.usual >= ELSEWHERE
            most = max(1, (UPSTREAM if elsewhere else SELF_HOSTED) // rules.sharers)
        steps = int((now - self.cliff_at) / self.memory)
        if self.cliff is None or (steps > 0 and self.memory < MEMORY):
            return most
        return min(most, max(1, self.bar + steps * max(1, self.bar // 8)))


def unknown(rules: Rules) -> Concurrency:
    """A server of which nothing is known but what the settings say."""
    # A larger number is no reason to begin with more at once: if it is wrong, fewer stalls show it.
    return Concurrency(address=rules.address, limit=max(START, min(rules.most or 0, METERED) // VOUCHED))


def learn(state: Concurrency, told: CallReport, *, in_flight: int, rules: Rules, now: float) -> Concurrency:
    """Take in what one worker tells; `in_flight` is what all have out."""
    if told.calls:
        if state.ended_at and now - state.ended_at > FORGOTTEN:
            state = replace(state, limit=min(state.limit, START), usual=None)
        state = replace(state, ended_at=max(state.ended_at, now - told.ended_ago))
    if told.slow and state.stalled_with:
        state = replace(_meet_cliff(state, MEMORY, now), stalled_with=0)
    elif told.lost and state.stalled_with and not _is_met(state, now):
        state = _meet_cliff(state, _suspicion(state, now), now)
    if state.stalled_at is not None:
        return _recover(state, told, now)
    silent = min(told.oldest, now - state.ended_at)
    if in_flight >= CROWD and silent >= state.patience:
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
    return _round(state, rules, now) if state.calls >= max(LEAST, state.limit) else state


def _is_met(state: Concurrency, now: float) -> bool:
    """Whether the present stall has left its cliff already."""
    return state.cliff == state.stalled_with and now - state.cliff_at < LONGEST_STALL


def _suspicion(state: Concurrency, now: float) -> float:
    """How long a stall is remembered that ended without a word: longer than the last time, if that was lately."""
    again = state.cliff is not None and now - state.cliff_at < MEMORY
    return min(MEMORY, 2 * state.memory) if again else SUSPICION


def _meet_cliff(state: Concurrency, memory: float, now: float) -> Concurrency:
    """The calls of a stall have ended as those do that are too many, or may be."""
    number = state.stalled_with
    # After so many as nothing but a number in the settings allows, the cliff may lie anywhere above the step before.
    below = int(number * BELOW) if number <= UPSTREAM else max(SELF_HOSTED, number // VOUCHED)
    bar = max(LOWEST, min(below, number - 1))
    return replace(state, cliff=number, cliff_at=now, bar=bar, memory=memory, limit=min(state.limit, START, bar))


def _recover(state: Concurrency, told: CallReport, now: float) -> Concurrency:
    """Has a stall ended? It has when a call that began after it is answered well, or when nobody listens: an outage."""
    if told.refused:
        return replace(state, limit=LOWEST, stalled_at=None, stalled_with=0)
    if told.quick:
        return replace(state, limit=LOWEST, stalled_at=None)
    if state.stalled_at is not None and now - state.stalled_at >= LONGEST_STALL and told.calls:
        return replace(state, usual=None, stalled_at=None, stalled_with=0)
    return state


def _round(state: Concurrency, rules: Rules, now: float) -> Concurrency:
    """Judge what a round's calls showed."""
    state = replace(state, metered=state.headers > 0, stalled_with=0)
    latency = state.elapsed / state.accepted if state.accepted else None
    usual = state.usual
    slower = latency is not None and usual is not None and latency > max(SLOWER * usual, usual + MUCH)
    if slower or state.failed / state.calls >= DISTRESS:
        used = usual * GETTING_USED if usual is not None else None
        return replace(_new_round(state), limit=max(1, state.limit // 2), usual=used)
    if latency is not None and (usual is None or latency < usual):
        usual = latency
    state = replace(state, usual=usual)
    limit = min(state.limit, state.ceiling(rules, now))
    if latency is not None and usual is not None:
        flat = latency <= FLAT * usual
        if state.pressed:
            limit = _wider(state, limit, rules, flat=flat, now=now)
        if not flat and rules.most is None and not state.metered:
            limit = min(limit, SELF_HOSTED)
    return replace(_new_round(state), limit=limit)


def _wider(state: Concurrency, limit: int, rules: Rules, *, flat: bool, now: float) -> int:
    elsewhere = flat and state.usual is not None and state.usual >= ELSEWHERE
    if rules.most is not None:
        wider = limit * VOUCHED
    elif limit < START or state.metered or elsewhere:
        wider = limit * 2
    else:
        wider = limit + 1
    return min(wider, state.ceiling(rules, now))


def _new_round(state: Concurrency) -> Concurrency:
    return replace(state, calls=0, accepted=0, elapsed=0.0, failed=0, headers=0, pressed=False)
