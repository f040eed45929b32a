"""`provisioner resume`: let a held target go on."""

import typer

from provisioner.cli.operate.targets import Target, hold
from provisioner.cli.terminal.frame import Config, Json, load, run_async


def resume(target: Target = None, config: Config = None, as_json: Json = False) -> None:
    """Resume a paused target.

    Resuming a target that is not paused changes nothing.

    Example: provisioner resume default
    """
    raise typer.Exit(run_async(hold(load(config), target, "resume", as_json=as_json)))
