"""`provisioner retry`: try requests again."""

import typer

from provisioner.cli.operate.changes import All, DryRun, Wish, Yes, change, checked
from provisioner.cli.terminal.filters import Batches, Errors, Ids, Projects, States, Targets, filtered
from provisioner.cli.terminal.frame import Config, Json, load


def retry(  # noqa: PLR0917  # the command line names them
    ids: Ids = None,
    config: Config = None,
    states: States = None,
    batches: Batches = None,
    projects: Projects = None,
    errors: Errors = None,
    targets: Targets = None,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Retry requests: failed and cancelled ones from the beginning, waiting ones at once.

    What is known about earlier attempts is kept, so nothing is created twice. A filter can be repeated: a request
    matches if any of its values does. Different filters must all match. On a terminal you are asked before more than
    20 requests are changed. Exits 1 if an id does not exist, or if none of the given ids could be changed.

    Example: provisioner retry --state failed --error permission_denied
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    wish = Wish(
        operation="retry", wanted=checked(wanted, everything=everything), yes=yes, dry_run=dry_run, as_json=as_json
    )
    raise typer.Exit(change(load(config), wish))
