"""`provisioner pause`: hold a target."""

import typer

from provisioner.cli._frame import Config, Json, load, run_async
from provisioner.cli._targets import Target, hold


def pause(target: Target = None, config: Config = None, as_json: Json = False) -> None:
    """Hold a target: nothing more of it is started, and what is in flight ends.

    Requests are taken all the same; they wait. Pausing what is paused already changes nothing.

    Example: provisioner pause default
    """
    raise typer.Exit(run_async(hold(load(config), target, "pause", as_json=as_json)))
