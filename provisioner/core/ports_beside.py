"""What runs beside the journey needs from the outside, as protocols: telling others, and standing verification.

Times are aware `datetime`s on the database's clock, durations are seconds.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from provisioner.core.comparison import AnyRecorded
from provisioner.core.model import Connection, Observation
from provisioner.core.notices import Delivery
from provisioner.core.verifying import Round, Verdict


class Outbox(Protocol):
    """What the fleet has to tell others. Every method raises `DatabaseUnavailable` as those of `Queue` do."""

    async def collect(self, *, last: bool = False) -> bool:
        """Put what is to be told into the outbox, if it is this worker's turn; tells whether it is.

        `last`: nobody will look again.
        """

    async def take(self) -> Delivery | None:
        """The notice that has been due for longest; it is ours for a while."""

    async def sent(self, delivery: Delivery) -> None:
        """It has arrived."""

    async def failed(self, delivery: Delivery, *, reason: str, pause: float | None) -> None:
        """It has not; it is due again after `pause` seconds, never if that is None."""


class Receiver(Protocol):
    """Whom notices are told to."""

    async def deliver(self, delivery: Delivery) -> str:
        """Bring it; returns why it has not arrived, empty if it has. Never raises for what the other side did."""


class Lister(Protocol):
    """Whom standing verification asks what a project has."""

    async def list(self, project_id: str | None) -> tuple[Observation, tuple[Connection, ...]]:
        """All connections of our app in a project: `FOUND` with them, or what stood in the way."""


class DriftLedger(Protocol):
    """How far standing verification has come, and what it found. Every method raises `DatabaseUnavailable`."""

    async def take(self, target: str) -> Round | None:
        """Take the turn at a target, if it is ours."""

    async def page(self, turn: Round) -> Mapping[str, Sequence[AnyRecorded]]:
        """What comes next, by project; empty at the end of the round."""

    async def missed(self, target: str) -> Mapping[str, Sequence[AnyRecorded]]:
        """What was missed long enough ago to be looked for again, by project."""

    async def next_missed(self, target: str) -> datetime | None:
        """When something that was missed may be looked for again; None if nothing is missed."""

    async def since(self, recorded: Sequence[AnyRecorded]) -> Mapping[int, datetime]:
        """Since when those that were missed are missed."""

    async def save(self, turn: Round, verdicts: Sequence[Verdict], *, behind: AnyRecorded | None) -> bool:
        """Write down what was found, and how far the round has come; whether the turn is still ours."""

    async def finish(self, turn: Round) -> None:
        """The round is over."""

    async def leave(self, turn: Round) -> None:
        """Let another worker go on."""
