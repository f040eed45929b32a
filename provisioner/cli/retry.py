"""`provisioner retry`: try requests again."""

import typer

from provisioner.cli._changes import All, DryRun, Wish, Yes, change, checked
from provisioner.cli._filters import Batches, Errors, Ids, Projects, States, Targets, filtered
from provisioner.cli._frame import Config, Json, load


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
    """Try requests again: failed and cancelled ones from the beginning, those that wait for another attempt at once.

    Whether an earlier attempt may have made the connection stays known, so nothing is made twice. Each filter may be
    given several times, then any of its values counts; different filters must all hold. On a terminal it asks before
    more than 20 are changed. Exits 1 if an id is unknown, or if none of the given ids could be changed.

    Example: provisioner retry --state failed --error permission_denied
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    wish = Wish(deed="retry", wanted=checked(wanted, everything=everything), yes=yes, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(change(load(config), wish))
