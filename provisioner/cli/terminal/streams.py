"""Prepare standard input, output and error for the case that one is full, closed, or has no reader."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, Final, TextIO

from provisioner.core.errors import ProvisionerError

_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2}


class OutputUnwritable(ProvisionerError):
    """Standard output cannot be written; what was printed is lost."""


class _Output(io.FileIO):
    """Standard output, with errors that cannot be mistaken for those of another file."""

    def write(self, data: Any, /) -> int:
        """Write, or raise `OutputUnwritable`; raises `BrokenPipeError` if the reader has stopped."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputUnwritable(f"standard output cannot be written: {error.strerror}") from error


def prepare_streams() -> None:
    """Make every stream usable, or able to say why it is not."""
    for name, number in _NUMBERS.items():
        if getattr(sys, name) is None:
            _occupy(name, number)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a question mark instead of failing.
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.reconfigure(errors="replace")
    # With PYTHONUNBUFFERED there is nothing between the text and the file.
    below = sys.stdout.buffer if isinstance(sys.stdout, io.TextIOWrapper) else None
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(getattr(below, "raw", below), io.FileIO):
        sys.stdout = _guarded(sys.stdout)


def _occupy(name: str, number: int) -> None:
    """Occupy a closed stream's number, so that the next socket or file does not get what is printed.

    It is opened in the wrong mode, so that reading and writing fail as on a closed stream. Output to a closed standard
    error is discarded.
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
    """Write what is left in the buffer of standard output. Raises `OutputUnwritable` and `BrokenPipeError`."""
    sys.stdout.flush()


def abandon(stream: TextIO) -> None:
    """Discard what a stream still holds; Python would complain about it at exit."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def tell(text: str) -> None:
    """Write a line to standard error, if possible."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        abandon(sys.stderr)
