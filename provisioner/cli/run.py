"""`provisioner run`: the daemon."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(help="The settings file.", envvar="PROVISIONER_CONFIG")]
Drain = Annotated[bool, typer.Option("--drain", help="Exit once nothing is left to do.")]
Listen = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where the status port listens; off for nowhere.")
]


def run(config: Config = None, drain: Drain = False, listen: Listen = None) -> None:
    """Work: claim requests and make their connections, until told to stop.

    SIGTERM and SIGINT let what is in flight end within the grace (worker.grace), then exit with 0; a second one exits
    at once, and nothing is lost either.

    Example: provisioner run --drain
    """
    import uvloop

    from provisioner.observe.logs import configure_logging
    from provisioner.service import run_daemon
    from provisioner.settings import load_settings

    settings = load_settings(config=config, overrides={"listen": {"address": listen}})
    configure_logging(settings.log.level, settings.log.format)
    uvloop.run(run_daemon(settings, drain=drain))
