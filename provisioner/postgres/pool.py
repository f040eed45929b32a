"""Connections to the database, and the translation of their errors.

Users of a connection see success, `DatabaseUnavailable` (try again) or `DatabaseUnusable` (a person must act). Retrying
is up to the caller, because only the caller knows what its call has done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from provisioner.core.errors import (
    DatabaseRefusing,
    DatabaseUnavailable,
    DatabaseUnusable,
    ProvisionerError,
    SchemaMismatch,
    StatementRefused,
    Unstorable,
)
from provisioner.core.secret import Secret
from provisioner.core.sqlstates import Blame, blame
from provisioner.postgres.address import URL
from provisioner.postgres.connector import Connector, tls_errors
from provisioner.postgres.session import put_right

if TYPE_CHECKING:
    from provisioner.postgres.session import Session

T = TypeVar("T")

# Errors of the server and the driver: a lost session, an unreadable answer, a timeout.
_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InternalClientError, asyncpg.InterfaceError)
_RESETTING: Final = (Blame.LOST_STATEMENT, Blame.READ_ONLY)
_ENDING: Final = ("FATAL", "PANIC")
# A statement that collided with another transaction has done nothing, and may be repeated at once, this many times.
_COLLIDED: Final = ("40001", "40P01")
_TRIES: Final = 5

_MEANINGS: Final[Mapping[Blame, tuple[type[ProvisionerError], str]]] = {
    Blame.PASSING: (DatabaseUnavailable, "{kind}: {said}"),
    Blame.READ_ONLY: (
        DatabaseUnavailable,
        (
            "the database is read-only, as a standby or by default_transaction_read_only ({said}); work continues when"
            " it accepts writes"
        ),
    ),
    Blame.LOST_STATEMENT: (  # without the driver's own advice, which is a page long
        DatabaseUnavailable,
        "a pooler in between lost a prepared statement; new ones get no name",
    ),
    Blame.ACCESS: (DatabaseUnusable, "the database refuses us: {said}; {entry}"),
    Blame.RIGHTS: (
        DatabaseUnusable,
        (
            "{said}; `provisioner grant` gives requesters, readers and workers their rights; operators must own the"
            " schema"
        ),
    ),
    Blame.SCHEMA: (SchemaMismatch, "{said}; run `provisioner migrate`"),
    Blame.SESSION: (
        DatabaseUnusable,
        f"the database does not accept our start-up options: {{said}}; check the options in {URL} and PGOPTIONS",
    ),
    Blame.VALUE: (Unstorable, "a value cannot be stored ({kind}, {state})"),
    Blame.DEFECT: (StatementRefused, "the database refuses a statement: {said} ({state})"),
}


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's exceptions into ours, once, at the edge. Exceptions that are not the database's pass."""
    try:
        with tls_errors():
            yield
    except _ERRORS as error:
        raise _translated(error) from error
    except (ValueError, OverflowError) as error:
        if not _is_drivers(error):
            raise
        raise Unstorable(f"the database contains a value that cannot be read ({type(error).__name__})") from error


def _translated(error: BaseException) -> ProvisionerError:
    if isinstance(error, asyncpg.ClientConfigurationError):
        return DatabaseUnusable(f"{URL} cannot be used: {error}")
    if isinstance(error, ValueError):  # the driver's own complaint, before it asks the server
        return Unstorable(f"a value cannot be stored ({type(error).__name__})")
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):  # it tells of the driver's own states
        return DatabaseUnavailable(f"the connection was lost ({type(error).__name__})")
    if not isinstance(error, asyncpg.PostgresError):
        return DatabaseUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    said = f"{error}".partition("\n")[0]
    kind, sentence = _MEANINGS[_blame(error)]
    words = sentence.format(said=said, state=error.sqlstate, kind=type(error).__name__, entry=_entry(said))
    return kind(words.removesuffix(": "))


def _blame(error: asyncpg.PostgresError) -> Blame:
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # the schema was changed meanwhile
        return Blame.PASSING
    return blame(error.sqlstate, fatal=(error.severity_en or error.severity) in _ENDING)


def _entry(said: str) -> str:
    if "certificate" in said:
        return f"set sslcert and sslkey in {URL}"
    return f"correct {URL}" + (": the server may require sslmode=verify-full" if "no encryption" in said else "")


def _is_drivers(error: BaseException) -> bool:
    """Whether an error comes from the driver reading an answer, and not from our use of it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("asyncpg")


async def _keep_session(_connection: object) -> None:
    """Leave a session unchanged between two uses: we change nothing in it, and a reset costs a round trip."""


def _same(secret: Secret) -> Secret:
    return secret


class Database:
    """A small pool of connections, opened when first needed.

    A statement that takes over `timeout` seconds is cancelled. If `url` is a function it is called before each connect,
    so that a changed password takes effect at once.
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
        self._enduring = False

    def endure(self) -> None:
        """From now on, wait out everything that has worked before, even while a person changes a password or a right.

        What was `DatabaseUnusable` at the start becomes `DatabaseUnavailable`.
        """
        self._enduring = True

    def note(self) -> str:
        """Why no password is sent although one may be intended, such as a file that others may read; usually empty."""
        return self._connector.note()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's exceptions into ours, taking `endure` into account."""
        try:
            with database_errors():
                yield
        except DatabaseUnusable as error:
            if not self._enduring:
                raise
            raise DatabaseRefusing(str(error)) from error

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Open a separate connection, for `LISTEN` or a migration; the caller closes it."""
        with self.errors():
            return await self._connector.open()

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    connect=self._connector.open,
                    min_size=0,  # a pool with a minimum logs its own attempts to reach it, many times per outage
                    max_size=self._size,
                    command_timeout=self._timeout,
                    reset=_keep_session,
                )
            return self._pool

    @asynccontextmanager
    async def acquire(self) -> "AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        """Provide a connection for a few statements.

        Raises `DatabaseUnavailable` or `DatabaseUnusable`, also for errors inside the block.
        """
        with self.errors():
            pool = self._pool or await self._opened()
            async with pool.acquire() as connection:
                try:
                    yield connection
                except asyncpg.PostgresError as error:
                    if (found := _blame(error)) in _RESETTING:
                        if found is Blame.LOST_STATEMENT:
                            self._connector.distrust_names()
                        # What made a session read-only may end without the session noticing.
                        await pool.expire_connections()
                    raise

    @asynccontextmanager
    async def writing(self) -> "AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]":
        """Provide a connection whose commits are durable. Raises as `acquire` does.

        If a pooler shares sessions, the session's settings are set in each transaction, and the block is one
        transaction.
        """
        async with self.acquire() as connection:
            if not self._connector.wanting:
                yield connection
                return
            async with connection.transaction(isolation="read_committed"):
                await self.set_up(connection)
                yield connection

    async def set_up(self, connection: "Session") -> None:
        """Set a transaction's session settings, if a pooler shares sessions."""
        if self._connector.wanting:
            await put_right(connection, self._connector.wanting, local=True)

    async def fetch(self, statement: str, *arguments: object) -> "list[asyncpg.Record]":
        """Return all rows of one statement, in its own transaction."""

        async def run(connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> "list[asyncpg.Record]":
            return await connection.fetch(statement, *arguments)

        return await self._alone(run)

    async def fetchrow(self, statement: str, *arguments: object) -> "asyncpg.Record | None":
        """Return the first row of one statement, in its own transaction."""

        async def run(connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> "asyncpg.Record | None":
            return await connection.fetchrow(statement, *arguments)

        return await self._alone(run)

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run one statement, in its own transaction."""

        async def run(connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> str:
            return await connection.execute(statement, *arguments)

        await self._alone(run)

    async def _alone(self, run: "Callable[[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]], Awaitable[T]]") -> T:
        """Run a statement, and repeat it after a collision with another transaction."""
        for _ in range(_TRIES - 1):
            try:
                async with self.writing() as connection:
                    return await run(connection)
            except DatabaseUnavailable as error:
                if getattr(error.__cause__, "sqlstate", None) not in _COLLIDED:
                    raise
        async with self.writing() as connection:
            return await run(connection)

    async def close(self) -> None:
        """Close every connection, after waiting a moment for those in use."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(5.0):
                await pool.close()
        except _ERRORS:
            pool.terminate()
