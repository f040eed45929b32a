"""Read from Infisical within the budget that all workers share."""

import asyncio
from collections.abc import Callable
from typing import Final

from provisioner.core.model import Observation
from provisioner.core.pacing import Grant
from provisioner.core.ports import Permits

BREATH: Final = 0.05  # seconds; the shortest wait for a permit


async def take_permit(
    reads: Permits, *, spare: bool = False, breath: float = BREATH, waits: Callable[[float], object] = lambda _: None
) -> Grant:
    """Wait for the permit to make one call, a `spare` one if others must not wait. Raises `DatabaseUnavailable`.

    `waits` is called before each pause with its seconds.
    """
    while True:
        granted = await reads.acquire(1, spare=spare)
        if granted.permits:
            return granted
        waits(granted.wait)
        await asyncio.sleep(max(granted.wait, breath))


def learn_from(budget: Permits, seen: Observation) -> None:
    """Correct a budget by the answer to a call."""
    budget.learn(seen.rate, metered=seen.metered, throttled_for=seen.retry_after, elapsed=seen.elapsed)
