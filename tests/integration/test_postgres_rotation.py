"""The database's password is changed while a worker runs: it waits, reads the password again and continues."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from provisioner.core.errors import DatabaseUnusable
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.simulator import Options
from tests.support import eventually, told
from tests.support.cli import query
from tests.support.fleet import Fleet
from tests.support.roles import granted, name_of
from tests.support.ways import daemon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.postgres import Database


@pytest.mark.parametrize("first", ["server", "file"])
async def test_in_either_order(database: Database, tmp_path: Path, first: str) -> None:
    """The outage is reported once and its end once, and requests made meanwhile are done."""
    with granted(database) as cast, capture_logs() as logs:
        role, file = name_of(cast.worker), tmp_path / "url"
        file.write_text(cast.worker.url, encoding="utf-8")
        changed = re.sub(r":[^:@]+@", ":changed-4711@", cast.worker.url)

        async def in_server() -> None:
            await fleet.session.execute(f"ALTER ROLE {role} PASSWORD 'changed-4711'")

        async def in_file() -> None:
            file.write_text(changed, encoding="utf-8")

        async def lost() -> bool:
            await fleet.read("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            return bool(told(logs, "database_refuses"))

        steps: list[Callable[[], Awaitable[None]]] = [in_server, in_file]
        async with Fleet(database.url, Options(mode="self-hosted", projects=1), way=daemon) as fleet:
            (worker,) = await fleet.start(PROVISIONER_DATABASE_URL="", PROVISIONER_DATABASE_URL_FILE=str(file))
            await eventually(lambda: told(logs, "worker_started"))
            early, late = steps if first == "server" else reversed(steps)
            await early()
            seen: Callable[[], bool | Awaitable[bool]] = lost
            await eventually(seen, within=30)
            (request,) = await fleet.insert()
            await late()
            await fleet.becomes(request, "succeeded", within=30)
            await eventually(lambda: told(logs, "database_lost") == told(logs, "database_back"), within=30)
            assert worker.alive
    (refused,) = (line["error"] for line in logs if line["event"] == "database_refuses")
    assert "password authentication failed" in refused


async def test_a_password_file_is_read_at_each_connect(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in libpq: a password file that others can read is ignored, which is reported."""
    with granted(database) as cast:
        role, file = name_of(cast.worker), tmp_path / "passwords"
        bare = re.sub(r":[^:@]+@", "@", cast.worker.url)
        monkeypatch.setenv("PGPASSFILE", str(file))
        file.write_text(f"*:*:*:{role}:planted-4711\n", encoding="utf-8")
        pool = Pool(bare, size=1)
        for mode, complaint in ((0o644, "chmod 0600"), (0o600, None)):
            file.chmod(mode)
            if complaint:
                with pytest.raises(DatabaseUnusable, match=complaint):
                    await pool.fetch("SELECT 1")
            else:
                await pool.fetch("SELECT 1")
        query(database, f"ALTER ROLE {role} PASSWORD 'changed-4711'")
        file.write_text(f"*:*:*:{role}:changed-4711\n", encoding="utf-8")
        session = await pool.connect()
        await session.close()
        await pool.close()
