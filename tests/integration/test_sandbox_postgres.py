import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import provisioner
from provisioner.sandbox.postgres import PostgresServer, SandboxUnavailable, bundled, reachable
from tests.support.postgres import Database, ask

CHECKOUT = Path(provisioner.__file__).parents[1]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand the server to another user")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Provide a durable server to tests that only read."""
    with PostgresServer() as running:
        yield running


class TestWhatRuns:
    """The server that one gets."""

    @pytest.mark.parametrize("major", [16, 18])
    def test_each_bundled_version_runs(self, major: int) -> None:
        """Both bundled versions start and answer, the socket in the directory included."""
        with PostgresServer(major=major) as server:
            assert ask(server, "SELECT version()").startswith(f"PostgreSQL {server.version} ")
            assert server.version.split(".")[0] == str(major)
            assert (server.directory / f".s.PGSQL.{server.port}").is_socket()

    def test_the_newest_is_the_default(self, server: PostgresServer) -> None:
        """The default is the newest version."""
        assert int(server.version.split(".")[0]) == max(int(bundled(major)[1].split(".")[0]) for major in (16, 18))

    def test_another_installation_can_be_used(self) -> None:
        """The programs of any installation run when their directory is given."""
        programs, version = bundled(16)
        with PostgresServer(bin_directory=programs) as server:
            assert server.version == version
            assert server.psql == programs / "psql"
            assert ask(server, "SHOW server_version") == version

    def test_results_do_not_depend_on_the_machine(self, server: PostgresServer) -> None:
        """Encoding, order, language and time zone are always the same."""
        shown = [ask(server, f"SHOW {name}") for name in ("server_encoding", "timezone", "log_timezone")]
        assert shown == ["UTF8", "UTC", "UTC"]
        assert ask(server, "SELECT datcollate || datctype FROM pg_database WHERE datname = 'postgres'") == "CC"

    def test_it_is_durable_unless_told_otherwise(self, server: PostgresServer) -> None:
        """Committed data is on disk, so that killing the server proves something."""
        shown = [ask(server, f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")]
        assert shown == ["on", "on", "on"]

    def test_settings_are_applied(self) -> None:
        """Settings reach the server whatever characters they hold."""
        with PostgresServer(settings={"fsync": "off", "search_path": '"it\'s", "a\\b"'}) as server:
            assert ask(server, "SHOW fsync") == "off"
            assert ask(server, "SHOW search_path") == '"it\'s", "a\\b"'

    def test_two_run_side_by_side(self, server: PostgresServer) -> None:
        """Several servers do not disturb each other."""
        with PostgresServer() as other:
            assert other.port != server.port
            ask(other, "CREATE DATABASE only_here")
            assert ask(server, "SELECT count(*) FROM pg_database WHERE datname = 'only_here'") == "0"

    def test_nothing_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither programs on PATH nor PG variables change what runs."""
        monkeypatch.setenv("PATH", "")
        for name in ("PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGOPTIONS", "PGSERVICE", "LC_ALL", "TZ"):
            monkeypatch.setenv(name, "nonsense")
        with PostgresServer() as server:
            assert ask(server, "SELECT 1") == "1"

    def test_the_log_can_be_read(self, server: PostgresServer) -> None:
        """The end of the server's log shows its latest errors."""
        with pytest.raises(ConnectionError):
            ask(server, "SELECT no_such_column")
        assert 'column "no_such_column" does not exist' in server.log_tail()
        assert len(server.log_tail(1).splitlines()) == 1


class TestSafety:
    """File permissions and accounts."""

    def test_it_never_runs_as_root(self, server: PostgresServer) -> None:
        """The server belongs to an unprivileged user: us, or another when we are root."""
        owner = (server.directory / "data" / "postmaster.pid").stat().st_uid
        assert owner != 0
        assert os.geteuid() in {0, owner}

    def test_the_directory_is_private(self, server: PostgresServer) -> None:
        """Nobody else can enter the directory or read the password in it."""
        assert server.directory.stat().st_mode & 0o777 == 0o700
        for name in ("password", "server.log", "data/postgresql.conf"):
            assert (server.directory / name).stat().st_mode & 0o077 == 0, name

    @pytest.mark.parametrize("host", ["127.0.0.1", "socket"])
    def test_a_password_is_required(self, server: PostgresServer, host: str) -> None:
        """Neither over TCP nor through the socket does anybody get in with a wrong password, or with none."""
        place = quote(str(server.directory), safe="") if host == "socket" else host
        refused = "password authentication failed"
        with pytest.raises(ConnectionError, match=refused):
            ask(server, "SELECT 1", f"postgresql://provisioner:wrong@{place}:{server.port}/postgres")
        with pytest.raises(ConnectionError, match="no password supplied"):
            ask(server, "SELECT 1", f"postgresql://provisioner@{place}:{server.port}/postgres")
        password = (server.directory / "password").read_text()
        assert ask(server, "SELECT 1", f"postgresql://provisioner:{password}@{place}:{server.port}/postgres") == "1"

    def test_the_password_shows_nowhere(self, server: PostgresServer) -> None:
        """Neither the object's text nor the supervisor's command line shows the password."""
        password = (server.directory / "password").read_text()
        assert password in server.url()
        assert password not in repr(server)
        assert server._supervisor
        assert password not in str(server._supervisor.args)

    @as_root
    def test_programs_that_only_root_reaches_are_copied(self) -> None:
        """An installation below a directory of mode 0700 works for root all the same."""
        home = bundled()[0].parent
        with tempfile.TemporaryDirectory() as hidden:  # of mode 0700
            package = Path(hidden) / home.parent.name
            shutil.copytree(home, package / home.name, symlinks=True)
            for extra in home.parent.parent.glob(f"{home.parent.name}.libs"):
                shutil.copytree(extra, package.with_name(extra.name))
            assert not reachable(package)
            with PostgresServer(bin_directory=package / home.name / "bin") as server:
                assert ask(server, "SELECT 1") == "1"


class TestErrors:
    """It cannot be done, and says what to do."""

    def test_a_missing_package_names_the_extra(self) -> None:
        """Without the extra the message says how to install it."""
        # -S hides the installed packages.
        script = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
        script += "from provisioner.sandbox.postgres import PostgresServer; PostgresServer().start()"
        command = [sys.executable, "-I", "-S", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        assert "SandboxUnavailable: " in done.stderr
        assert "pip install 'infisical-provisioner[embedded]'" in done.stderr

    def test_an_unknown_version_names_those_there_are(self) -> None:
        """A version that is not bundled is refused by naming those that are."""
        with pytest.raises(SandboxUnavailable, match=r"PostgreSQL 9 is not bundled, only \[16, 18\]"):
            PostgresServer(major=9).start()

    def test_programs_that_cannot_run_are_named(self, tmp_path: Path) -> None:
        """An installation that is not there or made for another machine is named."""
        (tmp_path / "postgres").write_bytes(b"\x7fELF, but of no machine")
        (tmp_path / "postgres").chmod(0o755)
        with pytest.raises(SandboxUnavailable, match=r"this machine cannot run .*/postgres"):
            PostgresServer(bin_directory=tmp_path).start()
        with pytest.raises(SandboxUnavailable, match=r"this machine cannot run .*No such file"):
            PostgresServer(bin_directory=tmp_path / "nowhere").start()

    @pytest.mark.parametrize(
        ("initdb", "said"), [("echo the disk is full >&2; exit 1", "the disk is full"), (None, "initdb")]
    )
    def test_a_failing_initdb_is_quoted(
        self, reachable_directory: Path, monkeypatch: pytest.MonkeyPatch, initdb: str | None, said: str
    ) -> None:
        """When initdb fails or is missing the message says so, in its own words, and nothing is left."""
        programs = reachable_directory / "programs" / "bin"
        programs.mkdir(parents=True)
        scripts = {"postgres": "echo 'postgres (PostgreSQL) 17.1'"} | ({"initdb": initdb} if initdb else {})
        for name, text in scripts.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", str(reachable_directory))
        with pytest.raises(SandboxUnavailable, match=said):
            PostgresServer(bin_directory=programs).start()
        assert [path.name for path in reachable_directory.iterdir()] == ["programs"]

    def test_a_wrong_setting_is_quoted(self, reachable_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the server refuses to start, its own words are in the message, and nothing is left."""
        monkeypatch.setattr(tempfile, "tempdir", str(reachable_directory))
        with pytest.raises(SandboxUnavailable, match="shared_buffers"):
            PostgresServer(settings={"shared_buffers": "plenty"}).start()
        assert not list(reachable_directory.iterdir())

    def test_a_directory_with_other_things_is_refused(self, reachable_directory: Path) -> None:
        """A directory that holds something else is neither used nor changed."""
        (reachable_directory / "thesis.txt").touch()
        with pytest.raises(SandboxUnavailable, match="holds something else"):
            PostgresServer(directory=reachable_directory).start()
        assert reachable_directory.stat().st_mode & 0o777 == 0o755

    @as_root
    def test_an_unreachable_directory_is_refused(self) -> None:
        """Root learns that the server's account cannot reach the directory, and what to do."""
        with tempfile.TemporaryDirectory() as hidden, pytest.raises(SandboxUnavailable, match="cannot reach"):
            PostgresServer(directory=Path(hidden) / "kept").start()

    @as_root
    def test_a_user_without_a_name_is_told(self) -> None:
        """A container's user that no file knows learns that PostgreSQL needs a name."""
        script = "import os; from provisioner.sandbox.postgres import other_account; os.setuid(54321); other_account()"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        assert "SandboxUnavailable: PostgreSQL needs a user with a name, and 54321 has none" in done.stderr

    def test_a_server_that_does_not_run_has_no_process(self) -> None:
        """Asking for what only a started server has says to start it."""
        server = PostgresServer()
        for name in ("pid", "directory", "psql"):
            with pytest.raises(SandboxUnavailable, match="start it"):
                getattr(server, name)


class TestDatabases:
    """The databases that the fixtures lend to tests."""

    @pytest.mark.parametrize("turn", ["first", "second"])
    def test_each_test_gets_its_own(self, empty_database: Database, turn: str) -> None:
        """One test's changes to its database are invisible to other tests."""
        server = empty_database.server
        ask(server, f"CREATE TABLE left_behind AS SELECT '{turn}' AS turn", empty_database.url)
        assert ask(server, "SELECT turn FROM left_behind", empty_database.url) == turn

    def test_a_database_has_our_schema(self, database: Database) -> None:
        """The usual database is a copy of one that was migrated."""
        applied = ask(database.server, "SELECT count(*) FROM provisioner.migrations", database.url)
        assert int(applied) > 0
