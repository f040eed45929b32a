"""`provisioner remove` and `rekey`: delete what was made, or send it its credential's present key."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.operate.changes import All, DryRun, Order, Yes, carried_out, checked, is_confirmed
from provisioner.cli.terminal.filters import filtering, tell_unknown_of
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database
from provisioner.cli.terminal.output import print_json, say, tell_error
from provisioner.core.key_health import canonical
from provisioner.postgres.desired_changes import DesiredChange, Rekeying, Removal, bring_about, preview
from provisioner.postgres.filters import Filter

if TYPE_CHECKING:
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


@filtering()
async def remove(
    config: Config = None,
    *,
    wanted: Filter,
    everything: All = False,
    adopted: Annotated[bool, typer.Option("--adopted", help="Also delete what was adopted.")] = False,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Also delete the secrets of their rotations.")
    ] = False,
    revoke_keys: Annotated[
        bool, typer.Option("--revoke-keys", help="Also revoke the keys of rotations at OpenRouter.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Delete connections and rotations from Infisical: workers delete them by their recorded ids. The rows stay.

    Rotations that use a connection are deleted before it. Their secrets and keys stay unless you say otherwise, and
    left_behind names the keys that stay. Adopted connections and rotations are only forgotten: they stay in Infisical
    unless you add --adopted. A request that has made nothing is removed at once. `provisioner retry` creates a removed
    one again.

    To undo a batch, use --batch; --dry-run says how many would be deleted and how many forgotten. A filter can be
    repeated: a request matches if any of its values does. Different filters must all match. On a terminal you are asked
    before more than 20 requests are changed. Exits 1 if an id or a batch does not exist, or if none of the given ids
    could be changed.

    Example: provisioner remove --batch onboarding --dry-run
    """
    order = Order(wanted=checked(wanted, everything=everything), yes=yes, dry_run=dry_run, as_json=as_json)
    change = Removal(adopted=adopted, with_secrets=with_secrets, revoke_keys=revoke_keys)
    async with open_database(load(config)) as database:
        return await _change(database, change, order)


@filtering("ids", "batches", "projects", "targets")
async def rekey(
    config: Config = None,
    *,
    wanted: Filter,
    credentials: Annotated[
        list[str] | None,
        typer.Option("--credential", metavar="NAME", help="Requests with this credential.", show_default=False),
    ] = None,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Only connections whose key is not the current one of their credential.")
    ] = False,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Send connections the current key of their credential, after the key was rotated.

    Each connection costs one PATCH by the workers. A few requests try the key first; if it is refused, the others keep
    the old key. --outdated compares fingerprints, so it needs the keys in the settings of this host. Adopted
    connections are left alone, and so are connections whose sealed key was wiped. On a terminal you are asked before
    more than 20 requests are changed. Exits 1 if an id or a batch does not exist, if none of the given ids could be
    changed, or if there is no key to compare with.

    Example: provisioner rekey --credential team-a --outdated
    """
    narrowed = outdated or bool(credentials)
    if wanted.is_empty and not narrowed and not everything:
        raise typer.BadParameter("select requests by ids, by filters, with --credential, --outdated or --all")
    if everything and (credentials or not wanted.is_empty):
        raise typer.BadParameter("--all cannot be combined with ids or filters")
    names = None if credentials is None else tuple(map(canonical, credentials))
    order = Order(wanted=wanted, yes=yes, dry_run=dry_run, as_json=as_json)
    return await _rekey(load(config), names, order, outdated=outdated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The preview: what would be changed and why the rest would not; and what was changed."""

    operation: str
    dry_run: bool
    would_change: Mapping[str, int]
    unchanged: Mapping[str, int]
    changed: Mapping[str, int] = field(default_factory=dict)
    remarks: Sequence[str] = ()


async def _rekey(settings: "Settings", names: tuple[str, ...] | None, order: Order, *, outdated: bool) -> int:
    from provisioner.keyring import present_fingerprints

    async with open_database(settings) as database:
        if not outdated:
            return await _change(database, Rekeying(credentials=names), order)
        fingerprints, unread = await present_fingerprints(settings, database, names)
        if not fingerprints:
            told = "; ".join(unread) or "no credential is in the settings of this host"
            tell_error(f"there is no key to compare with: {told}")
            return NOT_DONE
        remarks = [f"not compared: {each}" for each in unread]
        return await _change(database, Rekeying(credentials=names, fingerprints=fingerprints), order, remarks)


async def _change(database: "Database", change: DesiredChange, order: Order, remarks: Sequence[str] = ()) -> int:
    """Preview the change of each request, ask if there are many, apply it, and report what changed."""
    if await tell_unknown_of(database, order.wanted):
        return NOT_DONE
    found = await preview(database, change, order.wanted)
    result = Result(
        operation=change.name,
        dry_run=order.dry_run,
        would_change={word: found[word] for word in change.changes if found[word]},
        unchanged={word: found[word] for word in _LEFT if found[word]},
        remarks=remarks,
    )

    def tell(changed: Counter[str]) -> None:
        _tell(replace(result, changed=dict(changed)), as_json=order.as_json)

    changed: Counter[str] = Counter()
    expected = sum(result.would_change.values())
    if expected and not order.dry_run:
        if not is_confirmed(order, expected, _question(change, result, expected)):
            return NOT_DONE
        steps = bring_about(database, change, order.wanted)
        changed = await carried_out(steps, order, change.name, total=expected, tell=tell)
    tell(changed)
    # Ids were given one by one: if nothing could be done for any of them, the command has failed.
    return NOT_DONE if order.wanted.ids and not expected else DONE


def _question(change: DesiredChange, result: Result, expected: int) -> str:
    if not isinstance(change, Removal):
        return f"Send the current key to {expected:,} connections?"
    deleted = result.would_change.get("removing", 0)
    return f"Remove {expected:,} requests, and delete what {deleted:,} of them have made?"


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
