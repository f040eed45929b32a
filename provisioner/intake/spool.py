"""Store lines for reading later: in memory while small, on disk when large, compressed in memory without a disk."""

import gzip
import io
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Final

from provisioner.intake.errors import FileUnusable

IN_MEMORY: Final = 8 << 20  # bytes; larger contents go to the disk
QUICK: Final = 1  # gzip's level: any level reduces the lines of a list to a tenth, and this is the fastest


def has_disk() -> bool:
    """Whether temporary files can be created; a container with a read-only root may have no place for them."""
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True


class Spool:
    """Lines that are written once and then read any number of times."""

    def __init__(self) -> None:
        self._memory = io.BytesIO()
        self._file: IO[bytes] | gzip.GzipFile | None = None

    def add(self, line: bytes) -> None:
        """Store a line. Raises `FileUnusable` if there is no room."""
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
        """Yield the lines in order."""
        if isinstance(self._file, gzip.GzipFile):
            self._file.close()  # this completes the data; the memory below is shared, not copied
            with gzip.GzipFile(fileobj=io.BytesIO(self._memory.getvalue())) as packed:
                yield from packed
            return
        kept = self._file or self._memory
        kept.seek(0)
        yield from kept

    def close(self) -> None:
        """Discard everything."""
        if self._file is not None:
            with suppress(OSError, ValueError, MemoryError):  # closing writes buffered data, which may fail
                self._file.close()
        self._memory = io.BytesIO()

    def _larger(self) -> IO[bytes] | gzip.GzipFile:
        """Move the contents from memory to a larger place."""
        kept, self._memory = self._memory.getvalue(), io.BytesIO()
        larger: IO[bytes] | gzip.GzipFile
        try:
            larger = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        except OSError:
            larger = gzip.GzipFile(fileobj=self._memory, mode="wb", compresslevel=QUICK)
        larger.write(kept)
        return larger
