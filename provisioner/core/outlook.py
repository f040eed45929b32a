"""How fast a target probably takes creates, before the first one has told. Pure."""

from dataclasses import dataclass
from typing import Final

# Reads and creates a minute of Infisical's plans: who is allowed so many reads is allowed so many creates.
PLANS: Final = ((200, 90, "Free"), (350, 200, "Pro"))
MINUTE: Final = 60.0
# Without a limiter: what a self-hosted server did with 8 creates in flight and an OpenRouter that takes 0.3 s.
SELF_HOSTED: Final = 20.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """Creates a second, and why."""

    pace: float
    reason: str


def expected(*, metered: bool | None, reads: int | None, period: float) -> Expectation | None:
    """What to expect of a target whose reads showed this limit; None if nothing was read there yet."""
    if metered is None:
        return None
    if not metered or not reads:
        return Expectation(SELF_HOSTED, "it has no rate limit; the server decides")
    for allowed, creates, plan in PLANS:
        if reads == allowed and period == MINUTE:
            return Expectation(creates / MINUTE, f"{creates} creates a minute, as on Infisical's {plan} plan")
    # Plans of their own: creates are about half of the reads on those that are known.
    return Expectation(
        reads / period / 2, f"about {reads / 2 / period * MINUTE:.0f} creates a minute, half of its reads"
    )
