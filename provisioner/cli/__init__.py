"""The command line: `provisioner COMMAND`.

This module only imports what `--help` needs. A command's module is imported when the command runs or its own help is
shown, so it may import anything.
"""

import gc
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from provisioner import __version__
from provisioner.cli.commands import COMMANDS
from provisioner.cli.terminal.frame import EXIT_STATUSES, Config, guarded, running


class LazyGroup(TyperGroup):
    """Lists commands by their summaries alone, and imports the one that is used."""

    # Any, because Typer's release determines the types of Context and Command.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> Any:
    """Import one of `COMMANDS` and convert it for Typer."""
    function = getattr(import_module(f"provisioner.cli.{COMMANDS[name].module}"), name)
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


for _name, _command in COMMANDS.items():
    app.command(name=_name, help=_command.summary)(_stub)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `arguments` default to those of the process."""
    # Imports stay, and collecting garbage among them takes up to a tenth of the start.
    gc.set_threshold(50_000, 20, 20)
    command = typer.main.get_command(app)
    return guarded(lambda: command.main(args=arguments, prog_name="provisioner", standalone_mode=False))
