"""Every parameter that libpq of PostgreSQL 14 to 18 knows, with its environment variable, and what it means to us.

`docs/postgresql.md` says more about each of them.
"""

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
    note: str = ""
    values: frozenset[str] = frozenset()


_OBEYED: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
    "keepalives": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "keepalives_count": None,
    "tcp_user_timeout": None,
    "sslmode": "PGSSLMODE",
    "requiressl": "PGREQUIRESSL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslpassword": None,
    "sslkeylogfile": None,
    "sslcertmode": "PGSSLCERTMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslsni": "PGSSLSNI",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "krbsrvname": "PGKRBSRVNAME",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}
# The only values of some of them.
_VALUES: Final = {
    "channel_binding": "disable prefer require",
    "keepalives": "0 1",
    "sslmode": "disable allow prefer require verify-ca verify-full",
    "requiressl": "0 1",
    "sslnegotiation": "postgres direct",
    "sslcertmode": "allow disable",
    "sslsni": "0 1",
    "ssl_min_protocol_version": "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3",
    "ssl_max_protocol_version": "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3",
    "target_session_attrs": "any read-write read-only primary standby prefer-standby",
    "load_balance_hosts": "disable random",
}
_DROPPED: Final = {
    "client_encoding": "PGCLIENTENCODING",
    "fallback_application_name": None,
    "sslcompression": "PGSSLCOMPRESSION",
    "max_protocol_version": "PGMAXPROTOCOLVERSION",
    "authtype": None,
    "tty": None,
}
_OAUTH: Final = "OAuth logins are not supported: use a password or a client certificate"
_SCRAM: Final = "the login needs the password itself: put it into the URL or a password file"
# The reason, and the values that change nothing.
_REFUSED: Final[Mapping[str, tuple[str | None, str, str]]] = {
    "require_auth": (
        "PGREQUIREAUTH",
        "the server chooses how to log in; remove it, and check the server with sslmode=verify-full",
        "",
    ),
    "replication": (None, "a replication session runs no queries; remove it", "false off no 0"),
    "gssencmode": ("PGGSSENCMODE", "sessions are encrypted with TLS only: use sslmode", "disable prefer"),
    "requirepeer": (
        "PGREQUIREPEER",
        "the account behind a socket is not checked; remove it, or check the server with TLS",
        "",
    ),
    "min_protocol_version": ("PGMINPROTOCOLVERSION", "sessions use version 3.0 of the protocol; remove it", "3.0"),
    "gsslib": ("PGGSSLIB", "only `gssapi` is available", "gssapi"),
    "gssdelegation": ("PGGSSDELEGATION", "credentials are not delegated; remove it", "0"),
    "scram_client_key": (None, _SCRAM, ""),
    "scram_server_key": (None, _SCRAM, ""),
    **dict.fromkeys(
        [f"oauth_{part}" for part in ("issuer", "client_id", "client_secret", "scope", "ca_file")], (None, _OAUTH, "")
    ),
}

KEYWORDS: Final[Mapping[str, Keyword]] = {
    **{
        name: Keyword(name=name, variable=variable, how="obeyed", values=frozenset(_VALUES.get(name, "").split()))
        for name, variable in _OBEYED.items()
    },
    **{name: Keyword(name=name, variable=variable, how="dropped") for name, variable in _DROPPED.items()},
    **{
        name: Keyword(name=name, variable=variable, how="refused", note=note, values=frozenset(values.split()))
        for name, (variable, note, values) in _REFUSED.items()
    },
}
