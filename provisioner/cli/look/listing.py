"""`provisioner list` and `rotations`: requests and rotations, page by page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.filters import filtering, parse_id, tell_unknown, tell_unknown_of
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database
from provisioner.cli.terminal.output import console, one_line, print_json, say, show, tell_detail
from provisioner.core.text import several
from provisioner.postgres.filters import Filter
from provisioner.postgres.search import COUNTED, Page, page

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from provisioner.core.requests import Listed
    from provisioner.settings import Settings


@filtering()
async def list(  # noqa: A001  # the command's name
    config: Config = None,
    *,
    wanted: Filter,
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
) -> int:
    """List requests, the newest first by default.

    A filter can be repeated: a request matches if any of its values does. Different filters must all match. --json
    prints an array; `provisioner export` writes every request. Exits 1 if a given id does not exist.

    Example: provisioner list --state failed --error permission_denied --limit 20
    """
    from provisioner.cli.terminal.tables import request_table
    from provisioner.postgres.browse import unknown_ids

    async with open_database(load(config)) as database:
        seen = await page(database, wanted, limit=limit, before=before, after=after, oldest_first=oldest_first)
        unknown = await unknown_ids(database, wanted.ids)
    if as_json:
        print_json(seen.requests)
    elif seen.requests:
        screen = console()
        show(request_table(seen.requests, screen), screen)
    elif not unknown:
        say("no request matches")
    if seen.more:
        _tell_more(
            seen, f"--{'after' if oldest_first else 'before'} {seen.requests[-1].id} continues there", as_json=as_json
        )
    if unknown:
        tell_unknown(unknown)
    return NOT_DONE if unknown else DONE


@filtering()
async def rotations(
    config: Config = None,
    *,
    wanted: Filter,
    left_behind: Annotated[
        bool, typer.Option("--left-behind", help="Only those that may have left a key behind at OpenRouter.")
    ] = False,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Record that the keys that these rotations left behind are deleted.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of rotations to show.")] = 50,
    as_json: Json = False,
) -> int:
    """List rotations, the newest first: the secret of each, the name of its key, and what it waits for.

    The filters are those of list. --left-behind also prints which keys to look for at OpenRouter; after you have
    deleted them there, name the rotations with --deleted. `provisioner show` shows everything about one rotation. Exits
    1 if a given id is not a rotation.

    Example: provisioner rotations --left-behind
    """
    if deleted:
        if not wanted.ids or left_behind:
            raise typer.BadParameter("name the rotations by their ids", param_hint="--deleted")
        return await _deleted(load(config), wanted, as_json=as_json)
    return await _rotations(load(config), wanted, limit, left_behind=left_behind, as_json=as_json)


async def _rotations(settings: "Settings", wanted: Filter, limit: int, *, left_behind: bool, as_json: bool) -> int:
    from provisioner.postgres.kinds import ROTATIONS
    from provisioner.postgres.operations import leaving

    async with open_database(settings) as database:
        chosen = await leaving(database, wanted) if left_behind else wanted
        seen = Page(requests=()) if chosen is None else await page(database, chosen, limit=limit, kinds=[ROTATIONS])
    if as_json:
        print_json(seen.requests)
    elif not seen.requests:
        say("no rotation matches")
    else:
        screen = console()
        show(_rotation_table(seen.requests, screen), screen)
        for each in seen.requests if left_behind else ():
            tell_detail(f"{each.id}: {one_line(each.left_behind)}")
    if seen.more:
        _tell_more(seen, "a larger --limit shows them", as_json=as_json)
    known = {each.id for each in seen.requests}
    strangers = [each for each in wanted.ids if each not in known]
    if strangers and not (seen.more or left_behind):
        tell_unknown(strangers, "rotation")
    return NOT_DONE if strangers else DONE


def _tell_more(seen: Page, how: str, *, as_json: bool) -> None:
    number = f"{seen.more:,}" if seen.is_all else f"more than {min(seen.more, COUNTED):,}"
    (tell_detail if as_json else say)(f"… and {number} more; {how}")  # not into the JSON


def _rotation_table(found: "Sequence[Listed]", screen: "Console") -> "Table":
    from provisioner.cli.terminal.tables import plain_table, result

    table = plain_table(screen, "id", "state", "project", "secret", "key", "result", right=("id",), whole=("state",))
    for each in found:
        name = one_line(each.project_name) or each.project_id
        table.add_row(str(each.id), each.state, name, each.secret, one_line(each.key_issued), result(each))
    return table


async def _deleted(settings: "Settings", wanted: Filter, *, as_json: bool) -> int:
    from provisioner.postgres.operations import deleted

    async with open_database(settings) as database:
        if await tell_unknown_of(database, wanted):
            return NOT_DONE
        number = await deleted(database, tuple(wanted.ids))
    if as_json:
        print_json({"changed": number})
    else:
        say(f"noted for {several(number, 'rotation')}" if number else "none of them has left a key behind")
    return DONE if number else NOT_DONE
