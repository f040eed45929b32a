"""Read secrets from files that may be replaced at any time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provisioner.core.key_text import NoKey, bare, decoded, key_in
from provisioner.core.secret import Secret

# A secret is one line; a larger file is the wrong file.
LARGEST: Final = 65536
CHECK_EVERY: Final = 1.0  # seconds between two checks of the file
# Seconds for which the last secret is used if the file cannot be read: a replacement in two steps leaves a short gap.
GRACE: Final = 60.0


class FileUnreadable(ValueError):
    """A secret cannot be read from its file; the message names the file and the reason."""


class FileSecret:
    """The secret in a file, without invisible characters around it, read again when the file has changed.

    Any kind of replacement is noticed: a rewrite, a rename into place, or a symbolic link with a new target. `read`
    turns the file's text into a secret, or raises `ValueError`: secrets that are not keys may contain anything.
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
        """Return the secret, at most `CHECK_EVERY` seconds old. Raises `FileUnreadable`."""
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
    """Return a secret that is not a key, such as a URL. Raises `NoKey` if it is empty."""
    if not (left := bare(text)):
        raise NoKey("is empty")
    return Secret(left)
