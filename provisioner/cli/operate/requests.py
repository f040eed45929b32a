"""`provisioner retry` and `cancel`: put requests back in line, or cancel them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from provisioner.cli.operate.changes import All, DryRun, Order, Yes, carried_out, checked, is_confirmed
from provisioner.cli.terminal.filters import filtering, tell_unknown
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database
from provisioner.cli.terminal.output import print_json, say
from provisioner.postgres.browse import count, unknown_ids
from provisioner.postgres.filters import Filter
from provisioner.postgres.operations import CHANGEABLE, Operation, carry_out

if TYPE_CHECKING:
    from provisioner.settings import Settings

_PAST: Final[Mapping[Operation, str]] = {"cancel": "cancelled", "retry": "retried"}
# After a number, so that each fits one and many.
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


@filtering()
async def retry(
    config: Config = None,
    *,
    wanted: Filter,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retry requests: failed and cancelled ones from the beginning, waiting ones at once.

    What is known about earlier attempts is kept, so nothing is created twice. A filter can be repeated: a request
    matches if any of its values does. Different filters must all match. On a terminal you are asked before more than
    20 requests are changed. Exits 1 if an id does not exist, or if none of the given ids could be changed.

    Example: provisioner retry --state failed --error permission_denied
    """
    wanted = checked(wanted, everything=everything)
    order = Order(wanted=wanted, yes=yes, dry_run=dry_run, as_json=as_json)
    return await _change(load(config), "retry", order)


@filtering()
async def cancel(
    config: Config = None,
    *,
    wanted: Filter,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Cancel requests that have not finished.

    A request that is in flight is allowed to finish, and its connection is recorded. If an earlier attempt may have
    succeeded, its connection is looked up first. A filter can be repeated: a request matches if any of its values
    does. Different filters must all match. On a terminal you are asked before more than 20 requests are changed. Exits
    1 if an id does not exist, or if none of the given ids could be changed.

    Example: provisioner cancel --batch onboarding --state pending --dry-run
    """
    wanted = checked(wanted, everything=everything)
    order = Order(wanted=wanted, yes=yes, dry_run=dry_run, as_json=as_json)
    return await _change(load(config), "cancel", order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The matches by state, and what was changed; `would_change` by state, for `dry_run` and the confirmation."""

    operation: Operation
    dry_run: bool
    matched: Mapping[str, int]
    would_change: Mapping[str, int]
    changed: Mapping[str, int]
    unknown: Sequence[int]

    @property
    def unchanged(self) -> int:
        """The number of requests that were left unchanged."""
        done = self.would_change if self.dry_run else self.changed
        return max(0, sum(self.matched.values()) - sum(done.values()))


async def _change(settings: "Settings", operation: Operation, order: Order) -> int:
    async with open_database(settings) as database:
        found = await count(database, order.wanted)
        outcome = Outcome(
            operation=operation,
            dry_run=order.dry_run,
            matched={state.value: requests for state, requests in found.items()},
            would_change={state.value: found[state] for state in CHANGEABLE[operation] if state in found},
            changed={},
            unknown=await unknown_ids(database, order.wanted.ids),
        )

        def tell(changed: Counter[str]) -> None:
            _tell(replace(outcome, changed=dict(changed)), as_json=order.as_json)

        changed: Counter[str] = Counter()
        expected = sum(outcome.would_change.values())
        if expected and not order.dry_run:
            if not is_confirmed(order, expected, f"{operation.capitalize()} {expected:,} requests?"):
                return NOT_DONE
            steps = carry_out(database, operation, order.wanted)
            changed = await carried_out(steps, order, _PAST[operation], total=expected, tell=tell)
    tell(changed)
    if outcome.unknown:
        tell_unknown(outcome.unknown)
    # Ids were given one by one: if none of them could be changed, the command has failed.
    failed = outcome.unknown or (order.wanted.ids and not outcome.would_change)
    return NOT_DONE if failed else DONE


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
