"""`provisioner pause`: hold a target."""

import typer

from provisioner.cli.operate.targets import Target, hold
from provisioner.cli.terminal.frame import Config, Json, load, run_async


def pause(target: Target = None, config: Config = None, as_json: Json = False) -> None:
    """Pause a target: workers finish what is in flight there and start nothing more.

    You can still insert requests; they wait. Pausing a paused target changes nothing.

    Example: provisioner pause default
    """
    raise typer.Exit(run_async(hold(load(config), target, "pause", as_json=as_json)))
