"""The console script without its start: a process that has imported every command forks one for each call.

To start Python and import what a command needs takes a quarter of a second, and the suite calls hundreds of commands. A
forked command is a process of its own all the same, with its own environment, directory, streams and exit status. What
is about the start itself, or about the streams, runs the script: `tests.support.cli.script`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
LONGEST = 2**20  # bytes of one call: its arguments and its environment
MOST = 2**16  # bytes that a pipe takes
# What Python and its libraries read while they start; who sets it runs the script.
EARLY = ("PYTHON", "LANG", "LC_", "SSL", "MALLOC", "LD_", "COLUMNS", "COVERAGE")


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


def call(arguments: Sequence[str], *, env: Mapping[str, str], cwd: str, given: bytes) -> tuple[int, bytes, bytes]:
    """Run one command to its end; returns its exit status and what it wrote to both streams.

    What is `given` has to fit into a pipe: `MOST` bytes.
    """
    read, write = os.pipe()
    with (
        os.fdopen(read, "rb") as into,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line,
    ):
        with os.fdopen(write, "wb") as feed:
            feed.write(given)
        line.connect(_server()[0])
        message = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": cwd}).encode()
        assert len(message) < LONGEST
        socket.send_fds(line, [b"+"], [into.fileno(), out.fileno(), err.fileno()])
        line.sendall(message)
        line.shutdown(socket.SHUT_WR)
        status = json.loads(line.recv(64) or b"-9")
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def serve(address: str) -> None:
    """Import every command, then fork one for each call, until standard input ends."""
    from provisioner.cli import COMMANDS, load_command

    for name in COMMANDS:
        load_command(name)
    # What commands import when they run.
    for module in ("provisioner.service", "provisioner.settings", "provisioner.observe.web", "uvloop", "rich.live"):
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
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


def _attend(line: socket.socket) -> NoReturn:
    """Run one call in a process of its own, and tell its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    parts = []
    while part := line.recv(LONGEST):
        parts.append(part)
    asked = json.loads(b"".join(parts))
    if (command := os.fork()) == 0:
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(asked)
    _, status = os.waitpid(command, 0)
    line.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(asked: Any) -> NoReturn:
    from provisioner.cli import main

    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["provisioner", *asked["arguments"]]
    status = 70
    try:
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # Python's own end takes as long as a small command


if __name__ == "__main__":
    serve(sys.argv[1])
