"""Read secrets from files that others may replace at any time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provisioner.core.key_text import NoKey, bare, decoded, key_in
from provisioner.core.secret import Secret

# A secret is a line; a large file is the wrong file.
LARGEST: Final = 65536
CHECK_EVERY: Final = 1.0  # seconds between looks at the file
# Seconds for which the last secret still serves when the file cannot be read: a replacement in two steps
# leaves a moment without it.
GRACE: Final = 60.0


class FileUnreadable(ValueError):
    """A secret cannot be read from its file; the text names the file and says why."""


class FileSecret:
    """The secret in a file, without what nobody sees around it, read again when the file has changed.

    However it is replaced: written anew, renamed into place, or a link that points elsewhere. `read` makes a secret of
    the file's text, or raises `ValueError`: other secrets than keys may hold anything.
    """

    def __init__(
        self,
        path: Path,
        *,
        read: Callable[[str], Secret] = key_in,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._read_text = read
        self._monotonic = monotonic
        self._secret: Secret | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._checked = 0.0
        self._good = 0.0

    def __call__(self) -> Secret:
        """The secret as it is now, up to `CHECK_EVERY`. Raises `FileUnreadable`."""
        now = self._monotonic()
        if self._secret is not None and now - self._checked < CHECK_EVERY:
            return self._secret
        self._checked = now
        try:
            secret = self._read()
        except FileUnreadable:
            if self._secret is None or now - self._good >= GRACE:
                self._secret = self._stamp = None
                raise
            return self._secret
        self._secret, self._good = secret, now
        return secret

    def _read(self) -> Secret:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if self._secret is not None and stamp == self._stamp:
                return self._secret
            with self._path.open("rb") as file:
                octets = file.read(LARGEST + 1)
        except OSError as exc:
            raise FileUnreadable(f"the file {self._path} cannot be read: {exc.strerror or exc}") from exc
        self._stamp = stamp
        if len(octets) > LARGEST:
            raise FileUnreadable(f"the file {self._path} is too large to hold a secret")
        try:
            return self._read_text(decoded(octets))
        except ValueError as error:
            raise FileUnreadable(f"the file {self._path} {error}") from None


def any_text(text: str) -> Secret:
    """A secret that is no key, such as a URL. Raises `NoKey` if there is nothing."""
    if not (left := bare(text)):
        raise NoKey("is empty")
    return Secret(left)
