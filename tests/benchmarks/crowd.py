"""A database as it stands after months of work, with as many requests as are wanted, for those who look at it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOT: Final = 250_000
_PER_PROJECT: Final = 50
BATCHES: Final = 300


def statements(rows: int, first: int = 1, last: int = 0) -> Mapping[str, str]:
    """The named parts of `crowd.sql` for so many requests."""
    text = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    numbers = {"rows": rows, "projects": max(1, rows // _PER_PROJECT), "batches": BATCHES, "first": first, "last": last}
    parts = re.split(r"^-- :name (\w+)$", text, flags=re.MULTILINE)
    return {name: part.format(**numbers) for name, part in zip(parts[1::2], parts[2::2], strict=True)}


async def gather(session: Any, rows: int) -> None:
    """Fill an empty database: a few minutes for ten million."""
    await session.execute(statements(rows)["begin"])
    for first in range(1, rows + 1, _LOT):
        await session.execute(statements(rows, first, min(first + _LOT - 1, rows))["requests"])
    await session.execute("ANALYZE provisioner.connection_requests")
    await session.execute(statements(rows)["places"])
    await session.execute(statements(rows)["end"])
    await session.execute("VACUUM (ANALYZE)")
