"""`provisioner keys` and `seal`: the key pairs that seal API keys in rows, and the sealed keys."""

import sys
from functools import cache
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, run_async
from provisioner.cli.terminal.output import console, print_json, say, tell_detail, tell_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.credentials.sealing import BoxOpener, SealingKey, SealingPair
    from provisioner.intake.rows import Seal
    from provisioner.postgres.pool import Database
    from provisioner.postgres.sealing import Box, KnownKey
    from provisioner.settings import Settings

LOT: Final = 1000
SHOWN: Final = 20  # boxes that are listed
NO_KEY: Final = "there is no sealing key yet: `provisioner keys generate` makes one"

keys = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@keys.callback()
def _keys() -> None:
    """Make and list the key pairs that seal API keys, and reseal with the current one.

    Example: provisioner keys generate
    """


@keys.command()
async def generate(
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
    from provisioner.credentials.sealing import SealingPair

    settings = load(config)
    pair = SealingPair.generate()
    async with open_database(settings) as database:
        await _keep(settings, database, pair, stdout=stdout)
    if not stdout:
        say(f"key {pair.key.key_id} seals from now on; its private key is in {settings.sealing.key_file}")


@keys.command(name="list")
async def list_keys(config: Config = None, as_json: Json = False) -> None:
    """List all keys.

    Shows which key seals now, and how many requests each key still seals.

    Example: provisioner keys list
    """
    from provisioner.postgres.sealing import known_keys

    settings = load(config)
    async with open_database(settings) as database:
        found = await known_keys(database)
    if as_json:
        print_json(found)
        return
    _show(found)


@keys.command()
async def reseal(config: Config = None) -> int:
    """Seal everything with the current key.

    Opens what older keys sealed, with the private keys of this host, and seals it again.
    Afterwards no request is sealed with an older key, and you can destroy the older private keys.

    Example: provisioner keys generate && provisioner keys reseal
    """
    from provisioner.credentials.sealing import BoxOpener
    from provisioner.postgres.sealing import foreign_boxes, replace_boxes

    settings = load(config)
    opener = BoxOpener(settings.sealing.key_file)
    done, problems, after = 0, [], 0
    async with open_database(settings) as database:
        key = await sealing_key(database)
        while boxes := await foreign_boxes(database, key.key_id, after=after, limit=LOT):
            after = boxes[-1].id
            fresh, failed = _sealed_anew(boxes, opener, key)
            done += await replace_boxes(database, fresh)
            problems += failed
    say(f"sealed with {key.key_id}: {done} more")
    if problems:
        one = len(problems) == 1
        tell_error(f"{'1 box' if one else f'{len(problems):,} boxes'} could not be opened on this host")
        for problem in problems[:SHOWN]:
            tell_detail(problem)
    return NOT_DONE if problems else DONE


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
    # The key was read before the event loop runs, which would keep an interrupt from the read.
    say(sealer(load(config))(key, project_id=str(project), name=name))


async def _keep(settings: "Settings", database: "Database", pair: "SealingPair", *, stdout: bool = False) -> None:
    """Store the private half on this host, then publish the other one. Raises `SettingsError`."""
    from provisioner.credentials.sealing import add_to_file
    from provisioner.postgres.sealing import PublicKey, publish
    from provisioner.settings import SettingsError

    if not stdout and str(settings.sealing.key_file).startswith("~"):
        raise SettingsError(
            f"sealing.key_file ({settings.sealing.key_file}) is in a home directory that is not known here; "
            "set PROVISIONER_SEALING__KEY_FILE to an absolute path, or use --stdout"
        )
    # The private half first: with a public key whose private half is lost, sealed keys could never be opened.
    if stdout:
        say(pair.line)
    else:
        add_to_file(settings.sealing.key_file, pair)
    await publish(database, PublicKey(key_id=pair.key.key_id, public=pair.key.public))


def _show(found: "Sequence[KnownKey]") -> None:
    from rich.table import Table

    table = Table("key", "made", "seals", "boxes", box=None, header_style="")
    for key in found:
        made = f"{key.created_at:%Y-%m-%d %H:%M}" if key.created_at else "never published"
        table.add_row(key.key_id, made, "now" if key.current else "no more", str(key.boxes))
    console().print(table if found else NO_KEY)


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


def sealer(settings: "Settings", *, make: bool = False) -> "Seal":
    """Return a function that seals with the database's key, which is read, or made, when it is first needed."""

    @cache
    def key() -> "SealingKey":
        return run_async(_current())

    async def _current() -> "SealingKey":
        async with open_database(settings) as database:
            return await (ensured_key(settings, database) if make else sealing_key(database))

    return lambda api_key, *, project_id, name: key().seal(api_key, project_id=project_id, name=name)


async def sealing_key(database: "Database") -> "SealingKey":
    """Return the current sealing key. Raises `CredentialUnreadable` if there is none."""
    from provisioner.core.errors import CredentialUnreadable
    from provisioner.credentials.sealing import SealingKey
    from provisioner.postgres.sealing import current_key

    found = await current_key(database)
    if found is None:
        raise CredentialUnreadable(NO_KEY)
    return SealingKey(key_id=found.key_id, public=found.public)


async def ensured_key(settings: "Settings", database: "Database") -> "SealingKey":
    """Return a sealing key that this host can open; made if there is none. Raises `CredentialUnreadable`."""
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
