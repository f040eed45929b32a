"""What is in the way of a file's requests, said before they fail: targets and credentials that nobody knows."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provisioner.cli.terminal.frame import several
from provisioner.core.errors import ProvisionerError
from provisioner.intake.checked import CheckedFile
from provisioner.intake.rows import COLUMNS, SEALED

if TYPE_CHECKING:
    from provisioner.core.secret import Secret
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

FEW: Final = 10  # projects that are named
PATIENCE: Final = 15.0  # seconds for a login and a list; the requests are loaded already


def forewarned(checked: CheckedFile, settings: "Settings", served: Collection[str]) -> Iterator[str]:
    """One sentence for each target and credential that neither these settings nor a worker knows.

    `served` are the targets that living workers serve. Their credentials are not known here.
    """
    target, credential = COLUMNS.index("target") + 1, COLUMNS.index("credential") + 1  # behind the line's number
    targets: Counter[str] = Counter()
    credentials: Counter[str] = Counter()
    for row in checked.rows():
        targets[str(row[target])] += 1
        if not str(row[credential]).startswith(SEALED):
            credentials[_normal(str(row[credential]))] += 1
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
    """What OpenRouter says of the keys of a file's requests that are no good, with how many lines and the first one.

    Only keys that this host has can be asked about, and those in the file itself (`shown`, by the words in its rows).
    """
    from provisioner.cli.look.keys_asked import ask_about_keys
    from provisioner.core.model import Request
    from provisioner.keyring import open_vault
    from provisioner.targets import key_asker

    if (asker := key_asker(settings, *(target.url for target in settings.targets.values()))) is None:
        return ()
    project, name, credential = (COLUMNS.index(column) + 1 for column in ("project_id", "name", "credential"))

    def requests() -> Iterator[Request]:
        for row in checked.rows():
            yield Request(
                id=0,
                project_id=str(row[project]),
                name=str(row[name]),
                description=None,
                credential=str(row[credential]),
            )

    asked = await ask_about_keys(open_vault(settings), asker, requests(), shown)
    lines: dict[str, list[int]] = {}
    for row in checked.rows() if asked.refused else ():
        if why := asked.refused.get(word := str(row[credential])):
            whose = "the API key" if word.startswith(SEALED) else f"credential {_normal(word)}"
            lines.setdefault(f"{whose}: {why}", []).append(int(str(row[0])))
    return [(said, len(numbers), numbers[0]) for said, numbers in lines.items()]


async def outsiders(checked: CheckedFile, settings: "Settings", database: "Database") -> Sequence[str]:
    """One sentence for each target whose identity is not in some of the projects, where this host may ask.

    One login and one read a target. It is a help and no check: what stands in the way of it is passed over.
    """
    wanted: dict[str, dict[str, str]] = {}
    target, project, name = (COLUMNS.index(column) + 1 for column in ("target", "project_id", "project_name"))
    for row in checked.rows():
        if (one := str(row[target])) in settings.targets:
            called = f"{row[name]} ({row[project]})" if row[name] else str(row[project])
            wanted.setdefault(one, {}).setdefault(str(row[project]), called)
    told = []
    for one, projects in wanted.items():
        with suppress(ProvisionerError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                joined = await _joined(settings, database, one)
            if joined is not None and (outside := [said for id_, said in projects.items() if id_ not in joined]):
                told.append(_lacking(one, outside, len(projects)))
    return told


async def _joined(settings: "Settings", database: "Database", target: str) -> frozenset[str] | None:
    from provisioner.cli.look.survey import surveying

    async with surveying(settings, database, target) as surveyor:
        return await surveyor.joined()


def _lacking(target: str, outside: Sequence[str], projects: int) -> str:
    lack, exist = ("lacks", "does") if len(outside) == 1 else ("lack", "do")
    more = f" and {len(outside) - FEW:,} more" if len(outside) > FEW else ""
    return (
        f"{len(outside):,} of {several(projects, 'project')} {lack} the machine identity of target {target}, or {exist}"
        " not exist; their requests wait until it is added there with a role that may create app connections:"
        f" {', '.join(outside[:FEW])}{more}"
    )


def _normal(name: str) -> str:
    """A credential's name as the settings have it."""
    return name.lower().replace("_", "-")
