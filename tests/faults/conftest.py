"""Fixtures of the fault tests: a durable server, databases on it, and worlds to break."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.postgres.migrations import migrate
from provisioner.sandbox.postgres import PostgresServer
from tests.faults.tally import KEY, pytest_terminal_summary
from tests.support import majors
from tests.support.fleet import Fleet
from tests.support.postgres import started, strategy
from tests.support.ways import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provisioner.sandbox.simulator import Options
    from tests.support.ways import Process

__all__ = ["pytest_terminal_summary"]


@pytest.fixture(scope="session")
def durable_server() -> Iterator[PostgresServer]:
    """Provide a server with durable commits, for tests that stop it and kill it."""
    with started(PostgresServer(bin_directory=majors.chosen())) as server:
        yield server


@pytest.fixture(scope="session")
def _durable_template(durable_server: PostgresServer) -> str:
    async def make() -> None:
        connection = await asyncpg.connect(durable_server.url())
        await connection.execute("CREATE DATABASE template_faults")
        await connection.close()
        await migrate(durable_server.url("template_faults"))

    with ThreadPoolExecutor(1) as thread:  # so that the event loops of the tests are not affected
        thread.submit(asyncio.run, make()).result()
    return "template_faults"


_numbers = itertools.count(1)


@pytest.fixture
def durable_url(durable_server: PostgresServer, _durable_template: str) -> str:
    """Name a fresh database with our schema on the durable server."""
    name = f"faults_{next(_numbers)}"

    async def make() -> None:
        connection = await asyncpg.connect(durable_server.url())
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_durable_template} {strategy(durable_server)}")
        await connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, make()).result()
    return durable_server.url(name)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Count the actions of a test, for the end of the run."""
    counted: Counter[str] = Counter()
    yield counted
    request.node.user_properties.append((KEY, dict(counted)))


@pytest.fixture
def world(durable_url: str, tmp_path: Path, tally: Counter[str]) -> Iterator[Callable[..., Fleet[Process]]]:
    """Provide a function that builds fleets of processes from simulator options and environment settings.

    Random choices follow the seed of the options; `FAULTS_SEED` overrides it.
    """
    built: list[Fleet[Process]] = []

    def build(options: Options, **settings: str) -> Fleet[Process]:
        chosen = replace(options, seed=int(os.environ.get("FAULTS_SEED", options.seed)))
        built.append(Fleet(durable_url, chosen, settings=settings, way=processes(tmp_path)))
        return built[-1]

    yield build
    for fleet in built:
        tally.update(fleet.tally, runs=1)
