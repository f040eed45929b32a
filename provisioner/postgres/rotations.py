"""What only rotations have: keys at OpenRouter that lost answers may have left behind, until somebody deletes them."""

from collections.abc import Sequence
from dataclasses import replace

from provisioner.postgres.filters import Filter
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


async def leaving(database: Database, wanted: Filter) -> Filter | None:
    """The filter for those alone that may have left a key behind; None if there are none.

    Raises `DatabaseUnavailable` and `DatabaseUnusable`, as `deleted` does.
    """
    rows = await database.fetch(statements("rotations")["left_behind"])
    ids = [row["id"] for row in rows if not wanted.ids or row["id"] in set(wanted.ids)]
    return replace(wanted, ids=ids) if ids else None


async def deleted(database: Database, ids: Sequence[int]) -> int:
    """Note that the keys are deleted that these rotations left behind, and tell how many had left any."""
    return len(await database.fetch(statements("rotations")["keys_deleted"], list(ids)))
