"""Connections to the database, and the translation of what can go wrong with them.

Whoever uses a connection sees three things only: it worked, `DatabaseUnavailable` (try again), `DatabaseUnusable` (a
person must act). Waiting and trying again is the caller's business, for only the caller knows what its call has done.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable, SchemaMismatch, Unstorable
from provisioner.core.secret import Secret
from provisioner.postgres.connector import Connector, tls_errors

# The connection is gone, or the server is starting, stopping, failing over or full: all of these pass.
_PASSING: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
)
# A pooler in between that nobody noticed: a statement of that name is in another session. It has not been carried out.
_NO_STATEMENT: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_READ_ONLY: Final = "the database is read-only, a standby or by default_transaction_read_only"
_NO_SCHEMA: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
)
_UNSTORABLE: Final = (
    asyncpg.DataError,
    ValueError,
)  # the server's word, and the driver's own before it asks the server
_LOGIN: Final = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)

_GRANT: Final = (
    "`provisioner grant` gives requesters, readers and workers their rights, and operators are who own the schema"
)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's exceptions into ours, once, at the edge."""
    try:
        with tls_errors():
            yield
    except _UNSTORABLE as error:
        raise Unstorable(f"a value cannot be stored ({type(error).__name__})") from error
    except _LOGIN as error:
        remedy = "correct PROVISIONER_DATABASE_URL"
        if "certificate" in str(error):
            remedy = "name one by sslcert and sslkey in PROVISIONER_DATABASE_URL"
        elif "no encryption" in str(error):
            remedy += ": it may want sslmode=verify-full"
        raise DatabaseUnusable(f"the database refuses us: {error}; {remedy}") from error
    except _NO_SCHEMA as error:
        raise SchemaMismatch(f"{error}; run `provisioner migrate`") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnusable(f"{error}; {_GRANT}") from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise DatabaseUnavailable(f"{_READ_ONLY} ({error}); work goes on when it can be written") from error
    except _NO_STATEMENT as error:  # without the driver's own advice, which is a page long
        raise DatabaseUnavailable("a pooler in between lost a prepared statement; new ones get no name") from error
    except _PASSING as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


async def _keep_session(_connection: object) -> None:
    """Leave a session as it is between two uses: we change nothing in it, and a reset costs a round trip each time."""


def _same(secret: Secret) -> Secret:
    return secret


class Database:
    """A small pool of connections, opened when first needed.

    A statement that takes over `timeout` seconds is given up. Where `url` is a function it is asked before each
    connect, so that a password that was changed counts at once.
    """

    def __init__(
        self,
        url: str | Secret | Callable[[], Secret],
        *,
        size: int = 4,
        timeout: float | None = None,
        ssl_root_cert: Path | None = None,
        name: str = "provisioner",
    ) -> None:
        source = url if callable(url) else partial(_same, url if isinstance(url, Secret) else Secret(url))
        self._connector = Connector(source, name=name, ssl_root_cert=ssl_root_cert)
        self._size = size
        self._timeout = timeout
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of its own, for `LISTEN` or a migration; the caller closes it."""
        with database_errors():
            return await self._connector.open()

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    connect=self._connector.open,
                    min_size=0,  # a pool that keeps a minimum logs its own attempts to, many times an outage
                    max_size=self._size,
                    command_timeout=self._timeout,
                    reset=_keep_session,
                )
            return self._pool

    @asynccontextmanager
    async def acquire(self) -> "AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        """A connection for a few statements.

        Raises `DatabaseUnavailable` or `DatabaseUnusable`, also out of the block.
        """
        with database_errors():
            pool = self._pool or await self._opened()
            async with pool.acquire() as connection:
                try:
                    yield connection
                except (*_NO_STATEMENT, asyncpg.ReadOnlySQLTransactionError) as error:
                    if isinstance(error, _NO_STATEMENT):
                        self._connector.distrust_names()
                    # What made a session read-only may end, and the session would not notice.
                    await pool.expire_connections()
                    raise

    async def fetch(self, statement: str, *arguments: object) -> "list[asyncpg.Record]":
        """All rows of one statement, in a transaction of its own."""
        async with self.acquire() as connection:
            return await connection.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> "asyncpg.Record | None":
        """The first row of one statement, in a transaction of its own."""
        async with self.acquire() as connection:
            return await connection.fetchrow(statement, *arguments)

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run one statement, in a transaction of its own."""
        async with self.acquire() as connection:
            await connection.execute(statement, *arguments)

    async def close(self) -> None:
        """Close every connection; waits a moment for those in use, then cuts them."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(5.0):
                await pool.close()
        except (TimeoutError, *_PASSING):
            pool.terminate()
