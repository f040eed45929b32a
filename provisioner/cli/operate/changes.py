"""Shared by `retry`, `cancel`, `remove` and `rekey`: the selection of requests, the confirmation, and the steps."""

import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from provisioner.cli.terminal.output import console, say
from provisioner.cli.terminal.progress import counting
from provisioner.core.errors import ProvisionerError
from provisioner.postgres.filters import Filter
from provisioner.postgres.operations import Step

MANY: Final = 20  # requests that are changed without a confirmation

All = Annotated[bool, typer.Option("--all", help="Select every request that can be changed.")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation. Without a terminal there is no question.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The selected requests, and how to change them."""

    wanted: Filter
    yes: bool
    dry_run: bool
    as_json: bool


def checked(wanted: Filter, *, everything: bool) -> Filter:
    """Return the filter, unless it would change everything without `--all`. Raises bad usage."""
    if wanted.is_empty and not everything:
        raise typer.BadParameter("select requests by ids, by filters, or with --all")
    if everything and not wanted.is_empty:
        raise typer.BadParameter("--all cannot be combined with ids or filters")
    return wanted


def is_confirmed(order: Order, requests: int, question: str) -> bool:
    """Whether this many requests are to be changed; asks if there are many and the terminal is interactive."""
    asks = requests > MANY and sys.stdin.isatty() and console(stderr=True).is_terminal
    if order.yes or not asks:
        return True
    # The event loop's handler would keep an interrupt until the question is answered.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if typer.confirm(question, err=True):
            return True
    finally:
        signal.signal(signal.SIGINT, before)
    say("nothing was changed")
    return False


async def carried_out(
    steps: AsyncIterator[Step], order: Order, label: str, *, total: int, tell: Callable[[Counter[str]], None]
) -> Counter[str]:
    """Run all steps, and count their changes. Changes before an error stay, and are reported."""
    changed: Counter[str] = Counter()
    try:
        with counting(label, total=total, quiet=order.as_json) as advance:
            async for step in steps:
                changed.update(step.changed)
                advance(step.seen)
    except ProvisionerError:
        if changed:
            tell(changed)
        raise
    return changed
