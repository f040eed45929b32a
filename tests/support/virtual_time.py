"""Time that passes only while nothing else happens: a test that waits for a minute ends at once, on any machine.

For tests whose whole world is in one event loop, such as the simulator and its clients. A database is not: it works
while the loop has nothing to do, and time would jump.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")

# Real seconds in which what one side has written reaches the other one, both in this process.
ON_THE_WAY = 0.001


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for so long, lets so much time have passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(ON_THE_WAY)
        if not ready:
            self.passed += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Stands still while anything happens, and jumps to the next timer when nothing does."""

    def __init__(self) -> None:
        self._passing = _Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        """Seconds that have passed."""
        return self._passing.passed


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in such a loop; `asyncio.get_running_loop().time()` tells the time there."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
