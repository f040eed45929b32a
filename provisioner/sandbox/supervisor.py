"""Keep one private PostgreSQL running exactly as long as the process that asked for it.

This is a separate program that only uses the standard library. Orders are JSON lines on standard input, which only the
parent can write to; each is answered by a line on standard output. When the input ends or the parent process changes,
the parent has died in whatever way: the server is stopped, and temporary files are removed. `postgres.py` is the other
end.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

START_TIMEOUT = 60.0  # seconds; recovery after a kill may take long
STOP_TIMEOUT = 30.0  # seconds for one way of stopping before the next, harsher one
DYING = 0.5  # seconds within which a killed server is dead
LOOK = 1.0  # seconds between checks of the parent, in case another process has inherited the pipe
SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}  # nothing from the caller, because results must not depend on the machine
SOCKET_PATH_LIMIT = 103  # bytes; the limit of macOS, which is the lowest


class OrderError(Exception):
    """An order could not be carried out; the message is for the person who gave it."""


class Abandoned(BaseException):
    """The parent is gone, so waiting is pointless."""


@dataclass(slots=True, kw_only=True)
class Cluster:
    """One data directory and its server."""

    parent: int
    software: Path
    directory: Path
    temporary: bool
    settings: dict[str, str]
    uid: int | None
    gid: int | None
    port: int = 0
    server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def create(cls, spec: dict[str, Any], parent: int) -> Self:
        """Create the directory; before that, nothing can be left behind."""
        kept = spec["directory"]
        if kept:
            Path(kept).mkdir(mode=0o700, parents=True, exist_ok=True)
        made = kept or tempfile.mkdtemp(prefix="provisioner-postgres-", dir=spec["base"])
        return cls(
            parent=parent,
            software=Path(spec["software"]),
            directory=Path(made).resolve(),
            temporary=not kept,
            settings=spec["settings"],
            uid=spec["uid"],
            gid=spec["gid"],
        )

    @property
    def data(self) -> Path:
        """Where PostgreSQL keeps its files."""
        return self.directory / "data"

    def fill(self, *, password: str, copy: bool) -> None:
        """Copy the programs if necessary, and create the data directory unless it exists: completely, or not at all."""
        self.directory.chmod(0o700)
        self._own(self.directory)
        if copy:
            self._copy_software()
        if self.data.exists():
            return
        fresh, secret = self.directory / "data.new", self.directory / "password"
        shutil.rmtree(fresh, ignore_errors=True)  # left by a start that was interrupted, and never used
        self._write(secret, password)
        self._make(secret, fresh)
        fresh.rename(self.data)

    def _make(self, secret: Path, data: Path) -> None:
        # Risks a few files in a power failure, which a sandbox does not survive anyway; the server itself still syncs
        # its commits.
        self._initdb(secret, data, "--no-sync")

    def _own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def _write(self, path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        self._own(path)

    def _copy_software(self) -> None:
        """Copy the programs, and a wheel's libraries beside them, to a place where the account can run them."""
        package, copies = self.software.parent, self.directory / "software"
        target = copies / package.name / self.software.name
        shutil.rmtree(copies, ignore_errors=True)
        for source, copy in (
            (self.software, target),
            (package / ".dylibs", target.parent / ".dylibs"),
            (package.with_name(f"{package.name}.libs"), copies / f"{package.name}.libs"),
        ):
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
        for folder, _, files in os.walk(copies):
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                self._own(path)
        self.software = target

    def _as_account(self) -> dict[str, Any]:
        who: dict[str, Any] = {"cwd": self.directory, "env": ENVIRONMENT, "stdin": subprocess.DEVNULL}
        if self.uid is not None:
            who |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return who

    def _initdb(self, secret: Path, data: Path, *more: str) -> None:
        arguments = ["--username=provisioner", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8"]
        # The C locale sorts and compares the same everywhere.
        arguments += ["--locale=C", "--no-instructions", f"--pgdata={data}", *more]
        made = subprocess.run(  # noqa: S603 - our own arguments, no shell
            [self.software / "bin" / "initdb", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **self._as_account(),
        )
        if made.returncode:
            raise OrderError(with_last_lines("initdb failed", made.stdout))

    def start(self) -> dict[str, int]:
        """Start a server and wait until it accepts connections: first on a free port, later on the same port."""
        if self.server:
            with suppress(subprocess.TimeoutExpired):
                self.server.wait(DYING)
            if self.server.returncode is None:
                return {"port": self.port, "pid": self.server.pid}
            self.stop("immediate")
        deadline, chosen = time.monotonic() + START_TIMEOUT, self.port
        log = self.directory / "server.log"
        while True:
            self.port = chosen or free_port()
            self._configure()
            before = log.stat().st_size if log.exists() else 0
            server = self._launch(log)
            if self._ready(server, deadline):
                return {"port": self.port, "pid": server.pid}
            said = log.read_bytes()[before:]
            # The port was taken meanwhile, or backends of a killed server have not exited yet.
            passing = b"Address already in use" in said or b"still in use" in said
            if not passing or time.monotonic() > deadline:
                raise OrderError(with_last_lines("PostgreSQL did not start", said))
            self._pause(0.05)

    def _configure(self) -> None:
        socket_path = os.fsencode(self.directory / f".s.PGSQL.{self.port}")
        place = f'"{self.directory}"' if len(socket_path) <= SOCKET_PATH_LIMIT else ""
        ours = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": place}
        lines = [f"{name} = '{escaped(value)}'\n" for name, value in (self.settings | ours).items()]
        self._write(self.data / "postgresql.conf", "".join(lines))

    def _launch(self, log: Path) -> subprocess.Popen[bytes]:
        log.touch(mode=0o600)
        with log.open("ab") as output:
            self.server = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                [self.software / "bin" / "postgres", "-D", self.data],
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one thread here
                **self._as_account(),
            )
        return self.server

    def _ready(self, server: subprocess.Popen[bytes], deadline: float) -> bool:
        while server.poll() is None and time.monotonic() < deadline:
            match self._pid_file():
                case [pid, *_, state] if pid == str(server.pid) and state.strip() == "ready":
                    return True
            self._pause(0.01)
        self.stop("immediate")
        return False

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []

    def _pause(self, seconds: float) -> None:
        if os.getppid() != self.parent:
            raise Abandoned
        time.sleep(seconds)

    def stop(self, mode: str) -> None:
        """Stop the server if it runs, with increasing force, and clean up after one that was killed."""
        if not self.server:
            return
        for number in (SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            self.server.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.server.wait(STOP_TIMEOUT)
                break
        self._clear(self.server.pid)
        self.server = None

    def _clear(self, pid: int) -> None:
        """End the backends of a killed server, and free the shared memory that it could not free itself."""
        match self._pid_file():
            case [owner, _, _, _, _, _, segment, *_] if owner == str(pid) and segment.split():
                for link in Path("/proc").glob("[0-9]*/cwd"):  # without /proc they end at their next wait
                    with suppress(OSError):
                        if link.readlink() == self.data:
                            os.kill(int(link.parent.name), signal.SIGKILL)
                ctypes.CDLL(None).shmctl(int(segment.split()[-1]), 0, None)  # 0 is IPC_RMID

    def remove(self) -> None:
        """Stop the server and remove temporary files."""
        self.stop("immediate")
        while self.temporary and self.directory.exists():  # a dying backend may write once more
            shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    """Find a free port below the range that systems assign automatically, so that a stop does not lose it."""
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - nothing secret
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def escaped(value: str) -> str:
    """Escape a value for quotes in postgresql.conf."""
    return value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")


def with_last_lines(what: str, output: bytes) -> str:
    """Say what failed, with the end of the program's own output."""
    lines = output.decode(errors="replace").strip().splitlines()
    return "\n".join([f"{what}; its last lines:", *lines[-8:]])


def die_with_parent() -> None:
    """Ask Linux to stop the server even if the supervisor is killed; 1 is PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def orders(parent: int) -> Iterator[dict[str, Any]]:
    """Yield the parent's orders, until it orders the end or is gone."""
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], LOOK)[0]:
            order = json.loads(sys.stdin.readline() or '{"do": "end"}')
            if order["do"] == "end":
                return
            yield order


def serve(parent: int) -> None:
    """Carry out the parent's orders; the first one creates the cluster."""
    cluster: Cluster | None = None
    try:
        for order in orders(parent):
            answer: dict[str, Any] = {}
            try:
                if order["do"] == "create":
                    cluster = Cluster.create(order, parent)
                    cluster.fill(password=order["password"], copy=order["copy"])
                    answer["password"] = (cluster.directory / "password").read_text(encoding="utf-8")
                    answer["directory"] = str(cluster.directory)
                elif order["do"] == "start" and cluster:
                    answer |= cluster.start()
                elif cluster:
                    cluster.stop(order["mode"])
            except (OrderError, OSError, subprocess.SubprocessError) as error:
                answer["error"] = str(error)
            print(json.dumps(answer), flush=True)  # noqa: T201 - this is the answer
    finally:
        if cluster:
            cluster.remove()


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, lambda *_: None)  # not SIG_IGN, which the server would inherit
    with suppress(Abandoned):
        serve(int(sys.argv[1]))
