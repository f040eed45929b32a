"""TLS to the database with real certificates: verification works, and each problem is reported in one line."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provisioner.core.errors import DatabaseUnusable
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.postgres import PostgresServer, other_account
from tests.support import majors
from tests.support.certificates import PROGRAM, Certificate, authority, issued
from tests.support.cli import provisioner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database

# The bundled programs are built without TLS.
ABLE = [path for path in majors.installed().values() if "site-packages" not in path.parts]
pytestmark = [
    pytest.mark.xdist_group("postgres_tls"),
    pytest.mark.skipif(not ABLE, reason="no PostgreSQL with TLS here; `python -m tests.support.majors` brings one"),
    pytest.mark.skipif(PROGRAM is None, reason="the program openssl makes the certificates, and is not here"),
]
# Over TLS only, and for one role only with a certificate.
RULES = """
hostssl all guarded 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """A server that only accepts TLS, and certificates that match it or do not."""

    server: PostgresServer
    folder: Path
    ours: Certificate
    other: Certificate
    client: Certificate

    def url(self, host: str = "localhost", role: str = "provisioner", **options: str | Path) -> str:
        """The address with options of TLS."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        plain = self.server.url().replace("127.0.0.1", host).replace("//provisioner:", f"//{role}:")
        return f"{plain}?{query}"


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """Run the server, once for all of these tests."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        ours, other = authority(folder, "ours"), authority(folder, "other")
        issued(folder, "server", ours)
        issued(folder, "expired", ours, days=-1)
        client = issued(folder, "client", ours, common="guarded")
        (folder / "hba").write_text(RULES, encoding="utf-8")
        account = other_account()
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o600)
            if account:
                os.chown(path, account.pw_uid, account.pw_gid)
        settings = {"ssl": "on", "hba_file": str(folder / "hba"), "ssl_ca_file": str(ours.cert), "fsync": "off"}
        settings |= {"ssl_cert_file": str(folder / "server.pem"), "ssl_key_file": str(folder / "server.key")}
        with PostgresServer(bin_directory=ABLE[-1], settings=settings) as server:
            yield Secured(server=server, folder=folder, ours=ours, other=other, client=client)


async def encrypted(pool: Pool) -> bool:
    """Whether the server says that this session is encrypted."""
    try:
        row = await pool.fetchrow("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    finally:
        await pool.close()
    assert row is not None
    return bool(row["ssl"])


async def refused(url: str, root: Path | None = None) -> str:
    """Why a person must act: one line without the password."""
    pool = Pool(url, ssl_root_cert=root)
    with pytest.raises(DatabaseUnusable) as caught:
        await pool.fetch("SELECT 1")
    await pool.close()
    said = str(caught.value)
    assert "\n" not in said
    assert url.split(":")[2].partition("@")[0] not in said
    return said


async def test_the_authorities_of_the_settings_are_enough(secured: Secured) -> None:
    """With `database.ssl_root_cert` the session is encrypted, and certificate and host are checked."""
    assert await encrypted(Pool(secured.url(), ssl_root_cert=secured.ours.cert))


async def test_the_address_may_say_it_all(secured: Secured) -> None:
    """`sslmode=verify-full` and `sslrootcert` in the address work as with every other client."""
    assert await encrypted(Pool(secured.url(sslmode="verify-full", sslrootcert=secured.ours.cert)))


async def test_another_host_is_refused_unless_the_address_says_verify_ca(secured: Secured) -> None:
    """The certificate is for localhost: 127.0.0.1 is refused, and accepted where only the authority counts."""
    said = await refused(secured.url("127.0.0.1"), secured.ours.cert)
    assert "127.0.0.1" in said
    assert "see the host and sslmode in PROVISIONER_DATABASE_URL" in said
    assert await encrypted(Pool(secured.url("127.0.0.1", sslmode="verify-ca"), ssl_root_cert=secured.ours.cert))


async def test_another_authority_is_refused(secured: Secured) -> None:
    """A certificate of an authority that we do not know is not accepted, and the setting is named."""
    said = await refused(secured.url(), secured.other.cert)
    assert "certificate is not accepted" in said
    assert "database.ssl_root_cert" in said


async def test_channel_binding_is_kept_by_the_certificate(secured: Secured) -> None:
    """`channel_binding=require` works with a good certificate, and otherwise the message says what is missing."""
    asked = secured.url(sslmode="require", channel_binding="require")
    assert "certificate is not accepted" in await refused(asked)
    assert await encrypted(Pool(asked, ssl_root_cert=secured.ours.cert))


async def test_the_authorities_of_this_machine(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sslrootcert=system` is the system's store, in the address and in the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.ours.cert))
    assert await encrypted(Pool(secured.url(sslrootcert="system")))
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    assert await encrypted(Pool(secured.url()))
    assert "127.0.0.1" in await refused(secured.url("127.0.0.1"))
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.other.cert))
    assert "certificate is not accepted" in await refused(secured.url())


async def test_a_host_is_checked_by_its_name_wherever_it_is(secured: Secured) -> None:
    """`hostaddr` is the address and `host` the name: the certificate has to match the name."""
    for host in ("localhost", "elsewhere.example"):
        url = secured.url(host, sslmode="verify-full", sslrootcert=secured.ours.cert, hostaddr="127.0.0.1")
        if host == "localhost":
            assert await encrypted(Pool(url))
        else:
            assert "certificate is not accepted" in await refused(url)


async def test_tls_is_preferred(secured: Secured, empty_database: Database) -> None:
    """Unless it is said otherwise a session is encrypted where it can be, and only there."""
    assert await encrypted(Pool(secured.url(sslmode="prefer")))
    assert await encrypted(Pool(secured.url(sslmode="allow")))  # the server takes nothing else
    assert not await encrypted(Pool(f"{empty_database.url}?sslmode=prefer"))
    assert await encrypted(Pool(secured.url(sslmode="require", sslsni="0")))


async def test_an_expired_certificate_is_refused(secured: Secured) -> None:
    """An expired certificate is reported as such."""
    query = "ALTER SYSTEM SET ssl_{0}_file = '{1}'"
    pool = Pool(secured.url(), ssl_root_cert=secured.ours.cert)
    try:
        for kind, name in (("cert", "expired.pem"), ("key", "expired.key")):
            await pool.execute(query.format(kind, secured.folder / name))
        await pool.execute("SELECT pg_reload_conf()")
        secured.server.restart()
        assert "certificate has expired" in await refused(secured.url(), secured.ours.cert)
    finally:
        # Without verification the connection works.
        open_ = Pool(secured.url(sslmode="require"))
        await open_.execute("ALTER SYSTEM RESET ssl_cert_file")
        await open_.execute("ALTER SYSTEM RESET ssl_key_file")
        await open_.close()
        await pool.close()
        secured.server.restart()


async def test_a_client_certificate_is_shown(secured: Secured) -> None:
    """A missing client certificate is reported; `sslcert` and `sslkey` work beside `database.ssl_root_cert`."""
    owner = Pool(secured.url(), ssl_root_cert=secured.ours.cert)
    password = secured.server.url().split(":")[2].split("@")[0]
    await owner.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{password}'")
    await owner.close()
    assert "client certificate" in await refused(secured.url(role="guarded"), secured.ours.cert)
    url = secured.url(role="guarded", sslcert=secured.client.cert, sslkey=secured.client.key)
    assert await encrypted(Pool(url, ssl_root_cert=secured.ours.cert))


async def test_files_that_are_not_there_are_named(secured: Secured, tmp_path: Path) -> None:
    """An unreadable file, one without a certificate, and a missing one are each reported with their setting."""
    assert "sslcert in PROVISIONER_DATABASE_URL names /nowhere/x" in await refused(secured.url(sslcert="/nowhere/x"))
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n", encoding="utf-8")
    assert "contains no usable certificate" in await refused(secured.url(), empty)
    assert "set database.ssl_root_cert" in await refused(secured.url(sslmode="verify-full"))
    assert "exclude each other" in await refused(secured.url(sslmode="disable"), secured.ours.cert)


async def test_without_tls_a_strict_server_is_told(secured: Secured) -> None:
    """A server that requires TLS and does not get it is reported with the setting."""
    assert "sslmode" in await refused(secured.url(sslmode="disable"))


async def test_a_server_without_tls_is_refused_where_it_is_asked_for(empty_database: Database) -> None:
    """Nothing travels readable where encryption was asked for."""
    assert "speaks no TLS" in await refused(f"{empty_database.url}?sslmode=require")


def test_a_command_says_it_in_one_line(secured: Secured) -> None:
    """The command line shows no traceback."""
    more = {"PROVISIONER_DATABASE_URL": secured.url(), "PROVISIONER_DATABASE__SSL_ROOT_CERT": str(secured.other.cert)}
    for command in ("status", "migrate"):
        done = provisioner(command, more=more)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "certificate is not accepted" in done.stderr
