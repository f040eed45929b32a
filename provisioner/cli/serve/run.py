"""`provisioner run`: the daemon."""

from typing import Annotated

import typer

from provisioner.cli.terminal.frame import Config

Drain = Annotated[bool, typer.Option("--drain", help="Exit when nothing is left to do.")]
Listen = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the status port, or off.")]


def run(config: Config = None, drain: Drain = False, listen: Listen = None) -> None:
    """Run a worker: claim requests and create their connections, until told to stop.

    On SIGTERM, SIGINT or SIGHUP the worker claims nothing more, waits up to worker.grace seconds for what is in flight,
    and exits with status 0. A second signal ends it at once; nothing is lost then either.

    With --drain it ends when nothing is left to do, and prints a summary. Exit status: 0 everything is done; 3 some
    requests failed; 1 something could not be done, such as requests of a paused target or with a refused API key.

    Example: provisioner run --drain
    """
    from provisioner.cli.terminal.frame import run_async
    from provisioner.cli.terminal.output import say
    from provisioner.observe.logs import configure_logging
    from provisioner.service import run_daemon
    from provisioner.settings import load_settings

    settings = load_settings(config=config, overrides={"listen": {"address": listen}})
    configure_logging(settings.log.level, settings.log.format)
    left = run_async(run_daemon(settings, drain=drain))
    if left is not None:
        from provisioner.cli.serve.leftovers import exit_status, told

        for line in told(left):
            say(line)
        raise typer.Exit(exit_status(left))
