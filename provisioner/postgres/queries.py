"""The named statements of the `.sql` files in this package.

A file holds blocks: a line `-- :name NAME`, a comment with the reason, the statement. Nobody else writes SQL.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- :name (\w+)$", re.MULTILINE)


@cache
def statements(file: str) -> dict[str, str]:
    """Every statement of `sql/<file>.sql` by its name, without comments. Raises `FileNotFoundError`."""
    text = (files("provisioner.postgres") / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: _bare(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _bare(body: str) -> str:
    lines = (line for line in body.strip().splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).rstrip(";")
