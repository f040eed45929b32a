"""What tests of every kind share: waiting for something to become true."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

T = TypeVar("T")

POLL = 0.02  # seconds between two looks at least


async def eventually(check: Callable[[], T | Awaitable[T]], *, within: float = 10.0) -> T:
    """Wait until the check gives something true, and return that; a failing assertion in it means not yet.

    The check may be a coroutine function. After `within` seconds an AssertionError tells what was seen last.
    """
    seen: object = "nothing: the check itself did not end"
    try:
        async with asyncio.timeout(within):
            while True:
                began = time.monotonic()
                try:
                    result = check()
                    seen = await result if inspect.isawaitable(result) else result
                except AssertionError as error:
                    seen = error
                else:
                    if seen:
                        return cast("T", seen)
                # Looks that cost something take no more than a third of the time.
                await asyncio.sleep(max(POLL, 2 * (time.monotonic() - began)))
    except TimeoutError:
        raise AssertionError(_complaint(check, within, seen)) from None


def wait_until(check: Callable[[], T], *, within: float = 10.0) -> T:
    """Do what `eventually` does in tests that are not asynchronous."""
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        seen: object
        try:
            seen = result = check()
        except AssertionError as error:
            seen = error
        else:
            if result:
                return result
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(check, within, seen))
        time.sleep(max(POLL, 2 * (time.monotonic() - began)))


def told(logs: Iterable[Mapping[str, Any]], event: str) -> int:
    """How often something was logged, of what structlog's `capture_logs` has seen."""
    return sum(line["event"] == event for line in logs)


def _complaint(check: Callable[[], object], within: float, seen: object) -> str:
    place = (
        f"{check.__code__.co_filename}:{check.__code__.co_firstlineno}" if inspect.isfunction(check) else repr(check)
    )
    return f"not true within {within} seconds: {place}; seen last: {seen!r}"
