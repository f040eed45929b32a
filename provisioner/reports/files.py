"""Write results to standard output, or to a file that is replaced only when it is complete."""

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
    """The file cannot be written; its previous contents are unchanged."""


@contextmanager
def write_errors(name: object) -> Iterator[None]:
    """Turn errors of this file into `NotWritable`, where other errors could be mistaken for them."""
    try:
        yield
    except OSError as error:
        raise NotWritable(f"{name} cannot be written: {error.strerror or error}") from error


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """Open the file, or standard output for None. Raises `NotWritable`, and `BrokenPipeError` if its reader stops."""
    try:
        if output is not None:
            with write_errors(output), _replacing(output) as stream:
                yield stream
            return
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")  # data does not depend on what the terminal can show
        yield sys.stdout
    except NotWritable as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None
        raise


@contextmanager
def _replacing(output: Path) -> Iterator[TextIO]:
    """Write a temporary file and rename it at the end; write directly to a pipe or another special file."""
    if output.exists() and not stat.S_ISREG(output.stat().st_mode):
        with output.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    real = output.resolve()
    descriptor, made = mkstemp(dir=real.parent, prefix=f".{real.name}.")
    beside = Path(made)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123  # it is a descriptor
            yield stream
        beside.chmod(_mode(real))  # a temporary file is private
        beside.replace(real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _mode(file: Path) -> int:
    """Return the permissions that the file has, or that a new one would get."""
    if file.exists():
        return stat.S_IMODE(file.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
