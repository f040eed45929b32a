"""Open sessions that fit what is between us and the server: TLS, and poolers that share sessions.

A pooler in transaction mode hands a session on at every commit. Statements that were prepared by name are then not
there any more, or worse, are somebody else's. So each new session is asked once whether names are safe in it.
"""

import os
import secrets
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

import asyncpg

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
from provisioner.core.secret import Secret
from provisioner.postgres.moments import read_moments

if TYPE_CHECKING:
    Session = asyncpg.Connection[asyncpg.Record]

_FILES: Final = ("sslcert", "sslkey", "sslrootcert", "sslcrl")  # options of the address that name files
_BACKEND: Final = "SELECT pg_backend_pid()"
# Its own row: what the server calls this very statement.
_NAMED: Final = "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%/* {} */%'"


class Connector:
    """Opens sessions at one address, with what was learned from the earlier ones.

    `url` is asked before each connect, so that a password that was changed counts at once. `ssl_root_cert` holds the
    authorities that the server's certificate has to come from.
    """

    def __init__(self, url: Callable[[], Secret], *, name: str, ssl_root_cert: Path | None = None) -> None:
        self._url = url
        self._name = name
        self._ssl_root_cert = ssl_root_cert
        self._named = True
        self._takes_jit = True

    def distrust_names(self) -> None:
        """Prepare no statement by name any more in the sessions that are opened from now on."""
        self._named = False

    async def open(self, *_: object, **options: Any) -> "Session":
        """A new session in which every statement may be used; `options` are the driver's."""
        connection = await self._open_usable(options)
        try:
            await read_moments(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open_usable(self, options: dict[str, Any]) -> "Session":
        with readable_url():
            connection = await self._open(options)
        if not self._named:
            return connection
        try:
            if not await is_pooled(connection) or await translates_names(connection):
                return connection
        except BaseException:
            connection.terminate()
            raise
        await connection.close()
        self.distrust_names()
        with readable_url():
            return await self._open(options)

    async def _open(self, options: dict[str, Any]) -> "Session":
        asked = self._takes_jit  # another session, opened at the same time, may learn it meanwhile
        try:
            return await self._connect(options)
        except asyncpg.ProtocolViolationError as error:
            # A pooler refuses parameters that it does not know.
            if not asked or "jit" not in str(error):
                raise
            self._takes_jit = False
            return await self._connect(options)

    def _address(self) -> Secret:
        try:
            return self._url()
        except (OSError, ValueError) as error:  # its file cannot be read just now
            raise DatabaseUnavailable(str(error)) from error

    async def _connect(self, options: dict[str, Any]) -> "Session":
        # JIT compiles for longer than any of these statements runs.
        jit = {"jit": "off"} if self._takes_jit else {}
        unnamed = {} if self._named else {"statement_cache_size": 0}
        server_settings = {"application_name": self._name, **jit}
        address = address_of(self._address().reveal(), self._ssl_root_cert)
        opened: Session = await asyncpg.connect(
            address, timeout=10.0, server_settings=server_settings, **{**options, **unnamed}
        )
        return opened


async def is_pooled(connection: "Session") -> bool:
    """Whether a pooler is in between: it makes up the process id that it tells its clients."""
    statement = await connection.prepare(_BACKEND, name="")
    return bool(await statement.fetchval() != connection.get_server_pid())


async def translates_names(connection: "Session") -> bool:
    """Whether the pooler gives prepared statements names of its own, and so finds them again in every session."""
    name = f"provisioner_{secrets.token_hex(8)}"
    statement = await connection.prepare(_NAMED.format(name), name=name)
    try:
        seen = await statement.fetchval()
    except asyncpg.InvalidSQLStatementNameError:
        return False
    return seen is not None and seen != name


def address_of(url: str, ssl_root_cert: Path | None) -> str:
    """The address with the authorities of the settings in it. Raises `DatabaseUnusable` for what cannot work."""
    base, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in _FILES:
        if name in options and not os.access(Path(options[name]), os.R_OK):
            raise DatabaseUnusable(f"{name} in PROVISIONER_DATABASE_URL names {options[name]}, which cannot be read")
    if ssl_root_cert is None:
        return url
    mode = options.get("sslmode")
    if mode == "disable":
        raise DatabaseUnusable(
            "database.ssl_root_cert and sslmode=disable in PROVISIONER_DATABASE_URL exclude each other"
        )
    checked = {"sslmode": "verify-ca" if mode == "verify-ca" else "verify-full", "sslrootcert": str(ssl_root_cert)}
    return f"{base}?{urlencode({**options, **checked})}"


@contextmanager
def readable_url() -> Iterator[None]:
    """Turn the driver's complaints about a malformed address into ours; they may quote the password, ours do not."""
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        if "root certificate" in str(error):
            raise DatabaseUnusable(
                "sslmode in PROVISIONER_DATABASE_URL asks for the server's certificate to be checked, and nobody says"
                " against what: set database.ssl_root_cert to the file with the authorities"
            ) from None
        raise _unreadable() from None
    except ssl.SSLError as error:
        if error.library not in {"X509", "PEM"}:
            raise
        raise DatabaseUnusable(
            "database.ssl_root_cert, or a file that PROVISIONER_DATABASE_URL names, holds no usable certificate or key"
            f" ({error.reason})"
        ) from None
    except ValueError:
        raise _unreadable() from None


def _unreadable() -> DatabaseUnusable:
    return DatabaseUnusable(
        "PROVISIONER_DATABASE_URL cannot be read; it looks like postgresql://user:password@host:5432/database"
    )


@contextmanager
def tls_errors() -> Iterator[None]:
    """Turn what is wrong with TLS into `DatabaseUnusable` that names the settings."""
    try:
        yield
    except OSError as error:
        if trouble := _tls_trouble(error):
            raise DatabaseUnusable(trouble) from error
        raise


def _tls_trouble(error: OSError) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the database's certificate is not accepted: {error.verify_message}; see the host and sslmode in"
                " PROVISIONER_DATABASE_URL and the authorities in database.ssl_root_cert"
            )
        case ssl.SSLError() if "alert" in str(error).lower():
            return (
                f"the database refuses our TLS ({error.reason}); it may want a client certificate of an authority that"
                " it knows: sslcert and sslkey in PROVISIONER_DATABASE_URL"
            )
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return (
                "the database speaks no TLS, and sslmode in PROVISIONER_DATABASE_URL or database.ssl_root_cert"
                " asks for it: switch on ssl in the server"
            )
    return None
