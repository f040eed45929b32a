"""The database's address as people have it: it works as with every other client, or one line says what to change."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.cli import SCRIPT, environment, provisioner

if TYPE_CHECKING:
    from tests.support.postgres import Database

UNSHARE = shutil.which("unshare")


def keywords(url: str) -> str:
    """The same address in keywords."""
    parts = urlsplit(url)
    return (
        f"host={parts.hostname} port={parts.port} user={parts.username} password='{parts.password}'"
        f" dbname={parts.path[1:]}"
    )


@pytest.mark.parametrize(
    "change",
    [
        "{}?connect_timeout=10&target_session_attrs=any",
        "{}?sslmode=prefer&channel_binding=prefer&gssencmode=prefer&keepalives_idle=60&tcp_user_timeout=5000",
        "{}?application_name=mine&options=-c%20work_mem%3D5MB&client_encoding=UTF8&load_balance_hosts=random",
        "{}?target_session_attrs=prefer-standby&sslcompression=0&replication=false&max_protocol_version=latest",
        " '{}' ",
        "keywords",
        "two hosts",
        "sqlalchemy",
    ],
)
def test_it_works(database: Database, change: str) -> None:
    """Forms that libpq accepts, with additions from editors and shells."""
    url = database.url
    changed = {
        "keywords": keywords(url),
        "two hosts": re.sub(r"@([^/]+)/", r"@127.0.0.1:1,\1/", url),
        "sqlalchemy": url.replace("postgresql://", "postgresql+asyncpg://"),
    }.get(change, change.format(url))
    done = provisioner("status", "--json", more={"PROVISIONER_DATABASE_URL": changed})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ("{}?options=endpoint%3Dx", 1, "does not accept our start-up options"),
        ("{}?sslmode=require&channel_binding=require", 1, "speaks no TLS"),
        ("{}?sslrootcert=system", 1, "speaks no TLS"),
        ("{}?target_session_attrs=standby", 1, "none of its hosts is standby"),
        ("{}?unheard_of=1", 2, "unheard_of"),
        ("{}?require_auth=scram-sha-256", 2, "require_auth"),
        ("postgresql://app:planted@4711@host/db", 2, "percent-encode the password"),
        ("postgresql://app:planted/4711@host/db", 2, "percent-encode the password"),
        ("host=127.0.0.1 planted 4711", 2, "single quotes"),
    ],
)
@pytest.mark.parametrize("command", [("status",), ("run", "--drain", "--listen", "off")])
def test_it_is_refused_in_one_line(
    database: Database, command: tuple[str, ...], change: str, status: int, said: str
) -> None:
    """The parameter is named with what to do, and nothing of the password is shown."""
    keys = {"INFISICAL_TOKEN": "x", "OPENROUTER_PROVISIONING_KEY": "sk-or-v1-x"}
    if command[0] == "run" and "standby" in change:
        pytest.skip("a worker waits for it")
    done = provisioner(*command, more={"PROVISIONER_DATABASE_URL": change.format(database.url), **keys})
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert done.stderr.count("\n") == 1
    assert "4711" not in done.stderr


def test_variables_are_obeyed_and_refused_by_their_names(database: Database) -> None:
    """An address of nothing but a scheme takes all from libpq's variables; what cannot be obeyed is named."""
    parts = urlsplit(database.url)
    given = {
        "PROVISIONER_DATABASE_URL": "postgresql://",
        "PGHOST": str(parts.hostname),
        "PGPORT": str(parts.port),
        "PGUSER": str(parts.username),
        "PGPASSWORD": str(parts.password),
        "PGDATABASE": parts.path[1:],
        "PGCONNECT_TIMEOUT": "10",
    }
    done = provisioner("status", "--json", more=given)
    assert (done.returncode, done.stderr) == (0, "")
    done = provisioner("status", more={**given, "PGREQUIREPEER": "postgres"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: PGREQUIREPEER has a value that cannot be obeyed")


def nameless(database: Database, url: str) -> subprocess.CompletedProcess[str]:
    """A command under an account without name and home, as in a container with a number for its user."""
    assert UNSHARE
    seen = {name: value for name, value in environment(database).items() if name != "HOME"}
    return subprocess.run(  # noqa: S603 - our own arguments
        [UNSHARE, "--user", "--map-user=54321", "--map-group=54321", SCRIPT, "status", "--json"],
        env={**seen, "PROVISIONER_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def isolates() -> bool:
    """Whether user namespaces may be made here."""
    if UNSHARE is None:
        return False
    arguments = [UNSHARE, "--user", "--map-user=54321", "--map-group=54321", "true"]
    return subprocess.run(arguments, check=False, capture_output=True).returncode == 0  # noqa: S603 - our own arguments


@pytest.mark.skipif(not isolates(), reason="no user namespaces here")
def test_without_an_account_and_a_home(database: Database) -> None:
    """With a user in the address nothing else is needed; without, one line says what to set."""
    done = nameless(database, database.url)
    assert (done.returncode, done.stderr) == (0, "")
    done = nameless(database, re.sub(r"//[^@]+@", "//", database.url))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "names no user, and account 54321 of this machine has no name" in done.stderr
