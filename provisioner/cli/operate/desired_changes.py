"""What `remove` and `rekey` share: foresee what becomes of each request, ask if it is much, do it, say what changed."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

import typer

from provisioner.cli.operate.changes import MANY
from provisioner.cli.terminal.bars import counting
from provisioner.cli.terminal.filters import tell_unknown_of
from provisioner.cli.terminal.frame import DONE, NOT_DONE, console, open_database, print_json, run_async, say
from provisioner.core.errors import ProvisionerError
from provisioner.postgres.desired_changes import DesiredChange, Removal, bring_about, preview

if TYPE_CHECKING:
    from provisioner.postgres.filters import Filter
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

# After a number, so that each fits one and many.
_WOULD: Final = {
    "removing": "would be deleted from Infisical",
    "let go": "adopted: would be forgotten here and stay in Infisical (--adopted deletes them as well)",
    "removed": "with nothing in Infisical: would be removed at once",
    "sent": "would get the current key",
}
_DONE: Final = {
    "removing": "will be deleted from Infisical by the workers",
    "let go": "adopted: forgotten here, and left in Infisical (--adopted deletes them as well)",
    "removed": "with nothing in Infisical: removed at once",
    "sent": "will get the current key from the workers",
}
_LEFT: Final = {
    "absent": "already removed",
    "on its way": "already being removed",
    "nothing": "without a connection to send a key to",
    "rotation": "skipped: Infisical makes and replaces the keys of rotations itself",
    "adopted": "adopted: their connections keep the key that they have",
    "wiped": "with a wiped sealed key: set credential to a new one",
    "not known": "not comparable: this host does not have the key, or it is unknown which key they have",
    "present": "with the current key already",
    "in flight": "in flight: rekey them when they have ended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What the command line asks for; `remarks` are told to people beside it."""

    change: DesiredChange
    wanted: "Filter"
    yes: bool
    dry_run: bool
    as_json: bool
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What would be changed and why the rest would not, before; and what was changed."""

    operation: str
    dry_run: bool
    would_change: Mapping[str, int]
    unchanged: Mapping[str, int]
    changed: Mapping[str, int] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def bring(settings: "Settings", requested: Requested) -> int:
    """Do it and return the exit status."""
    return run_async(_brought(settings, requested))


async def _brought(settings: "Settings", requested: Requested) -> int:
    async with open_database(settings) as database:
        return await brought(database, requested)


async def brought(database: "Database", requested: Requested) -> int:
    """The same with a database that is open."""
    if await tell_unknown_of(database, requested.wanted):
        return NOT_DONE
    found = await preview(database, requested.change, requested.wanted)
    result = Result(
        operation=requested.change.name,
        dry_run=requested.dry_run,
        would_change={word: found[word] for word in requested.change.changes if found[word]},
        unchanged={word: found[word] for word in _LEFT if found[word]},
        remarks=requested.remarks,
    )
    expected = sum(result.would_change.values())
    if expected and not requested.dry_run:
        if not _agreed(requested, result, expected):
            say("nothing was changed")
            return NOT_DONE
        result = await _done(database, requested, result, expected)
    _tell(result, as_json=requested.as_json)
    # Ids were meant one by one: if nothing could be done for any of them, it could not be done.
    return NOT_DONE if requested.wanted.ids and not expected else DONE


def _agreed(requested: Requested, result: Result, expected: int) -> bool:
    if requested.yes or expected <= MANY or not (sys.stdin.isatty() and console(stderr=True).is_terminal):
        return True
    if not isinstance(requested.change, Removal):
        return typer.confirm(f"Send the current key to {expected:,} connections?", err=True)
    deleted = result.would_change.get("removing", 0)
    return typer.confirm(f"Remove {expected:,} requests, and delete what {deleted:,} of them have made?", err=True)


async def _done(database: "Database", requested: Requested, result: Result, expected: int) -> Result:
    changed: Counter[str] = Counter()
    try:
        with counting(requested.change.name, total=expected, quiet=requested.as_json) as advance:
            async for step in bring_about(database, requested.change, requested.wanted):
                changed.update(step.changed)
                advance(step.seen)
    except ProvisionerError:
        if changed:  # these stay changed; the caller has to know
            _tell(replace(result, changed=dict(changed)), as_json=requested.as_json)
        raise
    return replace(result, changed=dict(changed))


def _tell(result: Result, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result))
        return
    for remark in result.remarks:
        say(remark)
    if not (result.would_change or result.unchanged):
        say("no request matches")
        return
    words, counts = (_WOULD, result.would_change) if result.dry_run else (_DONE, result.changed)
    for word, number in counts.items():
        say(f"{number:>7,} {words[word]}")
    for word, number in result.unchanged.items():
        say(f"{number:>7,} {_LEFT[word]}")
    missed = sum(result.would_change.values()) - sum(result.changed.values())
    if result.dry_run:
        say("nothing was changed (--dry-run)")
    elif missed > 0:
        say(f"{missed:>7,} unchanged: changed by somebody else in the meantime, or kept by a trigger or constraint")
