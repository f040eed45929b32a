"""`provisioner doctor`: check every precondition, with advice."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from provisioner.cli.setup.checks import Check, ok, problem
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load
from provisioner.cli.terminal.output import console, print_json
from provisioner.core.errors import DatabaseUnusable

if TYPE_CHECKING:
    from rich.console import Console

    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


async def doctor(
    config: Config = None,
    target: Annotated[
        str | None, typer.Option(help="Check only this target instead of all configured ones.", show_default=False)
    ] = None,
    project: Annotated[
        UUID | None, typer.Option(help="Test whether the identity can read in this project.", show_default=False)
    ] = None,
    notify: Annotated[bool, typer.Option("--notify", help="Send a test notice to notify.url.")] = False,
    as_json: Json = False,
) -> int:
    """Check every precondition, one line each, and say how to fix what is wrong. Changes nothing.

    Logs in once at each target; a failed login counts toward the identity's lockout. Creating connections cannot be
    tested without creating one. Exits 1 if there is a problem; a warning is not one.

    Example: provisioner doctor --project 8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11
    """
    settings = load(config)
    if target is not None and target not in settings.targets:
        raise typer.BadParameter(f"there is no target {target}; configured are {', '.join(settings.targets)}")
    if project is not None and target is None and len(settings.targets) > 1:
        raise typer.BadParameter(f"--project needs --target: {', '.join(settings.targets)}")
    targets = [target] if target else list(settings.targets)
    where = str(project) if project else None
    checks = []
    screen = console()
    async for check in _checks(settings, targets, where, notify=notify):
        checks.append(check)
        if not as_json:
            _tell(check, screen)
    fine = all(check.verdict != "problem" for check in checks)
    if as_json:
        print_json({"ok": fine, "checks": [asdict(check) for check in checks]})
    return DONE if fine else NOT_DONE


async def _checks(
    settings: "Settings", targets: list[str], project: str | None, *, notify: bool
) -> AsyncIterator[Check]:
    from provisioner.cli.setup.checks_database import check_database
    from provisioner.cli.setup.checks_host import (
        check_credentials,
        check_files,
        check_notify,
        check_proxy,
        check_sealing,
    )
    from provisioner.cli.setup.checks_target import check_target

    yield ok("settings", f"they are valid; targets: {', '.join(settings.targets)}")
    for check in check_files(settings):
        yield check
    database, reason = _database(settings)
    try:
        found = [check async for check in check_database(database)] if not reason else [problem("database", reason)]
        for check in found:
            yield check
        usable = not any(check.verdict == "problem" for check in found)
        for target in targets:
            for check in check_proxy(settings, target):
                yield check
            async for check in check_target(settings, database, target, project, metered=usable):
                yield check
        async for check in check_credentials(settings):
            yield check
        if usable:
            async for check in check_sealing(settings, database):
                yield check
        async for check in check_notify(settings, database if usable else None, send=notify):
            yield check
    finally:
        await database.close()


def _database(settings: "Settings") -> "tuple[Database, str]":
    """Return the database, not connected yet, and the reason if it is not even configured."""
    from provisioner.embedded.server import source_of
    from provisioner.postgres.pool import Database
    from provisioner.settings import SettingsError

    try:
        url, reason = source_of(settings.database_url()), ""
    except (SettingsError, DatabaseUnusable) as error:
        url, reason = None, str(error)
    root = settings.database.ssl_root_cert
    return Database(
        url or "postgresql:///", size=1, timeout=10.0, ssl_root_cert=root, name="provisioner doctor"
    ), reason


def _tell(check: Check, screen: "Console") -> None:
    from rich.text import Text

    line = Text(f"{check.verdict:8}", style=STYLES[check.verdict])
    line.append(f" {check.name:11}", style="default")
    line.append(f" {' '.join(str(check).split())}", style="default")
    screen.print(line, soft_wrap=True)
