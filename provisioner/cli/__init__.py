"""The command line: `provisioner COMMAND`.

This module only imports what `--help` needs. A command's module is imported when the command runs or its own help is
shown, so it may import anything.
"""

import gc
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from provisioner import __version__
from provisioner.cli.terminal.frame import EXIT_STATUSES, Config, guarded, running

# The commands in each module `provisioner.cli.MODULE`, which is imported when one of them is used.
MODULES: Final = {
    "onboard.onboard": ("onboard",),
    "bulk.discover": ("discover",),
    "bulk.export": ("export",),
    "bulk.plan": ("plan",),
    "bulk.submit": ("submit",),
    "look.listing": ("list", "rotations"),
    "look.show": ("show",),
    "look.status": ("status",),
    "look.verify": ("verify",),
    "operate.connections": ("remove", "rekey"),
    "operate.requests": ("retry", "cancel"),
    "operate.targets": ("pause", "resume", "limit"),
    "serve.demo": ("demo",),
    "serve.healthcheck": ("healthcheck",),
    "serve.run": ("run",),
    "serve.simulate": ("simulate",),
    "setup.database": ("migrate", "grant", "database"),
    "setup.doctor": ("doctor",),
    "setup.keys": ("keys", "seal"),
    "setup.settings": ("settings",),
}
COMMANDS: Final = {
    "demo": "Run the whole product on this machine and check the result.",
    "migrate": "Create or upgrade the database schema.",
    "onboard": "Onboard many projects: from a list to a report.",
    "run": "Run a worker until it is told to stop.",
    "discover": "List the projects that the machine identity can see.",
    "submit": "Load requests in bulk from CSV or JSON Lines.",
    "plan": "Show what a bulk file would change, and change nothing.",
    "status": "Show the progress, and what needs your attention.",
    "list": "List requests.",
    "show": "Show one request, its attempts, and what happens next.",
    "rotations": "List rotations and their keys.",
    "retry": "Retry failed, cancelled or waiting requests.",
    "cancel": "Cancel requests that have not finished.",
    "remove": "Delete connections from Infisical.",
    "rekey": "Send connections the current key of their credential.",
    "pause": "Pause a target: workers claim none of its requests.",
    "resume": "Resume a paused target.",
    "limit": "Limit a target while workers run.",
    "export": "Export requests and results as CSV, JSON Lines or a page.",
    "verify": "Compare the recorded connections with Infisical.",
    "doctor": "Check every precondition, and say how to fix problems.",
    "healthcheck": "Check whether the worker on this host is healthy.",
    "keys": "Manage the key pairs that seal API keys.",
    "seal": "Seal one API key, read from standard input.",
    "grant": "Give database roles the rights they need, and no more.",
    "database": "Show where the database is, or run a program on it.",
    "settings": "Show the effective settings and their sources.",
    "simulate": "Serve a simulated Infisical for your tests.",
}


class LazyGroup(TyperGroup):
    """Lists commands by their summaries alone, and imports the one that is used."""

    # Any, because Typer's release determines the types of Context and Command.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> Any:
    """Import one of `COMMANDS` and convert it for Typer."""
    module = next(module for module, names in MODULES.items() if name in names)
    function = getattr(import_module(f"provisioner.cli.{module}"), name)
    if isinstance(function, typer.Typer):
        group = function
    else:
        group = typer.Typer(add_completion=False, rich_markup_mode=None)
        group.command(name=name)(function)
    for command in group.registered_commands:
        command.callback = running(command.callback)
    return typer.main.get_command(group)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"provisioner {__version__}")
        raise typer.Exit


# Without Rich's markup, help is shown as written, including brackets, and twice as fast.
app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, epilog=EXIT_STATUSES)


@app.callback(invoke_without_command=True)
def provisioner(
    context: typer.Context,
    config: Config = None,
    version: Annotated[  # noqa: ARG001  # its callback did the work
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Create OpenRouter connections in many Infisical projects, from rows in a PostgreSQL table.

    Example: provisioner migrate && provisioner submit projects.csv && provisioner run
    """
    if config is not None:
        # Every command and every child process reads it there.
        os.environ["PROVISIONER_CONFIG"] = str(config)
    if context.invoked_subcommand is None:
        if config is not None:
            context.fail("a command is missing")
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _stub() -> None:
    """A placeholder for a command in the list."""


for _name, _summary in COMMANDS.items():
    app.command(name=_name, help=_summary)(_stub)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `arguments` default to those of the process."""
    # Imports stay, and collecting garbage among them takes up to a tenth of the start.
    gc.set_threshold(50_000, 20, 20)
    command = typer.main.get_command(app)
    return guarded(lambda: command.main(args=arguments, prog_name="provisioner", standalone_mode=False))
