"""Read the headers that Infisical and what stands before it put on their answers.

Pure functions over header mappings that are looked up in lower case. Headers are advice from outside: what cannot be
true is passed over, never believed and never an error.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from provisioner.core.model import RateHeaders
from provisioner.core.skew import HALF_SECOND

# Longer than any window or pause that makes sense, in seconds. An epoch in `reset`, milliseconds and jokes are above.
LONGEST_PAUSE: Final = 3600.0
# A limiter that says "now" would be asked again at once, and again.
SHORTEST_PAUSE: Final = 1.0
# One window of the limiter: what is waited when nothing tells how long.
USUAL_PAUSE: Final = 60.0

_COUNT = re.compile(r"[0-9]{1,9}").fullmatch
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?").fullmatch
_IN_WORDS = re.compile(r"\bin (?P<number>[0-9]{1,6}) ?(?P<unit>second|minute)").search


def read_rate(headers: Mapping[str, str]) -> RateHeaders | None:
    """What the limiter said of its window; None if it said nothing, or nothing that can be true."""
    limit = headers.get("x-ratelimit-limit")
    if limit is None:
        return None
    remaining = headers.get("x-ratelimit-remaining")
    reset = _seconds(headers.get("x-ratelimit-reset"))
    if remaining is None or reset is None or not _COUNT(limit) or not _COUNT(remaining):
        return None
    rate = RateHeaders(limit=int(limit), remaining=int(remaining), reset=reset)
    return rate if 0 < rate.limit >= rate.remaining else None


def read_retry_after(headers: Mapping[str, str], message: str, now: float | None) -> float:
    """Seconds for which nobody should send, after an answer 429.

    The first that makes sense of: `retry-after` as seconds or as a date, `x-ratelimit-reset`, the number in the
    message, one window. `now` is in seconds since 1970.
    """
    asked = headers.get("retry-after")
    for pause in (_seconds(asked), _until(asked, headers, now), _seconds(headers.get("x-ratelimit-reset"))):
        if pause is not None:
            return max(pause, SHORTEST_PAUSE)
    if words := _IN_WORDS(message):
        pause = int(words["number"]) * (60.0 if words["unit"] == "minute" else 1.0)
        if pause <= LONGEST_PAUSE:
            return max(pause, SHORTEST_PAUSE)
    return USUAL_PAUSE


def read_skew(headers: Mapping[str, str], now: float | None) -> float | None:
    """The server's clock minus ours in seconds, from `Date`; `now` is our time of receipt in seconds since 1970."""
    date = headers.get("date")
    if date is None or now is None:
        return None
    theirs = _epoch(date)
    return None if theirs is None else theirs + HALF_SECOND - now


def _seconds(text: str | None) -> float | None:
    if text is None or not _SECONDS(text):
        return None
    seconds = float(text)
    return seconds if seconds <= LONGEST_PAUSE else None


def _until(text: str | None, headers: Mapping[str, str], now: float | None) -> float | None:
    moment = _epoch(text) if text else None
    # The server's own clock, where it told it, agrees better with the moment that it named.
    present = _epoch(headers.get("date", "")) or now
    if moment is None or present is None or not 0 < moment - present <= LONGEST_PAUSE:
        return None
    return moment - present


@lru_cache(maxsize=16)  # all answers of one second carry the same date
def _epoch(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
