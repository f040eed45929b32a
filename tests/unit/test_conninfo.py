"""Connection strings, as libpq reads them: each parameter is obeyed, dropped knowingly or refused in words."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from provisioner.core.conninfo import ConninfoError, from_environment, from_service, hosts_of, parse, unwrapped
from provisioner.core.errors import DatabaseUnusable
from provisioner.core.libpq import KEYWORDS
from provisioner.postgres.address import address_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Appendix of the manual: `PQconndefaults` of PostgreSQL 14 to 18, and its pages on environment variables.
LIBPQ = """
host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout client_encoding
options application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
tcp_user_timeout replication gssencmode sslmode requiressl sslnegotiation sslcompression sslcert sslkey
sslkeylogfile sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version
ssl_max_protocol_version min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation scram_client_key
scram_server_key service servicefile target_session_attrs load_balance_hosts oauth_issuer oauth_client_id
oauth_client_secret oauth_scope
"""
ENVIRONMENT = """
PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE PGREQUIREAUTH PGCHANNELBINDING PGSERVICE
PGSERVICEFILE PGOPTIONS PGAPPNAME PGSSLMODE PGREQUIRESSL PGSSLCOMPRESSION PGSSLCERT PGSSLKEY PGSSLCERTMODE
PGSSLROOTCERT PGSSLCRL PGSSLCRLDIR PGSSLSNI PGREQUIREPEER PGSSLMINPROTOCOLVERSION PGSSLMAXPROTOCOLVERSION
PGGSSENCMODE PGKRBSRVNAME PGGSSLIB PGGSSDELEGATION PGCONNECT_TIMEOUT PGCLIENTENCODING PGTARGETSESSIONATTRS
PGLOADBALANCEHOSTS PGMINPROTOCOLVERSION PGMAXPROTOCOLVERSION PGSSLNEGOTIATION PGDATESTYLE PGTZ PGGEQO PGSYSCONFDIR
PGLOCALEDIR
"""
# Variables without a parameter.
ALONE = "PGSYSCONFDIR PGDATESTYLE PGTZ PGGEQO PGLOCALEDIR PGREALM"
# A valid value for each parameter that does not accept any text.
FITTING = {"port": "5433", "connect_timeout": "10", "tcp_user_timeout": "5000", "service": "", "servicefile": ""}
FITTING |= dict.fromkeys(("keepalives_idle", "keepalives_interval", "keepalives_count"), "3")
FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir")
ENCODE = "percent-encode the password"


def fitting(name: str) -> str:
    """A value of a parameter that means something."""
    values = sorted(KEYWORDS[name].values)
    return values[-1] if values and KEYWORDS[name].how == "obeyed" else FITTING.get(name, "db.example")


def strict(name: str) -> str:
    """Return what an address needs besides a TLS parameter."""
    return "&sslmode=require" if name == "sslnegotiation" else ""


def test_every_parameter_and_variable_is_known() -> None:
    """All of libpq's, and what becomes of each has a reason."""
    assert set(LIBPQ.split()) <= set(KEYWORDS)
    assert set(ENVIRONMENT.split()) <= {keyword.variable for keyword in KEYWORDS.values()} | set(ALONE.split())
    assert all(keyword.note for keyword in KEYWORDS.values() if keyword.how == "refused")


@pytest.mark.parametrize("name", LIBPQ.split())
def test_each_parameter_in_each_form(name: str, tmp_path: Path) -> None:
    """In a URL, in keywords and in the environment a parameter means the same: it counts, or one line says why not."""
    value = str(tmp_path) if name in FILES else fitting(name)
    forms: list[tuple[str, dict[str, str]]] = [
        (f"postgresql:///db?user=me&{name}={quote(value)}{strict(name)}", {}),
        (f"user=me {name}='{value}'{strict(name).replace('&', ' ')}", {}),
    ]
    if variable := KEYWORDS[name].variable:
        forms.append((f"postgresql:///{'' if name == 'dbname' else 'd'}?{strict(name)[1:]}", {variable: value}))
    for url, given_environ in forms:
        environ = {"PGUSER": "me", **given_environ}
        if KEYWORDS[name].how == "refused":
            with pytest.raises(DatabaseUnusable) as caught:
                address_of(url, environ=environ)
            said = str(caught.value)
            assert (variable or name) in said or name in said
            assert "\n" not in said
            assert value not in said
        else:
            address = address_of(url, environ=environ)
            if KEYWORDS[name].how == "obeyed" and value:
                assert address.parameters[name] == value


def test_what_is_refused_may_say_that_it_changes_nothing() -> None:
    """A parameter that cannot be obeyed is no trouble where it asks for nothing."""
    for keyword in KEYWORDS.values():
        if keyword.how == "refused":
            for value in ("", *keyword.values):
                assert keyword.name not in parse(f"postgresql://h/d?{keyword.name}={value}")


@pytest.mark.parametrize(
    "name", sorted(name for name, each in KEYWORDS.items() if each.how == "obeyed" and each.values)
)
def test_a_wrong_choice_is_told_with_the_right_ones(name: str) -> None:
    """An invalid value is refused with the list of valid ones."""
    with pytest.raises(ConninfoError, match=min(KEYWORDS[name].values)) as caught:
        parse(f"postgresql://h/d?{name}=planted")
    assert "planted" not in str(caught.value)
    if variable := KEYWORDS[name].variable:
        with pytest.raises(ConninfoError, match=variable):
            from_environment({variable: "planted"})


PARSED: Mapping[str, Mapping[str, str]] = {
    "postgresql://": {},
    "postgres://h/d": {"host": "h", "dbname": "d"},
    "postgresql+asyncpg://h/d": {"host": "h", "dbname": "d"},
    "  'postgresql://h/d'\n": {"host": "h", "dbname": "d"},
    '"postgresql://h/d"': {"host": "h", "dbname": "d"},
    "postgresql://u:p%40w@[::1]:5433,b,c:5/d": {
        "user": "u",
        "password": "p@w",
        "host": "::1,b,c",
        "port": "5433,,5",
        "dbname": "d",
    },
    "postgresql://%2Frun%2Fpostgresql/d": {"host": "/run/postgresql", "dbname": "d"},
    "postgresql:///d?host=/run/postgresql&port=5433": {"host": "/run/postgresql", "dbname": "d", "port": "5433"},
    "postgresql://h/d?user=me@tenant&ssl=true": {
        "host": "h",
        "dbname": "d",
        "user": "me@tenant",
        "sslmode": "require",
    },
    "postgresql://u:a:b#c@h/d": {"user": "u", "password": "a:b#c", "host": "h", "dbname": "d"},
    "postgresql://h/d?options=endpoint%3Dx": {"host": "h", "dbname": "d", "options": "endpoint=x"},
    "postgresql://h/d?sslmode=require&channel_binding=require": {
        "host": "h",
        "dbname": "d",
        "sslmode": "require",
        "channel_binding": "require",
    },
    "host=h dbname=d": {"host": "h", "dbname": "d"},
    r" host = h password='a b\'c\\' user=x\ y ": {"host": "h", "password": r"a b'c" + "\\", "user": "x y"},
}


@pytest.mark.parametrize("text", PARSED)
def test_forms(text: str) -> None:
    """Every form of an address is read correctly."""
    assert parse(text) == PARSED[text]


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:p@w@host/db",
        "postgresql://app:p/w@host/db",
        "postgresql://app:p?w@host/db",
        "postgresql://app:12/w@host/db",
        "postgresql://app:p?w=x@host/db",
        "postgresql://app:p%w@host/db",
        "postgresql://app:p w@host/db",
        "postgresql://app:p%00w@host/db",
        "postgresql://app:[w@host:x/db",
    ],
)
def test_a_password_that_is_not_encoded(text: str) -> None:
    """The message says so, and nothing of the string is looked up or shown."""
    with pytest.raises(ConninfoError) as caught:
        parse(text)
    assert ENCODE in str(caught.value) or "host or port" in str(caught.value)


def test_the_unknown_is_named_but_no_rest_of_a_password() -> None:
    """An unknown parameter is named, unless it may be the end of a password."""
    with pytest.raises(ConninfoError, match=r"parameter statement_timeout that is unknown.*options=-c%20NAME"):
        parse("postgresql://h/d?statement_timeout=5")
    for text in ("postgresql://h/d?password=a&secret=b", "host=h password=a secret=b"):
        with pytest.raises(ConninfoError, match="after its password") as caught:
            parse(text)
        assert "secret" not in str(caught.value)


@given(password=st.text(min_size=8, alphabet=string.ascii_letters + string.digits + string.punctuation + "ä "))
def test_no_message_shows_a_part_of_the_password(password: str) -> None:
    """Whatever the password is and however it is written, a message has no four letters of it in a row."""
    for text in (
        f"postgresql://app:{password}@h/d",
        f"postgresql://h/d?password={password}",
        f"password={password} host=h",
    ):
        try:
            parse(text)
        except ConninfoError as error:
            said = str(error)
            parts = {password[n : n + 4] for n in range(len(password) - 3)}
            assert not [part for part in parts if part in said and part not in _ordinary()]


def _ordinary() -> str:
    """Messages for strings with any password."""
    texts = []
    for text in (
        "postgresql://a:b@c@h",
        "password=a b host=",
        "postgresql://h/d?password=a&b=c",
        "password=a b=c",
        "postgresql://h:x/d",
        "postgresql://a b/d",
    ):
        try:
            parse(text)
        except ConninfoError as error:
            texts.append(str(error))
    return " ".join(texts)


@given(
    password=st.text(min_size=1).filter(
        lambda text: "\0" not in text and text == text.encode("utf-8", "replace").decode()
    )
)
def test_an_encoded_password_is_itself(password: str) -> None:
    """Any password can be written, in both forms."""
    assert parse(f"postgresql://app:{quote(password, safe='')}@h/d")["password"] == password
    escaped = re.sub(r"([\\'])", r"\\\1", password)
    assert parse(f"host=h password='{escaped}'")["password"] == password


@given(st.text())
def test_nothing_else_is_raised(text: str) -> None:
    """Any text is an address, or is refused in words."""
    for form in (text, f"postgresql://{text}", f"host={text}"):
        try:
            hosts_of(parse(form), ("localhost",))
        except ConninfoError:
            continue


def test_unwrapping_leaves_the_rest() -> None:
    """Quotes are taken off in pairs, and only around all."""
    assert unwrapped(" '") == "'"
    assert unwrapped("host='a' user='b'") == "host='a' user='b'"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("postgresql://a,b/d?hostaddr=127.0.0.1", "2 hosts and 1 of hostaddr"),
        ("postgresql://a,b,c/d?port=1,2", "3 hosts and 2 ports"),
        ("postgresql://a:0/d", "port"),
        ("postgresql://a/d?port=x", "port"),
        ("postgresql://a/d?connect_timeout=soon", "not a whole number"),
        ("host=@abstract", "abstract socket"),
        ("host='a b'", "percent-encode"),
    ],
)
def test_hosts_and_numbers(text: str, rule: str) -> None:
    """Contradictory parameters are reported."""
    with pytest.raises(ConninfoError, match=rule):
        hosts_of(parse(text), ("localhost",))


class TestAddress:
    """The address that results from a string and its environment."""

    def test_the_string_before_the_service_before_the_environment(self, tmp_path: Path) -> None:
        """As libpq has it."""
        file = tmp_path / "services"
        file.write_text(
            "# ours\n[other]\nuser=x\n[mine]\nuser=service\ndbname=service\nhost=service\n", encoding="utf-8"
        )
        environ = {"PGSERVICEFILE": str(file), "PGSERVICE": "mine", "PGDATABASE": "environ", "PGPORT": "7"}
        address = address_of("postgresql://string", environ=environ)
        assert (address.hosts[0].name, address.hosts[0].port) == ("string", 7)
        assert (address.user, address.database) == ("service", "service")

    def test_a_service_that_is_not_there(self, tmp_path: Path) -> None:
        """The message says where it was looked for; unknown parameters in the file are reported too."""
        file = tmp_path / "services"
        with pytest.raises(DatabaseUnusable, match=f"service file {file} cannot be read"):
            address_of("postgresql:///?service=a", environ={"PGSERVICEFILE": str(file)})
        file.write_text("[b]\nunheard=1\n", encoding="utf-8")
        with pytest.raises(DatabaseUnusable, match=f"the service that .* names is not in .*{file}"):
            address_of("postgresql:///?service=a", environ={"PGSERVICEFILE": str(file)})
        with pytest.raises(ConninfoError, match="service b in f has a parameter unheard"):
            from_service("b", "[b]\nunheard=1", "f")

    def test_several_hosts_each_with_its_password(self, tmp_path: Path) -> None:
        """The password file is searched for each host; a backslash escapes the next character."""
        file = tmp_path / "pass"
        file.write_text("a:*:d:me:one\nb:5433:*:*:t\\:w\\\\o:rest\n*:*:*:you:three\n", encoding="utf-8")
        file.chmod(0o600)
        address = address_of(f"postgresql://me@a,b:5433,c/d?passfile={file}", environ={})
        assert [address.passwords.get(host) for host in address.hosts] == ["one", "t:w\\o", None]
        file.chmod(0o644)
        address = address_of(f"postgresql://me@a/d?passfile={file}", environ={})
        assert (dict(address.passwords), "chmod 0600" in address.note) == ({}, True)

    def test_no_home_and_no_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing unnecessary is looked up; what is missing is reported in one line."""
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("os.geteuid", lambda: 54321)
        monkeypatch.setattr("os.getuid", lambda: 54321)
        address = address_of("postgresql://me@h/d?sslmode=require", environ={})
        assert (address.user, address.sslmode) == ("me", "require")
        list(address.ways(address.hosts[0]))
        with pytest.raises(DatabaseUnusable, match=r"names no user.*postgresql://user@host/database, or set PGUSER"):
            address_of("postgresql://h/d", environ={})
        assert address_of("postgresql://h/d", environ={"PGUSER": "x"}).user == "x"

    def test_timeouts(self) -> None:
        """A host has ten seconds, or as many as were said, within bounds."""
        for given_, seconds in ((None, 10), ("0", 10), ("1", 2), ("30", 30), ("9999", 60), ("-1", 10)):
            url = "postgresql://me@h/d" + (f"?connect_timeout={given_}" if given_ else "")
            assert address_of(url, environ={}).patience == seconds

    def test_the_system_store(self) -> None:
        """`sslrootcert=system` checks certificate and host against this machine's authorities, and nothing less."""
        for url, environ in (
            ("postgresql://me@h/d?sslrootcert=system", {}),
            ("postgresql://me@h/d", {"PGSSLROOTCERT": "system"}),
        ):
            address = address_of(url, environ=environ)
            (context,) = address.ways(address.hosts[0])
            assert context is not None
            assert (address.sslmode, context.check_hostname) == ("verify-full", True)
        with pytest.raises(DatabaseUnusable, match="sslrootcert=system with sslmode=require"):
            address_of("postgresql://me@h/d?sslrootcert=system&sslmode=require", environ={})

    def test_channel_binding_is_kept_by_checking_the_certificate(self) -> None:
        """The string that Neon shows works, without the possibility of an interception."""
        address = address_of("postgresql://me@h/d?sslmode=require&channel_binding=require", environ={})
        (context,) = address.ways(address.hosts[0])
        assert context is not None
        assert (address.sslmode, context.check_hostname) == ("verify-full", True)

    @pytest.mark.parametrize(
        ("query", "rule"),
        [
            ("channel_binding=require&sslmode=disable", "exclude each other"),
            ("sslnegotiation=direct", "needs sslmode=require"),
            ("sslsni=0&sslmode=verify-full", "cannot be checked without its name"),
            ("sslcert=/nowhere/x", "sslcert in PROVISIONER_DATABASE_URL names /nowhere/x, which cannot be read"),
        ],
    )
    def test_what_excludes_each_other(self, query: str, rule: str) -> None:
        """Parameters that contradict each other are reported."""
        with pytest.raises(DatabaseUnusable, match=rule):
            address_of(f"postgresql://me@h/d?{query}", environ={})


def test_the_manual_has_every_parameter() -> None:
    """The table of `docs/postgresql.md` says of each parameter and variable what becomes of it."""
    text = (Path(__file__).parents[2] / "docs" / "postgresql.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", text, re.MULTILINE)
    rows = {name: (variable, said) for name, variable, said in found}
    for keyword in KEYWORDS.values():
        variable, said = rows[keyword.name]
        assert variable == (f"`{keyword.variable}`" if keyword.variable else "\N{EN DASH}")
        assert keyword.note in said
        assert said.startswith({"refused": "**refused**", "dropped": "dropped"}.get(keyword.how, ""))
    assert all(f"| \N{EN DASH} | `{variable}` | " in text for variable in ALONE.split())
