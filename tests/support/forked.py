"""The command line in a forked copy of this process: as its users run it, but at a tenth of what a start costs.

What Python itself reads when it starts (the locale, `PYTHON…`) is not read again; tests of that start the script.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.cli import load_command, main
from provisioner.cli.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PATIENCE = 60  # seconds, after which a command hangs; the slowest of these takes one on a machine at rest
STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended: a negative status is the signal that ended it."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """What it told people, on both streams."""
        return self.stdout + self.stderr


def warm() -> None:
    """Import every command once, so that the copies need not."""
    for command in COMMANDS:
        load_command(command)


def forked(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    streams: Mapping[str, str] | None = None,
    given: bytes = b"",
    cwd: str | Path = "/",
    prepare: Callable[[], object] = lambda: None,
) -> Ended:
    """Run the command line to its end. `streams` puts a file, or nothing (`closed`), in a stream's place."""
    warm()
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in STREAMS]
        files[0].write(given)
        files[0].seek(0)
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the copy waits for none of them
            child = os.fork()
        if child == 0:
            _be(arguments, environ, streams or {}, [file.fileno() for file in files], cwd, prepare)
        _, status = os.waitpid(child, 0)
        for file in files:
            file.seek(0)
        out, err = (file.read().decode("utf-8", "replace") for file in files[1:])
    return Ended(status=os.waitstatus_to_exitcode(status), stdout=out, stderr=err)


def _be(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    streams: Mapping[str, str],
    files: Sequence[int],
    cwd: str | Path,
    prepare: Callable[[], object],
) -> None:
    """Be the command, and never come back."""
    status = 99
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)  # pytest's own
        signal.alarm(PATIENCE)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(cwd)
        for (name, number), file in zip(STREAMS.items(), files, strict=True):
            _place(name, number, file, streams.get(name))
        os.environ.clear()
        os.environ.update(environ)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        logging.getLogger().handlers.clear()
        prepare()
        status = main(arguments)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # Python would print it, and so does this
        with suppress(BaseException):
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        status = 98
    finally:
        os._exit(status)


def _place(name: str, number: int, file: int, instead: str | None) -> None:
    """Put a file into a stream's place, and let Python see it as it does when it starts."""
    if instead == CLOSED:
        os.close(number)
        setattr(sys, name, None)
        return
    if instead is not None:
        file = os.open(instead, os.O_RDONLY if number == 0 else os.O_WRONLY)
    os.dup2(file, number)
    mode, errors = ("r", "surrogateescape") if number == 0 else ("w", "backslashreplace" if number == 2 else "strict")
    stream = io.TextIOWrapper(
        open(number, f"{mode}b", closefd=False),  # noqa: SIM115  # lives as long as the process
        encoding="utf-8",
        errors=errors,
        line_buffering=number == 2,
    )
    setattr(sys, name, stream)
