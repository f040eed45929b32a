"""`provisioner rotations`: the rotations that were asked for, and the keys that they have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.filters import Batches, Errors, Ids, Projects, States, Targets, filtered
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
    show,
    tell_detail,
)
from provisioner.cli.terminal.tables import local_time, one_line, plain_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from provisioner.postgres.filters import Filter
    from provisioner.postgres.rotations import ListedRotation
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
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of rotations to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List rotations, the newest first: the secret of each, the name of its key, and what it waits for.

    Filters work as those of list. --json prints an array with every column. One rotation alone is shown whole. Exits 1
    if ids are given and none of them is a rotation's.

    Example: provisioner rotations --left-behind
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    raise typer.Exit(run_async(_list(load(config), wanted, limit, left_behind=left_behind, as_json=as_json)))


async def _list(settings: "Settings", wanted: "Filter", limit: int, *, left_behind: bool, as_json: bool) -> int:
    from provisioner.postgres.rotations import listed

    async with open_database(settings) as database:
        found, more = await listed(database, wanted, limit=limit, left_behind=left_behind)
    if as_json:
        print_json(found)
    elif not found:
        say("no rotation matches")
    elif wanted.ids and len(found) == 1:
        _tell(found[0])
    else:
        screen = console()
        show(_table(found, screen), screen)
    if more:
        (tell_detail if as_json else say)(f"… and {more:,} more; --limit {len(found) + more} shows them all")
    return NOT_DONE if wanted.ids and not found else DONE


def _table(found: "Sequence[ListedRotation]", screen: "Console") -> "Table":
    table = plain_table(screen, "id", "state", "project", "secret", "key", "result", right=("id",))
    for each in found:
        table.add_row(
            str(each.id),
            each.state,
            one_line(each.project_name) or each.project_id,
            _place(each),
            one_line(each.key_issued),
            _result(each),
        )
    return table


def _place(each: "ListedRotation") -> str:
    return f"{each.environment}:{each.secret_path.rstrip('/')}/{each.secret_name}"


def _result(each: "ListedRotation") -> str:
    if each.waits_for:
        return f"waits for connection {each.waits_for}"
    if each.left_behind:
        return "a key may be left behind"
    return each.error_code or local_time(each.finished_at or each.next_attempt_at)


def _tell(each: "ListedRotation") -> None:
    """Show one, whole."""
    named = f"{one_line(each.project_name)} ({each.project_id})" if each.project_name else each.project_id
    lines = {
        "rotation": f"{each.id}, {each.state}{' (adopted)' if each.adopted else ''}",
        "project": f"{named} at target {each.target}",
        "name": each.name,
        "connection": each.connection,
        "secret": _place(each),
        "key": one_line(each.key_issued),
        "in Infisical": each.rotation_id,
        "attempts": str(each.attempts),
        "waits for": f"connection {each.waits_for} of the same project" if each.waits_for else None,
        "next attempt": local_time(each.next_attempt_at),
        "finished": local_time(each.finished_at),
        "error": f"{each.error_code}: {one_line(each.error_message)}" if each.error_code else None,
        "left behind": one_line(each.left_behind),
    }
    for label, text in lines.items():
        if text:
            say(f"{label:>12}  {text}")
