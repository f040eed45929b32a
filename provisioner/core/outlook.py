"""Estimate how fast a target takes creates before the first one has been answered. Pure."""

from dataclasses import dataclass
from typing import Final

# Reads and creates per minute of Infisical's plans: the read limit shows the plan, and so the create limit.
PLANS: Final = ((200, 90, "Free"), (350, 200, "Pro"))
MINUTE: Final = 60.0
# Without a limiter: measured on a self-hosted server with 8 creates in flight and 0.3 s per call to OpenRouter.
SELF_HOSTED_PACE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """Creates per second, and the reason for the estimate."""

    pace: float
    reason: str


def expected(*, metered: bool | None, reads: int | None, period: float) -> Expectation | None:
    """Estimate the pace of a target from the limit on its reads; None if nothing was read yet."""
    if metered is None:
        return None
    if not metered or not reads:
        return Expectation(SELF_HOSTED_PACE, "it has no rate limit; the server decides")
    for allowed, creates, plan in PLANS:
        if reads == allowed and period == MINUTE:
            return Expectation(creates / MINUTE, f"{creates} creates a minute, as on Infisical's {plan} plan")
    # A custom plan: on the known plans, the create limit is about half of the read limit.
    return Expectation(
        reads / period / 2, f"about {reads / 2 / period * MINUTE:.0f} creates a minute, half of its reads"
    )
