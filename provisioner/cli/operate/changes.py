"""What `retry` and `cancel` share: ask if it is much, do it in batches, say what changed."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.terminal.bars import counting
from provisioner.cli.terminal.filters import tell_unknown
from provisioner.cli.terminal.frame import DONE, NOT_DONE, console, open_database, print_json, run_async, say
from provisioner.core.errors import ProvisionerError
from provisioner.postgres.browse import count, unknown_ids
from provisioner.postgres.filters import Filter, State
from provisioner.postgres.operations import CHANGEABLE, Operation, carry_out

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

MANY: Final = 20  # requests that are changed without asking

All = Annotated[bool, typer.Option("--all", help="Select every request that can be changed.")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation. Without a terminal there is no question.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]

_PAST: Final[Mapping[Operation, str]] = {"cancel": "cancelled", "retry": "retried"}
_WORDS: Final = {
    "cancelled": "cancelled",
    "ending": "in flight: their last attempt may finish, and its connection is recorded",
    "put aside": "failed: now cancelled, so nobody has to act",
    "removed": "removed: will be created again",
    "failed": "failed: will be retried with a fresh set of attempts",
    "cancelled before": "cancelled: will be retried",
    "retrying": "waiting for their next attempt: retried at once",
    "quarantined": "quarantined: will continue as soon as a probe succeeds; the next one is due now",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    operation: Operation
    wanted: Filter
    yes: bool
    dry_run: bool
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found, by state, and what became of it; `would_change` by state, with `dry_run` and before asking."""

    operation: Operation
    dry_run: bool
    matched: Mapping[str, int]
    would_change: Mapping[str, int]
    changed: Mapping[str, int]
    unknown: Sequence[int]

    @property
    def unchanged(self) -> int:
        """How many were left as they are."""
        done = self.would_change if self.dry_run else self.changed
        return max(0, sum(self.matched.values()) - sum(done.values()))


def checked(wanted: Filter, *, everything: bool) -> Filter:
    """Give the filter back, unless it would change everything without having been told to. Raises bad usage."""
    if wanted.is_empty and not everything:
        raise typer.BadParameter("select requests by ids, by filters, or with --all")
    if everything and not wanted.is_empty:
        raise typer.BadParameter("--all cannot be combined with ids or filters")
    return wanted


def change(settings: "Settings", wish: Wish) -> int:
    """Do it and return the exit status."""
    return run_async(_change(settings, wish))


async def _change(settings: "Settings", wish: Wish) -> int:
    async with open_database(settings) as database:
        found = await count(database, wish.wanted)
        outcome = Outcome(
            operation=wish.operation,
            dry_run=wish.dry_run,
            matched={state.value: requests for state, requests in found.items()},
            would_change=_foreseen(wish.operation, found),
            changed={},
            unknown=await unknown_ids(database, wish.wanted.ids),
        )
        expected = sum(outcome.would_change.values())
        if expected and not wish.dry_run:
            if not _agreed(wish, expected):
                say("nothing was changed")
                return NOT_DONE
            outcome = await _carried_out(database, wish, outcome, expected)
    _tell(outcome, as_json=wish.as_json)
    if outcome.unknown:
        tell_unknown(outcome.unknown)
    # Ids were meant one by one: if none of them could be changed, it could not be done.
    failed = outcome.unknown or (wish.wanted.ids and not (outcome.changed or outcome.would_change))
    return NOT_DONE if failed else DONE


def _foreseen(operation: Operation, found: Mapping[State, int]) -> Mapping[str, int]:
    return {state.value: found[state] for state in CHANGEABLE[operation] if state in found}


def _agreed(wish: Wish, expected: int) -> bool:
    if wish.yes or expected <= MANY or not (sys.stdin.isatty() and console(stderr=True).is_terminal):
        return True
    verb = "Cancel" if wish.operation == "cancel" else "Retry"
    return typer.confirm(f"{verb} {expected:,} requests?", err=True)


async def _carried_out(database: "Database", wish: Wish, outcome: Outcome, expected: int) -> Outcome:
    changed: Counter[str] = Counter()
    try:
        with counting(_PAST[wish.operation], total=expected, quiet=wish.as_json) as advance:
            async for step in carry_out(database, wish.operation, wish.wanted):
                changed.update(step.changed)
                advance(step.seen)
    except ProvisionerError:
        if changed:  # these stay changed; the caller has to know
            _tell(_with(outcome, changed), as_json=wish.as_json)
        raise
    return _with(outcome, changed)


def _with(outcome: Outcome, changed: Mapping[str, int]) -> Outcome:
    return replace(outcome, changed=dict(changed))


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(outcome), "unchanged": outcome.unchanged})
        return
    if not outcome.matched:
        if not outcome.unknown:
            say("no request matches")
        return
    if outcome.dry_run:
        states = ", ".join(f"{number:,} {_state(state)}" for state, number in outcome.would_change.items())
        total = sum(outcome.would_change.values())
        aside = f" ({states})" if states else ""
        say(f"would be {_PAST[outcome.operation]}: {total:,}{aside}; nothing was changed (--dry-run)")
    for word, number in sorted(outcome.changed.items()):
        before = outcome.operation == "retry" and word == "cancelled"
        say(f"{number:>7,} {_WORDS['cancelled before' if before else word]}")
    if outcome.unchanged:
        say(f"{outcome.unchanged:>7,} unchanged ({_left(outcome)})")


def _left(outcome: Outcome) -> str:
    kept = {state: number - outcome.would_change.get(state, 0) for state, number in outcome.matched.items()}
    return (
        ", ".join(f"{number:,} {_state(state)}" for state, number in kept.items() if number)
        or "changed by somebody else in the meantime"
    )


def _state(state: str) -> str:
    return state.replace("_", " ")
