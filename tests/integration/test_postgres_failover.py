"""The database is replaced by another one at its address: work continues, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
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
from tests.support.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from provisioner.core.queue_values import QueuePosition
    from tests.support.postgres import Database

REPLICATES = {"wal_level": "replica", "max_wal_senders": "4", "fsync": "off", "hot_standby": "on"}


pytestmark = pytest.mark.xdist_group("postgres_failover")


@contextmanager
def following() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Run a primary with our schema, and a standby that follows it."""
    with PostgresServer(settings=REPLICATES, bin_directory=majors.chosen()) as server:
        with ThreadPoolExecutor(1) as thread:  # so that the event loops of the tests are not affected
            thread.submit(asyncio.run, migrate(server.url())).result()
        with tempfile.TemporaryDirectory() as made:
            home = Path(made) / "standby"
            _copy(server, home)
            # Written by us: what pg_basebackup would write may be too new for the server.
            settings = REPLICATES | {"primary_conninfo": server.url()}
            with PostgresServer(settings=settings, directory=home, bin_directory=majors.chosen()) as standby:
                yield server, standby


def _copy(primary: PostgresServer, home: Path) -> None:
    home.mkdir()
    program = primary.psql.with_name("pg_basebackup")
    subprocess.run(  # noqa: S603 - the server's own program
        [program, "--pgdata", home / "data", "--dbname", primary.url(), "-c", "fast", "--no-sync"],
        env={},
        check=True,
    )
    (home / "data" / "standby.signal").touch()
    # By this the private server knows a directory of its own.
    (home / "password").write_text((primary.directory / "password").read_text(encoding="utf-8"), encoding="utf-8")
    home.parent.chmod(0o755)
    if account := other_account():
        for path in (home, *home.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Lend a primary and its standby to tests that leave them as they are."""
    with following() as servers:
        yield servers


@pytest.fixture
def own_pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Lend a primary and its standby to one test alone."""
    with following() as servers:
        yield servers


@asynccontextmanager
async def listening(pool: Pool) -> AsyncIterator[list[str | None]]:
    """Listen, and provide the targets of notifications."""
    heard: list[str | None] = []

    def hear(target: str | None, _place: QueuePosition) -> None:
        heard.append(target)

    task = asyncio.create_task(Listener(pool, hear=hear).run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def caught_up(primary: PostgresServer) -> None:
    """Wait until the standby has everything that the primary has now."""
    async with connected(primary.url()) as session:
        now = await session.fetchval("SELECT pg_current_wal_lsn()::text")
        reached = "SELECT coalesce(bool_or(replay_lsn >= $1::text::pg_lsn), false) FROM pg_stat_replication"
        follow: Callable[[], bool | Awaitable[bool]] = partial(session.fetchval, reached, now)
        await eventually(follow, within=20)


async def test_work_goes_on_at_the_promoted_standby(own_pair: tuple[PostgresServer, PostgresServer]) -> None:
    """The primary dies, its standby answers at the same address, read-only at first, is promoted, and all is done.

    Meanwhile nothing retries without a pause, and listeners reconnect without being restarted.
    """
    primary, standby = own_pair
    async with Proxy(primary.port) as proxy, Fleet(proxy.url(primary.url()), Options(projects=40)) as fleet:
        await fleet.start()
        await fleet.insert(20)
        await fleet.comes_to({"succeeded": 20})
        await caught_up(primary)
        pool = Pool(proxy.url(primary.url()), size=1)
        async with listening(pool) as heard:
            await eventually(lambda: heard == [None])
            primary.stop("immediate")
            proxy.redirect(standby.port)
            with pytest.raises(DatabaseUnavailable, match="read-only, as a standby"):
                await pool.execute("DELETE FROM provisioner.ready")
            await eventually(lambda: "cannot execute LISTEN" in standby.log_tail(400))
            async with connected(standby.url()) as session:
                await session.execute("SELECT pg_promote()")
            await eventually(lambda: len(heard) > 1, within=20)
            assert standby.log_tail(4000).count("cannot execute LISTEN") < 40
            await fleet.insert(fleet.simulator.projects[20:])
            await eventually(lambda: "default" in heard)
        await pool.close()
        await fleet.comes_to({"succeeded": 40}, within=30)
        assert fleet.created() == 40


def test_commands_and_doctor_name_a_standby(pair: tuple[PostgresServer, PostgresServer]) -> None:
    """Readers work; writers and `doctor` report in one line that it is a standby."""
    told = {"PROVISIONER_DATABASE_URL": pair[1].url()}
    submitted = provisioner("submit", "-", more=told, given=b"project_id\n8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11\n")
    assert submitted.returncode == 1
    assert "the database is read-only, as a standby" in submitted.stderr
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
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """An address with several hosts and `target_session_attrs=read-write` finds the primary."""
    primary, standby = pair
    both = standby.url().replace(f":{standby.port}/", f":{standby.port},127.0.0.1:{primary.port}/")
    pool = Pool(f"{both}?target_session_attrs=read-write")
    rows = await pool.fetch("SELECT pg_is_in_recovery() AS standby")
    await pool.close()
    assert rows[0]["standby"] is False
