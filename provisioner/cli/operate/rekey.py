"""`provisioner rekey`: send connections the present key of their credential."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.operate.changes import All, DryRun, Yes
from provisioner.cli.operate.desired_changes import Requested, brought
from provisioner.cli.terminal.filters import Batches, Ids, Projects, Targets, filtered
from provisioner.cli.terminal.frame import NOT_DONE, Config, Json, load, open_database, run_async, tell_error
from provisioner.core.key_health import canonical
from provisioner.postgres.desired_changes import Rekeying

if TYPE_CHECKING:
    from provisioner.settings import Settings


def rekey(  # noqa: PLR0917  # the command line names them
    ids: Ids = None,
    config: Config = None,
    batches: Batches = None,
    projects: Projects = None,
    targets: Targets = None,
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
) -> None:
    """Send connections the current key of their credential, after the key was rotated.

    Each connection costs one PATCH by the workers. A few requests try the key first; if it is refused, the others keep
    the old key. --outdated compares fingerprints, so it needs the keys in the settings of this host. Adopted
    connections are left alone, and so are connections whose sealed key was wiped. On a terminal you are asked before
    more than 20 requests are changed. Exits 1 if an id or a batch does not exist, if none of the given ids could be
    changed, or if there is no key to compare with.

    Example: provisioner rekey --credential team-a --outdated
    """
    wanted = filtered(ids=ids, batches=batches, projects=projects, targets=targets)
    narrowed = outdated or bool(credentials)
    if wanted.is_empty and not narrowed and not everything:
        raise typer.BadParameter("select requests by ids, by filters, with --credential, --outdated or --all")
    if everything and (credentials or not wanted.is_empty):
        raise typer.BadParameter("--all cannot be combined with ids or filters")
    names = None if credentials is None else tuple(map(canonical, credentials))
    wish = Requested(change=Rekeying(credentials=names), wanted=wanted, yes=yes, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(run_async(_rekey(load(config), wish, names, outdated=outdated)))


async def _rekey(settings: "Settings", wish: Requested, names: tuple[str, ...] | None, *, outdated: bool) -> int:
    from provisioner.keyring import present_fingerprints

    async with open_database(settings) as database:
        if not outdated:
            return await brought(database, wish)
        fingerprints, unread = await present_fingerprints(settings, database, names)
        if not fingerprints:
            told = "; ".join(unread) or "no credential is in the settings of this host"
            tell_error(f"there is no key to compare with: {told}")
            return NOT_DONE
        change = Rekeying(credentials=names, fingerprints=fingerprints)
        return await brought(
            database, replace(wish, change=change, remarks=tuple(f"not compared: {each}" for each in unread))
        )
