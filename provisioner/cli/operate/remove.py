"""`provisioner remove`: have connections and rotations deleted."""

from typing import Annotated

import typer

from provisioner.cli.operate.changes import All, DryRun, Yes, checked
from provisioner.cli.operate.desired_changes import Requested, bring
from provisioner.cli.terminal.filters import Batches, Errors, Ids, Projects, States, Targets, filtered
from provisioner.cli.terminal.frame import Config, Json, load
from provisioner.postgres.desired_changes import Removal


def remove(  # noqa: PLR0917  # the command line names them
    ids: Ids = None,
    config: Config = None,
    states: States = None,
    batches: Batches = None,
    projects: Projects = None,
    errors: Errors = None,
    targets: Targets = None,
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
) -> None:
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
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    wish = Requested(
        change=Removal(adopted=adopted, with_secrets=with_secrets, revoke_keys=revoke_keys),
        wanted=checked(wanted, everything=everything),
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )
    raise typer.Exit(bring(load(config), wish))
