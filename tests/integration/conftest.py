"""Fixtures of most database tests: a client's connection, a worker's pool, the queue, and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.queue import PostgresQueue
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import Database
    from tests.support.sessions import Session


@pytest.fixture
async def session(database: Database) -> AsyncIterator[Session]:
    """Lend a connection as any client has one."""
    async with connected(database.url) as session:
        yield session


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """Lend a pool as a worker has one."""
    pool = Pool(database.url)
    yield pool
    await pool.close()


@pytest.fixture
def queue(pool: Pool) -> PostgresQueue:
    """Lend the queue."""
    return PostgresQueue(pool)


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    """Return the log, as it grows."""
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]  # structlog's entries are mutable mappings
