"""Find the database and how to log in: connection string, service file and libpq's variables combined.

It looks up only what is needed: no account if a user is named, no home directory if nothing in it is used.
"""

import os
import pwd
import random
import re
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from provisioner.core.conninfo import (
    NUMBERS,
    ConninfoError,
    Host,
    from_environment,
    from_service,
    hosts_of,
    number_of,
    parse,
)
from provisioner.core.errors import DatabaseUnusable

URL: Final = "PROVISIONER_DATABASE_URL"
# The usual directories of the server's socket, then the host itself.
LOCAL: Final = ("/run/postgresql", "/var/run/postgresql", "/tmp", "localhost")  # noqa: S108 - where PostgreSQL puts it
PATIENCE: Final = 10  # seconds until one host must have accepted the login
LONGEST: Final = 60  # seconds; the highest setting, because a worker that waits longer loses its lease
_FILES: Final = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir")
_STRICT: Final = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Everything needed to connect. `note` explains a missing password where one was expected."""

    hosts: tuple[Host, ...]
    user: str
    database: str
    sslmode: str
    parameters: Mapping[str, str] = field(repr=False)
    passwords: Mapping[Host, str] = field(repr=False)
    note: str = ""

    @property
    def patience(self) -> float:
        """Seconds for one host to accept the login; at least two, as in libpq, and never unlimited."""
        given = number_of(self.parameters, "connect_timeout") or PATIENCE
        return float(min(max(given, 2), LONGEST))

    @property
    def session(self) -> dict[str, str]:
        """The parameters to send at the beginning of a session."""
        return {name: self.parameters[name] for name in ("application_name", "options") if name in self.parameters}

    def ways(self, host: Host) -> Iterator[ssl.SSLContext | None]:
        """Yield ways to try a host, best first: with TLS or without. Raises `DatabaseUnusable` and `ssl.SSLError`."""
        if host.is_socket or self.sslmode == "disable":
            return iter((None,))
        context = _context(self, host)
        ways: dict[str, tuple[ssl.SSLContext | None, ...]] = {"allow": (None, context), "prefer": (context, None)}
        return iter(ways.get(self.sslmode, (context,)))

    def socket_options(self) -> Iterator[tuple[str, int]]:
        """Yield TCP options with their values, as far as this system has them."""
        yield "TCP_USER_TIMEOUT", number_of(self.parameters, "tcp_user_timeout") or 0
        if self.parameters.get("keepalives") != "0":
            for option, name in (("KEEPIDLE", "idle"), ("KEEPINTVL", "interval"), ("KEEPCNT", "count")):
                yield f"TCP_{option}", number_of(self.parameters, f"keepalives_{name}") or 0


def address_of(url: str, ssl_root_cert: Path | None = None, environ: Mapping[str, str] = os.environ) -> Address:
    """Build the present address. Raises `DatabaseUnusable`, in one sentence, if it cannot work."""
    try:
        return _address(url, ssl_root_cert, environ)
    except ConninfoError as error:
        raise DatabaseUnusable(str(error) if error.subject else f"{URL} {error.rule}") from None


def _address(url: str, ssl_root_cert: Path | None, environ: Mapping[str, str]) -> Address:
    given, variables = parse(url), from_environment(environ)
    service = _service(given, variables, environ)
    merged = {**variables, **service, **given}
    _check_files({**variables}, environ=True)
    _check_files({**service, **given}, environ=False)
    hosts = hosts_of(merged, LOCAL)
    if merged.get("load_balance_hosts") == "random":
        random.shuffle(hosts)
    user = merged.get("user") or _account()
    database = merged.get("dbname") or user
    passwords, note = dict.fromkeys(hosts, merged["password"]) if "password" in merged else {}, ""
    if not passwords:
        passwords, note = _passwords(hosts, merged, database, user)
    for name in NUMBERS:
        number_of(merged, name)
    return Address(
        hosts=tuple(hosts),
        user=user,
        database=database,
        sslmode=_mode(merged, ssl_root_cert),
        parameters={**merged, **({"sslrootcert": str(ssl_root_cert)} if ssl_root_cert else {})},
        passwords=passwords,
        note=note,
    )


def home(*parts: str) -> Path | None:
    """Return a path below the home directory; None for an account without one."""
    found = os.path.expanduser("~")  # noqa: PTH111 - Path's raises without a home
    return Path(found, *parts) if Path(found).is_absolute() else None


def _usual(name: str) -> str | None:
    """Return a file from the user's directory of TLS files, if it exists."""
    found = home(".postgresql", name)
    return str(found) if found is not None and os.access(found, os.R_OK) else None


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise DatabaseUnusable(
            f"{URL} names no user, and account {os.geteuid()} of this machine has no name: put the user into it, as"
            " postgresql://user@host/database, or set PGUSER"
        ) from None


def _service(given: Mapping[str, str], variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    name = given.get("service") or variables.get("service")
    if not name:
        return {}
    named = given.get("servicefile") or variables.get("servicefile")
    system = environ.get("PGSYSCONFDIR")
    places = [Path(named) if named else home(".pg_service.conf"), Path(system, "pg_service.conf") if system else None]
    for place in filter(None, places):
        try:
            text = place.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            if named and place == places[0]:
                raise DatabaseUnusable(f"the service file {place} cannot be read: {_reason(error)}") from None
            continue
        if (found := from_service(name, text, str(place))) is not None:
            return found
    looked = " or ".join(map(str, filter(None, places))) or "any file: set PGSERVICEFILE"
    raise DatabaseUnusable(f"the service that {URL} or PGSERVICE names is not in {looked}")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or "error") if isinstance(error, OSError) else "it is not UTF-8 text"


def _mode(merged: Mapping[str, str], ssl_root_cert: Path | None) -> str:
    """Return the effective `sslmode`. Raises `DatabaseUnusable` if two parameters contradict each other."""
    default = "require" if merged.get("requiressl") == "1" else "prefer"
    mode = merged.get("sslmode", "verify-full" if merged.get("sslrootcert") == "system" else default)
    if ssl_root_cert is not None:
        if mode == "disable":
            raise DatabaseUnusable(f"database.ssl_root_cert and sslmode=disable in {URL} exclude each other")
        mode = "verify-ca" if mode == "verify-ca" else "verify-full"
    elif merged.get("sslrootcert") == "system" and mode != "verify-full":
        raise ConninfoError(
            f"has sslrootcert=system with sslmode={mode}: anybody can get a certificate from those"
            " CAs, so it has to be sslmode=verify-full"
        )
    if merged.get("channel_binding") == "require":
        if mode == "disable":
            raise ConninfoError("has channel_binding=require with sslmode=disable: they exclude each other")
        mode = "verify-full"
    if merged.get("sslnegotiation") == "direct" and mode not in _STRICT:
        raise ConninfoError(f"has sslnegotiation=direct with sslmode={mode}: it needs sslmode=require or more")
    if merged.get("sslsni") == "0" and mode == "verify-full":
        raise ConninfoError("has sslsni=0 with sslmode=verify-full: the host cannot be checked without its name")
    return mode


def _check_files(given: Mapping[str, str], *, environ: bool) -> None:
    for name in _FILES:
        if name not in given or (name == "sslrootcert" and given[name] == "system"):
            continue
        where = f"PG{name.upper()}" if environ else f"{name} in {URL}"
        if not os.access(given[name], os.R_OK):
            raise DatabaseUnusable(f"{where} names {given[name]}, which cannot be read")


def _passwords(hosts: list[Host], merged: Mapping[str, str], database: str, user: str) -> tuple[dict[Host, str], str]:
    """Return the passwords of the password file, and a note if the file is unexpectedly ignored."""
    named = merged.get("passfile")
    file = Path(named) if named else home(".pgpass")
    if file is None:
        return {}, ""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            return {}, f"the password file {file} is not a plain file" if named else ""
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return {}, f"the password file {file} is ignored because other users can read it: run chmod 0600"
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        return {}, f"the password file {file} cannot be read: {_reason(error)}" if named else ""
    entries = [_fields(line) for line in lines if line and not line.startswith("#")]
    passwords: dict[Host, str] = {}
    for host in hosts:
        wanted = ("localhost" if host.is_socket else host.name, str(host.port), database, user)
        for entry in entries:
            if len(entry) >= 5 and all(have in {"*", want} for have, want in zip(entry, wanted, strict=False)):
                passwords[host] = entry[4]
                break
    missing = f"the password file {file} has no line for {user} and this database" if not passwords else ""
    return passwords, missing


def _fields(line: str) -> list[str]:
    """Split a line into fields; a backslash escapes a colon or a backslash."""
    return [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"((?:\\.|[^:\\])*)(?::|$)", line)]


class _Context(ssl.SSLContext):
    """TLS with a server whose name differs from the address, or must not be sent."""

    server: str | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 - the address
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Wrap, using the server's name."""
        return super().wrap_bio(incoming, outgoing, server_side, self.server, session)


def _context(address: Address, host: Host) -> ssl.SSLContext:
    """Return the TLS settings for a host, following libpq. Raises `DatabaseUnusable`, `OSError` and `ssl.SSLError`."""
    given = address.parameters
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.server = None if given.get("sslsni") == "0" else host.name
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if address.sslmode in _STRICT:
        _trust(context, address)
        context.check_hostname = address.sslmode == "verify-full"
    _show(context, given)
    context.minimum_version = _version(given.get("ssl_min_protocol_version", "TLSv1.2"))
    if highest := given.get("ssl_max_protocol_version"):
        context.maximum_version = _version(highest)
    if ssl.HAS_ALPN:
        context.set_alpn_protocols(["postgresql"])
    if keys := given.get("sslkeylogfile"):
        context.keylog_filename = keys
    return context


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]


def _trust(context: ssl.SSLContext, address: Address) -> None:
    """Load the authorities that verify the server's certificate."""
    given = address.parameters
    root = given.get("sslrootcert") or _usual("root.crt")
    if root == "system" or (not root and given.get("channel_binding") == "require"):
        context.load_default_certs()
    elif root:
        context.load_verify_locations(cafile=root)
    elif address.sslmode != "require":
        raise DatabaseUnusable(
            f"sslmode in {URL} requires a check of the server's certificate, but no CA is configured: set"
            " database.ssl_root_cert to the file with the CA certificates, or sslrootcert=system in the address"
        )
    else:
        return
    context.verify_mode = ssl.CERT_REQUIRED
    lists = given.get("sslcrl") or (None if "sslcrldir" in given else _usual("root.crl"))
    if lists:
        context.load_verify_locations(cafile=lists)
    if "sslcrldir" in given:
        context.load_verify_locations(capath=given["sslcrldir"])
    if lists or "sslcrldir" in given:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _show(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    """Load the client certificate."""
    if given.get("sslcertmode") == "disable":
        return
    if certificate := given.get("sslcert") or _usual("postgresql.crt"):
        key = given.get("sslkey") or _usual("postgresql.key")
        context.load_cert_chain(certificate, key, given.get("sslpassword", ""))
