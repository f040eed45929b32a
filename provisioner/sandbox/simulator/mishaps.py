"""What a call meets by chance on its way to the database and back: connections and rotations share it."""

from dataclasses import dataclass
from typing import Final, NoReturn

from provisioner.sandbox.simulator.answers import Cut, internal
from provisioner.sandbox.simulator.exchange import Exchange
from provisioner.sandbox.simulator.faults import Faults
from provisioner.sandbox.simulator.settings import Settings

__all__ = ["Mishaps"]

SLOW: Final = 1.0


@dataclass(slots=True, kw_only=True)
class Mishaps:
    """The faults of creates, and those of changes and deletions."""

    creates: Faults
    changes: Faults
    settings: Settings

    async def delay(self, exchange: Exchange) -> None:
        """Take a second longer, if the call is to be slow."""
        if exchange.fault == "slow":
            self.strike(exchange)
            await exchange.wait(SLOW)

    async def before_commit(self, exchange: Exchange, *, error: str = "Create") -> None:
        """Fail with nothing done, or go on when nobody listens any more."""
        match exchange.fault:
            case "cut-before-commit":
                self.cut(exchange)
            case "error-before-commit":
                self.strike(exchange)
                raise internal(error=error)
            case "late-commit":
                self.strike(exchange)
                exchange.cut()
                await exchange.wait(self.settings.late_by)

    def after_commit(self, exchange: Exchange) -> None:
        """Lose the answer of what is done."""
        match exchange.fault:
            case "cut-after-commit":
                self.cut(exchange)
            case "error-after-commit":
                self.strike(exchange)
                raise internal()

    def strike(self, exchange: Exchange) -> None:
        """Count that the call's fault has its effect."""
        if exchange.fault is None:
            return
        if exchange.record is None:  # only creates have one
            self.changes.strike(exchange.fault)
        else:
            self.creates.strike(exchange.fault)
            exchange.record.fault = exchange.fault

    def cut(self, exchange: Exchange) -> NoReturn:
        """Cut the connection without an answer."""
        self.strike(exchange)
        exchange.cut()
        raise Cut
