"""What an answer has to be about, and what it means: passed between the readers of answers."""

from typing import NamedTuple

from provisioner.core.model import Action, Connection, Seen


class Asked(NamedTuple):
    """What the answer has to be about."""

    action: Action
    project_id: str | None
    name: str
    connection_id: str | None
    key: str


class Verdict(NamedTuple):
    """What an answer means; `metered`: it came from behind the rate limiter."""

    seen: Seen
    message: str = ""
    connection: Connection | None = None
    metered: bool = True
    req_id: str | None = None
    retry_after: float | None = None
