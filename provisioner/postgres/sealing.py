"""The public halves of the sealing keys, and the boxes they seal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key as stored in the database."""

    key_id: str
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """A key and the number of boxes it seals. `created_at` is None for a key that was never published."""

    key_id: str
    created_at: datetime | None
    boxes: int
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The sealed key of one request."""

    id: int
    project_id: str
    name: str
    credential: str


async def publish(database: Database, key: PublicKey) -> None:
    """Publish a public key, which is used for sealing from now on."""
    await database.execute(statements("sealing")["publish"], key.key_id, key.public)


async def current_key(database: Database) -> PublicKey | None:
    """Return the key used for sealing; None if there is none yet."""
    row = await database.fetchrow(statements("sealing")["current"])
    return PublicKey(key_id=row["key_id"], public=row["public_key"]) if row else None


async def known_keys(database: Database) -> Sequence[KnownKey]:
    """Return all keys, newest first."""
    rows = await database.fetch(statements("sealing")["known"])
    return [KnownKey(**dict(row)) for row in rows]


async def foreign_boxes(database: Database, key_id: str, *, after: int, limit: int) -> Sequence[Box]:
    """Return boxes sealed with other keys, in the order of their requests."""
    rows = await database.fetch(statements("sealing")["boxes"], key_id, after, limit)
    return [Box(**dict(row)) for row in rows]


async def replace_boxes(database: Database, fresh: Mapping[Box, str]) -> int:
    """Replace boxes by new ones; returns how many had not been changed meanwhile."""
    columns = [box.id for box in fresh], [box.credential for box in fresh], list(fresh.values())
    return len(await database.fetch(statements("sealing")["reseal"], *columns))
