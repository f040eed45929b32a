"""Load the named statements of the `.sql` files in this package.

A file consists of blocks: a line `-- :name NAME`, a comment with the reason, and the statement. No other module
contains SQL.

One statement serves every kind of request and every role. What differs is marked in it:

- `{requests}`, `{listed}`, `{made}` and `{line}` are a kind's names for these things; see `Words`.
- Lines from `-- :only KIND` to the next such line, or to `-- :all`, are for that kind only.
- `{own}` before a table's name becomes `own_` for a role that only sees its own requests, and nothing for others.
- A block `-- :part NAME` is not a statement: its text replaces `{NAME}` wherever the file uses it.

A literal brace before a letter is doubled.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_BLOCK: Final = re.compile(r"^-- :(name|part) (\w+)$", re.MULTILINE)
_ONLY: Final = "-- :only "
_ALL: Final = "-- :all"
_WORD: Final = re.compile(r"(?<!\{)\{[a-z_]+\}(?!\})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Words:
    """The names of one kind of request in SQL.

    `only` is its name in `-- :only`, `requests` its table, `listed` the view with the live state, and `made` the column
    with the id of what was made. `line` is the suffix of its lines after the target's name.
    """

    only: str
    requests: str
    listed: str
    made: str
    line: str = ""


CONNECTIONS: Final = Words(
    only="connections", requests="connection_requests", listed="listed_requests", made="connection_id"
)
ROTATIONS: Final = Words(
    only="rotations", requests="rotation_requests", listed="listed_rotations", made="rotation_id", line="/rotations"
)
_KINDS: Final = frozenset({CONNECTIONS.only, ROTATIONS.only})


@cache
def statements(file: str, words: Words = CONNECTIONS, *, own: bool = False) -> Mapping[str, str]:
    """Return the statements of `sql/<file>.sql` by name, without comments, for a kind of request.

    `own`: for a role that only sees its own requests. Raises `FileNotFoundError`, and `ValueError` for an unknown mark.
    """
    text = (files("provisioner.postgres") / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    known = asdict(words) | {"own": "own_" if own else ""}
    found: dict[str, str] = {}
    _, *blocks = _BLOCK.split(text)
    for what, name, body in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        statement = "\n".join(_lines(body, words)).rstrip(";")
        for word, meaning in known.items():
            statement = statement.replace(f"{{{word}}}", meaning)
        if unknown := _WORD.search(statement):
            raise ValueError(f"{file}.sql, {name}: nobody knows {unknown[0]}")
        if what == "part":
            known[name] = statement.strip()
        else:
            found[name] = statement.strip().replace("{{", "{").replace("}}", "}")
    return found


def _lines(body: str, words: Words) -> list[str]:
    """Return the lines of a block for this kind, without comments."""
    lines, kind = [], words.only
    for line in body.strip().splitlines():
        mark = line.strip()
        if mark.startswith(_ONLY):
            kind = mark.removeprefix(_ONLY)
            if kind not in _KINDS:
                raise ValueError(f"there is no kind of request {kind!r}")
        elif mark == _ALL:
            kind = words.only
        elif kind == words.only and not mark.startswith("--"):
            lines.append(line)
    return lines
