"""`provisioner migrate`: the schema."""

from typing import Annotated

import typer

from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.output import print_json, say


def migrate(
    config: Config = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="List outstanding migrations without applying them; exit 1 if there are any."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Create or upgrade the database schema. It is safe to run this twice, or on several hosts at once.

    Example: provisioner migrate --check || provisioner migrate
    """
    raise typer.Exit(run_async(_check(config, as_json)) if check else run_async(_migrate(config, as_json)))


async def _check(config: Config, as_json: bool) -> int:
    from provisioner.postgres.migrations import pending

    async with open_database(load(config)) as database:
        steps = [str(step) for step in await pending(database)]
    if as_json:
        print_json({"applied": [], "outstanding": steps})
    elif steps:
        for step in steps:
            say(f"outstanding: {step}")
    else:
        say("the schema is up to date")
    return NOT_DONE if steps else DONE


async def _migrate(config: Config, as_json: bool) -> int:
    from provisioner.embedded.server import source_of
    from provisioner.postgres import migrations

    settings = load(config)
    url, ssl_root_cert = source_of(settings.database_url()), settings.database.ssl_root_cert
    steps = [str(step) for step in await migrations.migrate(url, ssl_root_cert=ssl_root_cert)]
    if as_json:
        print_json({"applied": steps, "outstanding": []})
    elif steps:
        for step in steps:
            say(f"applied {step}")
    else:
        say("the schema is up to date")
    return DONE
