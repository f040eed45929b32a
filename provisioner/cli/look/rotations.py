"""`provisioner rotations`: the rotations that were asked for, and the keys that they have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.filters import (
    Batches,
    Errors,
    Ids,
    Projects,
    States,
    Targets,
    filtered,
    tell_unknown,
    tell_unknown_of,
)
from provisioner.cli.terminal.frame import (
    DONE,
    NOT_DONE,
    Config,
    Json,
    console,
    load,
    open_database,
    print_json,
    run_async,
    say,
    several,
    show,
    tell_detail,
)
from provisioner.cli.terminal.tables import one_line, plain_table, result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from provisioner.core.requests import Listed
    from provisioner.postgres.filters import Filter
    from provisioner.settings import Settings


def rotations(  # noqa: PLR0917  # the command line names them
    ids: Ids = None,
    config: Config = None,
    states: States = None,
    batches: Batches = None,
    projects: Projects = None,
    errors: Errors = None,
    targets: Targets = None,
    left_behind: Annotated[
        bool, typer.Option("--left-behind", help="Only those that may have left a key behind at OpenRouter.")
    ] = False,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Record that the keys that these rotations left behind are deleted.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of rotations to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List rotations, the newest first: the secret of each, the name of its key, and what it waits for.

    The filters are those of list. --left-behind also prints which keys to look for at OpenRouter; after you have
    deleted them there, name the rotations with --deleted. `provisioner show` shows everything about one rotation. Exits
    1 if a given id is not a rotation.

    Example: provisioner rotations --left-behind
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    if deleted:
        if not wanted.ids or left_behind:
            raise typer.BadParameter("name the rotations by their ids", param_hint="--deleted")
        raise typer.Exit(run_async(_deleted(load(config), wanted, as_json=as_json)))
    raise typer.Exit(run_async(_list(load(config), wanted, limit, left_behind=left_behind, as_json=as_json)))


async def _deleted(settings: "Settings", wanted: "Filter", *, as_json: bool) -> int:
    from provisioner.postgres.operations import deleted

    async with open_database(settings) as database:
        if await tell_unknown_of(database, wanted):
            return NOT_DONE
        number = await deleted(database, list(wanted.ids))
    if as_json:
        print_json({"changed": number})
    else:
        say(f"noted for {several(number, 'rotation')}" if number else "none of them has left a key behind")
    return DONE if number else NOT_DONE


async def _list(settings: "Settings", wanted: "Filter", limit: int, *, left_behind: bool, as_json: bool) -> int:
    from provisioner.postgres.kinds import ROTATIONS
    from provisioner.postgres.operations import leaving
    from provisioner.postgres.search import page

    found: Sequence[Listed] = ()
    more, is_all = 0, True
    async with open_database(settings) as database:
        chosen = await leaving(database, wanted) if left_behind else wanted
        if chosen is not None:
            seen = await page(database, chosen, limit=limit, kinds=[ROTATIONS])
            found, more, is_all = seen.requests, seen.more, seen.is_all
    if as_json:
        print_json(found)
    elif not found:
        say("no rotation matches")
    else:
        screen = console()
        show(_table(found, screen), screen)
        for each in found if left_behind else ():
            tell_detail(f"{each.id}: {one_line(each.left_behind)}")
    if more:
        number = f"{more:,}" if is_all else f"more than {more - 1:,}"
        (tell_detail if as_json else say)(f"… and {number} more; a larger --limit shows them")
    strangers = [each for each in wanted.ids if each not in {one.id for one in found}]
    if strangers and not (more or left_behind):
        tell_unknown(strangers, "rotation")
    return NOT_DONE if strangers else DONE


def _table(found: "Sequence[Listed]", screen: "Console") -> "Table":
    table = plain_table(screen, "id", "state", "project", "secret", "key", "result", right=("id",), whole=("state",))
    for each in found:
        name = one_line(each.project_name) or each.project_id
        table.add_row(str(each.id), each.state, name, each.secret, one_line(each.key_issued), result(each))
    return table
