"""What an answer has to be about, and what it means: passed between the readers of answers."""

from typing import NamedTuple

from provisioner.core.model import Action, Connection, Proof, Result


class Asked(NamedTuple):
    """What was asked for: the answer has to be about it, where it is given. `key` is the API key that was sent."""

    action: Action
    project_id: str | None = None
    name: str = ""
    connection_id: str | None = None
    key: str = ""


class Verdict(NamedTuple):
    """What an answer means, and what it proves of a create; `metered`: it came from behind the rate limiter."""

    result: Result
    message: str = ""
    connection: Connection | None = None
    metered: bool = True
    req_id: str | None = None
    retry_after: float | None = None
    proof: Proof = Proof.NONE
