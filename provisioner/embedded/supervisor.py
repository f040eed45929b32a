"""Run one embedded PostgreSQL while any command uses it, in a process of its own that the first command starts.

File locks show which processes exist, because the system releases them however a process ends. Each command holds a
shared lock on `users.lock`, and this process stops the server as soon as it gets that lock exclusively.
`supervisor.lock` is inherited in its locked state from the command that started this process: any process that can lock
it knows that there is no supervisor. The first line on standard output reports the result of the start.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from provisioner.sandbox.supervisor import Cluster, OrderError, with_last_lines

DATABASE: Final = "provisioner"
STATE: Final = "server.json"
USERS: Final = "users.lock"
SUPERVISOR: Final = "supervisor.lock"
LOOK: Final = 0.2  # seconds between two checks whether anybody still uses the server
RESTARTS: Final = 3  # of a server that ended unexpectedly, within
LATELY: Final = 60.0  # seconds
LARGEST_LOG: Final = 4 << 20  # bytes, above which the next start begins a new one
NEEDED: Final = 100 << 20  # bytes; an empty database takes about half
GONE_AFTER: Final = 30.0  # seconds that a server may take to stop


class KeptCluster(Cluster):
    """A data directory that somebody needs: nothing that may contain data is ever removed."""

    def _pause(self, seconds: float) -> None:
        """Sleep; there is no parent process to watch."""
        time.sleep(seconds)

    def fill(self, *, password: str, copy: bool) -> None:
        """Begin a new log if the old one is long, then do the same as every cluster."""
        log = self.directory / "server.log"
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        super().fill(password=password, copy=copy)

    def _make(self, secret: Path, data: Path) -> None:
        if shutil.disk_usage(self.directory).free < NEEDED:  # initdb's own messages for it vary, and some are empty
            raise OrderError(os.strerror(errno.ENOSPC))
        self._initdb(secret, data)
        self._make_database(data)

    def _copy_software(self) -> None:
        """Copy the programs, unless the copy of an earlier start is the same."""
        package = self.software.parent
        copied = self.directory / "software" / package.name / self.software.name
        program = "bin/postgres"
        with suppress(OSError):
            here, there = (copied / program).stat(), (self.software / program).stat()
            if (here.st_size, int(here.st_mtime)) == (there.st_size, int(there.st_mtime)):
                self.software = copied
                return
        super()._copy_software()

    def _make_database(self, data: Path) -> None:
        made = subprocess.run(  # noqa: S603 - our own arguments, no shell
            [self.software / "bin" / "postgres", "--single", "-D", data, "postgres"],
            input=f"CREATE DATABASE {DATABASE};\n".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **{name: value for name, value in self._as_account().items() if name != "stdin"},
        )
        if made.returncode:
            raise OrderError(with_last_lines("the database could not be made", made.stdout))

    def take_over(self) -> None:
        """Stop a server that a killed supervisor left running on this data, so that the next start succeeds."""
        match self._pid_file():
            case [first, *_] if first.strip().isdigit():
                pid = int(first)
            case _:
                return
        if not self._is_server(pid):
            self._own_pid_file(first)
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + GONE_AFTER
        while self._is_server(pid):
            if time.monotonic() > deadline:
                raise OrderError(f"process {pid}, a PostgreSQL on the same data, does not stop; end it with kill {pid}")
            time.sleep(0.05)

    def _is_server(self, pid: int) -> bool:
        """Whether a process is a server on this data: such a process runs in that directory."""
        with suppress(OSError):
            if Path("/proc/self").exists():
                return Path(f"/proc/{pid}/cwd").readlink() == self.data
            said = subprocess.run(["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603 - our own arguments
            return os.fsencode(self.data) in said.stdout
        return False

    def _own_pid_file(self, first: str) -> None:
        """Put our process id into a dead server's pid file: PostgreSQL never mistakes its parent for another server.

        PostgreSQL still checks whether anything uses the shared memory that the file names.
        """
        file = self.data / "postmaster.pid"
        with suppress(OSError):
            rest = file.read_text(encoding="utf-8").removeprefix(first)
            file.write_text(f"{os.getpid()}{rest}", encoding="utf-8")


class Supervisor:
    """One server and the locks around it."""

    def __init__(self, cluster: KeptCluster, *, version: str) -> None:
        self._cluster = cluster
        self._version = version
        self._state = cluster.directory / STATE
        self._users = os.open(cluster.directory / USERS, os.O_RDWR)
        self._told_to_stop = False
        self._ends: list[float] = []

    def start(self) -> None:
        """Start the server and report its address."""
        self._state.unlink(missing_ok=True)
        self._cluster.take_over()
        said = self._cluster.start()
        about = {"port": said["port"], "pid": said["pid"], "version": self._version, "supervisor": os.getpid()}
        fresh = self._state.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(about), encoding="utf-8")
        fresh.replace(self._state)

    def stop_soon(self, *_: object) -> None:
        """Stop at the next check: the machine shuts down, or somebody asked for it."""
        self._told_to_stop = True

    def keep(self) -> None:
        """Keep the server running until nobody uses it; restart it if it ends unexpectedly."""
        while not self._told_to_stop and not self._alone():
            server = self._cluster.server
            try:
                if server is not None:
                    server.wait(LOOK)
            except subprocess.TimeoutExpired:
                continue
            self._state.unlink(missing_ok=True)
            if self._too_often():
                return
            self.start()

    def _alone(self) -> bool:
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _too_often(self) -> bool:
        now = time.monotonic()
        self._ends = [end for end in self._ends if now - end < LATELY] + [now]
        return len(self._ends) > RESTARTS

    def close(self) -> None:
        """Stop the server; its data remain."""
        self._state.unlink(missing_ok=True)
        self._cluster.stop("fast")


def main(spec: dict[str, Any]) -> None:
    """Start the server as specified, report the result, and keep it running."""
    supervisor = None
    try:
        cluster = KeptCluster.create(spec, parent=0)
        supervisor = Supervisor(cluster, version=spec["version"])
        signal.signal(signal.SIGTERM, supervisor.stop_soon)
        cluster.fill(password=spec["password"], copy=spec["copy"])
        supervisor.start()
    except (OrderError, OSError, subprocess.SubprocessError) as error:
        _answer({"error": str(error)})
        if supervisor is not None:
            supervisor.close()
        return
    _answer({})
    try:
        # The command that started us has gone on, and nobody reads further output.
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(null, stream)
        with suppress(
            OrderError, OSError, subprocess.SubprocessError
        ):  # the next command starts it again, and reports the reason
            supervisor.keep()
    finally:
        supervisor.close()


def _answer(said: dict[str, str]) -> None:
    with suppress(OSError):
        os.write(1, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, lambda *_: None)  # not SIG_IGN, which the server would inherit
    order = sys.stdin.readline()
    # The command waits only for its direct child; this process continues on its own.
    if os.fork() == 0:
        main(json.loads(order))
