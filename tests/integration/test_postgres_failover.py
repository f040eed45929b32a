"""The database goes away and another one answers at its address: work goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import DatabaseUnavailable
from provisioner.postgres.listener import Listener
from provisioner.postgres.migrations import migrate
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.postgres import PostgresServer, other_account
from provisioner.sandbox.simulator import Options
from tests.faults.proxy import Proxy
from tests.support import eventually, majors
from tests.support.cli import provisioner
from tests.support.fleet import Fleet
from tests.support.sessions import connected, insert

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from provisioner.core.ports import Place
    from tests.support.postgres import Database

REPLICATES = {"wal_level": "replica", "max_wal_senders": "4", "fsync": "off", "hot_standby": "on"}


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """Run a server that can be followed, with our schema."""
    with PostgresServer(settings=REPLICATES, bin_directory=majors.chosen()) as server:
        asyncio.run(migrate(server.url()))
        yield server


@pytest.fixture
def standby(primary: PostgresServer, reachable_directory: Path) -> Iterator[PostgresServer]:
    """Run a standby of the primary, which follows it at once."""
    home, account = reachable_directory / "standby", other_account()
    home.mkdir()
    subprocess.run(  # noqa: S603 - the server's own program
        [primary.psql.with_name("pg_basebackup"), "--pgdata", home / "data", "--dbname", primary.url(), "-R", "-c", "fast"],
        env={},
        check=True,
    )
    # Its own file of passwords and addresses is what it is opened again by.
    (home / "password").write_text((primary.directory / "password").read_text(encoding="utf-8"), encoding="utf-8")
    if account:
        subprocess.run(["chown", "-R", f"{account.pw_uid}:{account.pw_gid}", home], check=True)  # noqa: S603, S607 - ours
    with PostgresServer(settings=REPLICATES, directory=home, bin_directory=majors.chosen()) as server:
        yield server


@asynccontextmanager
async def listening(pool: Pool) -> AsyncIterator[list[str | None]]:
    """Listen, and lend the targets that were heard of."""
    heard: list[str | None] = []

    def hear(target: str | None, _place: Place) -> None:
        heard.append(target)

    task = asyncio.create_task(Listener(pool, hear=hear).run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def caught_up(primary: PostgresServer) -> None:
    """Wait until the standby has everything."""

    async def follows() -> bool:
        async with connected(primary.url()) as session:
            return bool(
                await session.fetchval(
                    "SELECT bool_and(replay_lsn = pg_current_wal_lsn()) AND count(*) = 1 FROM pg_stat_replication"
                )
            )

    await eventually(follows)


async def test_workers_go_on_at_the_promoted_standby(primary: PostgresServer, standby: PostgresServer) -> None:
    """The primary dies, its standby answers at first read-only at the same address, is promoted, and all is done."""
    async with Proxy(primary.port) as proxy, Fleet(proxy.url(primary.url()), Options(projects=40)) as fleet:
        await fleet.session.close()
        await fleet.start()
        async with connected(primary.url()) as session:
            await session.executemany(
                "INSERT INTO provisioner.connection_requests (project_id) VALUES ($1)",
                [(project,) for project in fleet.simulator.projects[:20]],
            )
        await eventually(lambda: fleet.created() == 20, within=20)
        await caught_up(primary)
        primary.stop("immediate")
        proxy.redirect(standby.port)
        async with connected(standby.url()) as session:
            assert await session.fetchval("SELECT pg_is_in_recovery()")
            await session.execute("SELECT pg_promote()")
            await session.executemany(
                "INSERT INTO provisioner.connection_requests (project_id) VALUES ($1)",
                [(project,) for project in fleet.simulator.projects[20:]],
            )

            async def done() -> bool:
                left = "SELECT count(*) FROM provisioner.connection_requests WHERE status <> 'succeeded'"
                return bool(await session.fetchval(left) == 0)

            await eventually(done, within=30)
        assert fleet.created() == 40


async def test_a_standby_is_waited_for_and_listened_to_once_promoted(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    """A standby takes no write and no LISTEN: that passes, is told as what it is, and needs no other connection."""
    await caught_up(primary)
    pool = Pool(standby.url(), size=1)
    with pytest.raises(DatabaseUnavailable, match="read-only, a standby"):
        await pool.execute("DELETE FROM provisioner.ready")
    async with listening(pool) as heard, connected(standby.url()) as session:
        await eventually(lambda: "cannot execute LISTEN" in standby.log_tail())
        # It does not knock without a pause.
        assert standby.log_tail(200).count("cannot execute LISTEN") < 20
        assert heard == []
        await session.execute("SELECT pg_promote()")
        await eventually(lambda: heard == [None], within=20)
        await pool.execute("DELETE FROM provisioner.ready")
        await insert(session)
        await eventually(lambda: "default" in heard)
    await pool.close()


def test_commands_and_doctor_name_a_standby(standby: PostgresServer) -> None:
    """What only reads works; what writes and `doctor` say that it is a standby, in one line."""
    told = {"PROVISIONER_DATABASE_URL": standby.url()}
    submitted = provisioner("submit", "-", more=told, given=b"project_id\n8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11\n")
    assert submitted.returncode == 1
    assert "the database is read-only, a standby" in submitted.stderr
    assert len(submitted.stderr.strip().splitlines()) == 1
    assert provisioner("list", more=told).returncode == 0
    doctor = provisioner("doctor", more=told)
    assert doctor.returncode == 1
    assert "is a standby; name the primary in PROVISIONER_DATABASE_URL" in doctor.stdout


async def test_a_session_that_began_read_only_is_not_kept(database: Database) -> None:
    """Once the default is writable again, the next call works: sessions that would not notice are replaced."""
    pool = Pool(database.url, size=2)
    async with connected(database.url) as session:
        await session.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        with pytest.raises(DatabaseUnavailable, match="default_transaction_read_only"):
            await pool.execute("DELETE FROM provisioner.ready")
        await session.execute(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
    await pool.execute("DELETE FROM provisioner.ready")
    await pool.close()


async def test_of_several_hosts_the_one_that_can_be_written_is_taken(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    """An address with several hosts and `target_session_attrs=read-write` finds the primary."""
    both = standby.url().replace(f":{standby.port}/", f":{standby.port},127.0.0.1:{primary.port}/")
    pool = Pool(f"{both}?target_session_attrs=read-write")
    rows = await pool.fetch("SELECT pg_is_in_recovery() AS standby")
    await pool.close()
    assert rows[0]["standby"] is False

