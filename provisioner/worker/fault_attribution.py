"""Is trouble a request's own? It is when creates that began after its last trouble got through, and it fails again."""

from typing import Final

from provisioner.core.model import Result

# What shows that creates reach Infisical's tables.
THROUGH: Final = frozenset({Result.CREATED, Result.NAME_TAKEN})
# More requests in trouble at once than this are an outage; forgetting them costs nobody anything.
MOST: Final = 10_000


class FaultAttribution:
    """Notes the creates of one target that got through, and since when other requests are in trouble.

    The first trouble of a request convicts nobody: it may be the first sign of an outage, and creates that were under
    way when it began may still get through. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._began = float("-inf")
        self._in_trouble: dict[int, float] = {}

    def note(self, request: int, result: Result, *, began: float) -> None:
        """One create ended that began at that time."""
        if result in THROUGH:
            self._began = max(self._began, began)
            self._in_trouble.pop(request, None)

    def blames_request(self, request: int, now: float) -> bool:
        """Whether a request that is in trouble now has only itself to blame."""
        since = self._in_trouble.get(request)
        if len(self._in_trouble) >= MOST:
            self._in_trouble.clear()
        self._in_trouble[request] = now
        return since is not None and self._began > since
