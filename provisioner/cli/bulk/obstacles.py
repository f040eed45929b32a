"""Warn about a file's requests before they fail: unknown targets and credentials, bad keys, projects without access."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provisioner.cli.bulk.lines import lines_of, request_of
from provisioner.core.errors import ProvisionerError
from provisioner.core.key_health import canonical
from provisioner.core.text import several
from provisioner.intake.checked import CheckedFile
from provisioner.intake.rows import SEALED

if TYPE_CHECKING:
    from provisioner.core.secret import Secret
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

FEW: Final = 10  # projects that are listed
PATIENCE: Final = 15.0  # seconds for a login and a list; the requests are loaded already


def forewarned(checked: CheckedFile, settings: "Settings", served: Collection[str]) -> Iterator[str]:
    """Yield one sentence for each target and credential that neither these settings nor a worker knows.

    `served` are the targets of live workers. Their credentials are not known here.
    """
    targets: Counter[str] = Counter()
    credentials: Counter[str] = Counter()
    for line in lines_of(checked):
        targets[line.target] += 1
        if not line.credential.startswith(SEALED):
            credentials[canonical(line.credential)] += 1
    for name, count in targets.items():
        if name not in settings.targets and name not in served:
            yield (
                f"target {name} of {several(count, 'line')} is not in these settings, and no worker serves it: "
                f"its requests wait until a worker has [targets.{name}]"
            )
    for name, count in credentials.items():
        if name not in settings.credentials:
            yield (
                f"credential {name} of {several(count, 'line')} is not in these settings: its requests fail with "
                f"credential_unknown where the workers do not have [credentials.{name}]"
            )


async def wrong_keys(
    settings: "Settings", checked: CheckedFile, shown: "Mapping[str, Secret]"
) -> Sequence[tuple[str, int, int]]:
    """Return what OpenRouter says about invalid keys in a file, with the number of lines and the first one.

    Only keys that this host has, and keys in the file itself (`shown`, by the words in its rows), can be checked.
    """
    from provisioner.cli.asking.openrouter import ask_about_keys
    from provisioner.keyring import open_vault
    from provisioner.targets import key_asker

    if (asker := key_asker(settings, *(target.url for target in settings.targets.values()))) is None:
        return ()
    asked = await ask_about_keys(open_vault(settings), asker, map(request_of, lines_of(checked)), shown)
    lines: dict[str, list[int]] = {}
    for line in lines_of(checked) if asked.refused else ():
        if why := asked.refused.get(line.credential):
            sealed = line.credential.startswith(SEALED)
            whose = "the API key" if sealed else f"credential {canonical(line.credential)}"
            lines.setdefault(f"{whose}: {why}", []).append(line.number)
    return [(said, len(numbers), numbers[0]) for said, numbers in lines.items()]


async def outsiders(checked: CheckedFile, settings: "Settings", database: "Database") -> Sequence[str]:
    """Return one sentence for each target whose identity is not in some of the projects, if this host may ask.

    This takes one login and one read per target. It is only a hint: problems with it are ignored.
    """
    wanted: dict[str, dict[str, str]] = {}
    for line in lines_of(checked):
        if line.target in settings.targets:
            wanted.setdefault(line.target, {}).setdefault(line.project_id, line.project)
    told = []
    for one, projects in wanted.items():
        with suppress(ProvisionerError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                joined = await _joined(settings, database, one)
            if joined is not None and (outside := [said for id_, said in projects.items() if id_ not in joined]):
                told.append(_lacking(one, outside, len(projects)))
    return told


async def _joined(settings: "Settings", database: "Database", target: str) -> frozenset[str] | None:
    from provisioner.cli.asking.infisical import surveying

    async with surveying(settings, database, target) as surveyor:
        return await surveyor.joined()


def _lacking(target: str, outside: Sequence[str], projects: int) -> str:
    lack, exist = ("lacks", "does") if len(outside) == 1 else ("lack", "do")
    more = f" and {len(outside) - FEW:,} more" if len(outside) > FEW else ""
    return (
        f"{len(outside):,} of {several(projects, 'project')} {lack} the machine identity of target {target}, or {exist}"
        " not exist; their requests wait until you add it there with a role that may create app connections:"
        f" {', '.join(outside[:FEW])}{more}"
    )
