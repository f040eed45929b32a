"""`provisioner seal`: seal one API key for one connection."""

import sys
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from provisioner.cli.terminal.frame import Config, load, open_database, run_async
from provisioner.cli.terminal.output import say

if TYPE_CHECKING:
    from provisioner.core.secret import Secret


def seal(
    project: Annotated[UUID, typer.Option(help="Project that the key is for.")],
    name: Annotated[str, typer.Option(help="Name of the connection that the key is for.")] = "openrouter",
    config: Config = None,
) -> None:
    """Seal the API key on standard input, and print the value for the column credential.

    Only workers can open it, and only for this project and name.

    Example: provisioner seal --project 8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11 < key.txt
    """
    from provisioner.core.key_text import NoKey, decoded, key_in

    try:
        key = key_in(decoded(sys.stdin.buffer.read()))
    except NoKey as flaw:
        said = "contains no API key" if str(flaw) == "is empty" else str(flaw)
        raise typer.BadParameter(f"standard input {said}") from None
    run_async(_seal(config, key, str(project), name))


async def _seal(config: Config, key: "Secret", project: str, name: str) -> None:
    from provisioner.cli.setup.keys import sealing_key

    async with open_database(load(config)) as database:
        say((await sealing_key(database)).seal(key, project_id=project, name=name))
