"""Keep what was read until it is needed again: small in memory, larger on the disk, without a disk packed in memory."""

import gzip
import io
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Final

from provisioner.intake.errors import FileUnusable

IN_MEMORY: Final = 8 << 20  # bytes; what is larger goes to the disk
QUICK: Final = 1  # gzip's level: lines of a list shrink to a tenth at any, and this one costs the least time


def has_disk() -> bool:
    """Tell whether temporary files can be made; a container whose root is read-only may have no place for them."""
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True


class Spool:
    """Lines that are written once and then read, as often as one likes."""

    def __init__(self) -> None:
        self._memory = io.BytesIO()
        self._file: IO[bytes] | gzip.GzipFile | None = None

    def add(self, line: bytes) -> None:
        """Keep a line. Raises `FileUnusable` when there is no room for it."""
        try:
            (self._file or self._memory).write(line)
            if self._file is None and self._memory.tell() > IN_MEMORY:
                self._file = self._larger()
        except OSError as error:
            raise FileUnusable(
                f"needs a temporary file, which cannot be written: {error.strerror}; "
                "set TMPDIR to a directory with more space"
            ) from error

    def lines(self) -> Iterator[bytes]:
        """Give the lines in order."""
        if isinstance(self._file, gzip.GzipFile):
            self._file.close()  # its end is written; the memory below it stays, and is shared, not copied
            with gzip.GzipFile(fileobj=io.BytesIO(self._memory.getvalue())) as packed:
                yield from packed
            return
        kept = self._file or self._memory
        kept.seek(0)
        yield from kept

    def close(self) -> None:
        """Forget all of it."""
        if self._file is not None:
            with suppress(OSError, ValueError, MemoryError):  # it writes what it still holds, where there is no room
                self._file.close()
        self._memory = io.BytesIO()

    def _larger(self) -> IO[bytes] | gzip.GzipFile:
        """Move what is in memory to where more fits."""
        kept, self._memory = self._memory.getvalue(), io.BytesIO()
        larger: IO[bytes] | gzip.GzipFile
        try:
            larger = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        except OSError:
            larger = gzip.GzipFile(fileobj=self._memory, mode="wb", compresslevel=QUICK)
        larger.write(kept)
        return larger
