"""Connections to the database, and the translation of what can go wrong with them.

Whoever uses a connection sees three things only: it worked, `DatabaseUnavailable` (try again), `DatabaseUnusable` (a
person must act). Waiting and trying again is the caller's business, for only the caller knows what its call has done.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable, SchemaMismatch, Unstorable
from provisioner.core.secret import Secret

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
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
)
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
        yield
    except _UNSTORABLE as error:
        raise Unstorable(f"a value cannot be stored ({type(error).__name__})") from error
    except _LOGIN as error:
        raise DatabaseUnusable(f"the database refuses us: {error}; mend PROVISIONER_DATABASE_URL") from error
    except _NO_SCHEMA as error:
        raise SchemaMismatch(f"{error}; run `provisioner migrate`") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnusable(f"{error}; {_GRANT}") from error
    except _PASSING as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


async def _keep_session(_connection: object) -> None:
    """Leave a session as it is between two uses: we change nothing in it, and a reset costs a round trip each time."""


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
        self._url = Secret(url) if isinstance(url, str) else url
        self._size = size
        self._timeout = timeout
        self._ssl = ssl.create_default_context(cafile=str(ssl_root_cert)) if ssl_root_cert else None
        self._name = name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "timeout": 10.0,
            # JIT compiles for longer than any of these statements runs.
            "server_settings": {"application_name": self._name, "jit": "off"},
        }
        if self._ssl is not None:
            options["ssl"] = self._ssl
        return options

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of its own, for `LISTEN` or a migration; the caller closes it."""
        with database_errors(), readable_url():
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._dsn(), **self._options())
            return connection

    def _dsn(self) -> str:
        try:
            return (self._url if isinstance(self._url, Secret) else self._url()).reveal()
        except (OSError, ValueError) as error:
            raise DatabaseUnavailable(str(error)) from error

    async def _dial(self, *_: object, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """Connect as the pool asks, to where the database is now."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._dsn(), **options)
        return connection

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is None:
                with readable_url():
                    self._pool = await asyncpg.create_pool(
                        self._dsn(),
                        connect=self._dial,
                        min_size=1,
                        max_size=self._size,
                        command_timeout=self._timeout,
                        reset=_keep_session,
                        **self._options(),
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
                yield connection

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


@contextmanager
def readable_url() -> Iterator[None]:
    """Turn the driver's complaints about a malformed address into ours; they may quote the password, ours do not."""
    try:
        yield
    except (ValueError, asyncpg.ClientConfigurationError):
        raise DatabaseUnusable(
            "PROVISIONER_DATABASE_URL cannot be read; it looks like postgresql://user:password@host:5432/database"
        ) from None
