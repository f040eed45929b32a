"""Only errors raised by the driver are the database's: all others pass unchanged."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.core.errors import (
    DatabaseRefusing,
    DatabaseUnavailable,
    DatabaseUnusable,
    ProvisionerError,
    SchemaMismatch,
    StatementRefused,
    Unstorable,
)
from provisioner.postgres.pool import Database as Pool
from tests.support.wire import ScriptedServer, Strike

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database


@pytest.fixture
async def pool(empty_database: Database) -> AsyncIterator[Pool]:
    """Lend a pool of one connection."""
    pool = Pool(empty_database.url, size=1)
    yield pool
    await pool.close()


async def test_an_error_of_ours_is_not_the_databases(pool: Pool) -> None:
    """A `ValueError` from our own use of an answer is a bug, and is not reported as an unstorable value."""
    for wrong in (ValueError, OverflowError, KeyError, RuntimeError):
        with pytest.raises(wrong, match="ours"):
            await _stumble(pool, wrong("ours"))


async def _stumble(pool: Pool, wrong: Exception) -> None:
    async with pool.acquire() as connection:
        await connection.fetch("SELECT 1")
        raise wrong


@pytest.mark.parametrize(
    ("statement", "arguments", "kind"),
    [
        ("SELECT $1::int4", (2**40,), Unstorable),  # the driver sees it before the server
        ("SELECT $1::text", ("a\0b",), Unstorable),
        ("SELECT '24:00:00'::time", (), Unstorable),  # the driver cannot read it
        ("SELECT 'x'::int", (), Unstorable),
        ("SELECT 1/0", (), Unstorable),
        ("SELEKT 1", (), StatementRefused),
        ("SELECT * FROM nowhere", (), SchemaMismatch),
        ("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '28P01'; END $$", (), DatabaseUnusable),
        ("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '58000'; END $$", (), DatabaseUnavailable),
    ],
)
async def test_what_the_database_says_is_translated(
    pool: Pool, statement: str, arguments: tuple[object, ...], kind: type[ProvisionerError]
) -> None:
    """Each error says on one line what the caller can do."""
    with pytest.raises(ProvisionerError) as caught:
        await pool.fetch(statement, *arguments)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


async def test_a_lost_connection_is_told_without_the_drivers_words(pool: Pool) -> None:
    """A transaction whose connection is gone says that, and not how the driver keeps count of its states."""
    with pytest.raises(DatabaseUnavailable, match=r"^the connection was lost \(InterfaceError\)$"):
        await _lose_it(pool)


async def _lose_it(pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        with suppress(asyncpg.PostgresError):
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_what_once_worked_is_waited_for(empty_database: Database) -> None:
    """After the start, trouble that a person has to fix is waited out like any other; a refused statement is not."""
    async with ScriptedServer(empty_database.server.port) as wire:
        pool = Pool(wire.url(empty_database.url), size=1)
        wire.plan(Strike("28P01", "FATAL"))
        with pytest.raises(DatabaseUnusable, match="the database refuses us: planted by the test"):
            await pool.fetch("SELECT 1")
        pool.endure()
        wire.plan(Strike("28P01", "FATAL"))
        with pytest.raises(DatabaseRefusing):
            await pool.fetch("SELECT 1")
        with pytest.raises(StatementRefused):
            await pool.fetch("SELEKT 1")
        assert await pool.fetch("SELECT 1")
        await pool.close()


async def test_a_pooler_that_is_told_too_much(empty_database: Database) -> None:
    """A pooler that refuses our start-up parameters gets none from then on."""
    async with ScriptedServer(empty_database.server.port) as wire:
        pool = Pool(wire.url(empty_database.url), size=2)
        wire.plan(Strike("08P01", "FATAL", said="unsupported startup parameter: jit"))
        async with pool.acquire() as one, pool.acquire() as other:
            # Set once the session has begun, for this server has sessions of our own.
            assert await one.fetchval("SHOW jit") == await other.fetchval("SHOW jit") == "off"
        await pool.close()
    assert [b"jit" in said for said in wire.begun] == [True, False, False]


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "-", ".", "\N{SNOWMAN}" * 70])
async def test_a_host_that_no_host_is_called(host: str) -> None:
    """It is reported in one line."""
    pool = Pool(f"postgresql://me@{host}:1/d", size=1)
    with pytest.raises(ProvisionerError) as caught:
        await pool.fetch("SELECT 1")
    assert "\n" not in str(caught.value)
    await pool.close()
