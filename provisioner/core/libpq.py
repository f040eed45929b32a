"""Every parameter that libpq of PostgreSQL 14 to 18 knows, with its environment variable, and what it means to us."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

How = Literal["obeyed", "dropped", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """A parameter of libpq: its environment variable, what becomes of it, and why.

    `values` are the only ones that it can have; of a parameter that is refused, those that change nothing.
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
_OAUTH: Final = "there is no login by OAuth: use a password or a client certificate"
_SCRAM: Final = "the login needs the password itself: write it into the URL or into a password file"

KEYWORDS: Final[Mapping[str, Keyword]] = {
    keyword.name: keyword
    for keyword in (
        _one("obeyed", "host", "PGHOST", "one or several, tried in this order; a path is the directory of a socket"),
        _one("obeyed", "hostaddr", "PGHOSTADDR", "connected to instead of looking up `host`"),
        _one("obeyed", "port", "PGPORT", "one for all hosts, or one each"),
        _one("obeyed", "dbname", "PGDATABASE", "the name of the user unless given"),
        _one("obeyed", "user", "PGUSER", "the name of this process's account unless given"),
        _one("obeyed", "password", "PGPASSWORD", "before the password file"),
        _one("obeyed", "passfile", "PGPASSFILE", "read again at each connect; only with mode 0600 or less"),
        _one(
            "refused",
            "require_auth",
            "PGREQUIREAUTH",
            "the way of the login is the server's choice; remove it, and check the server by sslmode=verify-full",
        ),
        _one(
            "obeyed",
            "channel_binding",
            "PGCHANNELBINDING",
            "`require` is kept by checking the server's certificate and host instead, as sslmode=verify-full does",
            "disable prefer require",
        ),
        _one("obeyed", "connect_timeout", "PGCONNECT_TIMEOUT", "seconds for each host: 10 unless given, at most 60"),
        _one("dropped", "client_encoding", "PGCLIENTENCODING", "sessions speak UTF-8 always"),
        _one("obeyed", "options", "PGOPTIONS", "sent as it is; what a session needs is set after it"),
        _one("obeyed", "application_name", "PGAPPNAME", "the worker's name unless given"),
        _one("dropped", "fallback_application_name", None, "each session has a name already"),
        _one("obeyed", "keepalives", None, "on unless given", _SWITCH),
        _one("obeyed", "keepalives_idle", None, "seconds"),
        _one("obeyed", "keepalives_interval", None, "seconds"),
        _one("obeyed", "keepalives_count", None, "probes"),
        _one("obeyed", "tcp_user_timeout", None, "milliseconds"),
        _one("refused", "replication", None, "a session for replication runs no queries; remove it", "false off no 0"),
        _one(
            "refused",
            "gssencmode",
            "PGGSSENCMODE",
            "sessions are encrypted by TLS only: use sslmode",
            "disable prefer",
        ),
        _one(
            "obeyed",
            "sslmode",
            "PGSSLMODE",
            "`prefer` unless given",
            "disable allow prefer require verify-ca verify-full",
        ),
        _one("obeyed", "requiressl", "PGREQUIRESSL", "1 is sslmode=require", _SWITCH),
        _one(
            "obeyed", "sslnegotiation", "PGSSLNEGOTIATION", "`direct` needs sslmode=require or more", "postgres direct"
        ),
        _one("dropped", "sslcompression", "PGSSLCOMPRESSION", "nothing is compressed"),
        _one("obeyed", "sslcert", "PGSSLCERT", "else ~/.postgresql/postgresql.crt, if it is there"),
        _one("obeyed", "sslkey", "PGSSLKEY", "else ~/.postgresql/postgresql.key"),
        _one("obeyed", "sslpassword", None, "opens sslkey"),
        _one("obeyed", "sslkeylogfile", None, "the keys of TLS, for debugging"),
        _one(
            "obeyed",
            "sslcertmode",
            "PGSSLCERTMODE",
            "`require` is refused: what the server asks for is not seen",
            "allow disable",
        ),
        _one(
            "obeyed",
            "sslrootcert",
            "PGSSLROOTCERT",
            "a file, or `system` for this machine's authorities, with sslmode=verify-full; else ~/.postgresql/root.crt",
        ),
        _one("obeyed", "sslcrl", "PGSSLCRL", "else ~/.postgresql/root.crl, if it is there"),
        _one("obeyed", "sslcrldir", "PGSSLCRLDIR", "a directory as `openssl rehash` makes it"),
        _one("obeyed", "sslsni", "PGSSLSNI", "0 is not possible with sslmode=verify-full", _SWITCH),
        _one(
            "refused",
            "requirepeer",
            "PGREQUIREPEER",
            "the account at the other end of a socket is not looked at; remove it, or check the server by TLS",
        ),
        _one("obeyed", "ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", "TLSv1.2 unless given", _TLS),
        _one("obeyed", "ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", "the newest unless given", _TLS),
        _one(
            "refused",
            "min_protocol_version",
            "PGMINPROTOCOLVERSION",
            "sessions speak version 3.0 of the protocol; remove it",
            "3.0",
        ),
        _one("dropped", "max_protocol_version", "PGMAXPROTOCOLVERSION", "3.0 is spoken, which every server speaks"),
        _one("obeyed", "krbsrvname", "PGKRBSRVNAME", "for logins by GSSAPI, which need the Python package `gssapi`"),
        _one("refused", "gsslib", "PGGSSLIB", "only `gssapi` is there", "gssapi"),
        _one("refused", "gssdelegation", "PGGSSDELEGATION", "credentials are not delegated; remove it", "0"),
        _one("refused", "scram_client_key", None, _SCRAM),
        _one("refused", "scram_server_key", None, _SCRAM),
        _one("obeyed", "service", "PGSERVICE", "its parameters count unless the URL has them"),
        _one("obeyed", "servicefile", "PGSERVICEFILE", "else ~/.pg_service.conf, else the one in PGSYSCONFDIR"),
        _one(
            "obeyed",
            "target_session_attrs",
            "PGTARGETSESSIONATTRS",
            "`any` unless given; workers need a server that can be written",
            "any read-write read-only primary standby prefer-standby",
        ),
        _one("obeyed", "load_balance_hosts", "PGLOADBALANCEHOSTS", "", "disable random"),
        *(
            _one("refused", f"oauth_{part}", None, _OAUTH)
            for part in ("issuer", "client_id", "client_secret", "scope", "ca_file")
        ),
        _one("dropped", "authtype", None, "means nothing since PostgreSQL 7"),
        _one("dropped", "tty", None, "means nothing since PostgreSQL 14"),
    )
}
# Variables that are no parameters.
VARIABLES: Final[Mapping[str, tuple[How, str]]] = {
    "PGSYSCONFDIR": ("obeyed", "where `pg_service.conf` is, if it is not in the home directory"),
    "PGDATESTYLE": ("dropped", "dates are not exchanged as text"),
    "PGTZ": ("dropped", "times are exchanged with their zone"),
    "PGGEQO": ("dropped", "no statement joins that many tables"),
    "PGLOCALEDIR": ("dropped", "messages of libpq, which is not used"),
    "PGREALM": ("dropped", "means nothing since PostgreSQL 9.3"),
}
