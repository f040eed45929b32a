"""This program as its user can type it where they are: what a message names can be copied."""

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """The words that start this program; its absolute path if no shorter way is certain."""
    given = Path(sys.argv[0])
    if given.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m provisioner"
    found = shutil.which("provisioner")
    if found and Path(found).resolve() == given.resolve():
        return "provisioner"
    try:
        return shlex.quote(str(given.resolve().relative_to(Path.cwd())))
    except (ValueError, OSError):
        return shlex.quote(str(given.resolve()))
