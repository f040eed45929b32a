"""Who can tell whether trouble is a request's own? Only a call that began after it and got through."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

# So many seconds a witness is waited for; a row whose trouble nobody else can judge loses no attempt.
PATIENCE: Final = 2.0


class Witness:
    """Notes the calls of one target that got through, by when they began, in monotonic seconds.

    A call that was under way when an outage began may still get through, and says nothing about those that came later.
    """

    def __init__(self) -> None:
        self._began = float("-inf")
        self._news = asyncio.Event()

    def note(self, began: float | None) -> None:
        """One call ended: one that began at that time and got through, or, with None, one that did not."""
        if began is not None:
            self._began = max(self._began, began)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def confirms(self, since: float, *, unless: Callable[[], bool]) -> bool:
        """Whether others get through that began after `since`; given up at once when `unless` becomes true."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._began < since and not unless():
                    await self._news.wait()
        return self._began >= since
