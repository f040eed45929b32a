"""The protocols for tasks beside the worker's journey: notices and standing verification.

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
    """The notices of the fleet. Every method raises `DatabaseUnavailable` as those of `Queue` do."""

    async def collect(self, *, last: bool = False) -> bool:
        """Put new notices into the outbox if it is this worker's turn; whether it is.

        `last`: no other check will follow.
        """

    async def take(self) -> Delivery | None:
        """Return the notice that has been due longest; it is reserved for this worker for a while."""

    async def sent(self, delivery: Delivery) -> None:
        """Note that a notice was delivered."""

    async def failed(self, delivery: Delivery, *, reason: str, pause: float | None) -> None:
        """Note a failed delivery; it is due again after `pause` seconds, or never if that is None."""


class Receiver(Protocol):
    """The receiver of notices."""

    async def deliver(self, delivery: Delivery) -> str:
        """Deliver a notice; returns why it failed, empty on success. Trouble on the other side never raises."""


class Lister(Protocol):
    """Lists what a project contains, for standing verification."""

    async def list(self, project_id: str | None) -> tuple[Observation, tuple[Connection, ...]]:
        """Return all connections of our app in a project: `FOUND` with them, or what prevented it."""


class DriftLedger(Protocol):
    """The progress and findings of standing verification. Every method raises `DatabaseUnavailable`."""

    async def take(self, target: str) -> Round | None:
        """Take the turn at a target, if it is this worker's."""

    async def page(self, turn: Round) -> Mapping[str, Sequence[AnyRecorded]]:
        """Return the next recorded requests, by project; empty at the end of the round."""

    async def missed(self, target: str) -> Mapping[str, Sequence[AnyRecorded]]:
        """Return what was missed long enough ago to be checked again, by project."""

    async def next_missed(self, target: str) -> datetime | None:
        """Return when something that was missed may be checked again; None if nothing is missed."""

    async def since(self, recorded: Sequence[AnyRecorded]) -> Mapping[int, datetime]:
        """Return since when each of these has been missed."""

    async def save(self, turn: Round, verdicts: Sequence[Verdict], *, behind: AnyRecorded | None) -> bool:
        """Store findings and progress; whether the turn is still ours."""

    async def finish(self, turn: Round) -> None:
        """Finish the round."""

    async def leave(self, turn: Round) -> None:
        """Let another worker continue the round."""
