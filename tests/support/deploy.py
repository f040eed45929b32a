"""The files under `config` as those who deploy read them, and what they ask of the product."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from provisioner.cli.commands import COMMANDS
from provisioner.settings import load_settings
from provisioner.settings.proxies import VARIABLES
from provisioner.settings.shape import ECOSYSTEM, OPENROUTER_KEY, field_of, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.settings import Settings

TOP = Path(__file__).resolve().parents[2]
CONFIG = TOP / "config"
MANUAL = TOP / "docs" / "deploying.md"
UID = 10001

SECRETS = {
    "database-url": "postgresql://provisioner:pw@database/provisioner",
    "client-secret": "the-client-secret",
    "openrouter-key": "sk-or-v1-not-a-real-key",
    "sealing.keys": "",
}
OWN_NAMES = {
    *ECOSYSTEM,
    *(f"{name}_FILE" for name, path in ECOSYSTEM.items() if is_secret(field_of(path))),
    OPENROUTER_KEY,
    f"{OPENROUTER_KEY}_FILE",
    *VARIABLES,
}


def started(
    environment: Mapping[str, str], place: Path, *, mounted: Mapping[str, Sequence[str]], config: str | None = None
) -> Settings:
    """The settings of a process with this environment, where the folders that are mounted hold these secrets.

    A setting that does not exist, and a file that is not mounted, raises `SettingsError`.
    """
    moved = {name: place / str(number) for number, name in enumerate(mounted)}
    for folder, names in mounted.items():
        moved[folder].mkdir(exist_ok=True)
        for name in names:
            (moved[folder] / name).write_text(SECRETS[name])
    unknown = [
        name for name in environment if not name.startswith(("PROVISIONER_", "PYTHON")) and name not in OWN_NAMES
    ]
    assert unknown == [], "no such variable is read"

    def here(text: str) -> str:
        for folder, path in moved.items():
            text = text.replace(f"{folder}/", f"{path}/")
        return text

    environ = {name: here(value) for name, value in environment.items()}
    file = None
    if config is not None:
        file = place / "provisioner.toml"
        file.write_text(here(config))
        environ.pop("PROVISIONER_CONFIG")
    return load_settings(config=file, environ=environ, cwd=place)


def is_command(words: Sequence[str]) -> bool:
    """Tell whether the command line has this command."""
    return bool(words) and words[0] in COMMANDS


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder, as far as ours ask for it."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        path = folder / name
        found += rendered(path) if path.is_dir() else [one for one in yaml.safe_load_all(path.read_text()) if one]
    for maker in kustomization.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in maker["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": maker["name"]}, "data": data})
    for patch in kustomization.get("patches", []):
        (target,) = [
            one
            for one in found
            if (one["kind"], one["metadata"]["name"]) == (patch["target"]["kind"], patch["target"]["name"])
        ]
        for step in yaml.safe_load(patch["patch"]):
            _apply(target, step)
    for label in kustomization.get("labels", []):
        for one in found:
            one["metadata"].setdefault("labels", {}).update(label["pairs"])
    return found


def _apply(target: dict[str, Any], step: Mapping[str, Any]) -> None:
    *way, last = step["path"].strip("/").split("/")
    place: Any = target
    for part in way:
        place = place[part]
    if step["op"] == "remove":
        del place[last]
    elif last == "-":
        place.append(step["value"])
    else:
        place[last] = step["value"]


def blocks(language: str, text: str) -> Iterator[str]:
    """The blocks of a document in one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
