import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import provisioner
from provisioner.sandbox.postgres import PostgresServer, SandboxUnavailable, StopMode
from tests.support import wait_until
from tests.support.postgres import ask

CHECKOUT = Path(provisioner.__file__).parents[1]
SEGMENTS = Path("/proc/sysvipc/shm")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="relies on /proc or on signals at a parent's death")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def supervisor_of(server: PostgresServer) -> int:
    """Return the process that watches over a server."""
    assert server._supervisor
    return server._supervisor.pid


class Parent:
    """Another Python process that runs a script with a server in it, and whose group can be signalled."""

    def __init__(self, script: str) -> None:
        """Start the script and read the first line that it prints: JSON with the server's pid and directory."""
        self.process = subprocess.Popen(  # noqa: S603 - our own arguments
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        facts = json.loads(self.process.stdout.readline())
        self.server: int = facts["pid"]
        self.supervisor: int = facts["supervisor"]
        self.directory = Path(facts["directory"])

    def nothing_is_left(self) -> bool:
        """Whether server, supervisor and directory are gone."""
        return not (alive(self.server) or alive(self.supervisor) or self.directory.exists())


PROLOGUE = """
import json, os, sys
from provisioner.sandbox.postgres import PostgresServer
def tell(server):
    facts = {"pid": server.pid, "supervisor": server._supervisor.pid, "directory": str(server.directory)}
    print(json.dumps(facts), flush=True)
"""


class TestStopAndStart:
    """A server that stops, is stopped, or is killed."""

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_a_restart_keeps_data_and_port(self, mode: StopMode) -> None:
        """Committed data survives a restart, even if the stop was a crash."""
        with PostgresServer() as server:
            ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
            before = server.pid, server.port
            server.restart(mode)
            assert server.pid != before[0]
            assert server.port == before[1]
            assert ask(server, "SELECT answer FROM kept") == "42"

    def test_a_stopped_server_starts_again(self) -> None:
        """Between stop and start nothing answers; afterwards the same port and data are back."""
        with PostgresServer() as server:
            ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
            url = server.url()
            server.stop()
            server.stop()
            with pytest.raises(ConnectionError, match="Connection refused"):
                ask(server, "SELECT 1")
            server.start()
            server.start()
            assert server.url() == url
            assert ask(server, "SELECT answer FROM kept") == "42"

    def test_a_killed_server_starts_again(self) -> None:
        """A killed server, including a busy session, is started again by start()."""
        with PostgresServer() as server:
            ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
            endless = "SELECT count(*) FROM pg_class, pg_class b, pg_class c, pg_class d, pg_class e"
            # A session that is computing does not notice by itself that the server is gone.
            busy = subprocess.Popen(  # noqa: S603 - our own arguments
                [server.psql, "--no-psqlrc", f"--command={endless}", server.url()],
                env={},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(lambda: ask(server, f"SELECT 1 FROM pg_stat_activity WHERE query = '{endless}'"))
            os.kill(server.pid, signal.SIGKILL)
            server.start()
            assert ask(server, "SELECT answer FROM kept") == "42"
            busy.wait()

    @pytest.mark.skipif(not SEGMENTS.exists(), reason="only Linux lists shared memory in a file")
    def test_a_killed_server_leaves_no_shared_memory(self) -> None:
        """The segment that a killed server cannot free is freed when the sandbox closes."""
        with PostgresServer() as server:
            segment = (server.directory / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
            assert segment in SEGMENTS.read_text().split()
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not alive(server.pid))
        assert segment not in SEGMENTS.read_text().split()

    def test_closing_removes_everything(self) -> None:
        """After the end there is no process and no directory, and closing twice is harmless."""
        with PostgresServer() as server:
            running = server.pid, supervisor_of(server)
            directory = server.directory
        server.close()
        assert not any(alive(pid) for pid in running)
        assert not directory.exists()

    def test_a_given_directory_is_kept(self, reachable_directory: Path) -> None:
        """A directory of one's own stays, and can be opened again with its data and its password."""
        with PostgresServer(directory=reachable_directory / "kept") as server:
            ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
            first = server.url().rpartition("@")[0]
        with PostgresServer(directory=reachable_directory / "kept") as server:
            assert server.url().rpartition("@")[0] == first
            assert ask(server, "SELECT answer FROM kept") == "42"

    def test_a_long_path_goes_without_a_socket(self, reachable_directory: Path) -> None:
        """Where the path is too long for a Unix socket, TCP still works."""
        with PostgresServer(directory=reachable_directory / ("long" * 30)) as server:
            assert ask(server, "SHOW unix_socket_directories") == ""
            assert ask(server, "SELECT 1") == "1"


class TestOrphans:
    """The process that made the server dies."""

    def test_a_killed_parent_leaves_nothing(self) -> None:
        """After SIGKILL of the parent there is no server, no supervisor and no directory."""
        parent = Parent(PROLOGUE + "with PostgresServer() as server: tell(server); sys.stdin.read()")
        assert alive(parent.server)
        with parent.process:
            parent.process.kill()
        wait_until(parent.nothing_is_left)

    def test_a_parent_killed_early_leaves_nothing(self, reachable_directory: Path) -> None:
        """A parent that is killed while the server is being created leaves nothing either."""
        script = (
            PROLOGUE + f"import tempfile; tempfile.tempdir = {str(reachable_directory)!r}; PostgresServer().start()"
        )
        reachable_directory.chmod(0o777)
        with subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT) as parent:  # noqa: S603 - ours
            made = wait_until(lambda: list(reachable_directory.iterdir()))
            parent.kill()
        wait_until(lambda: not made[0].exists())

    def test_a_forked_child_does_not_keep_the_server(self) -> None:
        """A child process that was forked from the parent, and holds its pipes, does not keep the server alive."""
        parent = Parent(
            PROLOGUE
            + "server = PostgresServer(); server.start()\n"
            + "if not os.fork(): sys.stdin.read(); os._exit(0)\n"
            + "tell(server); os.kill(os.getpid(), 9)"
        )
        with parent.process:  # its end closes the child's input, and so ends the child
            wait_until(parent.nothing_is_left)

    def test_an_interrupt_leaves_time_to_tidy_up(self) -> None:
        """Ctrl-C, which reaches every process of the terminal, leaves the server to the parent."""
        parent = Parent(
            PROLOGUE
            + """
import subprocess
with PostgresServer() as server:
    try:
        tell(server)
        sys.stdin.read()
    except KeyboardInterrupt:
        print(subprocess.check_output([server.psql, "-XAtc", "SELECT 'still here'", server.url()], text=True))
"""
        )
        os.killpg(parent.process.pid, signal.SIGINT)
        said, _ = parent.process.communicate()
        assert said.strip() == "still here"
        assert parent.process.returncode == 0
        assert parent.nothing_is_left()

    @on_linux
    def test_a_killed_supervisor_takes_the_server_along(self) -> None:
        """Should the supervisor be killed, the server ends too, and closing removes the directory."""
        server = PostgresServer()
        server.start()
        pid = server.pid
        os.kill(supervisor_of(server), signal.SIGKILL)
        wait_until(lambda: not alive(pid))
        with pytest.raises(SandboxUnavailable, match="its supervisor died"):
            server.restart()
        assert not server.directory.exists()
