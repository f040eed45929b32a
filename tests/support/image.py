"""Build the image without a container engine or an image registry, and run it on a read-only root as process 1.

It takes root, buildah and debootstrap. What is slow to make, the base and the packages, is kept between runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.deploy import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TOOLS = ("buildah", "debootstrap", "unshare", "chroot")
RELEASE, PYTHON = "bookworm", "3.11"  # Debian 12 and its Python
BASE, NAME = "localhost/provisioner-test-base", "localhost/provisioner-test"
# `exec` all the way: the program is process 1 of its own namespace, as in a container.
_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec chroot "$@"'


def missing() -> str:
    """Why the image cannot be built here; nothing if it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "building the image without a container engine takes root"
    return f"{', '.join(absent)} cannot be found: apt-get install buildah debootstrap" if absent else ""


def cache() -> Path:
    """Where base and packages are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "provisioner-image-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image: where its root file system is, and what its configuration says."""

    root: Path
    config: Mapping[str, Any]

    def command(self, words: Sequence[str], **environment: str) -> list[str]:
        """The command line that runs these words as the image's user, with its environment and no other."""
        told = {**dict(one.split("=", 1) for one in self.config["Env"]), **environment}
        user = f"--userspec={self.config['User']}"
        variables = [f"{name}={value}" for name, value in told.items()]
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _READ_ONLY, str(self.root)]
        return [*isolated, user, str(self.root), "/usr/bin/env", "-i", *variables, *words]


@contextmanager
def built(place: Path) -> Iterator[Image]:
    """Build the image in a store of its own, which goes in the end."""
    store = ["buildah", "--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs"]

    def buildah(*words: str | Path) -> str:
        done = subprocess.run([*store, *words], capture_output=True, text=True, check=False)  # noqa: S603  # our own words
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    scratch = buildah("from", "scratch")
    buildah("add", scratch, _base(), "/")
    buildah("commit", "--quiet", "--rm", scratch, BASE)
    packages, pip = _packages(), place / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /packages\n")
    given = ["--build-arg", f"BASE={BASE}", "--secret", f"id=pip,src={pip}", "--volume", f"{packages}:/packages:ro"]
    how = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--layers=false"]
    buildah("build", *how, *given, "--tag", NAME, TOP)
    container = buildah("from", "--pull-never", NAME)
    try:
        config = json.loads(buildah("inspect", "--type", "image", NAME))["Docker"]["config"]
        yield Image(root=Path(buildah("mount", container)), config=config)
    finally:
        buildah("umount", container)
        buildah("rm", container)
        shutil.rmtree(place)


def _base() -> Path:
    """A small Debian with Python, as a tar file."""
    made = cache() / f"{RELEASE}.tar"
    if not made.exists():
        root = cache() / f"{RELEASE}.{os.getpid()}"
        options = ["--variant=minbase", "--include=python3,python3-venv"]
        _run("debootstrap", *options, RELEASE, root)
        for folder in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / folder)
        part = made.with_suffix(".part")
        _run("tar", "--create", "--file", part, "--directory", root, "--exclude=./dev/*", ".")
        shutil.rmtree(root)
        part.rename(made)
    return made


def _packages() -> Path:
    """The packages of the lock for the base's Python, fetched with this machine's own configuration of pip."""
    folder = cache() / "packages"
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--python-version", PYTHON),
        *("--require-hashes", "--requirement", TOP / "requirements.lock", "--dest", folder),
    )
    return folder


def _run(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    assert done.returncode == 0, done.stdout + done.stderr
