"""Databases for tests: one quick server a test process, and in it a fresh database a test, cloned from a template."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import pytest

from provisioner.sandbox.postgres import PostgresServer, bundled, reachable
from tests.support import majors

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATE = "template_provisioner"
MEMORY = Path("/dev/shm")  # noqa: S108 - making the 300 files of a database takes 5 times as long on a disk
QUICK = {
    "fsync": "off",  # this server is never killed: tests that need that start their own
    "full_page_writes": "off",
    "max_wal_size": "128MB",
    "shared_buffers": "32MB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database that belongs to one test alone."""

    name: str
    url: str
    server: PostgresServer = field(repr=False)


class Databases:
    """Makes and drops databases over one lasting psql session, because connecting takes longer than the work."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._session = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [server.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", server.url()],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def execute(self, statement: str) -> None:
        """Run one statement that returns nothing."""
        orders, answers = cast("IO[str]", self._session.stdin), cast("IO[str]", self._session.stdout)
        orders.write(f"{statement};\n\\echo done\n")
        orders.flush()
        said = answers.readline()
        if said != "done\n":
            raise RuntimeError(f"{statement}: {said}{answers.read()}")

    @contextmanager
    def fresh(self, template: str) -> Iterator[Database]:
        """Provide a copy of a template, and drop it afterwards, even with open connections."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy(self._server)}")
        try:
            yield Database(name=name, url=self._server.url(name), server=self._server)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """End the session."""
        self._session.communicate()


def ask(server: PostgresServer, sql: str, url: str | None = None) -> str:
    """Return the output of psql, in an empty environment, for a statement; raises on an error."""
    done = subprocess.run(  # noqa: S603 - our own arguments
        [
            server.psql,
            "--no-psqlrc",
            "--no-password",
            "-qAt",
            "--set=ON_ERROR_STOP=1",
            f"--command={sql}",
            url or server.url(),
        ],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConnectionError(done.stderr)
    return done.stdout.strip()


def strategy(server: PostgresServer) -> str:
    """How to copy a database: by files, faster while nothing waits for the disk, and the only way before 15."""
    return "" if server.version.startswith("14.") else "STRATEGY FILE_COPY"


def has_room(memory: Path) -> bool:
    """Tell whether databases fit there; programs, which would be copied there to be reachable, often may not run."""
    return (
        os.access(memory, os.W_OK)
        and shutil.disk_usage(memory).free > 2**30
        and reachable(majors.chosen() or bundled()[0])
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one PostgreSQL for all tests of this process that neither stop nor kill it."""
    with started(PostgresServer(settings=QUICK, bin_directory=majors.chosen())) as server:
        yield server


@contextmanager
def started(server: PostgresServer) -> Iterator[PostgresServer]:
    """Run a server whose files are in memory, if there is room: killed processes lose nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        if has_room(MEMORY):
            patch.setattr(tempfile, "tempdir", str(MEMORY))
        server.start()
    with closing(server):
        yield server


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Iterator[Databases]:
    """Provide a function that makes databases on the shared server."""
    maker = Databases(postgres_server)
    yield maker
    maker.close()


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer, databases: Databases) -> str:
    """Name a database with our schema, made once, which the databases of the tests are copies of."""
    from provisioner.postgres.migrations import migrate

    databases.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0 {strategy(postgres_server)}")
    with ThreadPoolExecutor(1) as thread:  # so that the event loops of the tests are not affected
        thread.submit(asyncio.run, migrate(postgres_server.url(TEMPLATE))).result()
    databases.execute(f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")
    return TEMPLATE


@pytest.fixture
def database(databases: Databases, template_database: str) -> Iterator[Database]:
    """Lend a fresh database with our schema and nothing in it."""
    with databases.fresh(template_database) as fresh:
        yield fresh


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[Database]:
    """Lend a fresh database without our schema."""
    with databases.fresh("template0") as fresh:
        yield fresh


@pytest.fixture
def reachable_directory() -> Iterator[Path]:
    """Lend a directory that the server's account can reach, unlike pytest's own when we are root."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)
