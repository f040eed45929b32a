"""Open sessions that suit what is between us and the server: TLS, and poolers that share sessions.

A pooler in transaction mode switches sessions at every commit. Statements prepared by name are then missing or, worse,
somebody else's. So each new session is asked once whether names are safe, and the settings it needs are then set in
each transaction.
"""

import secrets
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from provisioner.core.conninfo import Host
from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
from provisioner.core.secret import Secret
from provisioner.core.sqlstates import Blame, blame
from provisioner.postgres.address import URL, Address, address_of
from provisioner.postgres.moments import read_moments
from provisioner.postgres.session import BESIDES, FIRST, Facts, put_right, read_facts

if TYPE_CHECKING:
    Session = asyncpg.Connection[asyncpg.Record]

_BACKEND: Final = "SELECT pg_catalog.pg_backend_pid()"
# Its own row: the server's name for this statement.
_NAMED: Final = "SELECT name FROM pg_catalog.pg_prepared_statements WHERE statement LIKE '%/* {} */%'"
_WRITABLE: Final = (
    "SELECT pg_catalog.pg_is_in_recovery() AS standby,"
    " pg_catalog.current_setting('default_transaction_read_only') = 'on' AS read_only"
)
_ATTRIBUTES: Final[Mapping[str, Callable[[bool, bool], bool]]] = {
    "read-write": lambda standby, read_only: not standby and not read_only,
    "read-only": lambda standby, read_only: standby or read_only,
    "primary": lambda standby, _: not standby,
    "standby": lambda standby, _: standby,
    "prefer-standby": lambda standby, _: standby,
}
# SQLSTATEs of poolers that reject unknown input: of the protocol, of features, of a parameter.
_TOO_MUCH: Final = ("08P01", "0A000", "22023", "42704")


class Connector:
    """Opens sessions at one address, using what earlier sessions have shown.

    `url` is called before each connect, so that a changed password takes effect at once. `ssl_root_cert` contains the
    authorities for the server's certificate. `wanting` is what must be set in each transaction.
    """

    def __init__(self, url: Callable[[], Secret], *, name: str, ssl_root_cert: Path | None = None) -> None:
        self._url = url
        self._name = name
        self._ssl_root_cert = ssl_root_cert
        self._named = True
        self._tells = True
        self.wanting: Mapping[str, str] = {}

    def distrust_names(self) -> None:
        """Prepare no more statements by name in sessions that are opened from now on."""
        self._named = False

    def note(self) -> str:
        """A remark for the owner of the password file."""
        return address_of(self._address().reveal(), self._ssl_root_cert).note

    async def open(self, *_: object, **options: Any) -> "Session":
        """Open a session in which every statement may be used; `options` are the driver's."""
        connection = await self._open_usable(options)
        try:
            await read_moments(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open_usable(self, options: dict[str, Any]) -> "Session":
        named = self._named  # another session that is opened at the same time may find out meanwhile
        connection = await self._open(options)
        try:
            facts = await read_facts(connection)
            await self._adapt(connection, facts)
            safe = not named or not facts.pooled or await translates_names(connection)
        except BaseException:
            connection.terminate()
            raise
        if safe:
            return connection
        await connection.close()
        self.distrust_names()
        return await self._open(options)

    async def _adapt(self, connection: "Session", facts: Facts) -> None:
        if facts.pooled:
            self.wanting = {name: value for name, value in facts.wanting.items() if name not in BESIDES}
        elif facts.wanting:
            await put_right(connection, facts.wanting, local=False)
        if facts.encoding == "SQL_ASCII":  # the database stores text in any encoding, and returns it unchanged
            for kind in ("text", "varchar", "bpchar", "name"):
                await connection.set_type_codec(
                    kind, schema="pg_catalog", format="binary", encoder=str.encode, decoder=_lenient
                )
            await connection.execute("SET client_encoding = SQL_ASCII")

    async def _open(self, options: dict[str, Any]) -> "Session":
        tells = self._tells  # another session that is opened at the same time may learn it meanwhile
        try:
            return await self._connect(options, FIRST if tells else {})
        except asyncpg.PostgresError as error:
            if not tells or error.sqlstate not in _TOO_MUCH:
                raise
        connection = await self._connect(options, {})
        self._tells = False
        return connection

    async def _connect(self, options: dict[str, Any], first: Mapping[str, str]) -> "Session":
        address = address_of(self._address().reveal(), self._ssl_root_cert)
        unnamed = {} if self._named else {"statement_cache_size": 0}
        settings = {"application_name": self._name, **address.session, **first}
        refused: Exception = DatabaseUnavailable(f"{URL} names no host")
        spare: Host | None = None
        for host in address.hosts:
            try:
                connection = await _reach(address, host, server_settings=settings, **{**options, **unnamed})
            except (OSError, asyncpg.CannotConnectNowError) as error:
                refused = error
                continue
            if await _fits(connection, address):
                return connection
            connection.terminate()
            spare, wanted = host, address.parameters["target_session_attrs"]
            refused = DatabaseUnavailable(f"none of its hosts is {wanted}, which target_session_attrs requires")
        if spare is not None and address.parameters["target_session_attrs"] == "prefer-standby":
            return await _reach(address, spare, server_settings=settings, **{**options, **unnamed})
        raise refused

    def _address(self) -> Secret:
        try:
            return self._url()
        except (OSError, ValueError) as error:  # its file cannot be read at present
            raise DatabaseUnavailable(str(error)) from error


async def _reach(address: Address, host: Host, **options: Any) -> "Session":
    """Open a session at one host, in the first way that the host accepts."""
    *others, last = address.ways(host)
    for way in others:
        try:
            return await _enter(address, host, way, **options)
        except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            # A password that is wrong with TLS is wrong without it too, and a host that is down stays down.
            if isinstance(
                error, asyncpg.InvalidPasswordError | ConnectionRefusedError | TimeoutError | socket.gaierror
            ):
                raise
    return await _enter(address, host, last, **options)


async def _enter(address: Address, host: Host, way: ssl.SSLContext | None, **options: Any) -> "Session":
    password = address.passwords.get(host, "")
    with login_note(address):
        opened: Session = await asyncpg.connect(
            host=host.address,
            port=host.port,
            user=address.user,
            # A function: otherwise the driver looks for a password by itself, in places that may not exist.
            password=lambda: password,
            database=address.database,
            ssl=way or False,
            direct_tls=way is not None and address.parameters.get("sslnegotiation") == "direct",
            krbsrvname=address.parameters.get("krbsrvname"),
            target_session_attrs=SessionAttribute.any,
            timeout=address.patience,
            **options,
        )
    _tune(opened, address)
    return opened


def _tune(connection: "Session", address: Address) -> None:
    """Make the system detect a host that died silently."""
    used: socket.socket | None = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001 - the driver gives no other way to it
    if used is None or used.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    used.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, address.parameters.get("keepalives") != "0")
    for option, value in address.socket_options():
        if value and hasattr(socket, option):
            used.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _fits(connection: "Session", address: Address) -> bool:
    fits = _ATTRIBUTES.get(address.parameters.get("target_session_attrs", "any"))
    if fits is None:
        return True
    try:
        statement = await connection.prepare(_WRITABLE, name="")
        row = await statement.fetchrow()
    except BaseException:
        connection.terminate()
        raise
    return row is not None and fits(row["standby"], row["read_only"])


async def is_pooled(connection: "Session") -> bool:
    """Whether there is a pooler in between: it invents the process id that it tells its clients."""
    statement = await connection.prepare(_BACKEND, name="")
    return bool(await statement.fetchval() != connection.get_server_pid())


async def translates_names(connection: "Session") -> bool:
    """Whether the pooler renames prepared statements, and so finds them again in every session."""
    name = f"provisioner_{secrets.token_hex(8)}"
    statement = await connection.prepare(_NAMED.format(name), name=name)
    try:
        seen = await statement.fetchval()
    except asyncpg.InvalidSQLStatementNameError:
        return False
    return seen is not None and seen != name


def _lenient(octets: bytes) -> str:
    """Decode text of a database without an encoding: invalid UTF-8 must not hide the rest."""
    return octets.decode(errors="replace")


@contextmanager
def login_note(address: Address) -> Iterator[None]:
    """Explain a refused login: why there was no password, or which parameter is refused."""
    try:
        yield
    except asyncpg.PostgresError as error:
        # Some poolers say ERROR. No statement was sent yet that it could be about.
        error.severity = error.severity_en = "FATAL"
        found = blame(error.sqlstate, fatal=True)
        if address.note and found is Blame.ACCESS:
            raise DatabaseUnusable(f"the database refuses us: {error}; {address.note}") from None
        raise
    except asyncpg.InterfaceError as error:
        if "authentication" not in str(error).lower():
            raise
        raise DatabaseUnusable(f"the database requires a kind of login that is not supported: {error}") from None


@contextmanager
def tls_errors() -> Iterator[None]:
    """Turn TLS errors into `DatabaseUnusable` that names the settings."""
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
                f" {URL} and the authorities in database.ssl_root_cert"
            )
        case ssl.SSLError() if error.library in {"X509", "PEM"}:
            return (
                f"database.ssl_root_cert, or a file that {URL} names, contains no usable certificate or key"
                f" ({error.reason})"
            )
        case ssl.SSLError() if "alert" in str(error).lower():
            return (
                f"the database refuses our TLS ({error.reason}); it may want a client certificate of an authority that"
                f" it knows: sslcert and sslkey in {URL}"
            )
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return (
                f"the database speaks no TLS, and sslmode in {URL} or database.ssl_root_cert"
                " asks for it: switch on ssl in the server"
            )
    return None
