"""`provisioner keys`: the key pairs that seal API keys in rows."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from provisioner.cli.terminal.frame import (
    NOT_DONE,
    Config,
    Json,
    console,
    load,
    open_database,
    print_json,
    run_async,
    say,
    tell_detail,
    tell_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.credentials.sealing import BoxOpener, SealingKey, SealingPair
    from provisioner.postgres.pool import Database
    from provisioner.postgres.sealing import Box, KnownKey
    from provisioner.settings import Settings

LOT: Final = 1000

keys = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@keys.callback()
def _keys() -> None:
    """Make and list the key pairs that seal API keys, and reseal with the current one.

    Example: provisioner keys generate
    """


@keys.command()
def generate(
    config: Config = None,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Print the private key instead of adding it to the key file.")
    ] = False,
) -> None:
    """Make a key pair.

    The private key goes to sealing.key_file, and the public key to the database. From then on the new key seals, and
    older private keys still open what they sealed. Copy the key file to every worker.

    Example: provisioner keys generate --stdout | vault kv put secret/sealing key=-
    """
    run_async(_generate(config, stdout=stdout))


@keys.command(name="list")
def list_keys(config: Config = None, as_json: Json = False) -> None:
    """List all keys.

    Shows which key seals now, and how many requests each key still seals.

    Example: provisioner keys list
    """
    run_async(_list(config, as_json=as_json))


@keys.command()
def reseal(config: Config = None) -> None:
    """Seal everything with the current key.

    Opens what older keys sealed, with the private keys of this host, and seals it again.
    Afterwards no request is sealed with an older key, and you can destroy the older private keys.

    Example: provisioner keys generate && provisioner keys reseal
    """
    raise typer.Exit(run_async(_reseal(config)))


async def _generate(config: Config, *, stdout: bool) -> None:
    from provisioner.credentials.sealing import SealingPair

    settings = load(config)
    pair = SealingPair.generate()
    async with open_database(settings) as database:
        await _keep(settings, database, pair, stdout=stdout)
    if not stdout:
        say(f"key {pair.key.key_id} seals from now on; its private key is in {settings.sealing.key_file}")


async def _keep(settings: "Settings", database: "Database", pair: "SealingPair", *, stdout: bool = False) -> None:
    """Keep the private half on this host, then publish the other one. Raises `SettingsError`."""
    from provisioner.credentials.sealing import add_to_file
    from provisioner.postgres.sealing import PublicKey, publish
    from provisioner.settings import SettingsError

    if not stdout and str(settings.sealing.key_file).startswith("~"):
        raise SettingsError(
            f"sealing.key_file ({settings.sealing.key_file}) is in a home directory that is not known here; "
            "set PROVISIONER_SEALING__KEY_FILE to an absolute path, or use --stdout"
        )
    # The private half first: a public key whose private half is lost would seal keys that nobody can open.
    if stdout:
        say(pair.line)
    else:
        add_to_file(settings.sealing.key_file, pair)
    await publish(database, PublicKey(key_id=pair.key.key_id, public=pair.key.public))


async def _list(config: Config, *, as_json: bool) -> None:
    from provisioner.postgres.sealing import known_keys

    settings = load(config)
    async with open_database(settings) as database:
        found = await known_keys(database)
    if as_json:
        print_json(found)
        return
    _show(found)


def _show(found: "Sequence[KnownKey]") -> None:
    from rich.table import Table

    table = Table("key", "made", "seals", "boxes", box=None, header_style="")
    for key in found:
        made = f"{key.created_at:%Y-%m-%d %H:%M}" if key.created_at else "never published"
        table.add_row(key.key_id, made, "now" if key.current else "no more", str(key.boxes))
    console().print(table if found else "there is no sealing key yet: `provisioner keys generate` makes one")


async def _reseal(config: Config) -> int:
    from provisioner.credentials.sealing import BoxOpener, SealingKey
    from provisioner.postgres.sealing import current_key, foreign_boxes, replace_boxes

    settings = load(config)
    opener = BoxOpener(settings.sealing.key_file)
    done, problems, after = 0, [], 0
    async with open_database(settings) as database:
        current = await current_key(database)
        if current is None:
            tell_error("there is no sealing key yet: `provisioner keys generate` makes one")
            return NOT_DONE
        key = SealingKey(key_id=current.key_id, public=current.public)
        while boxes := await foreign_boxes(database, key.key_id, after=after, limit=LOT):
            after = boxes[-1].id
            fresh, failed = _sealed_anew(boxes, opener, key)
            done += await replace_boxes(database, fresh)
            problems += failed
    say(f"sealed with {key.key_id}: {done} more")
    if problems:
        tell_error(f"{'1 box' if len(problems) == 1 else f'{len(problems):,} boxes'} could not be opened on this host")
        for problem in problems[:20]:
            tell_detail(problem)
    return NOT_DONE if problems else 0


def _sealed_anew(boxes: "Sequence[Box]", opener: "BoxOpener", key: "SealingKey") -> "tuple[dict[Box, str], list[str]]":
    from provisioner.core.errors import CredentialUnreadable
    from provisioner.core.model import Request

    fresh, problems = {}, []
    for box in boxes:
        request = Request(
            id=box.id, project_id=box.project_id, name=box.name, description=None, credential=box.credential
        )
        try:
            fresh[box] = key.seal(opener.open(request), project_id=box.project_id, name=box.name)
        except CredentialUnreadable as error:
            problems.append(f"request {box.id}: {error}")
    return fresh, problems


async def sealing_key(database: "Database") -> "SealingKey":
    """The key that seals now. Raises `CredentialUnreadable` when there is none."""
    from provisioner.core.errors import CredentialUnreadable
    from provisioner.credentials.sealing import SealingKey
    from provisioner.postgres.sealing import current_key

    found = await current_key(database)
    if found is None:
        raise CredentialUnreadable("there is no sealing key yet: `provisioner keys generate` makes one")
    return SealingKey(key_id=found.key_id, public=found.public)


async def ensured_key(settings: "Settings", database: "Database") -> "SealingKey":
    """The key that seals now, and that this host can open; made if there is none. Raises `CredentialUnreadable`."""
    from provisioner.core.errors import CredentialUnreadable
    from provisioner.credentials.sealing import SealingKey, SealingPair, read_file
    from provisioner.postgres.sealing import current_key

    path = settings.sealing.key_file
    found = await current_key(database)
    if found is None:
        pair = SealingPair.generate()
        await _keep(settings, database, pair)
        say(f"key {pair.key.key_id} was made to seal API keys; its private key is in {path}")
        return pair.key
    if found.key_id not in read_file(path):
        raise CredentialUnreadable(
            f"key {found.key_id} seals API keys, and this host cannot open them: copy its private key into {path}, or "
            "use `provisioner submit` and let the workers that have it do the rest"
        )
    return SealingKey(key_id=found.key_id, public=found.public)
