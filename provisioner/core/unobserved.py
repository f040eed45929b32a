"""An observer that ignores everything."""

from collections.abc import Sequence

from provisioner.core.model import Action, Observation, Settlement
from provisioner.core.ports import Observer
from provisioner.core.queue_values import Report


class Unobserved(Observer):
    """The observer of a worker that nobody watches."""

    def called(self, target: str, action: Action, observation: Observation) -> None:
        """Do nothing."""

    def claimed(self, target: str, requests: int, took: float) -> None:
        """Do nothing."""

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """Do nothing."""

    def logged_in(self, target: str, outcome: str) -> None:
        """Do nothing."""


UNOBSERVED = Unobserved()
