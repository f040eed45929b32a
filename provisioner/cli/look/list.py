"""`provisioner list`: requests, page by page."""

from collections.abc import Awaitable, Callable
from functools import partial
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
    parse_id,
    tell_unknown,
)
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.output import console, print_json, say, show, tell_detail
from provisioner.postgres.filters import Filter
from provisioner.postgres.search import COUNTED, Page, page

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

Part = Callable[["Database", Filter], Awaitable[Page]]
"""Reads the part of the list that was asked for, and tells how many more there are."""


def list(  # noqa: A001, PLR0917  # the command's name; the command line names them
    ids: Ids = None,
    config: Config = None,
    states: States = None,
    batches: Batches = None,
    projects: Projects = None,
    errors: Errors = None,
    targets: Targets = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of requests to show.")] = 50,
    before: Annotated[
        int | None,
        typer.Option(metavar="ID", parser=parse_id, help="Only requests with a lower id.", show_default=False),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(metavar="ID", parser=parse_id, help="Only requests with a higher id.", show_default=False),
    ] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Show the oldest first.")] = False,
    as_json: Json = False,
) -> None:
    """List requests, the newest first by default.

    A filter can be repeated: a request matches if any of its values does. Different filters must all match. --json
    prints an array; `provisioner export` writes every request. Exits 1 if a given id does not exist.

    Example: provisioner list --state failed --error permission_denied --limit 20
    """
    wanted = filtered(ids=ids, states=states, batches=batches, projects=projects, errors=errors, targets=targets)
    part = partial(page, limit=limit, before=before, after=after, oldest_first=oldest_first)
    raise typer.Exit(
        run_async(_list(load(config), wanted, part, "after" if oldest_first else "before", as_json=as_json))
    )


async def _list(settings: "Settings", wanted: "Filter", part: Part, onward: str, *, as_json: bool) -> int:
    from provisioner.cli.terminal.tables import request_table
    from provisioner.postgres.browse import unknown_ids

    async with open_database(settings) as database:
        part_of = await part(database, wanted)
        found, unknown = part_of.requests, await unknown_ids(database, wanted.ids)
    if as_json:
        print_json(found)
    elif found:
        screen = console()
        show(request_table(found, screen), screen)
    elif not unknown:
        say("no request matches")
    if part_of.more:
        # Not into the JSON's way.
        number = f"{part_of.more:,}" if part_of.is_all else f"more than {min(part_of.more, COUNTED):,}"
        (tell_detail if as_json else say)(f"… and {number} more; --{onward} {found[-1].id} continues there")
    if unknown:
        tell_unknown(unknown)
    return NOT_DONE if unknown else DONE
