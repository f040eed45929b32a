"""Where the embedded database keeps its data."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from provisioner.core.errors import DatabaseUnusable

WORD: Final = "embedded"
ELSEWHERE: Final = "set database.url to embedded:/PATH with a directory of your own"
SYSTEM: Final = Path("/var/lib")  # for root: the server runs as another account, which cannot enter root's home


def is_embedded(url: str) -> bool:
    """Whether a database address means the embedded one."""
    return url == WORD or url.startswith(f"{WORD}:")


def directory_of(
    url: str,
    environ: Mapping[str, str] = os.environ,
    *,
    platform: str = sys.platform,
    root: bool | None = None,
    home: Path | None = None,
) -> Path:
    """Return the directory that `embedded` or `embedded:/path` means. Raises `DatabaseUnusable` if there is none."""
    named = url.removeprefix(WORD).removeprefix(":")
    if named:
        return Path(named)
    return _user_data(environ, platform, os.geteuid() == 0 if root is None else root, home) / "provisioner" / "postgres"


def _user_data(environ: Mapping[str, str], platform: str, root: bool, home: Path | None) -> Path:
    given = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(given):  # noqa: PTH117 - XDG's rule: a relative path is ignored
        return Path(given)
    if root:
        return SYSTEM
    found = home or Path(os.path.expanduser("~"))  # noqa: PTH111 - Path's raises without a home
    if not found.is_absolute():
        raise DatabaseUnusable(f"this account has no home directory for the embedded database; {ELSEWHERE}")
    return found / ("Library/Application Support" if platform == "darwin" else ".local/share")
