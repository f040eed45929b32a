"""Decide whether trouble is a request's own: it fails again although later creates of others got through."""

from typing import Final

from provisioner.core.model import Result

# Results that show that creates reach Infisical's tables.
THROUGH: Final = frozenset({Result.CREATED, Result.NAME_TAKEN})
# More requests in trouble at once than this are an outage, and forgetting them does no harm.
MOST: Final = 10_000


class FaultAttribution:
    """Records which creates of one target got through, and since when other requests are in trouble.

    The first trouble of a request proves nothing: it may be the first sign of an outage, during which creates that
    began earlier may still get through. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._began = float("-inf")
        self._in_trouble: dict[int, float] = {}

    def note(self, request: int, result: Result, *, began: float) -> None:
        """Note the result of a create that began at that time."""
        if result in THROUGH:
            self._began = max(self._began, began)
            self._in_trouble.pop(request, None)

    def blames_request(self, request: int, now: float) -> bool:
        """Whether a request that is in trouble now has caused that trouble itself."""
        since = self._in_trouble.get(request)
        if len(self._in_trouble) >= MOST:
            self._in_trouble.clear()
        self._in_trouble[request] = now
        return since is not None and self._began > since
