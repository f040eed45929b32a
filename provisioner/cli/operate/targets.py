"""What `pause`, `resume` and `limit` share: which target is meant. And what to say of one that is held."""

from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from provisioner.cli.terminal.frame import DONE, NOT_DONE, open_database, print_json, say, tell_error
from provisioner.cli.terminal.tables import local_time
from provisioner.postgres import operations

if TYPE_CHECKING:
    from provisioner.postgres.operations import Hold
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]", help="Name of the target. Optional if only one is configured.", show_default=False
    ),
]


async def hold(settings: "Settings", given: str | None, operation: Literal["pause", "resume"], *, as_json: bool) -> int:
    """Pause or resume a target and return the exit status."""
    target = given or only_target(settings.targets)
    async with open_database(settings) as database:
        if not await is_known(database, settings, target):
            return NOT_DONE
        done = await (operations.pause if operation == "pause" else operations.resume)(database, target)
    if as_json:
        print_json({"target": target, "paused": operation == "pause", **asdict(done)})
    else:
        say(_said(target, operation, done))
    return DONE


async def is_known(database: "Database", settings: "Settings", target: str) -> bool:
    """Whether there is such a target, in the settings or in the database; if not, say so."""
    known = (await operations.known_targets(database)).union(settings.targets)
    if target not in known:
        tell_error(f"there is no target {target!r}; known targets: {', '.join(sorted(known))}")
    return target in known


def only_target(targets: Collection[str]) -> str:
    """The target that is meant where none is named; a usage error where there are several."""
    if len(targets) != 1:
        raise typer.BadParameter(f"name one of the targets: {', '.join(sorted(targets))}")
    (target,) = targets
    return target


def _said(target: str, operation: str, done: "Hold") -> str:
    since = f"since {local_time(done.paused_at)} by {done.paused_by}" if done.paused_at else ""
    if operation == "pause":
        if done.changed:
            return f"target {target} is paused: nothing more is started, and what is in flight may finish"
        return f"target {target} was already paused {since}"
    if done.changed:
        return f"target {target} is resumed; it was paused {since}"
    return f"target {target} was not paused"
