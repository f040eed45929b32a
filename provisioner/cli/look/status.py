"""`provisioner status`: progress, and what needs a person."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.look.status_view import as_document, changes, one_line, view
from provisioner.cli.terminal.filters import tell_unknown_batch
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database
from provisioner.cli.terminal.output import console, say, show, tell_detail, tell_error
from provisioner.core.alerts import alert_messages
from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
from provisioner.core.text import several
from provisioner.postgres.reports import Status, read_status

if TYPE_CHECKING:
    from rich.console import Console

    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

LISTED: Final = 20  # batches that fit on a screen
REFRESH: Final = 1.0  # seconds


async def status(
    config: Config = None,
    batch: Annotated[str | None, typer.Option(help="Only this batch.", show_default=False)] = None,
    target: Annotated[
        str | None, typer.Option(help="Only this target, with its rotations.", show_default=False)
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep the display up to date until everything has finished.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Show the progress, the pace, and what needs your attention.

    Exits 1 if something needs attention: a failed request, pending requests that no worker serves, or a paused target
    that requests wait for. If this host has a credential's key, the command also counts the connections that have an
    old one. --watch also shows what has changed since it began; with --json it prints one line of JSON per second.

    Example: provisioner status --batch onboarding --watch
    """
    settings, asked = load(config), Scope(batch, target)
    async with open_database(settings) as database:
        seen = await _read(database, asked, LISTED if not as_json else None)
        if seen.progress is None:
            _tell_nothing(asked)
            return NOT_DONE
        if watch:
            seen = await _watch(database, seen, asked, as_json=as_json)
        connections = seen.progress.succeeded if seen.progress else 0
        compared = asked.target is None
        old_keys = await _old_keys(settings, database, asked.batch, connections=connections) if compared else None
    if as_json:
        say(as_document(seen, one_line=watch, old_keys=old_keys))
    elif not (watch and console().is_terminal):
        screen = console()
        show(view(seen, screen), screen)
    if old_keys and not as_json:
        have = several(old_keys, "connection has", "connections have")
        say(f"{have} an old key: `provisioner rekey --outdated` sends the current one")
    return NOT_DONE if alert_messages(seen) else DONE


@dataclass(frozen=True, slots=True)
class Scope:
    """What is shown: one batch, one target, or everything."""

    batch: str | None
    target: str | None


async def _read(database: "Database", asked: Scope, most: int | None) -> Status:
    return await read_status(database, batch=asked.batch, target=asked.target, batches=most)


def _tell_nothing(asked: Scope) -> None:
    if asked.target is None:
        tell_unknown_batch([str(asked.batch)])
    else:
        of_batch = f" of batch {asked.batch!r}" if asked.batch is not None else ""
        tell_error(f"no request{of_batch} is for target {asked.target!r}; `provisioner status` lists the targets")


async def _old_keys(settings: "Settings", database: "Database", batch: str | None, *, connections: int) -> int | None:
    """Count the connections whose key differs from their credential's present one; None if that is unknown."""
    from provisioner.keyring import present_fingerprints
    from provisioner.postgres.desired_changes import TakesTooLong, outdated

    try:
        fingerprints, _ = await present_fingerprints(settings, database)
        return await outdated(database, fingerprints, batch, of=connections) if fingerprints else None
    except TakesTooLong:
        tell_detail(
            "too many connections to compare their keys here: `provisioner rekey --outdated --dry-run` compares them"
        )
        return None
    except (DatabaseUnavailable, DatabaseUnusable):
        return None  # our role may not read the keys, but the rest of the status is still useful


async def _watch(database: "Database", first: Status, asked: Scope, *, as_json: bool) -> Status:
    """Show every observation until nothing is pending; returns the last one, which only a terminal has shown."""
    screen = console()
    if screen.is_terminal and not as_json:
        return await _live(screen, _looks(database, first, asked))
    said = ""
    async for seen, _ in _looks(database, first, asked):
        line = as_document(seen, one_line=True) if as_json else one_line(seen)
        if seen.progress and seen.progress.pending and line != said:
            say(line)
            sys.stdout.flush()
            said = line
    return seen


async def _live(screen: "Console", looks: AsyncIterator[tuple[Status, str]]) -> Status:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    first: Status | None = None
    with Live(console=screen, auto_refresh=False) as live:
        async for seen, trouble in looks:
            first = first or seen
            below = (Text(changes(first, seen)), Text(trouble, style="yellow"))
            live.update(Group(view(seen, screen), *(line for line in below if line.plain)), refresh=True)
    return seen


async def _looks(database: "Database", seen: Status, asked: Scope) -> AsyncIterator[tuple[Status, str]]:
    """Yield the status every second until nothing is pending; during an outage, the last one and the reason."""
    yield seen, ""
    while seen.progress is not None and seen.progress.pending:
        await asyncio.sleep(REFRESH)
        try:
            seen = await _read(database, asked, LISTED)
        except DatabaseUnavailable as error:
            yield seen, f"the database cannot be reached, trying again: {error}"
        else:
            yield seen, ""
