"""The console script without its start: a process that has imported every command forks one for each call.

To start Python and import what a command needs takes a quarter of a second, and the suite calls hundreds of commands. A
forked command is a process of its own all the same, with its own environment, directory, streams and exit status. What
is about the start itself, or about the streams, runs the script: `tests.support.cli.script`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import ExitStack, suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tests.support import machines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
LONGEST = 2**20  # bytes of one call: its arguments and its environment
MOST = 2**16  # bytes that a pipe takes
CLOSED = -100  # a stream that is none; beside the numbers of `subprocess`
PATIENCE = 60  # seconds, after which a command hangs; the slowest that is waited for takes one on a machine at rest
# What commands import only when they run.
WHEN_THEY_RUN = (
    *("provisioner.service", "provisioner.settings", "provisioner.observe.web"),
    *("provisioner.sandbox.simulator.app", "uvloop", "rich.live"),
)
# What Python and its libraries read while they start; who sets it runs the script.
EARLY = ("PYTHON", "LANG", "LC_", "SSL", "MALLOC", "LD_", "COVERAGE")


@cache
def _server() -> tuple[str, subprocess.Popen[bytes]]:
    """Start the process that forks, and return where it listens; it ends when this process does."""
    address = str(Path(tempfile.mkdtemp(prefix="forking-")) / "socket")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    server = subprocess.Popen(  # noqa: S603  # our own arguments
        [sys.executable, "-m", "tests.support.forking", address],
        cwd=ROOT,
        env=kept,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    if server.stdin is None or server.stdout is None:  # there are pipes, so there are streams
        raise AssertionError
    atexit.register(server.stdin.close)
    assert server.stdout.readline() == b"ready\n"
    return address, server


def is_early(names: Mapping[str, str]) -> bool:
    """Whether anything here is read by Python's own start."""
    return any(name.startswith(EARLY) for name in names)


# The console script for shells: a start of Python alone, which passes on its arguments and streams.
SHIM = """#!{python} -IS
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
line.connect({address!r})
asked = {{"arguments": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
socket.send_fds(line, [b"+"], [0, 1, 2])
line.sendall(json.dumps(asked).encode())
line.shutdown(socket.SHUT_WR)
with line.makefile() as said:
    said.readline()
    sys.exit(int(said.readline() or 70))
"""


@cache
def shim() -> Path:
    """Make a directory for `PATH`, in which `provisioner` is forked too."""
    address, _ = _server()
    program = Path(address).with_name("provisioner")
    program.write_text(SHIM.format(python=sys.executable, address=address), encoding="utf-8")
    program.chmod(0o755)
    return program.parent


class Forked:
    """A command that was started: what `subprocess.Popen` would say of it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | Path = "/",
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        prepare: Callable[..., object] | None = None,
    ) -> None:
        """Start it; streams are numbers of open files, `CLOSED`, or `DEVNULL` and `PIPE` as for `subprocess.Popen`.

        `prepare`, of `tests.support.machines`, is called in its process before it begins.
        """
        self.returncode: int | None = None
        self.stdout: IO[str]
        self.stderr: IO[str]
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line.connect(_server()[0])
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        closed = [name for name, stream in streams.items() if stream == CLOSED]
        asked = {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd), "closed": closed}
        message = json.dumps({**asked, "prepare": _named(prepare)}).encode()
        assert len(message) < LONGEST
        ends = []
        for name, stream in streams.items():
            end = stream
            if stream == subprocess.PIPE:
                read, end = os.pipe()
                setattr(self, name, os.fdopen(read, encoding="utf-8"))
            elif stream in {subprocess.DEVNULL, CLOSED}:
                end = os.open(os.devnull, os.O_RDWR)
            ends.append((end, end != stream))
        socket.send_fds(self._line, [b"+"], [end for end, _ in ends])
        for end, ours in ends:
            if ours:
                os.close(end)
        self._line.sendall(message)
        self._line.shutdown(socket.SHUT_WR)
        self._said = self._line.makefile("rb")
        self.pid = int(self._said.readline())

    def poll(self) -> int | None:
        """Its exit status if it has ended: a negative one is the signal that ended it."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; returns its exit status."""
        if self.returncode is None:
            if timeout is not None and not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("provisioner", timeout)
            self.returncode = int(self._said.readline() or -signal.SIGKILL)
            self._said.close()
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read its pipes to their end, one after the other, and wait for its own; returns what they said."""
        said = []
        for name in ("stdout", "stderr"):
            pipe: IO[str] | None = getattr(self, name, None)
            said.append("" if pipe is None or pipe.closed else pipe.read())
            if pipe is not None:
                pipe.close()
        self.wait(timeout)
        return said[0], said[1]


def _named(prepare: Callable[..., object] | None) -> list[Any]:
    """A function of `tests.support.machines`, and its arguments, as they go to the other process."""
    function, arguments = (prepare.func, prepare.args) if isinstance(prepare, partial) else (prepare, ())
    return [function.__name__, *arguments] if function else []


def call(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | Path = "/",
    given: bytes = b"",
    instead: Mapping[str, str] | None = None,
    prepare: Callable[..., object] | None = None,
) -> tuple[int, bytes, bytes]:
    """Run one command to its end; returns its exit status and what it wrote to both streams.

    What is `given` has to fit into a pipe: `MOST` bytes. `instead` puts files in the place of streams, or nothing
    where it says `closed`.
    """
    read, write = os.pipe()
    with (
        os.fdopen(read, "rb") as into,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        with os.fdopen(write, "wb") as feed:
            feed.write(given)
        streams = {"stdin": into.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        with ExitStack() as stack:
            for name, path in (instead or {}).items():
                mode = os.O_RDONLY if name == "stdin" else os.O_WRONLY
                streams[name] = CLOSED if path == "closed" else os.open(path, mode)
                if streams[name] != CLOSED:
                    stack.callback(os.close, streams[name])
            command = Forked(arguments, env=env, cwd=cwd, prepare=prepare, **streams)
        try:
            status = command.wait(PATIENCE)
        finally:
            command.kill()
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def serve(address: str) -> None:
    """Import every command, then fork one for each call, until standard input ends."""
    from provisioner.cli import load_command
    from provisioner.cli.commands import COMMANDS

    for name in COMMANDS:
        load_command(name)
    for module in WHEN_THEY_RUN:
        import_module(module)
    gc.freeze()  # so that the copies share what is there, and need not look through it
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _attend(line)
            line.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _attend(line: socket.socket) -> NoReturn:
    """Run one call in a process of its own, and tell its number and its exit status; it dies with who called."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    parts = []
    while part := line.recv(LONGEST):
        parts.append(part)
    asked = json.loads(b"".join(parts))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    if (command := os.fork()) == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (woken, waker, line.detach()):
            os.close(number)
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(asked)
    for stream in streams:
        os.close(stream)  # who reads what it writes is to see the end
    line.sendall(b"%d\n" % command)
    watched = select.poll()
    watched.register(woken, select.POLLIN)
    watched.register(line, 0)  # hung up, that is
    if any(number != woken for number, _ in watched.poll()):
        os.kill(command, signal.SIGKILL)
    _, status = os.waitpid(command, 0)
    with suppress(OSError):
        line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _run(asked: Any) -> NoReturn:
    from provisioner.cli import main

    os.chdir(asked["cwd"])
    for name in asked.get("closed", ()):
        os.close(("stdin", "stdout", "stderr").index(name))
        setattr(sys, name, None)
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["provisioner", *asked["arguments"]]
    status = 70
    try:
        if prepare := asked.get("prepare"):
            getattr(machines, prepare[0])(*prepare[1:])
        status = main()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:  # noqa: BLE001  # Python would print it, and so does this
        with suppress(BaseException):
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)  # Python's own end takes as long as a small command


if __name__ == "__main__":
    serve(sys.argv[1])
