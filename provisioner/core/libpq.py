"""All parameters that libpq of PostgreSQL 14 to 18 knows, with their environment variables and how we treat them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

How = Literal["obeyed", "dropped", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """A parameter of libpq: its environment variable, how we treat it, and why.

    `values` are the only valid values. For a parameter that we refuse, they are the values that change nothing.
    """

    name: str
    variable: str | None
    how: How
    note: str
    values: frozenset[str] = frozenset()


def _one(how: How, name: str, variable: str | None, note: str, values: str = "") -> Keyword:
    return Keyword(name=name, variable=variable, how=how, note=note, values=frozenset(values.split()))


_SWITCH: Final = "0 1"
_TLS: Final = "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3"
_OAUTH: Final = "OAuth logins are not supported: use a password or a client certificate"
_SCRAM: Final = "the login needs the password itself: put it into the URL or a password file"

KEYWORDS: Final[Mapping[str, Keyword]] = {
    keyword.name: keyword
    for keyword in (
        _one("obeyed", "host", "PGHOST", "one or several, tried in this order; a path is the directory of a socket"),
        _one("obeyed", "hostaddr", "PGHOSTADDR", "used instead of looking up `host`"),
        _one("obeyed", "port", "PGPORT", "one for all hosts, or one each"),
        _one("obeyed", "dbname", "PGDATABASE", "the user's name by default"),
        _one("obeyed", "user", "PGUSER", "the name of this process's account by default"),
        _one("obeyed", "password", "PGPASSWORD", "takes precedence over the password file"),
        _one("obeyed", "passfile", "PGPASSFILE", "read again for each connection; its mode must be 0600 or stricter"),
        _one(
            "refused",
            "require_auth",
            "PGREQUIREAUTH",
            "the server chooses how to log in; remove it, and check the server with sslmode=verify-full",
        ),
        _one(
            "obeyed",
            "channel_binding",
            "PGCHANNELBINDING",
            "`require` checks the server's certificate and host instead, as sslmode=verify-full does",
            "disable prefer require",
        ),
        _one("obeyed", "connect_timeout", "PGCONNECT_TIMEOUT", "seconds for each host: 10 by default, at most 60"),
        _one("dropped", "client_encoding", "PGCLIENTENCODING", "sessions always use UTF-8"),
        _one("obeyed", "options", "PGOPTIONS", "sent unchanged; what a session needs is set afterwards"),
        _one("obeyed", "application_name", "PGAPPNAME", "the worker's name by default"),
        _one("dropped", "fallback_application_name", None, "each session already has a name"),
        _one("obeyed", "keepalives", None, "on by default", _SWITCH),
        _one("obeyed", "keepalives_idle", None, "seconds"),
        _one("obeyed", "keepalives_interval", None, "seconds"),
        _one("obeyed", "keepalives_count", None, "probes"),
        _one("obeyed", "tcp_user_timeout", None, "milliseconds"),
        _one("refused", "replication", None, "a replication session runs no queries; remove it", "false off no 0"),
        _one(
            "refused",
            "gssencmode",
            "PGGSSENCMODE",
            "sessions are encrypted with TLS only: use sslmode",
            "disable prefer",
        ),
        _one(
            "obeyed",
            "sslmode",
            "PGSSLMODE",
            "`prefer` by default",
            "disable allow prefer require verify-ca verify-full",
        ),
        _one("obeyed", "requiressl", "PGREQUIRESSL", "1 means sslmode=require", _SWITCH),
        _one(
            "obeyed",
            "sslnegotiation",
            "PGSSLNEGOTIATION",
            "`direct` needs sslmode=require or stricter",
            "postgres direct",
        ),
        _one("dropped", "sslcompression", "PGSSLCOMPRESSION", "nothing is compressed"),
        _one("obeyed", "sslcert", "PGSSLCERT", "~/.postgresql/postgresql.crt by default, if it exists"),
        _one("obeyed", "sslkey", "PGSSLKEY", "~/.postgresql/postgresql.key by default"),
        _one("obeyed", "sslpassword", None, "opens sslkey"),
        _one("obeyed", "sslkeylogfile", None, "a file for the TLS session keys, for debugging"),
        _one(
            "obeyed",
            "sslcertmode",
            "PGSSLCERTMODE",
            "`require` is refused, because we cannot see whether the server asks for a certificate",
            "allow disable",
        ),
        _one(
            "obeyed",
            "sslrootcert",
            "PGSSLROOTCERT",
            "a file, or `system` for this machine's CAs (sslmode=verify-full); by default ~/.postgresql/root.crt",
        ),
        _one("obeyed", "sslcrl", "PGSSLCRL", "~/.postgresql/root.crl by default, if it exists"),
        _one("obeyed", "sslcrldir", "PGSSLCRLDIR", "a directory prepared with `openssl rehash`"),
        _one("obeyed", "sslsni", "PGSSLSNI", "0 is not possible with sslmode=verify-full", _SWITCH),
        _one(
            "refused",
            "requirepeer",
            "PGREQUIREPEER",
            "the account behind a socket is not checked; remove it, or check the server with TLS",
        ),
        _one("obeyed", "ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", "TLSv1.2 by default", _TLS),
        _one("obeyed", "ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", "the newest by default", _TLS),
        _one(
            "refused",
            "min_protocol_version",
            "PGMINPROTOCOLVERSION",
            "sessions use version 3.0 of the protocol; remove it",
            "3.0",
        ),
        _one("dropped", "max_protocol_version", "PGMAXPROTOCOLVERSION", "we use 3.0, which every server supports"),
        _one("obeyed", "krbsrvname", "PGKRBSRVNAME", "for logins with GSSAPI, which need the Python package `gssapi`"),
        _one("refused", "gsslib", "PGGSSLIB", "only `gssapi` is available", "gssapi"),
        _one("refused", "gssdelegation", "PGGSSDELEGATION", "credentials are not delegated; remove it", "0"),
        _one("refused", "scram_client_key", None, _SCRAM),
        _one("refused", "scram_server_key", None, _SCRAM),
        _one("obeyed", "service", "PGSERVICE", "its parameters apply unless the URL has them"),
        _one("obeyed", "servicefile", "PGSERVICEFILE", "by default ~/.pg_service.conf, else the one in PGSYSCONFDIR"),
        _one(
            "obeyed",
            "target_session_attrs",
            "PGTARGETSESSIONATTRS",
            "`any` by default; workers need a server that accepts writes",
            "any read-write read-only primary standby prefer-standby",
        ),
        _one("obeyed", "load_balance_hosts", "PGLOADBALANCEHOSTS", "", "disable random"),
        *(
            _one("refused", f"oauth_{part}", None, _OAUTH)
            for part in ("issuer", "client_id", "client_secret", "scope", "ca_file")
        ),
        _one("dropped", "authtype", None, "has no meaning since PostgreSQL 7"),
        _one("dropped", "tty", None, "has no meaning since PostgreSQL 14"),
    )
}
# Environment variables without a parameter.
VARIABLES: Final[Mapping[str, tuple[How, str]]] = {
    "PGSYSCONFDIR": ("obeyed", "directory of `pg_service.conf`, if it is not in the home directory"),
    "PGDATESTYLE": ("dropped", "dates are not exchanged as text"),
    "PGTZ": ("dropped", "times are exchanged with their time zone"),
    "PGGEQO": ("dropped", "no statement of ours joins that many tables"),
    "PGLOCALEDIR": ("dropped", "for messages of libpq, which is not used"),
    "PGREALM": ("dropped", "has no meaning since PostgreSQL 9.3"),
}
