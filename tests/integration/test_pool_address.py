"""The database's address may change while a process runs: a password in a file is rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.secret import Secret
from provisioner.credentials.files import FileUnreadable
from provisioner.postgres.pool import Database as Pool

if TYPE_CHECKING:
    from tests.support.postgres import Database


async def test_each_connect_reads_the_address_anew(database: Database) -> None:
    """New connections go to where the address says now; one that cannot be read is waited for."""
    kept = [database.url]

    def address() -> Secret:
        if not kept:
            raise FileUnreadable("the file /run/secrets/url cannot be read")
        return Secret(kept[0])

    pool = Pool(address, size=2)
    try:
        async with pool.acquire() as first:
            assert await first.fetchval("SELECT 1") == 1
            kept[0] = f"{database.url}{'&' if '?' in database.url else '?'}options=-c%20work_mem%3D5MB"
            async with pool.acquire() as second:
                assert await second.fetchval("SHOW work_mem") == "5MB"
            kept.clear()
            with pytest.raises(DatabaseUnavailable, match="/run/secrets/url"):
                await pool.connect()
    finally:
        await pool.close()
