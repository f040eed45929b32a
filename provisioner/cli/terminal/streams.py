"""Standard input, output and error as a command finds them: full, closed, or without anybody at the other end."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, Final, TextIO

from provisioner.core.errors import ProvisionerError

_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2}


class OutputUnwritable(ProvisionerError):
    """Standard output takes no more; what was printed is lost."""


class _Output(io.FileIO):
    """Standard output, whose errors are not taken for those of any other file."""

    def write(self, data: Any, /) -> int:
        """Write, or raise `OutputUnwritable`; a reader that has seen enough raises `BrokenPipeError`."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputUnwritable(f"standard output cannot be written: {error.strerror}") from error


def prepare_streams() -> None:
    """Make every stream one that can be used or says in words why not."""
    for name, number in _NUMBERS.items():
        if getattr(sys, name) is None:
            _occupy(name, number)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shows a question mark; that is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.reconfigure(errors="replace")
    # With PYTHONUNBUFFERED nothing is between the text and the file.
    below = sys.stdout.buffer if isinstance(sys.stdout, io.TextIOWrapper) else None
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(getattr(below, "raw", below), io.FileIO):
        sys.stdout = _guarded(sys.stdout)


def _occupy(name: str, number: int) -> None:
    """Keep a closed stream's number from the next socket or file that is opened, which would get what is printed.

    Opened the wrong way round, so that reading and writing fail as on a closed stream; what goes to a closed standard
    error is for nobody.
    """
    mode = {"stdin": os.O_WRONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}[name]
    opened = os.open(os.devnull, mode)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    raw = io.FileIO(number, "r" if name == "stdin" else "w", closefd=False)
    buffered = io.BufferedReader(raw) if name == "stdin" else io.BufferedWriter(raw)
    setattr(sys, name, io.TextIOWrapper(buffered, encoding="utf-8", errors="replace", line_buffering=name == "stderr"))


def _guarded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


def flush_output() -> None:
    """Write what is still to be written of standard output. Raises `OutputUnwritable` and `BrokenPipeError`."""
    sys.stdout.flush()


def abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python would complain about it in the end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def tell(text: str) -> None:
    """Write a line to standard error, if it can be written."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        abandon(sys.stderr)
