"""Where results go: standard output, or a file that is replaced only when all of it is there."""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import TextIO

from provisioner.core.errors import ProvisionerError


class NotWritable(ProvisionerError):
    """The file cannot be written; nothing of it was changed."""


@contextmanager
def telling(name: object) -> Iterator[None]:
    """Tell trouble with the file apart from any other, where it is known which of the two it is."""
    try:
        yield
    except OSError as error:
        raise NotWritable(f"{name} cannot be written: {error.strerror or error}") from error


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """The file, or standard output for None. Raises `NotWritable`; `BrokenPipeError` if its reader has seen enough."""
    try:
        if output is not None:
            with telling(output), _replacing(output) as stream:
                yield stream
            return
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")  # data is the same whatever the terminal can show
        yield sys.stdout
    except NotWritable as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None
        raise


@contextmanager
def _replacing(output: Path) -> Iterator[TextIO]:
    """Write beside the file and put it in its place in the end; what is no plain file, as a pipe, is written to."""
    if output.exists() and not stat.S_ISREG(output.stat().st_mode):
        with output.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    real = output.resolve()
    descriptor, made = mkstemp(dir=real.parent, prefix=f".{real.name}.")
    beside = Path(made)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123  # it is open already
            yield stream
        beside.chmod(_mode(real))  # a temporary file is nobody else's to read
        beside.replace(real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _mode(file: Path) -> int:
    """The permissions that the file has, or that a new one would get."""
    if file.exists():
        return stat.S_IMODE(file.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
